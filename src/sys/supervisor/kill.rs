//! Ending processes, and proving that none is left.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::cgroup::Cgroup;
use crate::procfs::{self, Member, Procfs};
use crate::raw::{self, Pid};
use crate::serve::Supervisor;
use crate::wire::{disable, event};

/// Milliseconds between two looks when nothing new was found.
const SLOWEST_LOOK: i32 = 50;
/// After so many rounds that found new ones, they are stopped first.
const FEW_ROUNDS: u32 = 3;
const MOST_STOP_ROUNDS: u32 = 50;
/// Above what members may have, so that a fork bomb can't keep us from running.
const URGENT: i32 = -20;

/// Sends a signal to a process below this one, and to no other.
///
/// A child of ours keeps its number until we reap it. Any other may be reaped by its own parent
/// and its number given away, so it is held by a pidfd before its identity is checked.
pub fn send(procfs: &Procfs, pidfds: bool, member: &Member, signal: i32) -> raw::Result<()> {
    if procfs.is_own(member.parent) {
        return raw::kill(member.pid, signal);
    }
    let pidfd = if pidfds { raw::pidfd_open(member.pid).ok() } else { None };
    let same = procfs::stat(member.proc_pid).is_some_and(|stat| stat.start == member.start);
    let answer = match pidfd {
        _ if !same => Err(raw::ESRCH),
        Some(fd) => raw::pidfd_send_signal(fd, signal),
        None => raw::kill(member.pid, signal),
    };
    if let Some(fd) = pidfd {
        raw::close(fd);
    }
    answer
}

/// How often the children are looked at again before all descendants are, while there are new ones.
const QUICK_LOOKS: usize = 16;
/// Reaped at a time, so that processes which fork and exit without end don't keep us from the rest.
pub const MOST_REAPED: usize = 256;

/// Kills the children of this process by number, which is theirs until they are reaped, without a
/// look at them: what forks and exits at once is gone before a longer look is over.
fn kill_children(procfs: &mut Procfs, skip: impl Fn(Pid) -> bool, mut killed: impl FnMut(Pid)) -> bool {
    let mut news = false;
    for pid in procfs.own_children() {
        if !skip(pid) && raw::kill(pid, raw::SIGKILL).is_ok() {
            news = true;
            killed(pid);
        }
    }
    news
}

/// Kills all that is below this process, nested supervisors too, until nothing is left of it.
pub fn end_everything(procfs: &mut Procfs, cgroup: Option<Cgroup>) {
    let _ = raw::setpriority(URGENT);
    let mut pause = 100_000;
    loop {
        if let Some(cgroup) = cgroup {
            cgroup.kill_below();
        }
        for _ in 0..QUICK_LOOKS {
            kill_children(procfs, |_| false, |_| {});
            match reap_some() {
                Reaped::All => return,
                Reaped::Some => pause = 100_000,
                Reaped::None => break,
            }
        }
        for member in procfs.below(None, |_| false) {
            let _ = send(procfs, true, &member, raw::SIGKILL);
        }
        raw::sleep(pause);
        pause = (pause * 2).min(500_000_000);
    }
}

enum Reaped {
    /// There is no child left.
    All,
    Some,
    None,
}

fn reap_some() -> Reaped {
    for count in 0..MOST_REAPED {
        match raw::waitid(raw::P_ALL, 0, raw::WEXITED | raw::WNOHANG | raw::WALL) {
            Ok(Some(_)) => {}
            Ok(None) if count == 0 => return Reaped::None,
            Ok(None) => break,
            Err(_) => return Reaped::All,
        }
    }
    Reaped::Some
}

/// A kill under way.
pub struct Kill {
    requests: Vec<u64>,
    signalled: BTreeMap<Pid, u64>,
    gone: Vec<Pid>,
    rounds: u32,
    pause: i32,
    due: u64,
    niceness: i32,
}

impl Kill {
    /// Called for each process that is reaped meanwhile.
    pub fn reaped(&mut self, pid: Pid, status: i32) {
        if status == -raw::SIGKILL {
            self.signalled.entry(pid).or_insert(0);
        } else if self.signalled.remove(&pid).is_some() {
            self.gone.push(pid);
        }
    }

    pub fn milliseconds_left(&self) -> i32 {
        (self.due.saturating_sub(raw::monotonic()) / 1_000_000) as i32
    }
}

impl Supervisor {
    /// Kills all members; answered by `KILLED` when there is none.
    pub fn kill_all(&mut self, request: Option<u64>) {
        if self.kill.is_none() {
            let niceness = raw::getpriority();
            let _ = raw::setpriority(URGENT);
            self.kill = Some(Kill {
                requests: Vec::new(),
                signalled: BTreeMap::new(),
                gone: Vec::new(),
                rounds: 0,
                pause: 1,
                due: 0,
                niceness,
            });
        }
        if let Some(kill) = &mut self.kill {
            kill.requests.extend(request);
            kill.due = 0;
        }
        self.continue_kill();
    }

    /// One round: everything found is signalled, everything dead is reaped.
    pub fn continue_kill(&mut self) {
        let Some(mut kill) = self.kill.take() else { return };
        if kill.due <= raw::monotonic() {
            let news = self.kill_round(&mut kill);
            kill.pause = if news { 0 } else { (kill.pause * 2).clamp(1, SLOWEST_LOOK) };
            kill.due = raw::monotonic() + kill.pause as u64 * 1_000_000;
        }
        self.kill = Some(kill);
        if self.reap_all() {
            self.finish_kill();
        }
    }

    /// True when somebody new was found.
    fn kill_round(&mut self, kill: &mut Kill) -> bool {
        kill.rounds += 1;
        if let Some(cgroup) = self.cgroup {
            // Named before they are gone.
            for member in self.members() {
                kill.signalled.entry(member.pid).or_insert(0);
            }
            cgroup.kill();
        } else if kill.rounds > FEW_ROUNDS {
            // They fork faster than they die. What is stopped does not fork, and does not make
            // room for others where their number is limited.
            self.stop_below(None);
        }
        self.kill_quickly(kill) | self.kill_below(kill)
    }

    fn kill_quickly(&mut self, kill: &mut Kill) -> bool {
        let nested = &self.nested;
        let mut any = false;
        for _ in 0..QUICK_LOOKS {
            let mut fresh = false;
            let killed = |pid| fresh |= kill.signalled.insert(pid, 0).is_none();
            kill_children(&mut self.procfs, |pid| nested.contains_key(&pid), killed);
            if !fresh {
                break;
            }
            any = true;
        }
        // Known without /proc.
        for pid in self.children.keys() {
            let _ = raw::kill(*pid, raw::SIGKILL);
        }
        any
    }

    fn kill_below(&mut self, kill: &mut Kill) -> bool {
        let mut news = false;
        for member in self.members() {
            // Children have been killed by number.
            let known =
                kill.signalled.get(&member.pid).is_some_and(|start| [0, member.start].contains(start));
            if known {
                continue;
            }
            match send(&self.procfs, self.has(disable::PIDFD), &member, raw::SIGKILL) {
                Ok(()) => {
                    news = true;
                    kill.signalled.insert(member.pid, member.start);
                }
                Err(raw::ESRCH) => kill.gone.push(member.pid),
                // No permission: it stays a survivor, and is tried again.
                Err(_) => {}
            }
        }
        news
    }

    fn finish_kill(&mut self) {
        let Some(kill) = self.kill.take() else { return };
        let _ = raw::setpriority(kill.niceness);
        if let Some(cgroup) = &mut self.cgroup {
            cgroup.renew();
            self.spawner.cgroup = Some(cgroup.members);
        }
        let killed: Vec<Pid> = kill.signalled.into_keys().collect();
        for request in kill.requests {
            self.out.frame(event::KILLED, |out| {
                out.u64(request);
                out.pids(&killed);
                out.pids(&kill.gone);
            });
        }
    }

    pub fn signal_all(&mut self, signal: i32) -> Vec<Pid> {
        let members = self.members();
        self.signal_each(&members, signal)
    }

    fn signal_each(&self, members: &[Member], signal: i32) -> Vec<Pid> {
        let pidfds = self.has(disable::PIDFD);
        let sent = |member: &&Member| send(&self.procfs, pidfds, member, signal).is_ok();
        members.iter().filter(sent).map(|member| member.pid).collect()
    }

    /// A child with all its descendants: stopped first, so that none can fork while it is looked for.
    pub fn kill_tree(&mut self, pid: Pid) -> Vec<Pid> {
        let _ = raw::kill(pid, raw::SIGSTOP);
        let mut killed = Vec::new();
        if let Some(proc_pid) = self.procfs.proc_pid(pid) {
            let members = self.stop_below(Some(proc_pid));
            killed = self.signal_each(&members, raw::SIGKILL);
        }
        if raw::kill(pid, raw::SIGKILL).is_ok() {
            killed.push(pid);
        }
        killed
    }

    /// Sends SIGSTOP in rounds, until a round finds nobody new (or they come without end).
    fn stop_below(&mut self, root: Option<Pid>) -> Vec<Member> {
        let mut stopped: BTreeMap<Pid, Member> = BTreeMap::new();
        for _ in 0..MOST_STOP_ROUNDS {
            let found = match root {
                None => self.members(),
                root => self.procfs.below(root, |_| false),
            };
            let mut fresh = found;
            fresh.retain(|member| stopped.get(&member.pid).is_none_or(|known| known.start != member.start));
            if self.signal_each(&fresh, raw::SIGSTOP).is_empty() {
                break;
            }
            stopped.extend(fresh.into_iter().map(|member| (member.pid, member)));
        }
        stopped.into_values().collect()
    }

    /// Stops all members until `freeze(false)`.
    pub fn freeze(&mut self, on: bool) -> raw::Result<()> {
        if let Some(cgroup) = self.cgroup {
            cgroup.freeze(on)?;
            let settled = |_: &u32| {
                let settled = cgroup.is_frozen() == on;
                if !settled {
                    raw::sleep(1_000_000);
                }
                settled
            };
            return (0..1000).find(settled).map(drop).ok_or(raw::EBUSY);
        }
        if !on {
            self.signal_all(raw::SIGCONT);
            return Ok(());
        }
        self.stop_below(None);
        Ok(())
    }
}
