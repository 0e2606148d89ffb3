//! A place to wait until something changes.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::thread::futex;
use rustix::time::Timespec;

/// Counts changes. Read the count, look at the state, then wait for the count to change: no change
/// in between is missed.
#[derive(Default, Debug)]
pub struct Gate(AtomicU32);

impl Gate {
    pub fn count(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    /// Wakes all who wait; call it after the state has changed.
    pub fn open(&self) {
        self.0.fetch_add(1, Ordering::Release);
        let _ = futex::wake(&self.0, futex::Flags::PRIVATE, i32::MAX as u32);
    }

    /// Until the count is no longer `seen`, the time is over, or a signal has been handled by this
    /// thread; the caller looks which.
    pub fn wait(&self, seen: u32, at_most: Option<Duration>) {
        let timeout = at_most.and_then(|time| Timespec::try_from(time).ok());
        let _ = futex::wait(&self.0, futex::Flags::PRIVATE, seen, timeout.as_ref());
    }
}

/// Whether this is the thread in which Python runs signal handlers.
pub fn is_main_thread() -> bool {
    rustix::thread::gettid() == rustix::process::getpid()
}
