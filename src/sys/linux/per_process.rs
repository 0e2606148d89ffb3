//! One value for each process, made anew in a forked child.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A forked child has the parent's memory but not its threads, and locks may be held for ever in
/// it: what is here for the parent is left alone there, and never freed.
pub struct PerProcess<T>(AtomicPtr<(u32, T)>);

impl<T: Send + Sync + 'static> PerProcess<T> {
    pub const fn empty() -> Self {
        PerProcess(AtomicPtr::new(null_mut()))
    }

    pub fn get(&self) -> Option<&'static T> {
        let current = self.0.load(Ordering::Acquire);
        // SAFETY: null or leaked by `get_or_make`, so it lives for ever.
        let (owner, value) = unsafe { current.as_ref() }?;
        (*owner == std::process::id()).then_some(value)
    }

    pub fn get_or_make<E>(&self, make: impl FnOnce() -> Result<T, E>) -> Result<&'static T, E> {
        let before = self.0.load(Ordering::Acquire);
        if let Some(value) = self.get() {
            return Ok(value);
        }
        let made = Box::into_raw(Box::new((std::process::id(), make()?)));
        let answer = self.0.compare_exchange(before, made, Ordering::AcqRel, Ordering::Acquire);
        let current = match answer {
            Ok(_) => made,
            Err(faster) => {
                // SAFETY: nobody else has seen it.
                drop(unsafe { Box::from_raw(made) });
                faster
            }
        };
        // SAFETY: as in `get`.
        Ok(&unsafe { &*current }.1)
    }
}
