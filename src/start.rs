//! Starting processes: what the supervisor is sent, and the pipes between.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::command::{Command, Options, Stream};
use crate::error::{Error, Result};
use crate::job::Job;
use crate::process::{End, Process};
use crate::reaper::lock;
use crate::sys::platform::channel::MOST_DESCRIPTORS;
use crate::sys::platform::inherit::{self, Directory};
use crate::sys::platform::pipes;
use crate::sys::wire::{NO_ID, Spawn, Writer, request, spawn_flag, stream};

/// So much is gathered before it is sent.
const BATCH_BYTES: usize = 64 << 10;

/// What children take over from their owner unless it says otherwise.
#[derive(Default)]
pub struct Inherited {
    environment: Option<Arc<[u8]>>,
    directory: Option<Arc<Directory>>,
}

impl Job {
    /// Takes from this process what `options` leave to be inherited. Call it with the interpreter
    /// locked, which keeps the environment from changing meanwhile.
    pub fn prepare(&self, argv: Vec<u8>, options: Arc<Options>) -> Result<Command> {
        options.check_descriptors()?;
        let mut inherited = lock(&self.seen);
        let environment = match &options.environment {
            Some(environment) => environment.clone(),
            None => {
                let current = inherit::environment(inherited.environment.as_ref());
                inherited.environment = Some(current.clone());
                current
            }
        };
        let directory = Directory::current(inherited.directory.as_ref())
            .map_err(|errno| Error::system("open the working directory", errno.raw_os_error()))?;
        inherited.directory = Some(directory.clone());
        Ok(Command { argv, options, environment, directory: Some(directory) })
    }

    /// Sends all commands in as few messages as possible; each answer comes to its process.
    pub fn start(self: &Arc<Self>, commands: Vec<Command>, isolated: bool) -> Result<Vec<Arc<Process>>> {
        self.check_open()?;
        self.check_running()?;
        let mut processes = Vec::with_capacity(commands.len());
        let mut batch = Batch::default();
        let mut failure = None;
        let mut sent = lock(&self.sent);
        for command in commands {
            let process = Arc::new(Process::new(self.next_id(), self.clone(), &command, isolated));
            lock(&self.state).processes.insert(process.id, process.clone());
            if let Err(error) = self.add_to_batch(&mut batch, &mut sent, &process, &command) {
                lock(&self.state).processes.remove(&process.id);
                process.finish(End::Failed(error.clone()));
                failure = Some(error);
                break;
            }
            processes.push(process);
        }
        let answer = self.send_batch(&mut batch);
        drop(sent);
        // Not before: a kill must not overtake the start.
        let answer = answer.and_then(|()| processes.iter().try_for_each(|process| process.arm_timeout()));
        match failure.or(answer.err()) {
            None => Ok(processes),
            Some(error) => {
                processes.iter().for_each(|process| process.kill_in_background());
                Err(error)
            }
        }
    }

    /// A child started in a suspended job would stop before its exec, and its supervisor with it.
    pub fn check_running(&self) -> Result<()> {
        let mut job = Some(self);
        while let Some(current) = job {
            if lock(&current.state).suspended {
                return Err(Error::System {
                    step: "start a process in a suspended job: resume() it".into(),
                    errno: 0,
                });
            }
            job = current.parent().map(|parent| &**parent);
        }
        Ok(())
    }

    fn add_to_batch(
        &self,
        batch: &mut Batch,
        sent: &mut Inherited,
        process: &Arc<Process>,
        command: &Command,
    ) -> Result<()> {
        let options = &*command.options;
        let mut ends = ChildEnds::make(process)?;
        for &fd in &options.pass_fds {
            ends.borrow(inherit::descriptor(fd), fd);
        }
        let count = ends.count();
        if count > MOST_DESCRIPTORS - 2 {
            return Err(Error::Invalid(
                format!("{count} descriptors for one process: at most {}", MOST_DESCRIPTORS - 2).into(),
            ));
        }
        if batch.fds.len() + count + 1 > MOST_DESCRIPTORS || batch.out.buffer.len() > BATCH_BYTES {
            self.send_batch(batch)?;
        }
        let new_directory = match (&sent.directory, &command.directory) {
            (Some(before), Some(now)) if Arc::ptr_eq(before, now) => false,
            (_, now) => now.is_some(),
        };
        if new_directory {
            sent.directory.clone_from(&command.directory);
            batch.out.frame(request::DIRECTORY, |_| {});
            batch.directories.extend(command.directory.clone());
            batch.fds.push(BatchFd::Directory(batch.directories.len() - 1));
        }
        let same = sent.environment.as_ref().is_some_and(|before| Arc::ptr_eq(before, &command.environment));
        sent.environment = Some(command.environment.clone());
        let (streams, fds) = ends.into_parts();
        let spawn = Spawn {
            id: process.id,
            flags: flags(options, process.isolated, same),
            umask: options.umask.unwrap_or(NO_ID),
            user: options.user.unwrap_or(NO_ID),
            group: options.group.unwrap_or(NO_ID),
            groups: options.groups.clone(),
            process_group: self.process_group(options),
            streams,
            directory: &options.directory,
            executable: &options.executable,
            argv: &command.argv,
            environment: if same { &[] } else { &command.environment },
        };
        batch.out.frame(request::SPAWN, |out| spawn.encode(out));
        batch.fds.extend(fds);
        Ok(())
    }

    fn process_group(&self, options: &Options) -> i32 {
        match options.process_group {
            Some(group) => group,
            None if options.new_session => i32::MIN,
            None if self.settings().isolate_interrupt => 0,
            None => -inherit::process_group(),
        }
    }

    fn send_batch(&self, batch: &mut Batch) -> Result<()> {
        if batch.out.buffer.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(batch);
        let fds: Vec<BorrowedFd> = batch
            .fds
            .iter()
            .map(|fd| match fd {
                BatchFd::Owned(fd) => fd.as_fd(),
                BatchFd::Borrowed(fd) => *fd,
                BatchFd::Directory(at) => batch.directories[*at].fd(),
            })
            .collect();
        self.link.send(&batch.out.buffer, &fds)
    }
}

fn flags(options: &Options, isolated: bool, same_environment: bool) -> u32 {
    let bits = [
        (options.new_session, spawn_flag::NEW_SESSION),
        (options.suspended, spawn_flag::SUSPENDED),
        (!options.restore_signals, spawn_flag::KEEP_IGNORED_SIGNALS),
        (isolated, spawn_flag::ISOLATED),
        (options.keep_leftovers, spawn_flag::KEEP_LEFTOVERS),
        (same_environment, spawn_flag::SAME_ENVIRONMENT),
    ];
    bits.iter().filter(|(on, _)| *on).map(|(_, bit)| bit).sum()
}

enum BatchFd {
    Owned(OwnedFd),
    Borrowed(BorrowedFd<'static>),
    Directory(usize),
}

/// Frames and descriptors of one message.
#[derive(Default)]
struct Batch {
    out: Writer,
    fds: Vec<BatchFd>,
    directories: Vec<Arc<Directory>>,
}

/// The child's ends of its streams.
struct ChildEnds {
    streams: Vec<(i32, u8)>,
    fds: Vec<BatchFd>,
}

impl ChildEnds {
    /// Makes the pipes that the options ask for; our ends go to the process.
    fn make(process: &Arc<Process>) -> Result<ChildEnds> {
        let options = process.options.clone();
        let mut ends = ChildEnds { streams: Vec::new(), fds: Vec::new() };
        for (at, what) in options.streams.into_iter().enumerate() {
            let number = at as i32;
            match what {
                Stream::Null => ends.streams.push((number, stream::NULL)),
                Stream::Inherit => ends.borrow(inherit::standard_stream(number), number),
                Stream::Descriptor(fd) => ends.borrow(inherit::descriptor(fd), number),
                Stream::Pipe | Stream::Capture => {
                    let theirs = make_pipe(process, at, what, &options)?;
                    ends.streams.push((number, stream::PASSED));
                    ends.fds.push(BatchFd::Owned(theirs));
                }
                Stream::Stdout => ends.same_as_stdout()?,
            }
        }
        Ok(ends)
    }

    /// A descriptor of this process; where it is not open, the child has none either.
    fn borrow(&mut self, from: Option<BorrowedFd<'static>>, to: i32) {
        match from {
            None => self.streams.push((to, stream::CLOSED)),
            Some(fd) => {
                self.streams.push((to, stream::PASSED));
                self.fds.push(BatchFd::Borrowed(fd));
            }
        }
    }

    fn same_as_stdout(&mut self) -> Result<()> {
        let kind = self.streams.iter().find(|(to, _)| *to == 1).map_or(stream::CLOSED, |(_, kind)| *kind);
        self.streams.push((2, kind));
        if kind == stream::PASSED {
            let copy = match self.fds.last() {
                Some(BatchFd::Owned(fd)) => BatchFd::Owned(fd.try_clone().map_err(io_error)?),
                Some(BatchFd::Borrowed(fd)) => BatchFd::Borrowed(*fd),
                _ => return Ok(()),
            };
            self.fds.push(copy);
        }
        Ok(())
    }

    fn count(&self) -> usize {
        self.fds.len()
    }

    fn into_parts(self) -> (Vec<(i32, u8)>, Vec<BatchFd>) {
        (self.streams, self.fds)
    }
}

fn io_error(error: std::io::Error) -> Error {
    Error::system("copy a descriptor", error.raw_os_error().unwrap_or(0))
}

fn make_pipe(process: &Arc<Process>, at: usize, what: Stream, options: &Options) -> Result<OwnedFd> {
    let (read, write) =
        pipes::pipe(options.pipe_size).map_err(|errno| Error::system("make a pipe", errno.raw_os_error()))?;
    if at == 0 {
        match &options.input {
            Some(data) => process.feed(write, data.clone())?,
            None => process.keep_pipe(0, write),
        }
        return Ok(read);
    }
    if what == Stream::Capture {
        process.capture(at, read, options.max_output)?;
    } else {
        process.keep_pipe(at, read);
    }
    Ok(write)
}
