//! What `/proc` tells about a process (man 5 proc).

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::sync::OnceLock;

/// A process as it was when it was looked at.
#[derive(Clone, Debug)]
pub struct ProcessInfo {
    pub pid: i32,
    pub parent: i32,
    pub name: String,
    pub executable: Option<Vec<u8>>,
    pub command_line: Vec<Vec<u8>>,
    /// Seconds since 1970.
    pub created: f64,
    pub user_time: f64,
    pub system_time: f64,
    pub resident_bytes: u64,
}

/// A member of a job as its supervisor sees it.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    pub pid: i32,
    /// Its number in `/proc`, another one where that belongs to an outer pid namespace.
    pub proc_pid: i32,
    pub parent: i32,
    /// Clock ticks since boot.
    pub start: u64,
}

/// `stat` from the third field on; the second, the name, may contain anything.
fn stat_fields(stat: &str) -> Option<(&str, Vec<&str>)> {
    let (open, close) = (stat.find('(')?, stat.rfind(')')?);
    Some((&stat[open + 1..close], stat.get(close + 2..)?.split(' ').collect()))
}

fn read_stat(pid: impl std::fmt::Display) -> Option<String> {
    fs::read(format!("/proc/{pid}/stat")).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// In clock ticks since boot: with the pid, an identity.
pub fn start_time(pid: impl std::fmt::Display) -> Option<u64> {
    stat_fields(&read_stat(pid)?)?.1.get(19)?.parse().ok()
}

pub fn split_arguments(line: &[u8]) -> Vec<Vec<u8>> {
    let line = line.strip_suffix(b"\0").unwrap_or(line);
    if line.is_empty() { Vec::new() } else { line.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect() }
}

fn boot_time() -> f64 {
    static BOOT: OnceLock<f64> = OnceLock::new();
    *BOOT.get_or_init(|| {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
        line.and_then(|seconds| seconds.trim().parse().ok()).unwrap_or(0.0)
    })
}

/// `None` when it has ended.
pub fn process_info(member: &Member) -> Option<ProcessInfo> {
    let pid = member.proc_pid;
    let stat = read_stat(pid)?;
    let (name, fields) = stat_fields(&stat)?;
    let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
    if number(19)? != member.start {
        return None;
    }
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let seconds = |at: usize| number(at).unwrap_or(0) as f64 / ticks;
    let executable = fs::read_link(format!("/proc/{pid}/exe")).ok();
    let command_line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    Some(ProcessInfo {
        pid: member.pid,
        parent: member.parent,
        name: name.to_owned(),
        executable: executable.map(|path| path.into_os_string().into_vec()),
        command_line: split_arguments(&command_line),
        created: boot_time() + member.start as f64 / ticks,
        user_time: seconds(11),
        system_time: seconds(12),
        resident_bytes: number(21).unwrap_or(0) * rustix::param::page_size() as u64,
    })
}
