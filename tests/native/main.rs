//! The core without Python: real supervisors, real processes.

use std::sync::Arc;

use fastjob::command::{Options, Stream};
use fastjob::error::Error;
use fastjob::job::{Job, Settings};
use fastjob::map::Map;
use fastjob::process::{End, Process};
use fastjob::stop;
use fastjob::sys::wire::{Reader, Spawn, Writer, disable, spawn_flag, stream};
use fastjob::wait::{Deadline, uninterrupted};

const SUPERVISOR: &str = env!("FASTJOB_SUPERVISOR");
/// Far beyond what anything here takes.
const LONG: f64 = 60.0;

fn job(disabled: u32) -> Arc<Job> {
    let settings = Settings { kill_on_close: true, isolate_interrupt: false, disabled };
    Job::create(SUPERVISOR, settings, &mut uninterrupted).expect("a job")
}

fn options() -> Options {
    Options {
        streams: [Stream::Null, Stream::Capture, Stream::Capture],
        directory: Vec::new(),
        environment: None,
        executable: Vec::new(),
        pass_fds: Vec::new(),
        suspended: false,
        restore_signals: true,
        umask: None,
        user: None,
        group: None,
        groups: None,
        new_session: false,
        process_group: None,
        pipe_size: None,
        max_output: None,
        input: None,
        timeout: None,
        grace: 0.0,
        keep_leftovers: false,
    }
}

fn argv(arguments: &[&str]) -> Vec<u8> {
    arguments.iter().flat_map(|argument| argument.bytes().chain([0])).collect()
}

fn start(job: &Arc<Job>, arguments: &[&str], options: Options) -> Result<Arc<Process>, Error> {
    let command = job.prepare(argv(arguments), Arc::new(options))?;
    let process = job.start(vec![command], false)?.pop().expect("one");
    process.wait_started(&mut uninterrupted)?;
    Ok(process)
}

fn status(process: &Process) -> i32 {
    assert!(process.wait_done(Deadline::after(Some(LONG)), &mut uninterrupted).unwrap());
    match process.end() {
        Some(End::Exited(exit)) => exit.status,
        other => panic!("{other:?}"),
    }
}

fn output(process: &Process) -> Vec<u8> {
    process.with_capture(1, fastjob::capture::Capture::output).expect("captured")
}

/// Every way in which a mechanism can be missing.
fn fallbacks() -> impl Iterator<Item = u32> {
    let each = [disable::CGROUP, disable::CLONE3, disable::PIDFD, disable::CLOSE_RANGE, disable::PTRACE];
    let all = each.iter().sum();
    [0].into_iter().chain(each).chain([all])
}

#[test]
fn exit_status_and_output_arrive_under_every_fallback() {
    for disabled in fallbacks() {
        let job = job(disabled);
        let process = start(&job, &["sh", "-c", "echo out; exit 7"], options()).unwrap();
        assert_eq!((status(&process), output(&process)), (7, b"out\n".to_vec()), "disabled: {disabled}");
        stop::close(&job, LONG, &mut uninterrupted).unwrap();
    }
}

#[test]
fn a_kill_leaves_nobody_under_every_fallback() {
    for disabled in fallbacks() {
        let job = job(disabled);
        let script = "setsid sleep 1000 & (sleep 1000 & sleep 1000) & sleep 1000 & wait";
        let process = start(&job, &["sh", "-c", script], options()).unwrap();
        let report = stop::stop(&job, &[], LONG, &mut uninterrupted).unwrap();
        assert_eq!(status(&process), -9);
        assert!(report.rungs[0].1.contains(&process.pid()));
        assert!(stop::members(&job, &mut uninterrupted).unwrap().is_empty());
        // And it can be used again.
        let process = start(&job, &["true"], options()).unwrap();
        assert_eq!(status(&process), 0, "disabled: {disabled}");
        stop::close(&job, LONG, &mut uninterrupted).unwrap();
    }
}

#[test]
fn start_errors_name_the_file() {
    let job = job(0);
    let failed = start(&job, &["/nonexistent/program"], options()).err().expect("an error");
    assert!(
        matches!(&failed, Error::Start { errno: 2, file: Some(file), .. } if file == b"/nonexistent/program"),
        "{failed:?}"
    );
    let directory = Options { directory: b"/nonexistent\0".to_vec(), ..options() };
    let failed = start(&job, &["true"], directory).err().expect("an error");
    assert!(
        matches!(&failed, Error::Start { errno: 2, file: Some(file), .. } if file == b"/nonexistent"),
        "{failed:?}"
    );
    stop::close(&job, LONG, &mut uninterrupted).unwrap();
}

#[test]
fn a_suspended_process_has_not_run() {
    for disabled in [0, disable::PTRACE] {
        let job = job(disabled);
        let suspended = Options { suspended: true, ..options() };
        let process = start(&job, &["echo", "ran"], suspended).unwrap();
        assert!(output(&process).is_empty() && process.end().is_none());
        job.signal_process(&process, 18, &mut uninterrupted).unwrap();
        assert_eq!((status(&process), output(&process)), (0, b"ran\n".to_vec()));
        stop::close(&job, LONG, &mut uninterrupted).unwrap();
    }
}

#[test]
fn an_isolated_command_is_done_when_its_leftovers_are_dead() {
    let job = job(0);
    let command = job.prepare(argv(&["sh", "-c", "sleep 1000 & echo done"]), Arc::new(options())).unwrap();
    let process = job.start_isolated(command).unwrap();
    assert_eq!((status(&process), output(&process)), (0, b"done\n".to_vec()));
    assert_eq!(process.leftovers().len(), 1);
    assert!(stop::members(&job, &mut uninterrupted).unwrap().is_empty());
    stop::close(&job, LONG, &mut uninterrupted).unwrap();
}

#[test]
fn a_map_gives_every_result_once() {
    let job = job(0);
    let map = Map::new(job.clone(), 4, false);
    let (mut given, mut seen) = (0, Vec::new());
    while seen.len() < 100 {
        while given < 100 && map.room() > 0 {
            let command = job.prepare(argv(&["sh", "-c", &format!("exit {given}")]), Arc::new(options()));
            map.submit(command.unwrap());
            given += 1;
        }
        let (number, process) = map.next(&mut uninterrupted).unwrap().expect("more");
        assert_eq!(status(&process), number as i32);
        seen.push(number);
    }
    assert!(map.next(&mut uninterrupted).unwrap().is_none());
    seen.sort_unstable();
    assert_eq!(seen, (0..100).collect::<Vec<_>>());
    stop::close(&job, LONG, &mut uninterrupted).unwrap();
}

#[test]
fn a_request_reads_as_it_was_written() {
    let spawn = Spawn {
        id: 7,
        flags: spawn_flag::ISOLATED,
        umask: 0o22,
        user: 1,
        group: 2,
        groups: Some(vec![3, 4]),
        process_group: -5,
        streams: vec![(0, stream::NULL), (1, stream::PASSED)],
        directory: b"/\0",
        executable: b"",
        argv: b"a\0b\0",
        environment: b"A=1\0",
    };
    let mut out = Writer::default();
    out.frame(1, |out| spawn.encode(out));
    let (kind, mut body, length) = Reader::next_frame(&out.buffer).expect("a frame");
    assert_eq!((kind, length), (1, out.buffer.len()));
    let read = Spawn::decode(&mut body).expect("a request");
    assert_eq!((read.id, read.flags, read.umask, read.process_group), (7, spawn.flags, 0o22, -5));
    assert_eq!((read.groups, read.streams), (spawn.groups, spawn.streams));
    assert_eq!((read.directory, read.argv, read.environment), (&b"/\0"[..], &b"a\0b\0"[..], &b"A=1\0"[..]));
    for cut in 0..out.buffer.len() {
        assert!(Reader::next_frame(&out.buffer[..cut]).is_none());
        let body = &out.buffer[5..cut.max(5)];
        assert!(Spawn::decode(&mut Reader::new(body)).is_none(), "cut at {cut}");
    }
}
