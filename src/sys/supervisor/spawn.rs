//! Starting one process: what happens between `clone` and `execve`.
//!
//! The child shares our memory while we are suspended (`CLONE_VM|CLONE_VFORK`), so it allocates
//! nothing and reports by writing into [`Child`].

use alloc::vec::Vec;
use core::ptr::null;

use crate::raw::{self, CloneVm, Fd, Pid};
use crate::wire::{NO_ID, Spawn, Step, disable, spawn_flag, stream};

/// Pidfds stand at or above this number, received descriptors below: the child copies the lower
/// part of the table only, so a spawn costs the same with thousands of children.
pub const LOW_DESCRIPTORS: Fd = 256;
const STACK: usize = 128 << 10;
/// A program being written by a descriptor that leaked into a process about to exec (ETXTBSY) is
/// free as soon as that one has: tried again this often, first after 0.1 ms, then longer.
const BUSY_TRIES: u32 = 10;

/// What every child of this job is given, as its maker had it.
#[derive(Clone, Copy)]
pub struct Inherited {
    pub signal_mask: u64,
    pub ignored: u64,
    pub descriptor_limit: [u64; 2],
}

/// An environment block kept from request to request.
#[derive(Default)]
pub struct Environment {
    block: Vec<u8>,
    pointers: Vec<*const u8>,
}

impl Environment {
    pub fn set(&mut self, block: &[u8]) {
        self.block.clear();
        self.block.extend_from_slice(block);
        self.pointers = pointers(&self.block);
    }

    fn path(&self) -> &[u8] {
        let path = self.block.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"PATH="));
        path.unwrap_or(b"/bin:/usr/bin")
    }
}

/// Addresses of the NUL-terminated texts in a block, with a null at the end.
fn pointers(block: &[u8]) -> Vec<*const u8> {
    let mut found = Vec::new();
    let mut rest = block;
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        found.push(rest.as_ptr());
        rest = &rest[end + 1..];
    }
    found.push(null());
    found
}

/// Where to look for the program, in order; each NUL-terminated.
fn candidates(program: &[u8], search_path: &[u8]) -> Vec<u8> {
    let name = program.split(|byte| *byte == 0).next().unwrap_or_default();
    let mut found = Vec::new();
    if name.contains(&b'/') {
        found.extend_from_slice(name);
        found.push(0);
        return found;
    }
    for directory in search_path.split(|byte| *byte == b':') {
        found.extend_from_slice(directory);
        if !directory.is_empty() && directory.last() != Some(&b'/') {
            found.push(b'/');
        }
        found.extend_from_slice(name);
        found.push(0);
    }
    found
}

/// All that the child needs, prepared before it exists.
struct Child<'a> {
    spawn: &'a Spawn<'a>,
    inherited: Inherited,
    parent: Pid,
    base_directory: Fd,
    /// `(from, to)`; the child's numbers come in ascending order.
    descriptors: Vec<(Fd, Fd)>,
    closed: Vec<Fd>,
    unshare_above: Option<u32>,
    candidates: Vec<*const u8>,
    argv: Vec<*const u8>,
    environment: *const *const u8,
    stop: Stop,
    step: Step,
    errno: i32,
}

/// How a suspended child is held before its first instruction.
#[derive(Clone, Copy, PartialEq)]
enum Stop {
    No,
    /// At the exec trap: the program has been loaded.
    Traced,
    /// Where ptrace is refused: before the exec.
    Early,
}

pub struct Started {
    pub pid: Pid,
    pub pidfd: Fd,
}

/// What the supervisor lends to a spawn.
pub struct Spawner {
    pub disabled: u32,
    pub inherited: Inherited,
    pub environment: Environment,
    pub base_directory: Fd,
    /// Where members are born.
    pub cgroup: Option<Fd>,
    stack: Vec<u8>,
}

impl Spawner {
    pub fn new(disabled: u32, inherited: Inherited, cgroup: Option<Fd>) -> Spawner {
        Spawner {
            disabled,
            inherited,
            environment: Environment::default(),
            base_directory: -1,
            cgroup,
            stack: alloc::vec![0; STACK],
        }
    }

    /// Starts what `spawn` describes, with `received` behind its `PASSED` streams.
    pub fn start(
        &mut self,
        spawn: &Spawn,
        received: &[Fd],
        want_pidfd: bool,
    ) -> Result<Started, (Step, i32)> {
        let mut descriptors = Vec::new();
        let mut closed = Vec::new();
        let mut passed = received.iter();
        for (to, what) in &spawn.streams {
            match *what {
                stream::CLOSED => closed.push(*to),
                // Our own standard streams are /dev/null.
                stream::NULL => descriptors.push((0, *to)),
                _ => descriptors.push((*passed.next().ok_or((Step::Request, raw::EPROTO))?, *to)),
            }
        }
        let stop = match spawn.flags & spawn_flag::SUSPENDED {
            0 => Stop::No,
            _ if self.disabled & disable::PTRACE != 0 => Stop::Early,
            _ => Stop::Traced,
        };
        let argv = pointers(spawn.argv);
        let program = if spawn.executable.is_empty() { spawn.argv } else { spawn.executable };
        let candidates = candidates(program, self.environment.path());
        let highest = descriptors.iter().map(|(from, _)| *from).max().unwrap_or(0).max(self.base_directory);
        let unshare = self.disabled & disable::CLOSE_RANGE == 0 && highest < LOW_DESCRIPTORS;
        let mut child = Child {
            spawn,
            inherited: self.inherited,
            parent: raw::getpid(),
            base_directory: self.base_directory,
            descriptors,
            closed,
            unshare_above: unshare.then_some(LOW_DESCRIPTORS as u32),
            candidates: pointers(&candidates),
            argv,
            environment: self.environment.pointers.as_ptr(),
            stop,
            step: Step::None,
            errno: 0,
        };
        let started = self.clone(&mut child, want_pidfd)?;
        if child.errno != 0 {
            let _ = raw::waitid(raw::P_PID, started.pid, raw::WEXITED);
            if started.pidfd >= 0 {
                raw::close(started.pidfd);
            }
            if child.step == Step::Trace {
                self.disabled |= disable::PTRACE;
                return self.start(spawn, received, want_pidfd);
            }
            return Err((child.step, child.errno));
        }
        if stop == Stop::Traced {
            stop_traced(started.pid);
        }
        Ok(started)
    }

    fn clone(&mut self, child: &mut Child, want_pidfd: bool) -> Result<Started, (Step, i32)> {
        if child.stop == Stop::Early {
            return fork_stopped(child, self.cgroup);
        }
        let clone3 = self.disabled & disable::CLONE3 == 0;
        let mut flags = raw::CLONE_VM | raw::CLONE_VFORK;
        if child.unshare_above.is_some() {
            flags |= raw::CLONE_FILES;
        }
        if want_pidfd && self.disabled & disable::PIDFD == 0 {
            flags |= raw::CLONE_PIDFD;
        }
        if self.cgroup.is_some() {
            flags |= raw::CLONE_INTO_CGROUP;
        }
        let how = CloneVm { flags, exit_signal: raw::SIGCHLD, cgroup: self.cgroup.unwrap_or(-1), clone3 };
        // SAFETY: with CLONE_VFORK we run again only when the child has left this stack, and
        // `run_child` ends in execve or exit.
        let (pid, pidfd) =
            unsafe { raw::clone_vm(&how, &mut self.stack, run_child, core::ptr::from_mut(child).cast()) }
                .map_err(|errno| (Step::Clone, errno))?;
        Ok(Started { pid, pidfd: raise(pidfd) })
    }
}

/// Moves a pidfd out of the range that children copy.
fn raise(pidfd: Fd) -> Fd {
    if pidfd < 0 {
        return -1;
    }
    let raised = raw::fcntl(pidfd, raw::F_DUPFD_CLOEXEC, LOW_DESCRIPTORS).unwrap_or(-1);
    raw::close(pidfd);
    raised
}

/// The child has stopped at the exec trap: let it go on into an ordinary stop.
fn stop_traced(pid: Pid) {
    let _ = raw::waitid(raw::P_PID, pid, raw::WSTOPPED | raw::WEXITED | raw::WNOWAIT);
    let _ = raw::ptrace(raw::PTRACE_DETACH, pid, raw::SIGSTOP as usize);
}

/// Where ptrace is refused: a copy of this process that stops before it execs. (A child that
/// shares our memory would keep us suspended.) A failing exec then ends it with 127.
fn fork_stopped(child: &mut Child, cgroup: Option<Fd>) -> Result<Started, (Step, i32)> {
    child.unshare_above = None;
    // SAFETY: the supervisor has one thread.
    match unsafe { raw::fork(raw::SIGCHLD, cgroup) } {
        Err(errno) => Err((Step::Clone, errno)),
        Ok(0) => run_child(core::ptr::from_mut(child).cast()),
        Ok(pid) => {
            let _ = raw::waitid(raw::P_PID, pid, raw::WSTOPPED | raw::WEXITED | raw::WNOWAIT);
            Ok(Started { pid, pidfd: -1 })
        }
    }
}

extern "C" fn run_child(child: *mut u8) -> ! {
    // SAFETY: `Spawner::clone` passes its `Child`, which it does not touch until we are gone.
    let child = unsafe { &mut *child.cast::<Child>() };
    let Err((step, errno)) = child.prepare().and_then(|()| child.execute());
    child.step = step;
    child.errno = errno;
    raw::exit_group(127)
}

trait At<T> {
    fn at(self, step: Step) -> Result<T, (Step, i32)>;
}

impl<T> At<T> for raw::Result<T> {
    fn at(self, step: Step) -> Result<T, (Step, i32)> {
        self.map_err(|errno| (step, errno))
    }
}

impl Child<'_> {
    /// Everything before the exec, in the order in which `subprocess` does it.
    fn prepare(&mut self) -> Result<(), (Step, i32)> {
        self.place_descriptors().at(Step::Descriptors)?;
        if self.base_directory >= 0 {
            raw::fchdir(self.base_directory).at(Step::Directory)?;
        }
        if !self.spawn.directory.is_empty() {
            raw::chdir(self.spawn.directory.as_ptr()).at(Step::Directory)?;
        }
        if self.spawn.umask != NO_ID {
            raw::umask(self.spawn.umask);
        }
        self.restore_signals();
        self.join_group()?;
        self.change_user()?;
        raw::setrlimit(raw::RLIMIT_NOFILE, self.inherited.descriptor_limit).at(Step::Limits)?;
        // After the change of user, which clears it. Then look whether the parent is still there.
        let _ = raw::prctl(raw::PR_SET_PDEATHSIG, raw::SIGKILL as usize);
        if raw::getppid() != self.parent {
            raw::exit_group(127);
        }
        Ok(())
    }

    /// Fails where a descriptor of ours would be overwritten only after moving it out of the way.
    fn place_descriptors(&mut self) -> raw::Result<()> {
        if let Some(bound) = self.unshare_above {
            raw::close_range(bound, u32::MAX, raw::CLOSE_RANGE_UNSHARE)?;
        }
        let above = self.descriptors.iter().map(|(_, to)| *to + 1).max().unwrap_or(3).max(3);
        for at in 0..self.descriptors.len() {
            let (from, to) = self.descriptors[at];
            let is_target = |(_, other): &(Fd, Fd)| *other == from;
            if from != to && self.descriptors.iter().any(is_target) {
                self.descriptors[at].0 = raw::fcntl(from, raw::F_DUPFD_CLOEXEC, above)?;
            }
        }
        if self.descriptors.iter().any(|(_, to)| *to == self.base_directory) {
            self.base_directory = raw::fcntl(self.base_directory, raw::F_DUPFD_CLOEXEC, above)?;
        }
        for &(from, to) in &self.descriptors {
            if from == to {
                raw::fcntl(to, raw::F_SETFD, 0)?;
            } else {
                raw::dup2(from, to)?;
            }
        }
        self.closed.iter().for_each(|fd| raw::close(*fd));
        Ok(())
    }

    /// Python ignores SIGPIPE and SIGXFSZ; programs expect them to be in force. What else the
    /// owner ignores stays ignored, as an exec keeps it.
    fn restore_signals(&self) {
        let ignored = self.inherited.ignored;
        let ignore = |signal: i32| {
            if ignored & (1 << (signal - 1)) != 0 {
                raw::sigaction(signal, raw::SIG_IGN, 0);
            }
        };
        ignore(raw::SIGCHLD);
        if self.spawn.flags & spawn_flag::KEEP_IGNORED_SIGNALS != 0 {
            ignore(raw::SIGPIPE);
            ignore(raw::SIGXFSZ);
        }
        raw::sigprocmask(raw::SIG_SETMASK, self.inherited.signal_mask);
    }

    fn join_group(&self) -> Result<(), (Step, i32)> {
        if self.spawn.flags & spawn_flag::NEW_SESSION != 0 {
            raw::setsid().at(Step::Session)?;
        }
        match self.spawn.process_group {
            i32::MIN => Ok(()),
            // The owner's own group, so that the terminal's signals arrive; it may be gone.
            group if group < 0 => {
                let _ = raw::setpgid(0, -group);
                Ok(())
            }
            group => raw::setpgid(0, group).at(Step::ProcessGroup),
        }
    }

    fn change_user(&self) -> Result<(), (Step, i32)> {
        if let Some(groups) = &self.spawn.groups {
            raw::setgroups(groups).at(Step::Groups)?;
        }
        if self.spawn.group != NO_ID {
            raw::setregid(self.spawn.group).at(Step::Group)?;
        }
        if self.spawn.user != NO_ID {
            raw::setreuid(self.spawn.user).at(Step::User)?;
        }
        Ok(())
    }

    fn execute(&mut self) -> Result<core::convert::Infallible, (Step, i32)> {
        match self.stop {
            Stop::No => {}
            Stop::Traced => raw::ptrace(raw::PTRACE_TRACEME, 0, 0).at(Step::Trace)?,
            Stop::Early => raw::kill(raw::getpid(), raw::SIGSTOP).at(Step::Trace)?,
        }
        let mut refused = 0;
        let mut last = raw::ENOENT;
        for &candidate in &self.candidates[..self.candidates.len() - 1] {
            last = self.execute_at(candidate);
            if last != raw::ENOENT && last != raw::ENOTDIR && refused == 0 {
                refused = last;
            }
        }
        Err((Step::Exec, if refused != 0 { refused } else { last }))
    }

    fn execute_at(&self, program: *const u8) -> i32 {
        let mut errno = raw::execve(program, self.argv.as_ptr(), self.environment);
        for attempt in 0..BUSY_TRIES {
            if errno != raw::ETXTBSY {
                break;
            }
            raw::sleep(100_000 << attempt.min(6));
            errno = raw::execve(program, self.argv.as_ptr(), self.environment);
        }
        errno
    }
}
