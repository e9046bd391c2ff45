mod changes;
mod child;
mod farm;
mod faults;
mod killed;
mod mounts;
mod power_loss;
mod random;
