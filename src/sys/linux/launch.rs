//! Starting a job's guard and supervisor without leaving a trace in this process.
//!
//! An intermediate child, whose end sends no signal and which plain `wait` calls do not see, starts
//! the guard and exits: no child of ours is left for anyone's `waitpid(-1)`, and no SIGCHLD comes.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::null;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

use crate::sys::raw::{self, CloneVm};
use crate::sys::wire::disable;

const STACK: usize = 64 << 10;
/// Numbers below are where the supervisor expects what it is passed.
const ABOVE_PASSED: RawFd = 10;

pub struct Launched {
    pub socket: OwnedFd,
    /// Readable when everything of the job has ended; `None` without pidfds.
    pub guard: Option<OwnedFd>,
}

/// All that the two children need, made before they exist: they must not allocate.
struct Plan {
    program: CString,
    argv: Vec<*const u8>,
    environment: [*const u8; 1],
    passed: [RawFd; 3],
    clone3: bool,
    pidfd: bool,
    guard_stack: Vec<u8>,
    guard: raw::Result<(raw::Pid, RawFd)>,
    exec_errno: i32,
}

/// Both ends of a connection between an owner and a supervisor.
pub fn connection() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

/// Starts guard and supervisor of a top-level job, with the directory of the cgroup below which
/// they may make one of that name. Errors are the kernel's numbers.
pub fn launch(program: &CStr, cgroup: Option<(BorrowedFd, &CStr)>, disabled: u32) -> Result<Launched, i32> {
    let (ours, theirs) = connection().map_err(|error| error.raw_os_error())?;
    let null = rustix::fs::open("/dev/null", rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty())
        .map_err(|error| error.raw_os_error())?;
    let owner = rustix::process::getpid();
    let owner_pidfd = open_pidfd(owner, disabled);
    // Blocked until the children have left our memory: a handler of ours must not run in them.
    let mask = raw::sigprocmask(raw::SIG_BLOCK, u64::MAX);
    let (parent, name) = cgroup.map_or((null.as_fd(), c""), |(parent, name)| (parent, name));
    let texts: Vec<CString> = [
        "fastjob-supervisor".into(),
        name.to_string_lossy().into_owned(),
        disabled.to_string(),
        mask.to_string(),
        owner.as_raw_nonzero().to_string(),
    ]
    .into_iter()
    .map(|text: String| CString::new(text).unwrap_or_default())
    .collect();
    let mut plan = Plan {
        program: program.to_owned(),
        argv: texts.iter().map(|text| text.as_ptr().cast()).chain([null_pointer()]).collect(),
        environment: [null_pointer()],
        passed: [
            theirs.as_raw_fd(),
            owner_pidfd.as_ref().map_or(null.as_raw_fd(), AsRawFd::as_raw_fd),
            parent.as_raw_fd(),
        ],
        clone3: disabled & disable::CLONE3 == 0,
        pidfd: disabled & disable::PIDFD == 0,
        guard_stack: vec![0; STACK],
        guard: Err(raw::EAGAIN),
        exec_errno: 0,
    };
    let answer = start(&mut plan);
    raw::sigprocmask(raw::SIG_SETMASK, mask);
    answer?;
    let (_, pidfd) = plan.guard?;
    // SAFETY: the kernel has just put it into our table for us alone.
    let guard = (pidfd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(pidfd) });
    if plan.exec_errno != 0 {
        return Err(plan.exec_errno);
    }
    Ok(Launched { socket: ours, guard })
}

/// Set when nobody collects guards that are not our children: in a container whose first process is
/// no init. A child of ours, which every `waitpid(-1)` sees, is better than a zombie for each job.
static ADOPT: AtomicBool = AtomicBool::new(false);

/// Takes the status of a guard that has ended, where it is our child: when this process is the first
/// of its pid namespace, or a subreaper, or nobody else does it. False when it is not.
pub fn collect(guard: &OwnedFd) -> bool {
    waitid(WaitId::PidFd(guard.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG).is_ok()
}

/// Called a good while after `collect` gave false: by now somebody should have done it.
pub fn expect_collected(guard: &OwnedFd) {
    let probe = raw::pidfd_send_signal(guard.as_raw_fd(), 0);
    if probe.is_ok() {
        ADOPT.store(true, Ordering::Relaxed);
    }
}

fn null_pointer() -> *const u8 {
    null()
}

fn open_pidfd(pid: Pid, disabled: u32) -> Option<OwnedFd> {
    (disabled & disable::PIDFD == 0).then(|| pidfd_open(pid, PidfdFlags::empty()).ok()).flatten()
}

/// With the best call that this kernel, and any filter before it, lets through.
fn start(plan: &mut Plan) -> Result<(), i32> {
    loop {
        let how = CloneVm {
            flags: raw::CLONE_VM | raw::CLONE_VFORK | raw::CLONE_FILES,
            exit_signal: 0,
            cgroup: -1,
            clone3: plan.clone3,
        };
        let mut stack = vec![0u8; STACK];
        if ADOPT.load(Ordering::Relaxed) {
            start_guard(plan);
            return plan.guard.map(drop);
        }
        // SAFETY: CLONE_VFORK suspends this thread until the child is gone; `intermediate` exits.
        // Nobody else touches the plan, and signals are blocked.
        let child = unsafe { raw::clone_vm(&how, &mut stack, intermediate, std::ptr::from_mut(plan).cast()) };
        let errno = match child {
            Ok((pid, _)) => {
                let _ = raw::waitid(raw::P_PID, pid, raw::WEXITED | raw::WALL);
                match plan.guard {
                    Ok(_) => return Ok(()),
                    Err(errno) => errno,
                }
            }
            Err(errno) => errno,
        };
        match errno {
            raw::ENOSYS | raw::EPERM | raw::EACCES | raw::EINVAL if plan.clone3 => plan.clone3 = false,
            raw::ENOSYS | raw::EPERM | raw::EACCES | raw::EINVAL if plan.pidfd => plan.pidfd = false,
            _ => return Err(errno),
        }
    }
}

extern "C" fn intermediate(plan: *mut u8) -> ! {
    // SAFETY: `start` is suspended and passes its plan.
    let plan = unsafe { &mut *plan.cast::<Plan>() };
    start_guard(plan);
    raw::exit_group(0)
}

/// Without allocation: it also runs in the intermediate child.
fn start_guard(plan: &mut Plan) {
    let pidfd = if plan.pidfd { raw::CLONE_PIDFD } else { 0 };
    let how = CloneVm {
        flags: raw::CLONE_VM | raw::CLONE_VFORK | pidfd,
        exit_signal: raw::SIGCHLD,
        cgroup: -1,
        clone3: plan.clone3,
    };
    let argument = std::ptr::from_mut(plan).cast();
    let mut stack = std::mem::take(&mut plan.guard_stack);
    // SAFETY: as in `start`; `guard` execs or exits.
    plan.guard = unsafe { raw::clone_vm(&how, &mut stack, guard, argument) };
    plan.guard_stack = stack;
}

extern "C" fn guard(plan: *mut u8) -> ! {
    // SAFETY: `intermediate` is suspended and passes its plan.
    let plan = unsafe { &mut *plan.cast::<Plan>() };
    plan.exec_errno = place(&mut plan.passed)
        .map(|()| raw::execve(plan.program.as_ptr().cast(), plan.argv.as_ptr(), plan.environment.as_ptr()))
        .unwrap_or_else(|errno| errno);
    raw::exit_group(127)
}

fn place(passed: &mut [RawFd; 3]) -> raw::Result<()> {
    for fd in passed.iter_mut() {
        *fd = raw::fcntl(*fd, raw::F_DUPFD_CLOEXEC, ABOVE_PASSED)?;
    }
    for (at, fd) in passed.iter().enumerate() {
        raw::dup2(*fd, 3 + at as RawFd)?;
    }
    Ok(())
}
