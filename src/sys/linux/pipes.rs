//! Pipes between this process and its children.

use std::os::fd::{AsFd, IntoRawFd, OwnedFd, RawFd};

use rustix::io::{Errno, ioctl_fionbio, ioctl_fionread, read, write};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

pub fn pipe(size: Option<usize>) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let ends = pipe_with(PipeFlags::CLOEXEC)?;
    if let Some(size) = size {
        fcntl_setpipe_size(&ends.0, size)?;
    }
    Ok(ends)
}

pub fn set_nonblocking(fd: impl AsFd) -> rustix::io::Result<()> {
    ioctl_fionbio(fd, true)
}

pub fn duplicate(number: RawFd) -> rustix::io::Result<OwnedFd> {
    let fd = super::inherit::descriptor(number).ok_or(Errno::BADF)?;
    rustix::io::fcntl_dupfd_cloexec(fd, 0)
}

/// Gives the number away; the caller must see that somebody closes it.
pub fn release(fd: OwnedFd) -> RawFd {
    fd.into_raw_fd()
}

#[derive(PartialEq, Eq, Debug)]
pub enum Read {
    /// So many bytes.
    Some(usize),
    Nothing,
    End,
}

pub fn read_some(fd: impl AsFd, buffer: &mut [u8]) -> Read {
    loop {
        match read(&fd, &mut *buffer) {
            Ok(0) => return Read::End,
            Ok(count) => return Read::Some(count),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Read::Nothing,
            Err(_) => return Read::End,
        }
    }
}

/// How much there is to read now.
pub fn available(fd: impl AsFd) -> usize {
    ioctl_fionread(fd).unwrap_or(0) as usize
}

/// How much was taken; `None` when nobody reads any more.
pub fn write_some(fd: impl AsFd, bytes: &[u8]) -> Option<usize> {
    loop {
        match write(&fd, bytes) {
            Ok(count) => return Some(count),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Some(0),
            Err(_) => return None,
        }
    }
}
