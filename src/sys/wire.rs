//! What owner and supervisor say to each other: frames on a Unix stream socket.
//!
//! A frame is `u32 length, u8 kind, body`, in the machine's byte order: both ends are always of the
//! same build. Descriptors travel beside the bytes in the order of the frames that use them.

#![allow(dead_code, reason = "each end reads what the other writes")]

use alloc::vec::Vec;

/// Owner to supervisor.
pub mod request {
    /// `id, Spawn`: start a process; answered by `STARTED` or `FAILED`, later by `EXITED`.
    pub const SPAWN: u8 = 1;
    /// One descriptor: the owner's working directory, for all spawns that follow.
    pub const DIRECTORY: u8 = 2;
    /// `request, id, signal`: signal one process; answered by `PIDS` (itself, or none).
    pub const SIGNAL: u8 = 3;
    /// `request, signal`: signal all members; answered by `PIDS`.
    pub const SIGNAL_ALL: u8 = 4;
    /// `request, id`: kill a process and its descendants; answered by `PIDS`.
    pub const KILL_TREE: u8 = 5;
    /// `request`: kill until empty; answered by `KILLED`.
    pub const KILL: u8 = 6;
    /// `request`: answered by `MEMBERS`.
    pub const MEMBERS: u8 = 7;
    /// `request`: answered by `DONE` when there is no member.
    pub const WAIT: u8 = 8;
    /// `request, on`: stop or continue all members; answered by `DONE`.
    pub const FREEZE: u8 = 9;
    /// `request, id`: answered by `DESCRIPTOR`, a pidfd, or `DONE`.
    pub const PIDFD: u8 = 10;
    /// `request`, one descriptor: a socket for a nested job's supervisor; answered by `DONE`.
    pub const NEST: u8 = 11;
    /// Kill everything, then end; answered by end of file.
    pub const CLOSE: u8 = 12;
    /// End when the last member has ended, whatever becomes of the owner.
    pub const DETACH: u8 = 13;
}

/// Supervisor to owner.
pub mod event {
    /// `pid, cgroup, step, errno`: ready; the last two say why there is no cgroup.
    pub const HELLO: u8 = 1;
    /// `id, pid, monotonic ns`
    pub const STARTED: u8 = 2;
    /// `id, step, errno`
    pub const FAILED: u8 = 3;
    /// `id, Exit, leftovers`: the process has ended and is reaped.
    pub const EXITED: u8 = 4;
    /// `id`: what an isolated process left running has been ended too.
    pub const EMPTIED: u8 = 5;
    /// `request, errno`
    pub const DONE: u8 = 6;
    /// `request`, one descriptor
    pub const DESCRIPTOR: u8 = 10;
    /// `request, pids`
    pub const PIDS: u8 = 7;
    /// `request, killed, already gone`
    pub const KILLED: u8 = 8;
    /// `request, (pid, procfs pid, parent, start time)…`
    pub const MEMBERS: u8 = 9;
}

/// Where a start failed; the order is that of the child's work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Step {
    None,
    Request,
    Clone,
    Descriptors,
    Directory,
    Session,
    ProcessGroup,
    Groups,
    Group,
    User,
    Limits,
    Trace,
    Exec,
    CgroupMissing,
    CgroupMake,
    CgroupOpen,
    CgroupClone,
    Disabled,
}

impl Step {
    const ALL: [Step; 18] = [
        Step::None,
        Step::Request,
        Step::Clone,
        Step::Descriptors,
        Step::Directory,
        Step::Session,
        Step::ProcessGroup,
        Step::Groups,
        Step::Group,
        Step::User,
        Step::Limits,
        Step::Trace,
        Step::Exec,
        Step::CgroupMissing,
        Step::CgroupMake,
        Step::CgroupOpen,
        Step::CgroupClone,
        Step::Disabled,
    ];

    pub fn from_u8(value: u8) -> Step {
        Step::ALL.get(usize::from(value)).copied().unwrap_or(Step::None)
    }

    /// What was being done, to follow "failed to".
    pub fn describe(self) -> &'static str {
        match self {
            Step::None => "",
            Step::Request => "read the request",
            Step::Clone => "create a process (clone)",
            Step::Descriptors => "set up the child's descriptors",
            Step::Directory => "enter the working directory",
            Step::Session => "start a session (setsid)",
            Step::ProcessGroup => "set the process group (setpgid)",
            Step::Groups => "set the supplementary groups (setgroups)",
            Step::Group => "set the group (setregid)",
            Step::User => "set the user (setreuid)",
            Step::Limits => "restore the descriptor limit",
            Step::Trace => "stop before the first instruction (ptrace)",
            Step::Exec => "execute the program",
            Step::CgroupMissing => "find a cgroup v2 tree",
            Step::CgroupMake => "create a cgroup (mkdir)",
            Step::CgroupOpen => "open the cgroup's files",
            Step::CgroupClone => "clone into a cgroup (clone3)",
            Step::Disabled => "use cgroups: disabled by FASTJOB_DISABLE",
        }
    }
}

/// Mechanisms that `FASTJOB_DISABLE` turns off.
pub mod disable {
    pub const CGROUP: u32 = 1;
    pub const CLONE3: u32 = 2;
    pub const PIDFD: u32 = 4;
    pub const CLOSE_RANGE: u32 = 8;
    pub const PTRACE: u32 = 16;
    /// Not a mechanism: the job outlives its owner.
    pub const KEEP_ON_CLOSE: u32 = 0x100;
}

/// Bits of `Spawn::flags`.
pub mod spawn_flag {
    pub const NEW_SESSION: u32 = 1;
    pub const SUSPENDED: u32 = 2;
    pub const KEEP_IGNORED_SIGNALS: u32 = 4;
    pub const ISOLATED: u32 = 8;
    pub const KEEP_LEFTOVERS: u32 = 16;
    pub const SAME_ENVIRONMENT: u32 = 32;
}

/// What stands behind one descriptor of the child.
pub mod stream {
    pub const CLOSED: u8 = 0;
    pub const NULL: u8 = 1;
    pub const PASSED: u8 = 2;
}

pub const NO_ID: u32 = u32::MAX;

/// A start request, read in place. Texts end in NUL, so that they can go to `execve` as they are.
pub struct Spawn<'a> {
    pub id: u64,
    pub flags: u32,
    pub umask: u32,
    pub user: u32,
    pub group: u32,
    pub groups: Option<Vec<u32>>,
    pub process_group: i32,
    /// `(descriptor in the child, what stands behind it)`
    pub streams: Vec<(i32, u8)>,
    pub directory: &'a [u8],
    pub executable: &'a [u8],
    pub argv: &'a [u8],
    pub environment: &'a [u8],
}

impl<'a> Spawn<'a> {
    pub fn encode(&self, out: &mut Writer) {
        out.u64(self.id);
        out.u32(self.flags);
        out.u32(self.umask);
        out.u32(self.user);
        out.u32(self.group);
        match &self.groups {
            None => out.u32(NO_ID),
            Some(groups) => {
                out.u32(groups.len() as u32);
                groups.iter().for_each(|group| out.u32(*group));
            }
        }
        out.u32(self.process_group as u32);
        out.u32(self.streams.len() as u32);
        for (fd, what) in &self.streams {
            out.u32(*fd as u32);
            out.u8(*what);
        }
        out.bytes(self.directory);
        out.bytes(self.executable);
        out.bytes(self.argv);
        out.bytes(self.environment);
    }

    pub fn decode(input: &mut Reader<'a>) -> Option<Spawn<'a>> {
        let (id, flags, umask) = (input.u64()?, input.u32()?, input.u32()?);
        let (user, group) = (input.u32()?, input.u32()?);
        let groups = match input.u32()? {
            NO_ID => None,
            count => Some((0..count).map(|_| input.u32()).collect::<Option<Vec<_>>>()?),
        };
        let process_group = input.u32()? as i32;
        let count = input.u32()?;
        let streams =
            (0..count).map(|_| Some((input.u32()? as i32, input.u8()?))).collect::<Option<Vec<_>>>()?;
        let (directory, executable) = (input.bytes()?, input.bytes()?);
        let (argv, environment) = (input.bytes()?, input.bytes()?);
        Some(Spawn {
            id,
            flags,
            umask,
            user,
            group,
            groups,
            process_group,
            streams,
            directory,
            executable,
            argv,
            environment,
        })
    }
}

/// How a process ended and what it used.
#[derive(Clone, Copy, Default, Debug)]
pub struct Exit {
    /// Exit code, or the negative number of the signal.
    pub status: i32,
    pub ended: u64,
    pub user_us: u64,
    pub system_us: u64,
    pub max_rss_kib: u64,
    pub minor_faults: u64,
    pub major_faults: u64,
    pub voluntary_switches: u64,
    pub involuntary_switches: u64,
    /// Nothing that it started is alive.
    pub empty: bool,
}

impl Exit {
    pub fn encode(&self, out: &mut Writer) {
        out.u32(self.status as u32);
        for value in [
            self.ended,
            self.user_us,
            self.system_us,
            self.max_rss_kib,
            self.minor_faults,
            self.major_faults,
            self.voluntary_switches,
            self.involuntary_switches,
        ] {
            out.u64(value);
        }
        out.u8(u8::from(self.empty));
    }

    pub fn decode(input: &mut Reader) -> Option<Exit> {
        Some(Exit {
            status: input.u32()? as i32,
            ended: input.u64()?,
            user_us: input.u64()?,
            system_us: input.u64()?,
            max_rss_kib: input.u64()?,
            minor_faults: input.u64()?,
            major_faults: input.u64()?,
            voluntary_switches: input.u64()?,
            involuntary_switches: input.u64()?,
            empty: input.u8()? != 0,
        })
    }
}

/// Frames being written.
#[derive(Default)]
pub struct Writer {
    pub buffer: Vec<u8>,
}

impl Writer {
    /// One frame: `kind`, then what `body` writes.
    pub fn frame(&mut self, kind: u8, body: impl FnOnce(&mut Writer)) {
        let start = self.buffer.len();
        self.u32(0);
        self.u8(kind);
        body(self);
        let length = (self.buffer.len() - start) as u32;
        self.buffer[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    pub fn u8(&mut self, value: u8) {
        self.buffer.push(value);
    }

    pub fn u32(&mut self, value: u32) {
        self.buffer.extend_from_slice(&value.to_ne_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.buffer.extend_from_slice(&value.to_ne_bytes());
    }

    pub fn bytes(&mut self, value: &[u8]) {
        self.u32(value.len() as u32);
        self.buffer.extend_from_slice(value);
    }

    pub fn pids(&mut self, pids: &[i32]) {
        self.u32(pids.len() as u32);
        pids.iter().for_each(|pid| self.u32(*pid as u32));
    }
}

/// A frame's body being read; `None` where it is too short.
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(body: &'a [u8]) -> Self {
        Reader { rest: body }
    }

    /// The first whole frame in `buffer`: its kind, its body and its length with the header.
    pub fn next_frame(buffer: &'a [u8]) -> Option<(u8, Reader<'a>, usize)> {
        let length = u32::from_ne_bytes(buffer.get(..4)?.try_into().ok()?) as usize;
        let frame = buffer.get(..length.max(5))?;
        Some((frame[4], Reader::new(&frame[5..]), length.max(5)))
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    pub fn u8(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    pub fn u32(&mut self) -> Option<u32> {
        Some(u32::from_ne_bytes(self.take(4)?.try_into().ok()?))
    }

    pub fn u64(&mut self) -> Option<u64> {
        Some(u64::from_ne_bytes(self.take(8)?.try_into().ok()?))
    }

    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let count = self.u32()?;
        self.take(count as usize)
    }

    pub fn pids(&mut self) -> Option<Vec<i32>> {
        let count = self.u32()?;
        (0..count).map(|_| Some(self.u32()? as i32)).collect()
    }
}
