//! The supervisor: parent and child subreaper of everything in one job.
//!
//! The process that the owner execs becomes the *guard*: it forks the supervisor proper, waits for
//! it, and if that was killed ends what it left behind, for which it is a subreaper too.
//! A nested job's supervisor is a fork of its parent's.

#![no_std]
#![no_main]

extern crate alloc;

mod cgroup;
mod kill;
mod procfs;
#[path = "../raw.rs"]
mod raw;
mod reap;
mod runtime;
mod serve;
mod spawn;
#[path = "../wire.rs"]
mod wire;

use core::ffi::{CStr, c_char};

use cgroup::Cgroup;
use procfs::{Procfs, Text};
use raw::Fd;
use serve::{Setup, Supervisor};
use spawn::Inherited;
use wire::{Step, disable};

/// Where the owner has put what it passes.
pub const SOCKET: Fd = 3;
pub const OWNER: Fd = 4;
pub const CGROUP_PARENT: Fd = 5;
const FIRST_FREE: u32 = 6;

/// `argv`: name, cgroup name, disabled mechanisms, signal mask, owner's pid.
fn start(arguments: &[*const c_char]) -> ! {
    let argument = |at: usize| {
        // SAFETY: the kernel ends each argument with NUL.
        arguments.get(at).map_or(c"", |text| unsafe { CStr::from_ptr(*text) })
    };
    let number = |at: usize| procfs::parse(argument(at).to_bytes()).unwrap_or(0);
    raw::sigprocmask(raw::SIG_BLOCK, u64::MAX);
    let _ = raw::setpgid(0, 0);
    let _ = raw::prctl(raw::PR_SET_CHILD_SUBREAPER, 1);
    let mut disabled = number(2) as u32;
    disabled |= close_inherited(disabled);
    let setup = Setup {
        inherited: Inherited {
            signal_mask: number(3),
            ignored: reset_signals(),
            descriptor_limit: raise_descriptor_limit(),
        },
        disabled,
        owner_pid: number(4) as i32,
        cgroup: Err((Step::CgroupMissing, raw::ENOENT)),
    };
    guard(setup, argument(1))
}

/// Descriptors that the owner's process lets every child inherit must not be held open here.
/// Gives the mechanisms that turned out to be missing.
fn close_inherited(disabled: u32) -> u32 {
    for fd in [SOCKET, OWNER, CGROUP_PARENT] {
        let _ = raw::fcntl(fd, raw::F_SETFD, 1);
    }
    if let Ok(null) = raw::open(c"/dev/null", raw::O_RDWR | raw::O_CLOEXEC) {
        for fd in 0..3 {
            let _ = raw::dup2(null, fd);
        }
        raw::close(null);
    }
    if disabled & disable::CLOSE_RANGE == 0 && raw::close_range(FIRST_FREE, u32::MAX, 0).is_ok() {
        return 0;
    }
    close_from(FIRST_FREE as Fd);
    disable::CLOSE_RANGE
}

/// `close_range` for kernels and filters that don't have it.
pub fn close_from(first: Fd) {
    let mut highest = 1024;
    if let Ok(fd) = raw::open(c"/proc/self/fd", raw::O_DIRECTORY | raw::O_CLOEXEC) {
        procfs::each_name(fd, |name| {
            highest = highest.max(procfs::parse(name).unwrap_or(0) as Fd);
        });
    }
    (first..=highest).for_each(raw::close);
}

/// All signals stay blocked here; dispositions are those that children are to have.
/// Gives the set of those among them that the owner ignores.
fn reset_signals() -> u64 {
    let mut ignored = 0;
    for signal in [raw::SIGCHLD, raw::SIGPIPE, raw::SIGXFSZ] {
        if raw::sigaction(signal, raw::SIG_DFL, raw::SA_NOCLDSTOP) == raw::SIG_IGN {
            ignored |= 1 << (signal - 1);
        }
    }
    ignored
}

/// As many descriptors as we may have; the children get the limit that was.
fn raise_descriptor_limit() -> [u64; 2] {
    let limit = raw::getrlimit(raw::RLIMIT_NOFILE).unwrap_or([1024, 1024]);
    let _ = raw::setrlimit(raw::RLIMIT_NOFILE, [limit[1], limit[1]]);
    limit
}

/// Makes the job's cgroup and proves that a process can be born in it.
fn make_cgroup(disabled: u32, name: &CStr) -> Result<Cgroup, (Step, i32)> {
    if disabled & disable::CGROUP != 0 {
        return Err((Step::Disabled, 0));
    }
    if name.is_empty() {
        return Err((Step::CgroupMissing, raw::ENOENT));
    }
    if disabled & disable::CLONE3 != 0 {
        return Err((Step::CgroupClone, raw::ENOSYS));
    }
    let cgroup = Cgroup::make(CGROUP_PARENT, name)?;
    // SAFETY: one thread.
    let errno = match unsafe { raw::fork(raw::SIGCHLD, Some(cgroup.members)) } {
        Ok(0) => raw::exit_group(0),
        Ok(pid) => match raw::waitid(raw::P_PID, pid, raw::WEXITED) {
            Ok(Some((end, _))) if end.code == raw::CLD_EXITED => return Ok(cgroup),
            // Killed at birth: see `Cgroup`.
            _ => raw::EBUSY,
        },
        Err(errno) => errno,
    };
    raw::close(cgroup.members);
    raw::close(cgroup.directory);
    cgroup::remove(CGROUP_PARENT, name);
    Err((Step::CgroupClone, errno))
}

fn guard(mut setup: Setup, name: &CStr) -> ! {
    let _ = raw::prctl(raw::PR_SET_NAME, c"fastjob-guard".as_ptr() as usize);
    // Where clone3 is missing or filtered, clone does all but the cgroup.
    if setup.disabled & disable::CLONE3 == 0 && !has_clone3() {
        setup.disabled |= disable::CLONE3;
    }
    setup.cgroup = make_cgroup(setup.disabled, name);
    let cgroup = setup.cgroup.ok();
    // SAFETY: one thread.
    let supervisor = match unsafe { raw::fork(raw::SIGCHLD, None) } {
        Err(_) => raw::exit_group(1),
        Ok(0) => Supervisor::new(setup, Text::new(&[name.to_bytes()])).serve(),
        Ok(pid) => pid,
    };
    raw::close(SOCKET);
    raw::close(OWNER);
    loop {
        match raw::waitid(raw::P_ALL, 0, raw::WEXITED | raw::WALL) {
            Ok(Some((end, _))) if end.pid == supervisor => {
                let clean = end.code == raw::CLD_EXITED && end.status == 0;
                if !clean {
                    kill::end_everything(&mut Procfs::open(), cgroup);
                }
                if cgroup.is_some() {
                    cgroup::remove(CGROUP_PARENT, name);
                }
                raw::exit_group(i32::from(!clean));
            }
            Ok(_) => {}
            Err(_) => raw::exit_group(1),
        }
    }
}

/// An invalid call tells whether the kernel (or a filter before it) would look at a valid one.
fn has_clone3() -> bool {
    // SAFETY: a null argument of size 0 is refused before anything happens.
    let answer = unsafe { raw::syscall(raw::nr::CLONE3, [0, 0, 0, 0, 0, 0]) };
    answer == -(raw::EINVAL as isize)
}
