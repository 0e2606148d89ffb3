//! The cgroup of a job, where there is one (man 7 cgroups).

use core::ffi::CStr;

use crate::procfs::{Text, each_name};
use crate::raw::{self, Fd};
use crate::wire::Step;

/// A cgroup directory made by us.
#[derive(Clone, Copy)]
pub struct Cgroup {
    pub directory: Fd,
}

/// Writes to a file of the cgroup.
fn put(directory: Fd, file: &CStr, value: &[u8]) -> raw::Result<()> {
    let fd = raw::openat(directory, file, raw::O_WRONLY | raw::O_CLOEXEC)?;
    let answer = raw::write(fd, value).map(drop);
    raw::close(fd);
    answer
}

impl Cgroup {
    /// Makes `name` below an open cgroup directory.
    pub fn make(parent: Fd, name: &CStr) -> Result<Cgroup, (Step, i32)> {
        raw::mkdirat(parent, name, 0o755).map_err(|errno| (Step::CgroupMake, errno))?;
        let cgroup = raw::openat(parent, name, raw::O_DIRECTORY | raw::O_CLOEXEC)
            .map(|directory| Cgroup { directory })
            .and_then(|cgroup| {
                // Without cgroup.kill (before Linux 5.14) the walk kills; without the others
                // nothing could be put there or looked at.
                let procs = raw::openat(cgroup.directory, c"cgroup.procs", raw::O_RDWR | raw::O_CLOEXEC)?;
                raw::close(procs);
                Ok(cgroup)
            })
            .map_err(|errno| (Step::CgroupOpen, errno));
        if cgroup.is_err() {
            let _ = raw::unlinkat(parent, name, raw::AT_REMOVEDIR);
        }
        cgroup
    }

    /// Kills all processes in it and below at once, forking ones too. An error leaves it to the walk.
    pub fn kill(self) {
        let _ = put(self.directory, c"cgroup.kill", b"1");
    }

    pub fn freeze(self, on: bool) -> raw::Result<()> {
        put(self.directory, c"cgroup.freeze", if on { b"1" } else { b"0" })
    }

    /// All processes in it have stopped (or have started again).
    pub fn is_frozen(self) -> bool {
        let mut text = [0u8; 128];
        let Ok(fd) = raw::openat(self.directory, c"cgroup.events", raw::O_CLOEXEC) else { return false };
        let count = raw::read(fd, &mut text).unwrap_or(0);
        raw::close(fd);
        text[..count].windows(8).any(|window| window == b"frozen 1")
    }
}

/// Removes a cgroup with all below it, as far as they are empty.
pub fn remove(parent: Fd, name: &CStr) {
    let mut errno = raw::unlinkat(parent, name, raw::AT_REMOVEDIR).err();
    for _ in 0..64 {
        // EBUSY: inner cgroups, or members whose exit the kernel has not finished yet.
        if errno != Some(raw::EBUSY) {
            return;
        }
        if let Ok(fd) = raw::openat(parent, name, raw::O_DIRECTORY | raw::O_CLOEXEC) {
            each_name(fd, |inner| {
                if inner.starts_with(b"job-") {
                    remove(fd, Text::new(&[inner]).as_c());
                }
            });
            raw::close(fd);
        }
        errno = raw::unlinkat(parent, name, raw::AT_REMOVEDIR).err();
        if errno.is_some() {
            raw::sleep(500_000);
        }
    }
}
