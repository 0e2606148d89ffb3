//! The supervisor's state and its one loop.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::ptr::null_mut;

use crate::cgroup::{self, Cgroup};
use crate::kill::{Kill, end_everything};
use crate::procfs::{Member, Procfs, Text};
use crate::raw::{self, EpollEvent, Fd, Iovec, MsgHdr, Pid, RightsMessage};
use crate::reap::Child;
use crate::spawn::{Inherited, Spawner};
use crate::wire::{Reader, Spawn, Step, Writer, disable, event, request, spawn_flag};
use crate::{CGROUP_PARENT, OWNER, SOCKET, close_from};

/// Sent by the end of a nested supervisor. Not SIGCHLD, so that `waitid` without `__WCLONE` passes
/// nested supervisors over, and "no child left" means "no member left".
pub const NESTED_ENDED: i32 = 40;
const SIGNALS: u64 = 1 << (raw::SIGCHLD - 1) | 1 << (NESTED_ENDED - 1);

/// Epoll data that are not pids.
const ON_SOCKET: u64 = 1 << 32;
const ON_SIGNALS: u64 = 2 << 32;
const ON_OWNER: u64 = 3 << 32;
/// Without a pidfd of the owner, it is asked for at this interval.
const OWNER_POLL_MS: i32 = 100;

#[derive(Clone, Copy)]
pub struct Setup {
    pub inherited: Inherited,
    pub disabled: u32,
    pub owner_pid: Pid,
    pub cgroup: Result<Cgroup, (Step, i32)>,
}

pub struct Supervisor {
    setup: Setup,
    pub cgroup: Option<Cgroup>,
    cgroup_name: Text,
    pub procfs: Procfs,
    pub spawner: Spawner,
    pub epoll: Fd,
    pub signals: Fd,
    has_owner_pidfd: bool,
    pub children: BTreeMap<Pid, Child>,
    pub ids: BTreeMap<u64, Pid>,
    pub nested: BTreeMap<Pid, u64>,
    nested_count: u64,
    pub kill: Option<Kill>,
    /// Requests to be answered when no member is left.
    pub waiters: Vec<u64>,
    /// Isolated processes whose leftovers are being ended.
    pub emptying: Vec<u64>,
    pub sweep_due: u64,
    pub detached: bool,
    scratch: Vec<u8>,
    input: Vec<u8>,
    received: VecDeque<Fd>,
    pub out: Writer,
    out_blocked: bool,
}

impl Supervisor {
    pub fn new(setup: Setup, cgroup_name: Text) -> Supervisor {
        let _ = raw::prctl(raw::PR_SET_NAME, c"fastjob-super".as_ptr() as usize);
        let _ = raw::prctl(raw::PR_SET_CHILD_SUBREAPER, 1);
        let (Ok(epoll), Ok(signals)) = (raw::epoll_create(), raw::signalfd(SIGNALS)) else {
            raw::exit_group(1)
        };
        let watch = |fd, data| raw::epoll_ctl(epoll, raw::EPOLL_CTL_ADD, fd, raw::EPOLLIN, data);
        let has_owner_pidfd = watch(OWNER, ON_OWNER).is_ok();
        if watch(SOCKET, ON_SOCKET).is_err() || watch(signals, ON_SIGNALS).is_err() {
            raw::exit_group(1);
        }
        let cgroup = setup.cgroup.ok();
        let mut supervisor = Supervisor {
            setup,
            cgroup,
            cgroup_name,
            procfs: Procfs::open(),
            spawner: Spawner::new(setup.disabled, setup.inherited, cgroup.map(|cgroup| cgroup.members)),
            epoll,
            signals,
            has_owner_pidfd,
            children: BTreeMap::new(),
            ids: BTreeMap::new(),
            nested: BTreeMap::new(),
            nested_count: 0,
            kill: None,
            waiters: Vec::new(),
            emptying: Vec::new(),
            sweep_due: 0,
            detached: false,
            scratch: alloc::vec![0; 64 << 10],
            input: Vec::new(),
            received: VecDeque::new(),
            out: Writer::default(),
            out_blocked: false,
        };
        supervisor.hello();
        supervisor
    }

    fn hello(&mut self) {
        let (step, errno) = self.setup.cgroup.err().unwrap_or((Step::None, 0));
        let cgroup = self.cgroup.is_some();
        self.out.frame(event::HELLO, |out| {
            out.u32(raw::getpid() as u32);
            out.u8(u8::from(cgroup));
            out.u8(step as u8);
            out.u32(errno as u32);
        });
    }

    /// A mechanism is neither disabled nor known to be missing.
    pub fn has(&self, mechanism: u32) -> bool {
        self.spawner.disabled & mechanism == 0
    }

    /// Living members, without nested jobs.
    pub fn members(&mut self) -> Vec<Member> {
        let nested = &self.nested;
        self.procfs.below(None, |pid| nested.contains_key(&pid))
    }

    pub fn serve(mut self) -> ! {
        let mut events = [EpollEvent::default(); 64];
        loop {
            self.flush();
            let count = raw::epoll_wait(self.epoll, &mut events, self.patience()).unwrap_or(0);
            for event in &events[..count] {
                match event.data {
                    ON_SOCKET => self.on_socket(event.events),
                    ON_SIGNALS => self.on_signals(),
                    ON_OWNER => self.owner_gone(),
                    pid => self.reap(pid as Pid),
                }
            }
            if !self.has_owner_pidfd
                && !self.detached
                && raw::kill(self.setup.owner_pid, 0) == Err(raw::ESRCH)
            {
                self.owner_gone();
            }
            self.sweep();
            self.continue_kill();
            self.announce_empty();
        }
    }

    /// Milliseconds until something is due without an event.
    fn patience(&self) -> i32 {
        let mut patience = i32::MAX;
        if let Some(kill) = &self.kill {
            patience = patience.min(kill.milliseconds_left() + 1);
        }
        if self.sweep_due != 0 {
            patience = patience.min((self.sweep_due.saturating_sub(raw::monotonic()) / 1_000_000) as i32 + 1);
        }
        if !self.has_owner_pidfd && !self.detached {
            patience = patience.min(OWNER_POLL_MS);
        }
        if patience == i32::MAX { -1 } else { patience }
    }

    fn owner_gone(&mut self) {
        if self.setup.disabled & disable::KEEP_ON_CLOSE != 0 { self.detach() } else { self.end() }
    }

    /// Nothing is left when this process is.
    pub fn end(&mut self) -> ! {
        end_everything(&mut self.procfs, self.cgroup);
        if let Some(cgroup) = self.cgroup {
            raw::close(cgroup.members);
            raw::close(cgroup.directory);
            cgroup::remove(CGROUP_PARENT, self.cgroup_name.as_c());
        }
        raw::exit_group(0)
    }

    fn detach(&mut self) {
        if !self.detached {
            self.detached = true;
            for fd in [SOCKET, OWNER] {
                // A nested supervisor holds the same description, so closing would not end the watch.
                let _ = raw::epoll_ctl(self.epoll, raw::EPOLL_CTL_DEL, fd, 0, 0);
                raw::close(fd);
            }
            self.out.buffer.clear();
        }
    }

    fn on_socket(&mut self, events: u32) {
        if events & raw::EPOLLOUT != 0 {
            self.flush();
        }
        let mut open = true;
        while open && !self.detached {
            match self.receive() {
                Ok(0) => open = false,
                Ok(_) => self.handle_frames(),
                Err(raw::EAGAIN) => return,
                Err(_) => open = false,
            }
        }
        if !self.detached {
            self.owner_gone();
        }
    }

    fn receive(&mut self) -> raw::Result<usize> {
        let mut rights = RightsMessage { len: 0, level: 0, kind: 0, fds: [-1; 254] };
        let mut data = Iovec { base: self.scratch.as_mut_ptr(), len: self.scratch.len() };
        let mut message = MsgHdr {
            name: 0,
            namelen: 0,
            iov: &raw mut data,
            iovlen: 1,
            control: (&raw mut rights).cast(),
            controllen: size_of::<RightsMessage>(),
            flags: 0,
        };
        let answer = raw::recvmsg(SOCKET, &mut message, raw::MSG_DONTWAIT | raw::MSG_CMSG_CLOEXEC);
        self.input.extend_from_slice(&self.scratch[..answer.unwrap_or(0)]);
        if message.flags & raw::MSG_CTRUNC != 0 {
            // Descriptors were lost, and with them which belong to what: the job can't go on.
            self.end();
        }
        if answer.is_ok() && message.controllen >= 16 {
            let count = (rights.len - 16) / size_of::<Fd>();
            self.received.extend(&rights.fds[..count]);
        }
        answer
    }

    fn handle_frames(&mut self) {
        let input = core::mem::take(&mut self.input);
        let mut done = 0;
        while let Some((kind, body, length)) = Reader::next_frame(&input[done..]) {
            if self.handle(kind, body).is_none() {
                // The owner speaks another language than we: nothing it says can be trusted.
                self.end();
            }
            done += length;
        }
        // What came meanwhile can't have: only `receive` appends.
        self.input = input;
        self.input.drain(..done);
    }

    fn handle(&mut self, kind: u8, mut body: Reader) -> Option<()> {
        match kind {
            request::SPAWN => self.spawn(&Spawn::decode(&mut body)?),
            request::DIRECTORY => {
                let directory = self.received.pop_front()?;
                raw::close(self.spawner.base_directory);
                self.spawner.base_directory = directory;
            }
            request::SIGNAL => {
                let (request, id, signal) = (body.u64()?, body.u64()?, body.u32()? as i32);
                let pid = self.ids.get(&id).copied();
                let sent = pid.filter(|pid| raw::kill(*pid, signal).is_ok());
                self.answer_pids(request, sent.as_slice());
            }
            request::SIGNAL_ALL => {
                let (request, signal) = (body.u64()?, body.u32()? as i32);
                let pids = self.signal_all(signal);
                self.answer_pids(request, &pids);
            }
            request::KILL_TREE => {
                let (request, id) = (body.u64()?, body.u64()?);
                let pids = self.ids.get(&id).copied().map(|pid| self.kill_tree(pid)).unwrap_or_default();
                self.answer_pids(request, &pids);
            }
            request::KILL => {
                let request = body.u64()?;
                self.kill_all(Some(request));
            }
            request::MEMBERS => self.answer_members(body.u64()?),
            request::WAIT => self.waiters.push(body.u64()?),
            request::FREEZE => {
                let (request, on) = (body.u64()?, body.u8()? != 0);
                let errno = self.freeze(on).err().unwrap_or(0);
                self.done(request, errno);
            }
            request::PIDFD => self.answer_pidfd(body.u64()?, body.u64()?),
            request::NEST => {
                let socket = self.received.pop_front()?;
                self.nest(body.u64()?, socket);
            }
            request::CLOSE => self.end(),
            request::DETACH => self.detach(),
            _ => return None,
        }
        Some(())
    }

    fn spawn(&mut self, spawn: &Spawn) {
        if spawn.flags & spawn_flag::SAME_ENVIRONMENT == 0 {
            self.spawner.environment.set(spawn.environment);
        }
        let count = spawn.streams.iter().filter(|(_, what)| *what == crate::wire::stream::PASSED).count();
        let received: Vec<Fd> = self.received.drain(..count.min(self.received.len())).collect();
        let began = raw::monotonic();
        let started = self.spawner.start(spawn, &received, self.wants_pidfd());
        received.iter().for_each(|fd| raw::close(*fd));
        match started {
            Ok(started) => {
                self.add_child(
                    started.pid,
                    Child {
                        id: spawn.id,
                        pidfd: started.pidfd,
                        isolated: spawn.flags & spawn_flag::ISOLATED != 0,
                        keep_leftovers: spawn.flags & spawn_flag::KEEP_LEFTOVERS != 0,
                    },
                );
                self.out.frame(event::STARTED, |out| {
                    out.u64(spawn.id);
                    out.u32(started.pid as u32);
                    out.u64(began);
                });
            }
            Err((step, errno)) => self.out.frame(event::FAILED, |out| {
                out.u64(spawn.id);
                out.u8(step as u8);
                out.u32(errno as u32);
            }),
        }
    }

    pub fn done(&mut self, request: u64, errno: i32) {
        self.out.frame(event::DONE, |out| {
            out.u64(request);
            out.u32(errno as u32);
        });
    }

    fn answer_pids(&mut self, request: u64, pids: &[Pid]) {
        self.out.frame(event::PIDS, |out| {
            out.u64(request);
            out.pids(pids);
        });
    }

    fn answer_members(&mut self, request: u64) {
        let members = self.members();
        let local: BTreeMap<Pid, Pid> = members.iter().map(|member| (member.proc_pid, member.pid)).collect();
        let own = raw::getpid();
        self.out.frame(event::MEMBERS, |out| {
            out.u64(request);
            out.u32(members.len() as u32);
            for member in &members {
                out.u32(member.pid as u32);
                out.u32(member.proc_pid as u32);
                out.u32(local.get(&member.parent).copied().unwrap_or(own) as u32);
                out.u64(member.start);
            }
        });
    }

    /// Race-free: a child's number is its own until we reap it.
    fn answer_pidfd(&mut self, request: u64, id: u64) {
        let opened = match self.ids.get(&id) {
            Some(pid) if self.has(disable::PIDFD) => raw::pidfd_open(*pid),
            Some(_) => Err(raw::ENOSYS),
            None => Err(raw::ESRCH),
        };
        match opened {
            Err(errno) => self.done(request, errno),
            Ok(pidfd) => {
                self.out.frame(event::DESCRIPTOR, |out| out.u64(request));
                self.send_with(pidfd);
                raw::close(pidfd);
            }
        }
    }

    /// A supervisor for a nested job, below this one.
    fn nest(&mut self, request: u64, socket: Fd) {
        self.nested_count += 1;
        let number = self.nested_count;
        let name = cgroup::nested_name(number);
        let cgroup = match self.cgroup {
            Some(cgroup) => Cgroup::make(cgroup.directory, name.as_c()),
            None => Err(self.setup.cgroup.err().unwrap_or((Step::None, 0))),
        };
        // SAFETY: one thread.
        match unsafe { raw::fork(NESTED_ENDED, None) } {
            Ok(0) => {
                let mut setup = self.setup;
                setup.cgroup = cgroup;
                setup.disabled |= self.spawner.disabled;
                self.become_nested(setup, socket, name)
            }
            Ok(pid) => {
                self.nested.insert(pid, number);
                self.done(request, 0);
            }
            Err(errno) => {
                if let Some(outer) = self.cgroup.filter(|_| cgroup.is_ok()) {
                    cgroup::remove(outer.directory, name.as_c());
                }
                self.done(request, errno);
            }
        }
        raw::close(socket);
        if let Ok(cgroup) = cgroup {
            raw::close(cgroup.members);
            raw::close(cgroup.directory);
        }
    }

    /// In the forked copy: put everything where `start` would have put it.
    fn become_nested(&self, mut setup: Setup, socket: Fd, name: Text) -> ! {
        let _ = raw::dup2(socket, SOCKET);
        let _ = raw::fcntl(SOCKET, raw::F_SETFD, 1);
        let mut first = CGROUP_PARENT;
        if let (Some(outer), Ok(inner)) = (self.cgroup, &mut setup.cgroup) {
            // First out of the way of the places where they belong.
            let place = |from: Fd, to: Fd| {
                let _ = raw::dup2(from, to);
                let _ = raw::fcntl(to, raw::F_SETFD, 1);
                to
            };
            let aside = |fd| raw::fcntl(fd, raw::F_DUPFD_CLOEXEC, 16).unwrap_or(-1);
            let (outer, directory, members) =
                (aside(outer.directory), aside(inner.directory), aside(inner.members));
            place(outer, CGROUP_PARENT);
            inner.directory = place(directory, CGROUP_PARENT + 1);
            inner.members = place(members, CGROUP_PARENT + 2);
            first = CGROUP_PARENT + 3;
        }
        if !self.has(disable::CLOSE_RANGE) || raw::close_range(first as u32, u32::MAX, 0).is_err() {
            close_from(first);
        }
        Supervisor::new(setup, name).serve()
    }

    /// A nested supervisor has ended. If it was killed its members are now ours.
    pub fn after_nested(&mut self, number: u64, clean: bool) {
        let name = cgroup::nested_name(number);
        let Some(outer) = self.cgroup else { return };
        if !clean {
            cgroup::kill_named(outer.directory, name.as_c());
            self.reap_all();
        }
        cgroup::remove(outer.directory, name.as_c());
    }

    /// Sends what is waiting; what the owner does not take yet waits for its socket.
    fn flush(&mut self) {
        let mut sent = 0;
        while sent < self.out.buffer.len() {
            match self.send(sent, None, raw::MSG_DONTWAIT) {
                Ok(count) => sent += count,
                Err(raw::EAGAIN) => break,
                // The owner is gone; its pidfd or end of file says so too.
                Err(_) => sent = self.out.buffer.len(),
            }
        }
        self.out.buffer.drain(..sent);
        let blocked = !self.out.buffer.is_empty();
        if blocked != self.out_blocked && !self.detached {
            self.out_blocked = blocked;
            let events = raw::EPOLLIN | if blocked { raw::EPOLLOUT } else { 0 };
            let _ = raw::epoll_ctl(self.epoll, raw::EPOLL_CTL_MOD, SOCKET, events, ON_SOCKET);
        }
    }

    /// All that is waiting, with a descriptor on its last byte. The owner's reaper always reads, so
    /// this does not wait for long.
    fn send_with(&mut self, fd: Fd) {
        let last = self.out.buffer.len() - 1;
        let mut sent = 0;
        while sent < last {
            let rest = self.out.buffer.split_off(last);
            let answer = self.send(sent, None, 0);
            self.out.buffer.extend_from_slice(&rest);
            match answer {
                Ok(count) => sent += count,
                Err(_) => break,
            }
        }
        let _ = self.send(last, Some(fd), 0);
        self.out.buffer.clear();
    }

    fn send(&mut self, from: usize, fd: Option<Fd>, flags: i32) -> raw::Result<usize> {
        let bytes = &mut self.out.buffer[from..];
        let mut data = Iovec { base: bytes.as_mut_ptr(), len: bytes.len() };
        let mut rights = fd.map(|fd| RightsMessage {
            len: 16 + size_of::<Fd>(),
            level: raw::SOL_SOCKET,
            kind: raw::SCM_RIGHTS,
            fds: [fd; 254],
        });
        let control = rights.as_mut().map_or(null_mut(), |rights| (&raw mut *rights).cast());
        let message = MsgHdr {
            name: 0,
            namelen: 0,
            iov: &raw mut data,
            iovlen: 1,
            control,
            controllen: if control.is_null() { 0 } else { 24 },
            flags: 0,
        };
        raw::sendmsg(SOCKET, &message, flags | raw::MSG_NOSIGNAL)
    }
}
