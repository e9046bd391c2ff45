//! Locks of data that is whole at every moment.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`. That a thread panicked while it held the lock says nothing here: a panic ends the agent anyway, and no
/// holder leaves the data half changed.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
