//! Where a job's cgroup may be made, and removing those of owners that are gone.

use std::ffi::CString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, open};

use super::procfs;

/// Members vanish from a cgroup a little after they were killed.
const REMOVE_TRIES: u32 = 100;
const PREFIX: &str = "fastjob-";

/// The cgroup v2 directory of this process, below which unprivileged owners may write if it was
/// delegated to them (man 7 cgroups).
fn own_directory() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ');
        (after.split(' ').next()? == "cgroup2").then_some(())?;
        Some((fields.nth(3)?.to_owned(), unescape(fields.next()?)))
    })?;
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    // In a cgroup namespace, or a container's bind mount, the mount shows only a part of the tree.
    let below = path.strip_prefix(mount.0.trim_end_matches('/')).unwrap_or(path);
    Some(Path::new(&mount.1).join(below.trim_start_matches('/')))
}

/// mountinfo writes blanks as `\040`.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// Where a job's cgroup is to be made.
pub struct Place {
    pub parent: OwnedFd,
    pub name: CString,
    pub path: PathBuf,
}

/// The directory to make a cgroup in, and a name that no other owner uses.
pub fn place_for_job() -> Option<Place> {
    let directory = own_directory()?;
    let parent = open(&directory, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    if count == 0 {
        remove_stale(&directory);
    }
    let pid = std::process::id();
    let start = procfs::start_time("self")?;
    let namespace = pid_namespace()?;
    // A forked child counts on from the same number, but with another pid.
    let name = format!("{PREFIX}{namespace}-{pid}-{start}-{count}");
    Some(Place { parent, path: directory.join(&name), name: CString::new(name).ok()? })
}

/// Kills what a supervisor that was killed has left; its guard does too, unless it was killed as well.
pub fn kill(directory: &Path) {
    let _ = fs::write(directory.join("cgroup.kill"), "1");
}

/// Removes it in the guard's stead.
pub fn remove(directory: &Path) {
    for _ in 0..REMOVE_TRIES {
        remove_tree(directory);
        if !directory.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn pid_namespace() -> Option<u64> {
    fs::metadata("/proc/self/ns/pid").ok().map(|namespace| namespace.ino())
}

/// Removes what was left when an owner, its supervisor and its guard were all killed at once.
/// The kernel removes empty ones only, but a living owner's may be empty too: an owner whose pid
/// means nothing here, as it is in another pid namespace, is left alone.
fn remove_stale(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(identity) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        let mut numbers = identity.split('-').map(str::parse::<u64>);
        let (Some(Ok(namespace)), Some(Ok(pid)), Some(Ok(start))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            continue;
        };
        if Some(namespace) == pid_namespace() && procfs::start_time(pid) != Some(start) {
            remove_tree(&entry.path());
        }
    }
}

fn remove_tree(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(directory);
}
