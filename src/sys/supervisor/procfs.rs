//! Who is below this process, by `/proc` (man 5 proc).
//!
//! `/proc` may belong to an outer pid namespace (`unshare --pid` without a mount of its own): its
//! numbers are then not ours. They are kept as `proc_pid`, and translated by the `NSpid` line.

use alloc::vec::Vec;
use core::ffi::CStr;

use crate::raw::{self, Fd, Pid};

/// A process below this one.
#[derive(Clone, Copy)]
pub struct Member {
    pub pid: Pid,
    pub proc_pid: Pid,
    /// The parent, as a `/proc` number.
    pub parent: Pid,
    /// Clock ticks since boot; with the pid it is an identity.
    pub start: u64,
    /// It has not executed a program since it was forked.
    pub forked: bool,
}

const PF_FORKNOEXEC: u64 = 0x40;

#[derive(Clone, Copy)]
pub struct Stat {
    /// It has not executed a program since it was forked.
    pub forked: bool,
    pub dead: bool,
    pub parent: Pid,
    pub threads: u32,
    pub start: u64,
}

/// A NUL-terminated text of bounded length, built without allocation.
pub struct Text {
    bytes: [u8; 96],
    length: usize,
}

impl Text {
    pub fn new(parts: &[&[u8]]) -> Text {
        let mut text = Text { bytes: [0; 96], length: 0 };
        parts.iter().for_each(|part| text.push(part));
        text
    }

    pub fn push(&mut self, part: &[u8]) {
        let room = self.bytes.len() - 1 - self.length;
        let part = &part[..part.len().min(room)];
        self.bytes[self.length..self.length + part.len()].copy_from_slice(part);
        self.length += part.len();
    }

    pub fn number(&mut self, value: u64) {
        let mut digits = [0u8; 20];
        let mut at = digits.len();
        let mut rest = value;
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.push(&digits[at..]);
    }

    pub fn as_c(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }
}

pub fn parse(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, digit| {
        digit.is_ascii_digit().then(|| value.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')))
    })
}

fn path(proc_pid: Pid, file: &[u8]) -> Text {
    let mut text = Text::new(&[b"/proc/"]);
    text.number(proc_pid as u64);
    text.push(file);
    text
}

/// A whole file, or nothing when it can't be read.
fn read_all(path: &CStr, contents: &mut Vec<u8>) -> Option<()> {
    contents.clear();
    let fd = raw::open(path, raw::O_CLOEXEC).ok()?;
    let answer = loop {
        contents.reserve(4096);
        let length = contents.len();
        contents.resize(contents.capacity(), 0);
        match raw::read(fd, &mut contents[length..]) {
            Ok(0) => {
                contents.truncate(length);
                break Some(());
            }
            Ok(count) => contents.truncate(length + count),
            Err(_) => break None,
        }
    };
    raw::close(fd);
    answer
}

/// The names in a directory that are numbers.
fn numbers(path: &CStr, found: &mut Vec<Pid>) -> Option<()> {
    let fd = raw::open(path, raw::O_DIRECTORY | raw::O_CLOEXEC).ok()?;
    each_name(fd, |name| found.extend(parse(name).map(|number| number as Pid)));
    raw::close(fd);
    Some(())
}

const DT_DIR: u8 = 4;

/// Calls `visit` with the name of each directory in an open one.
pub fn each_directory(fd: Fd, mut visit: impl FnMut(&[u8])) {
    each_entry(fd, |kind, name| {
        if kind == DT_DIR && !name.starts_with(b".") {
            visit(name);
        }
    });
}

/// Calls `visit` with each name in an open directory.
pub fn each_name(fd: Fd, mut visit: impl FnMut(&[u8])) {
    each_entry(fd, |_, name| visit(name));
}

fn each_entry(fd: Fd, mut visit: impl FnMut(u8, &[u8])) {
    let mut entries = [0u8; 4096];
    while let Ok(count @ 1..) = raw::getdents(fd, &mut entries) {
        let mut at = 0;
        while at + 19 < count {
            let length = usize::from(u16::from_ne_bytes([entries[at + 16], entries[at + 17]]));
            if let Ok(name) = CStr::from_bytes_until_nul(&entries[at + 19..at + length]) {
                visit(entries[at + 18], name.to_bytes());
            }
            at += length.max(1);
        }
    }
}

pub fn stat(proc_pid: Pid) -> Option<Stat> {
    let fd = raw::open(path(proc_pid, b"/stat").as_c(), raw::O_CLOEXEC).ok()?;
    let mut line = [0u8; 512];
    let count = raw::read(fd, &mut line);
    raw::close(fd);
    let line = &line[..count.ok()?];
    // The name stands in parentheses and may contain any: fields count from the last one.
    let after = line.iter().rposition(|byte| *byte == b')')? + 2;
    let mut fields = line.get(after..)?.split(|byte| *byte == b' ');
    let state = *fields.next()?.first()?;
    let parent = parse(fields.next()?)? as Pid;
    let flags = parse(fields.nth(4)?)?;
    let threads = parse(fields.nth(10)?)? as u32;
    let start = parse(fields.nth(1)?)?;
    let forked = flags & PF_FORKNOEXEC != 0;
    Some(Stat { dead: matches!(state, b'Z' | b'X'), parent, threads, start, forked })
}

/// Reads `/proc` for one supervisor.
pub struct Procfs {
    /// Our own number in `/proc`, 0 when there is none.
    own: Pid,
    /// At which place of an `NSpid` line our namespace's numbers stand, when they differ.
    level: Option<usize>,
    buffer: Vec<u8>,
}

impl Procfs {
    pub fn open() -> Procfs {
        let mut target = [0u8; 16];
        let own = raw::readlink(c"/proc/self", &mut target)
            .ok()
            .and_then(|count| parse(&target[..count]))
            .unwrap_or(0) as Pid;
        let mut procfs = Procfs { own, level: None, buffer: Vec::new() };
        if own != 0 && own != raw::getpid() {
            procfs.level = procfs.namespace_pids(own).map(|pids| pids.len() - 1);
        }
        procfs
    }

    fn namespace_pids(&mut self, proc_pid: Pid) -> Option<Vec<Pid>> {
        read_all(path(proc_pid, b"/status").as_c(), &mut self.buffer)?;
        let line = self.buffer.split(|byte| *byte == b'\n').find(|line| line.starts_with(b"NSpid:"))?;
        let pids: Vec<Pid> =
            line[6..].split(u8::is_ascii_whitespace).filter_map(parse).map(|pid| pid as Pid).collect();
        (!pids.is_empty()).then_some(pids)
    }

    /// What this namespace calls a process; `None` when it is gone.
    fn local(&mut self, proc_pid: Pid) -> Option<Pid> {
        match self.level {
            None => Some(proc_pid),
            Some(level) => self.namespace_pids(proc_pid)?.get(level).copied(),
        }
    }

    pub fn is_own(&self, proc_pid: Pid) -> bool {
        proc_pid == self.own
    }

    /// All living processes below `root` (a `/proc` number; `None`: this process), without the
    /// subtrees for which `skip` is true of the root's children.
    pub fn below(&mut self, root: Option<Pid>, skip: impl Fn(Pid) -> bool) -> Vec<Member> {
        let mut members = Vec::new();
        if self.own == 0 {
            return members;
        }
        let mut level = Vec::from([(root.unwrap_or(self.own), 0u32)]);
        let mut table = None;
        let mut children = Vec::new();
        while let Some((parent, threads)) = level.pop() {
            children.clear();
            if table.is_none() && self.children(parent, threads, &mut children).is_none() {
                if parent != self.own {
                    continue;
                }
                // A kernel without CONFIG_PROC_CHILDREN: look at everybody's parent instead.
                table = Some(parents());
            }
            if let Some(table) = &table {
                children.extend(table.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
            }
            for &proc_pid in &children {
                let Some(stat) = stat(proc_pid) else { continue };
                // Between the list and now the number may have gone to a stranger, or the process
                // may have been adopted: then it is found below this process.
                if stat.dead || stat.parent != parent {
                    continue;
                }
                let Some(pid) = self.local(proc_pid) else { continue };
                if parent == self.own && skip(pid) {
                    continue;
                }
                members.push(Member { pid, proc_pid, parent, start: stat.start, forked: stat.forked });
                level.push((proc_pid, stat.threads));
            }
        }
        members
    }

    /// Living and dead, by our numbers.
    pub fn own_children(&mut self) -> Vec<Pid> {
        let mut found = Vec::new();
        if self.own == 0 || self.children(self.own, 0, &mut found).is_none() {
            return Vec::new();
        }
        if self.level.is_some() {
            found = found.into_iter().filter_map(|pid| self.local(pid)).collect();
        }
        found
    }

    fn children(&mut self, proc_pid: Pid, threads: u32, found: &mut Vec<Pid>) -> Option<()> {
        let mut tasks = Vec::new();
        if threads > 1 {
            numbers(path(proc_pid, b"/task").as_c(), &mut tasks)?;
        } else {
            tasks.push(proc_pid);
        }
        for task in tasks {
            let mut file = path(proc_pid, b"/task/");
            file.number(task as u64);
            file.push(b"/children");
            if read_all(file.as_c(), &mut self.buffer).is_none() && task == proc_pid {
                return None;
            }
            found.extend(self.buffer.split(|byte| *byte == b' ').filter_map(parse).map(|pid| pid as Pid));
        }
        Some(())
    }

    /// The number in `/proc` of one of our children.
    pub fn proc_pid(&mut self, pid: Pid) -> Option<Pid> {
        match self.level {
            None => Some(pid),
            Some(_) => {
                let mut children = Vec::new();
                self.children(self.own, 0, &mut children)?;
                children.into_iter().find(|proc_pid| self.local(*proc_pid) == Some(pid))
            }
        }
    }
}

fn parents() -> Vec<(Pid, Pid)> {
    let mut all = Vec::new();
    numbers(c"/proc", &mut all);
    all.into_iter().filter_map(|pid| Some((pid, stat(pid)?.parent))).collect()
}

/// The command line, arguments separated by NUL, or at least the name.
pub fn command_line(proc_pid: Pid) -> Vec<u8> {
    let mut line = Vec::new();
    for _ in 0..EXEC_LOOKS {
        let _ = read_all(path(proc_pid, b"/cmdline").as_c(), &mut line);
        if !line.is_empty() {
            line.truncate(LONGEST_LINE);
            return line;
        }
        // Amid an exec there is none.
        raw::sleep(200_000);
    }
    let _ = read_all(path(proc_pid, b"/comm").as_c(), &mut line);
    line.pop_if(|last| *last == b'\n');
    line
}

const LONGEST_LINE: usize = 16 << 10;
const EXEC_LOOKS: u32 = 10;
