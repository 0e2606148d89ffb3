"""One process, with the interface of `subprocess.Popen`."""

from __future__ import annotations

import contextlib
import io
import os
import signal
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from . import _native
from ._command import Args, Launcher
from ._errors import TimeoutExpired
from ._results import Reason, Usage, _reason, signal_number

if TYPE_CHECKING:
    from ._job import Job


class Process:
    """A process in a job, made by `Job.spawn`.

    What `subprocess.Popen` has means the same here. Exits are collected in the background: ``returncode``
    is always up to date, and dropping the object neither ends the process nor leaves a zombie.
    """

    stdin: IO[Any] | None = None
    stdout: IO[Any] | None = None
    stderr: IO[Any] | None = None

    def __init__(self, native: _native.Process, job: Job, args: Args, launcher: Launcher) -> None:
        self._native = native
        self._launcher = launcher
        self._communicating = False
        self._buffered: dict[int, Any] = {}
        self.job = job
        """The job it was started in; it stays open at least as long as this object is there."""
        self.args = args
        self.pid = native.pid
        try:
            self._open_streams()
        except BaseException:
            # It runs already, and nobody would have it.
            native.cancel()
            raise

    def _open_streams(self) -> None:
        launcher, bufsize = self._launcher, self._launcher.bufsize
        line_buffering = bufsize == 1
        if line_buffering:
            bufsize = -1
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            fd = self._native.take_stream(number)
            if fd < 0:
                continue
            stream: IO[Any] = open(fd, "rb" if number else "wb", bufsize)  # noqa: SIM115
            if launcher.text:
                wrap: dict[str, Any] = {"encoding": launcher.encoding, "errors": launcher.errors}
                if number == 0:
                    wrap |= {"write_through": True, "line_buffering": line_buffering}
                stream = io.TextIOWrapper(stream, **wrap)
            setattr(self, name, stream)

    # --- as subprocess.Popen ---

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative: the number of the signal that ended it."""
        return self._native.poll()

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        return self._native.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; `TimeoutExpired` after so many seconds. It may be called again.

        Never waits for output that a grandchild may still write.
        """
        returncode = self._native.wait(timeout)
        if returncode is None:
            raise TimeoutExpired(self.args, timeout or 0.0)
        return returncode

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:
        """Write ``input``, collect the output, wait for the end: ``(stdout, stderr)``.

        Ends at the process' exit plus what is in the pipes then, whoever still holds them. After
        `TimeoutExpired` (which has the output so far) it may be called again; nothing is lost.
        """
        if self._communicating and input is not None:
            raise ValueError("Cannot send input after starting communication")
        if not self._communicating:
            if input is not None and self.stdin is None:
                raise ValueError("input needs stdin=PIPE")
            self._communicating = True
            self._feed(input)
            for number, stream in ((1, self.stdout), (2, self.stderr)):
                if stream is not None and not stream.closed:
                    self._collect(number, stream)
        if not self._native.wait_done(timeout):
            raise TimeoutExpired(self.args, timeout or 0.0, self.output, self.error_output)
        for stream in (self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        return self.output, self.error_output

    def _collect(self, number: int, stream: IO[Any]) -> None:
        """Hand a pipe to the core, after what the caller's own reads left in the file object's buffer."""
        descriptor = stream.fileno()
        self._native.capture(number, descriptor)
        with open(os.devnull, "rb") as null:
            # The buffer's end is then the file's end, and reading it can't wait.
            os.dup2(null.fileno(), descriptor, inheritable=False)
        self._buffered[number] = stream.read()

    def _feed(self, input: Any) -> None:
        if self.stdin is None or self.stdin.closed:
            return
        data = self._launcher.encode(input) if input is not None else b""
        with contextlib.suppress(BrokenPipeError):
            self.stdin.flush()
        if data:
            self._native.feed(self.stdin.fileno(), data)
        with contextlib.suppress(BrokenPipeError):
            self.stdin.close()

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless it has ended; never to another process that got its pid."""
        self._native.send_signal(signal_number(sig))

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to this process alone; see `kill_tree` and `Job.kill`."""
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the streams, then wait, unless Ctrl-C was pressed."""
        for stream in (self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        if self.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.stdin.close()
        # Ctrl-C must not be held up by a child that ignores it; the exit is collected all the same.
        if kind is not KeyboardInterrupt:
            self.wait()

    # --- beyond it ---

    def kill_tree(self) -> list[int]:
        """Kill it and its descendants as far as they are below it; the pids that were signalled.

        A descendant whose parents have ended is no longer below it; `Job.kill` finds that one too.
        """
        return self._native.kill_tree()

    def resume(self) -> None:
        """Let a process that was started with ``suspended=True`` run (SIGCONT)."""
        self.send_signal(signal.SIGCONT)

    def fileno(self) -> int:
        """A pidfd (man 2 pidfd_open), readable when it has ended; closed with this object.

        ProcessLookupError when the process ended before one was asked for; `Unsupported` without pidfds.
        """
        return self._native.fileno()

    @property
    def output(self) -> Any:
        """What was collected of stdout so far; None unless it is CAPTURE or communicated with."""
        return self._output(1)

    @property
    def error_output(self) -> Any:
        """The same of stderr."""
        return self._output(2)

    def _output(self, stream: int) -> Any:
        partial = self._native.poll() is None or self._native.output_stats(stream)[1] > 0
        output = self._launcher.decode(self._native.output(stream), partial=partial)
        buffered = self._buffered.get(stream)
        return buffered + output if buffered else output

    @property
    def total_bytes(self) -> int:
        """Bytes written to the collected streams."""
        return sum(self._native.output_stats(stream)[0] for stream in (1, 2))

    @property
    def truncated(self) -> int:
        """Collected bytes that ``max_output`` made us drop."""
        return sum(self._native.output_stats(stream)[1] for stream in (1, 2))

    @property
    def started_at(self) -> float:
        """Seconds since 1970."""
        return self._native.started_at or 0.0

    @property
    def ended_at(self) -> float | None:
        """Seconds since 1970; None while it runs."""
        return self._native.ended_at

    @property
    def duration(self) -> float | None:
        """Seconds from start to end; None while it runs."""
        return self._native.duration

    @property
    def usage(self) -> Usage | None:
        """What it used; None while it runs."""
        usage = self._native.usage
        return None if usage is None else Usage._make(usage)

    @property
    def timed_out(self) -> bool:
        """The ``timeout`` it was started with was over before it ended."""
        return self._native.timed_out

    @property
    def reason(self) -> Reason | None:
        """Why it ended; None while it runs."""
        returncode = self._native.poll()
        if returncode is None:
            return None
        return _reason(returncode, self._native.timed_out, self._native.killed_by_us)

    def __repr__(self) -> str:
        name = self.args if isinstance(self.args, (str, bytes, os.PathLike)) else list(self.args)
        return f"<Process {self.pid} {name!r}>"
