//! Packs and their history, from files on a disk to trees and back, and against whatever a hostile peer may send.

mod fixture;
mod frames;
mod history;
mod hostile;
mod increments;
mod kept;
mod leftovers;
mod mutations;
mod patches;
mod round_trip;
