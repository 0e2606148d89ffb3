//! What a child takes over from this process at the moment of its start.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, open, stat};

unsafe extern "C" {
    static environ: *const *const std::ffi::c_char;
}

/// The environment as NUL-terminated `KEY=VALUE` texts, one after the other. The block before is
/// given back while nothing has changed, so that it need not be copied or sent again.
///
/// Call it with the interpreter locked: Python changes the environment only then.
pub fn environment(before: Option<&Arc<[u8]>>) -> Arc<[u8]> {
    let mut block = Vec::with_capacity(before.map_or(4096, |block| block.len()));
    // SAFETY: `environ` is null or an array of NUL-terminated texts that ends in null, and nobody
    // changes it meanwhile, as the caller sees to.
    unsafe {
        let mut entry = environ;
        while !entry.is_null() && !(*entry).is_null() {
            block.extend_from_slice(CStr::from_ptr(*entry).to_bytes_with_nul());
            entry = entry.add(1);
        }
    }
    match before {
        Some(before) if **before == *block => before.clone(),
        _ => block.into(),
    }
}

/// A working directory, held open so that it need not have a name any more.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
    identity: (u64, u64),
}

impl Directory {
    /// That of this process; the one before while it is still the same.
    pub fn current(before: Option<&Arc<Directory>>) -> rustix::io::Result<Arc<Directory>> {
        let found = stat(".")?;
        let identity = (found.st_dev, found.st_ino);
        if let Some(before) = before.filter(|before| before.identity == identity) {
            return Ok(before.clone());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Arc::new(Directory { fd: open(".", flags, Mode::empty())?, identity }))
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A descriptor of this process by its number, `None` when that is not open.
pub fn descriptor(number: RawFd) -> Option<BorrowedFd<'static>> {
    if number < 0 {
        return None;
    }
    // SAFETY: only used for calls that report EBADF when the caller closes it meanwhile.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_getfd(fd).is_ok().then_some(fd)
}

/// A standard stream as a child would have it by inheritance: none where it is not open, or where
/// its number has gone to something that is closed on exec.
pub fn standard_stream(number: RawFd) -> Option<BorrowedFd<'static>> {
    let fd = descriptor(number)?;
    let flags = rustix::io::fcntl_getfd(fd).ok()?;
    (!flags.contains(rustix::io::FdFlags::CLOEXEC)).then_some(fd)
}

pub fn process_group() -> i32 {
    rustix::process::getpgrp().as_raw_nonzero().get()
}
