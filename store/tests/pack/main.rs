//! Packs and their history, from files on a disk to trees and back, and against any content from a hostile peer.

mod fixture;
mod forget;
mod frames;
mod history;
mod hostile;
mod increments;
mod kept;
mod leftovers;
mod mutations;
mod patches;
mod round_trip;
