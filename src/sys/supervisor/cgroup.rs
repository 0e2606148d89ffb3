//! The cgroup of a job, where there is one (man 7 cgroups).

use core::ffi::CStr;

use crate::procfs::{Text, each_directory};
use crate::raw::{self, Fd};
use crate::wire::Step;

/// A cgroup made by us. Members live in an inner one, so that nested jobs' can stand beside it
/// (a cgroup with processes can't hand out controllers), and so that it can be replaced: on some
/// kernels (6.18) what is cloned into a cgroup that was killed once is killed too.
#[derive(Clone, Copy)]
pub struct Cgroup {
    pub directory: Fd,
    pub members: Fd,
    generation: u64,
}

const MEMBERS: &[u8] = b"members-";
const NESTED: &[u8] = b"job-";

/// What a nested job's cgroup is called.
pub fn nested_name(number: u64) -> Text {
    let mut name = Text::new(&[NESTED]);
    name.number(number);
    name
}

fn members_name(generation: u64) -> Text {
    let mut name = Text::new(&[MEMBERS]);
    name.number(generation);
    name
}

fn open_directory(parent: Fd, name: &CStr) -> raw::Result<Fd> {
    raw::openat(parent, name, raw::O_DIRECTORY | raw::O_CLOEXEC)
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
        let cgroup = Cgroup::fill(parent, name).map_err(|errno| (Step::CgroupOpen, errno));
        if cgroup.is_err() {
            remove(parent, name);
        }
        cgroup
    }

    fn fill(parent: Fd, name: &CStr) -> raw::Result<Cgroup> {
        let directory = open_directory(parent, name)?;
        let mut cgroup = Cgroup { directory, members: -1, generation: 0 };
        cgroup.make_members()?;
        Ok(cgroup)
    }

    fn make_members(&mut self) -> raw::Result<()> {
        let name = members_name(self.generation);
        raw::mkdirat(self.directory, name.as_c(), 0o755)?;
        self.members = open_directory(self.directory, name.as_c())?;
        Ok(())
    }

    /// After a kill, when nothing is left: a fresh place for members.
    pub fn renew(&mut self) {
        raw::close(self.members);
        self.members = -1;
        let before = members_name(self.generation);
        self.generation += 1;
        // If it fails no process can be started here any more, and the start says so.
        let _ = self.make_members();
        remove(self.directory, before.as_c());
    }

    /// Kills all members at once, forking ones too. Without `cgroup.kill` (before Linux 5.14) the
    /// walk does it.
    pub fn kill(self) {
        let _ = put(self.members, c"cgroup.kill", b"1");
    }

    /// The same with all nested jobs'.
    pub fn kill_below(self) {
        let _ = put(self.directory, c"cgroup.kill", b"1");
    }

    pub fn freeze(self, on: bool) -> raw::Result<()> {
        put(self.members, c"cgroup.freeze", if on { b"1" } else { b"0" })
    }

    /// All processes in it have stopped (or have started again).
    pub fn is_frozen(self) -> bool {
        let mut text = [0u8; 128];
        let Ok(fd) = raw::openat(self.members, c"cgroup.events", raw::O_CLOEXEC) else { return false };
        let count = raw::read(fd, &mut text).unwrap_or(0);
        raw::close(fd);
        text[..count].windows(8).any(|window| window == b"frozen 1")
    }
}

/// Kills everything in a cgroup that nobody holds open.
pub fn kill_named(parent: Fd, name: &CStr) {
    if let Ok(directory) = open_directory(parent, name) {
        let _ = put(directory, c"cgroup.kill", b"1");
        raw::close(directory);
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
        if let Ok(fd) = open_directory(parent, name) {
            // Members may have made some of their own.
            each_directory(fd, |inner| remove(fd, Text::new(&[inner]).as_c()));
            raw::close(fd);
        }
        errno = raw::unlinkat(parent, name, raw::AT_REMOVEDIR).err();
        if errno.is_some() {
            raw::sleep(500_000);
        }
    }
}
