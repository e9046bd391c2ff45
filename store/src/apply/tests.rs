mod changes;
mod farm;
mod faults;
mod power_loss;
mod random;
