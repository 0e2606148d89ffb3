//! Collecting exits.
//!
//! `waitid(P_ALL)` looks at every living child, so with many of them each is watched by a pidfd and
//! asked for by number. Orphans that we adopted have no pidfd: `SIGCHLD` names them, and because
//! signals merge, a sweep finds those that it did not name.

use alloc::vec::Vec;

use crate::kill::MOST_REAPED;
use crate::procfs::{self, Member};
use crate::raw::{self, Pid, Rusage, SigInfo};
use crate::serve::{NESTED_ENDED, Supervisor};
use crate::wire::{Exit, disable, event};

/// With at most so many children, looking at all of them costs less than watching each.
const FEW: usize = 16;
/// How long an adopted orphan may stay a zombie when there are more.
const SWEEP_EVERY: u64 = 20_000_000;

const EXEC_LOOKS: usize = 10;

pub struct Child {
    pub id: u64,
    pub pidfd: raw::Fd,
    pub isolated: bool,
    pub keep_leftovers: bool,
}

fn exit(info: &SigInfo, usage: &Rusage) -> Exit {
    let microseconds = |time: [i64; 2]| time[0] as u64 * 1_000_000 + time[1] as u64;
    Exit {
        status: if info.code == raw::CLD_EXITED { info.status } else { -info.status },
        ended: raw::monotonic(),
        user_us: microseconds(usage.utime),
        system_us: microseconds(usage.stime),
        max_rss_kib: usage.maxrss as u64,
        minor_faults: usage.minflt as u64,
        major_faults: usage.majflt as u64,
        voluntary_switches: usage.nvcsw as u64,
        involuntary_switches: usage.nivcsw as u64,
        empty: false,
    }
}

impl Supervisor {
    pub fn wants_pidfd(&self) -> bool {
        self.children.len() >= FEW && self.has(disable::PIDFD)
    }

    pub fn add_child(&mut self, pid: Pid, child: Child) {
        self.ids.insert(child.id, pid);
        if child.pidfd >= 0 {
            self.watch(pid, child.pidfd);
        }
        self.children.insert(pid, child);
        if self.children.len() == FEW + 1 && self.has(disable::PIDFD) {
            self.watch_the_first();
        }
    }

    fn watch(&self, pid: Pid, pidfd: raw::Fd) {
        let _ = raw::epoll_ctl(self.epoll, raw::EPOLL_CTL_ADD, pidfd, raw::EPOLLIN, pid as u64);
    }

    /// Those that were started when there were few.
    fn watch_the_first(&mut self) {
        let unwatched: Vec<Pid> =
            self.children.iter().filter(|(_, child)| child.pidfd < 0).map(|(pid, _)| *pid).collect();
        for pid in unwatched {
            let Ok(fd) = raw::pidfd_open(pid) else { continue };
            let raised = raw::fcntl(fd, raw::F_DUPFD_CLOEXEC, crate::spawn::LOW_DESCRIPTORS);
            raw::close(fd);
            let Ok(pidfd) = raised else { continue };
            self.watch(pid, pidfd);
            if let Some(child) = self.children.get_mut(&pid) {
                child.pidfd = pidfd;
            }
        }
    }

    /// Signals are hints; `waitid` is the truth.
    pub fn on_signals(&mut self) {
        let mut signals = [0u8; 128 * 16];
        // One look only: more signals may come as fast as they are read.
        if let Ok(count) = raw::read(self.signals, &mut signals) {
            for signal in signals[..count].chunks_exact(128) {
                let field = |at: usize| {
                    i32::from_ne_bytes([signal[at], signal[at + 1], signal[at + 2], signal[at + 3]])
                };
                match field(0) {
                    NESTED_ENDED => self.reap_nested(),
                    _ => self.reap(field(12)),
                }
            }
        }
        if self.children.len() <= FEW {
            self.reap_all();
        } else if self.sweep_due == 0 {
            self.sweep_due = raw::monotonic() + SWEEP_EVERY;
        }
    }

    pub fn sweep(&mut self) {
        if self.sweep_due != 0 && self.sweep_due <= raw::monotonic() {
            self.reap_all();
        }
    }

    /// One process, if it has ended and is a child of ours.
    pub fn reap(&mut self, pid: Pid) {
        if let Ok(Some((info, usage))) = raw::waitid(raw::P_PID, pid, raw::WEXITED | raw::WNOHANG) {
            self.collected(&info, &usage);
        }
    }

    /// Those that have ended, but not without end; true when no child is left, the nested supervisors aside.
    pub fn reap_all(&mut self) -> bool {
        self.sweep_due = 0;
        for _ in 0..MOST_REAPED {
            match raw::waitid(raw::P_ALL, 0, raw::WEXITED | raw::WNOHANG) {
                Ok(Some((info, usage))) => self.collected(&info, &usage),
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
        self.sweep_due = raw::monotonic();
        false
    }

    fn collected(&mut self, info: &SigInfo, usage: &Rusage) {
        let mut exit = exit(info, usage);
        if let Some(kill) = &mut self.kill {
            kill.reaped(info.pid, exit.status);
        }
        let Some(child) = self.children.remove(&info.pid) else { return };
        self.ids.remove(&child.id);
        if child.pidfd >= 0 {
            raw::close(child.pidfd);
        }
        let mut leftovers = Vec::new();
        if child.isolated {
            exit.empty = self.reap_all();
            if !exit.empty && self.kill.is_none() {
                leftovers = self.leftovers();
            }
        }
        self.out.frame(event::EXITED, |out| {
            out.u64(child.id);
            exit.encode(out);
            out.u32(leftovers.len() as u32);
            for member in &leftovers {
                out.u32(member.pid as u32);
                out.bytes(&procfs::command_line(member.proc_pid));
            }
        });
        if child.isolated && !exit.empty && !child.keep_leftovers {
            self.emptying.push(child.id);
            self.kill_all(None);
        }
    }

    /// Who is there after the leader's end. One that was just forked gets the time to become the
    /// program that it is known by.
    fn leftovers(&mut self) -> Vec<Member> {
        let mut members = self.members();
        for _ in 0..EXEC_LOOKS {
            if !members.iter().any(|member| member.forked) {
                break;
            }
            raw::sleep(500_000);
            members = self.members();
        }
        members
    }

    /// After each round of events: tell those who wait for emptiness.
    pub fn announce_empty(&mut self) {
        if self.waiters.is_empty() && self.emptying.is_empty() && !self.detached {
            return;
        }
        if !self.children.is_empty() || self.kill.is_some() || !self.reap_all() {
            return;
        }
        for id in core::mem::take(&mut self.emptying) {
            self.out.frame(event::EMPTIED, |out| out.u64(id));
        }
        for request in core::mem::take(&mut self.waiters) {
            self.done(request, 0);
        }
        if self.detached && self.nested.is_empty() {
            self.end();
        }
    }

    fn reap_nested(&mut self) {
        while let Ok(Some((info, _))) = raw::waitid(raw::P_ALL, 0, raw::WEXITED | raw::WNOHANG | raw::WCLONE)
        {
            if let Some(name) = self.nested.remove(&info.pid) {
                self.after_nested(name, info.code == raw::CLD_EXITED && info.status == 0);
            }
        }
    }
}
