//! The kernel's calls without a C library, under the kernel's own names.
//!
//! Shared by the supervisor, which has no libc, and by the launch of the supervisor, whose child
//! runs in the owner's memory and must not call into libc (locks, atfork handlers, errno).
//! Each function is the system call of that name: see its page in section 2 of the manual.

#![allow(dead_code, reason = "each of the two users needs a part of it")]

use core::ffi::CStr;

/// What the kernel answered: a value, or an `errno`.
pub type Result<T> = core::result::Result<T, i32>;
pub type Fd = i32;
pub type Pid = i32;

#[cfg(target_arch = "x86_64")]
#[path = "raw/x86_64.rs"]
mod arch;
#[cfg(target_arch = "aarch64")]
#[path = "raw/aarch64.rs"]
mod arch;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("fastjob knows the system calls of x86_64 and aarch64 Linux only");

pub use arch::{clone_call, nr, syscall};

pub const EPERM: i32 = 1;
pub const ENOENT: i32 = 2;
pub const ESRCH: i32 = 3;
pub const EINTR: i32 = 4;
pub const EBADF: i32 = 9;
pub const ECHILD: i32 = 10;
pub const EAGAIN: i32 = 11;
pub const ENOMEM: i32 = 12;
pub const EACCES: i32 = 13;
pub const EBUSY: i32 = 16;
pub const EEXIST: i32 = 17;
pub const ENOTDIR: i32 = 20;
pub const EINVAL: i32 = 22;
pub const EMFILE: i32 = 24;
pub const ETXTBSY: i32 = 26;
pub const ENAMETOOLONG: i32 = 36;
pub const ENOSYS: i32 = 38;
pub const EPROTO: i32 = 71;

pub const SIGKILL: i32 = 9;
pub const SIGPIPE: i32 = 13;
pub const SIGTERM: i32 = 15;
pub const SIGCHLD: i32 = 17;
pub const SIGCONT: i32 = 18;
pub const SIGSTOP: i32 = 19;
pub const SIGXFSZ: i32 = 25;

pub const CLONE_VM: u64 = 0x100;
pub const CLONE_FILES: u64 = 0x400;
pub const CLONE_PIDFD: u64 = 0x1000;
pub const CLONE_VFORK: u64 = 0x4000;
pub const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

pub const P_ALL: i32 = 0;
pub const P_PID: i32 = 1;
pub const WNOHANG: i32 = 1;
pub const WSTOPPED: i32 = 2;
pub const WEXITED: i32 = 4;
pub const WNOWAIT: i32 = 0x0100_0000;
/// Children whatever signal their end sends.
pub const WALL: i32 = 0x4000_0000;
/// Only children whose end sends another signal than `SIGCHLD`, or none.
pub const WCLONE: i32 = 0x8000_0000_u32 as i32;
pub const CLD_EXITED: i32 = 1;

pub const O_WRONLY: i32 = 1;
pub const O_RDWR: i32 = 2;
pub const O_CLOEXEC: i32 = 0o2_000_000;
#[cfg(target_arch = "x86_64")]
pub const O_DIRECTORY: i32 = 0o200_000;
#[cfg(target_arch = "aarch64")]
pub const O_DIRECTORY: i32 = 0o40_000;
pub const O_PATH: i32 = 0o10_000_000;
pub const AT_FDCWD: i32 = -100;
pub const AT_REMOVEDIR: i32 = 0x200;

pub const F_SETFD: i32 = 2;
pub const F_DUPFD_CLOEXEC: i32 = 1030;
pub const CLOSE_RANGE_UNSHARE: u32 = 2;

pub const PR_SET_PDEATHSIG: i32 = 1;
pub const PR_SET_NAME: i32 = 15;
pub const PR_SET_CHILD_SUBREAPER: i32 = 36;
pub const PTRACE_TRACEME: usize = 0;
pub const PTRACE_DETACH: usize = 17;
pub const RLIMIT_NOFILE: i32 = 7;

pub const EPOLLIN: u32 = 1;
pub const EPOLLOUT: u32 = 4;
pub const EPOLL_CTL_ADD: i32 = 1;
pub const EPOLL_CTL_DEL: i32 = 2;
pub const EPOLL_CTL_MOD: i32 = 3;

pub const SIG_BLOCK: i32 = 0;
pub const SIG_SETMASK: i32 = 2;
pub const SIG_DFL: usize = 0;
pub const SIG_IGN: usize = 1;
pub const SA_NOCLDSTOP: u64 = 1;

pub const MSG_DONTWAIT: i32 = 0x40;
pub const MSG_NOSIGNAL: i32 = 0x4000;
pub const MSG_CMSG_CLOEXEC: i32 = 0x4000_0000;
pub const MSG_CTRUNC: i32 = 8;
pub const SOL_SOCKET: i32 = 1;
pub const SCM_RIGHTS: i32 = 1;

/// `struct clone_args` as of Linux 5.7 (`CLONE_INTO_CGROUP`).
#[repr(C)]
#[derive(Default)]
pub struct CloneArgs {
    pub flags: u64,
    pub pidfd: u64,
    pub child_tid: u64,
    pub parent_tid: u64,
    pub exit_signal: u64,
    pub stack: u64,
    pub stack_size: u64,
    pub tls: u64,
    pub set_tid: u64,
    pub set_tid_size: u64,
    pub cgroup: u64,
}

/// The kernel's `struct sigaction` (not the C library's).
#[repr(C)]
#[derive(Default, Clone, Copy)]
pub struct SigAction {
    pub handler: usize,
    pub flags: u64,
    #[cfg(target_arch = "x86_64")]
    pub restorer: usize,
    pub mask: u64,
}

/// The part of `siginfo_t` that `waitid` fills in.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct SigInfo {
    pub signo: i32,
    pub errno: i32,
    pub code: i32,
    pad: i32,
    pub pid: i32,
    pub uid: u32,
    pub status: i32,
    rest: [u8; 100],
}

#[repr(C)]
#[derive(Default, Clone, Copy)]
pub struct Rusage {
    pub utime: [i64; 2],
    pub stime: [i64; 2],
    pub maxrss: i64,
    pub unused: [i64; 3],
    pub minflt: i64,
    pub majflt: i64,
    pub unused2: [i64; 6],
    pub nvcsw: i64,
    pub nivcsw: i64,
}

#[cfg_attr(target_arch = "x86_64", repr(C, packed))]
#[cfg_attr(not(target_arch = "x86_64"), repr(C))]
#[derive(Default, Clone, Copy)]
pub struct EpollEvent {
    pub events: u32,
    pub data: u64,
}

#[repr(C)]
pub struct Iovec {
    pub base: *mut u8,
    pub len: usize,
}

#[repr(C)]
pub struct MsgHdr {
    pub name: usize,
    pub namelen: u32,
    pub iov: *mut Iovec,
    pub iovlen: usize,
    pub control: *mut u8,
    pub controllen: usize,
    pub flags: i32,
}

/// A control message with room for as many descriptors as the kernel passes at once.
#[repr(C, align(8))]
pub struct RightsMessage {
    pub len: usize,
    pub level: i32,
    pub kind: i32,
    pub fds: [Fd; 254],
}

fn check(answer: isize) -> Result<usize> {
    if answer < 0 { Err(-answer as i32) } else { Ok(answer as usize) }
}

fn padded<const N: usize>(given: [usize; N]) -> [usize; 6] {
    core::array::from_fn(|at| given.get(at).copied().unwrap_or(0))
}

macro_rules! call {
    ($nr:expr $(, $arg:expr)*) => {{
        // SAFETY: the wrappers below pass pointers to live memory of the size the call expects.
        check(unsafe { syscall($nr, padded([$($arg as usize),*])) })
    }};
}

pub fn exit_group(code: i32) -> ! {
    loop {
        let _ = call!(nr::EXIT_GROUP, code);
    }
}

pub fn getpid() -> Pid {
    call!(nr::GETPID).unwrap_or(0) as Pid
}

pub fn getppid() -> Pid {
    call!(nr::GETPPID).unwrap_or(0) as Pid
}

pub fn kill(pid: Pid, signal: i32) -> Result<()> {
    call!(nr::KILL, pid as isize, signal).map(drop)
}

pub fn pidfd_open(pid: Pid) -> Result<Fd> {
    call!(nr::PIDFD_OPEN, pid, 0).map(|fd| fd as Fd)
}

pub fn pidfd_send_signal(fd: Fd, signal: i32) -> Result<()> {
    call!(nr::PIDFD_SEND_SIGNAL, fd, signal, 0, 0).map(drop)
}

/// `waitid`; `Ok(None)` when `WNOHANG` found nothing to report.
pub fn waitid(kind: i32, id: Pid, options: i32) -> Result<Option<(SigInfo, Rusage)>> {
    // SAFETY: both are plain integers, for which all-zero bytes are a value.
    let (mut info, mut usage): (SigInfo, Rusage) = unsafe { core::mem::zeroed() };
    loop {
        match call!(nr::WAITID, kind, id, &raw mut info, options, &raw mut usage) {
            Ok(_) if info.pid == 0 => return Ok(None),
            Ok(_) => return Ok(Some((info, usage))),
            Err(EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// A copy of this process, in `cgroup` if there is one, whose end sends `exit_signal`.
///
/// # Safety
/// The caller must be single-threaded: the child has only the calling thread.
pub unsafe fn fork(exit_signal: i32, cgroup: Option<Fd>) -> Result<Pid> {
    let Some(cgroup) = cgroup else {
        return call!(nr::CLONE, exit_signal, 0, 0, 0, 0).map(|pid| pid as Pid);
    };
    let arguments = CloneArgs {
        flags: CLONE_INTO_CGROUP,
        exit_signal: exit_signal as u64,
        cgroup: cgroup as u64,
        ..Default::default()
    };
    call!(nr::CLONE3, &raw const arguments, size_of::<CloneArgs>()).map(|pid| pid as Pid)
}

pub fn execve(path: *const u8, argv: *const *const u8, envp: *const *const u8) -> i32 {
    call!(nr::EXECVE, path, argv, envp).err().unwrap_or(0)
}

pub fn open(path: &CStr, flags: i32) -> Result<Fd> {
    openat(AT_FDCWD, path, flags)
}

pub fn openat(dir: Fd, path: &CStr, flags: i32) -> Result<Fd> {
    call!(nr::OPENAT, dir as isize, path.as_ptr(), flags, 0).map(|fd| fd as Fd)
}

pub fn close(fd: Fd) {
    let _ = call!(nr::CLOSE, fd);
}

pub fn close_range(first: u32, last: u32, flags: u32) -> Result<()> {
    call!(nr::CLOSE_RANGE, first, last, flags).map(drop)
}

pub fn read(fd: Fd, buffer: &mut [u8]) -> Result<usize> {
    call!(nr::READ, fd, buffer.as_mut_ptr(), buffer.len())
}

pub fn write(fd: Fd, bytes: &[u8]) -> Result<usize> {
    call!(nr::WRITE, fd, bytes.as_ptr(), bytes.len())
}

pub fn getdents(fd: Fd, buffer: &mut [u8]) -> Result<usize> {
    call!(nr::GETDENTS64, fd, buffer.as_mut_ptr(), buffer.len())
}

pub fn readlink(path: &CStr, buffer: &mut [u8]) -> Result<usize> {
    call!(nr::READLINKAT, AT_FDCWD as isize, path.as_ptr(), buffer.as_mut_ptr(), buffer.len())
}

pub fn mkdirat(dir: Fd, path: &CStr, mode: u32) -> Result<()> {
    call!(nr::MKDIRAT, dir, path.as_ptr(), mode).map(drop)
}

pub fn unlinkat(dir: Fd, path: &CStr, flags: i32) -> Result<()> {
    call!(nr::UNLINKAT, dir, path.as_ptr(), flags).map(drop)
}

/// `dup3` without flags; nothing happens when both are the same descriptor.
pub fn dup2(from: Fd, to: Fd) -> Result<()> {
    if from == to { Ok(()) } else { call!(nr::DUP3, from, to, 0).map(drop) }
}

pub fn fcntl(fd: Fd, command: i32, argument: i32) -> Result<Fd> {
    call!(nr::FCNTL, fd, command, argument).map(|fd| fd as Fd)
}

pub fn chdir(path: *const u8) -> Result<()> {
    call!(nr::CHDIR, path).map(drop)
}

pub fn fchdir(fd: Fd) -> Result<()> {
    call!(nr::FCHDIR, fd).map(drop)
}

pub fn umask(mask: u32) {
    let _ = call!(nr::UMASK, mask);
}

pub fn setpgid(pid: Pid, group: Pid) -> Result<()> {
    call!(nr::SETPGID, pid, group).map(drop)
}

pub fn setsid() -> Result<()> {
    call!(nr::SETSID).map(drop)
}

pub fn setgroups(groups: &[u32]) -> Result<()> {
    call!(nr::SETGROUPS, groups.len(), groups.as_ptr()).map(drop)
}

pub fn setregid(id: u32) -> Result<()> {
    call!(nr::SETREGID, id, id).map(drop)
}

pub fn setreuid(id: u32) -> Result<()> {
    call!(nr::SETREUID, id, id).map(drop)
}

pub fn prctl(option: i32, argument: usize) -> Result<()> {
    call!(nr::PRCTL, option, argument, 0, 0, 0).map(drop)
}

pub fn ptrace(request: usize, pid: Pid, data: usize) -> Result<()> {
    call!(nr::PTRACE, request, pid, 0, data).map(drop)
}

/// Niceness of this process.
pub fn setpriority(nice: i32) -> Result<()> {
    call!(nr::SETPRIORITY, 0, 0, nice as isize).map(drop)
}

/// This process' niceness.
pub fn getpriority() -> i32 {
    20 - call!(nr::GETPRIORITY, 0, 0).unwrap_or(20) as i32
}

/// (soft, hard)
pub fn getrlimit(resource: i32) -> Result<[u64; 2]> {
    let mut limit = [0u64; 2];
    call!(nr::PRLIMIT64, 0, resource, 0, limit.as_mut_ptr())?;
    Ok(limit)
}

pub fn setrlimit(resource: i32, limit: [u64; 2]) -> Result<()> {
    call!(nr::PRLIMIT64, 0, resource, limit.as_ptr(), 0).map(drop)
}

/// Sets the mask of blocked signals and gives the one before.
pub fn sigprocmask(how: i32, mask: u64) -> u64 {
    let mut before = 0u64;
    let _ = call!(nr::RT_SIGPROCMASK, how, &raw const mask, &raw mut before, 8);
    before
}

/// Sets a signal's disposition and gives the one before.
pub fn sigaction(signal: i32, handler: usize, flags: u64) -> usize {
    let action = SigAction { handler, flags, ..Default::default() };
    let mut before = SigAction::default();
    let _ = call!(nr::RT_SIGACTION, signal, &raw const action, &raw mut before, 8);
    before.handler
}

/// A non-blocking descriptor that is readable while a signal of `mask` is pending.
pub fn signalfd(mask: u64) -> Result<Fd> {
    call!(nr::SIGNALFD4, -1isize, &raw const mask, 8, O_CLOEXEC | 0o4000).map(|fd| fd as Fd)
}

pub fn epoll_create() -> Result<Fd> {
    call!(nr::EPOLL_CREATE1, O_CLOEXEC).map(|fd| fd as Fd)
}

pub fn epoll_ctl(epoll: Fd, operation: i32, fd: Fd, events: u32, data: u64) -> Result<()> {
    let event = EpollEvent { events, data };
    call!(nr::EPOLL_CTL, epoll, operation, fd, &raw const event).map(drop)
}

/// Milliseconds; -1 waits for ever.
pub fn epoll_wait(epoll: Fd, events: &mut [EpollEvent], timeout: i32) -> Result<usize> {
    call!(nr::EPOLL_PWAIT, epoll, events.as_mut_ptr(), events.len(), timeout as isize, 0, 8)
}

pub fn recvmsg(socket: Fd, message: &mut MsgHdr, flags: i32) -> Result<usize> {
    call!(nr::RECVMSG, socket, &raw mut *message, flags)
}

pub fn sendmsg(socket: Fd, message: &MsgHdr, flags: i32) -> Result<usize> {
    call!(nr::SENDMSG, socket, &raw const *message, flags)
}

/// `CLOCK_MONOTONIC` in nanoseconds.
pub fn monotonic() -> u64 {
    let mut time = [0i64; 2];
    let _ = call!(nr::CLOCK_GETTIME, 1, time.as_mut_ptr());
    time[0] as u64 * 1_000_000_000 + time[1] as u64
}

pub fn sleep(nanoseconds: u32) {
    let time = [0i64, i64::from(nanoseconds)];
    let _ = call!(nr::NANOSLEEP, time.as_ptr(), 0);
}

/// Anonymous memory; null when there is none.
pub fn mmap(length: usize) -> *mut u8 {
    // PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS
    call!(nr::MMAP, 0, length, 3, 0x22, -1isize, 0).map_or(core::ptr::null_mut(), |p| p as *mut u8)
}

/// # Safety
/// The range must be a whole mapping made by `mmap` that nothing refers to any more.
pub unsafe fn munmap(address: *mut u8, length: usize) {
    let _ = call!(nr::MUNMAP, address, length);
}

/// How to start a child that shares this memory.
pub struct CloneVm {
    pub flags: u64,
    pub exit_signal: i32,
    pub cgroup: Fd,
    /// Use `clone3`; without it `cgroup` is not obeyed.
    pub clone3: bool,
}

/// Starts `function(argument)` on `stack` in a child with the memory of this process.
/// With `CLONE_PIDFD` in the flags the second value is its descriptor, otherwise -1.
///
/// # Safety
/// `CLONE_VM` and `CLONE_VFORK` must be among the flags, so that the caller is suspended while the
/// child is on `stack`; `function` must neither return nor unwind.
pub unsafe fn clone_vm(
    how: &CloneVm,
    stack: &mut [u8],
    function: extern "C" fn(*mut u8) -> !,
    argument: *mut u8,
) -> Result<(Pid, Fd)> {
    let mut pidfd: Fd = -1;
    let base = (stack.as_mut_ptr() as usize + 15) & !15;
    let size = (stack.as_mut_ptr() as usize + stack.len() - base) & !15;
    let arguments = CloneArgs {
        flags: how.flags,
        pidfd: &raw mut pidfd as u64,
        exit_signal: how.exit_signal as u64,
        stack: base as u64,
        stack_size: size as u64,
        cgroup: how.cgroup as u64,
        ..Default::default()
    };
    let call = if how.clone3 {
        [nr::CLONE3, &raw const arguments as usize, size_of::<CloneArgs>(), 0]
    } else {
        let flags = (how.flags & !CLONE_INTO_CGROUP) as usize | how.exit_signal as usize;
        [nr::CLONE, flags, base + size, &raw mut pidfd as usize]
    };
    // SAFETY: the caller vouches for stack and function; `arguments` outlives the call.
    let pid = check(unsafe { clone_call(call, function, argument) })?;
    Ok((pid as Pid, pidfd))
}
