"""The Rust core as the façade sees it. Not public."""

from collections.abc import Sequence
from os import PathLike
from typing import final

__all__ = ["Job", "Map", "Options", "Process", "Queue", "__version__", "close_all", "configure"]

__version__: str

_Arg = str | bytes | PathLike[str] | PathLike[bytes]

def configure(supervisor: str) -> None:
    """Path of the supervisor executable; called once by the package."""

def close_all() -> None:
    """Close every open kill-on-close job of this process (interpreter exit)."""

@final
class Options:
    """How to start: parsed and validated once, shared by any number of commands.

    Stream codes: >= 0 a descriptor, -1 PIPE, -2 STDOUT (stderr only), -3 DEVNULL, -4 CAPTURE, -5 inherit.
    """
    def __new__(
        cls,
        *,
        stdin: int,
        stdout: int,
        stderr: int,
        cwd: _Arg | None,
        env: Sequence[bytes] | None,  # b"KEY=VALUE"
        executable: _Arg | None,
        pass_fds: Sequence[int],
        suspended: bool,
        restore_signals: bool,
        umask: int,
        uid: int,
        gid: int,
        groups: Sequence[int] | None,
        new_session: bool,
        process_group: int,
        pipe_size: int,
        max_output: int | None,  # per stream; None: no bound
        input: bytes | None,  # needs stdin=-1; fed in the background, then closed
        timeout: float | None,  # seconds; <= 0: already over
        grace: float,
        leftovers: int,  # isolated runs: 0 kill, 1 keep
    ) -> Options: ...

@final
class Job:
    def __new__(
        cls, parent: Job | None, kill_on_close: bool, isolate_interrupt: bool, disable: Sequence[str]
    ) -> Job: ...
    @property
    def containment(self) -> tuple[str, str]: ...  # ("cgroup"|"subreaper", reason)
    @property
    def closed(self) -> bool: ...
    @property
    def supervisor_pid(self) -> int: ...
    def spawn(self, arguments: Sequence[_Arg], options: Options) -> Process: ...
    def spawn_many(self, commands: Sequence[tuple[Sequence[_Arg], Options]]) -> list[Process]: ...
    def start_isolated(self, arguments: Sequence[_Arg], options: Options) -> Process:
        """In a nested job of its own; the result is `done` only when nothing of it is alive (leftovers=0)."""
    def map(self, concurrency: int, ordered: bool) -> Map: ...
    def pids(self) -> list[int]: ...
    def processes(self) -> list[tuple[int, int, str, bytes | None, list[bytes], float, float, float, int]]:
        """(pid, ppid, name, exe, cmdline, create_time, user_time, system_time, rss)"""
    def signal(self, signal: int) -> list[int]: ...
    def stop(
        self, ladder: Sequence[tuple[int, float]], timeout: float
    ) -> tuple[list[tuple[int, list[int]]], list[int]]:
        """Each rung, then SIGKILL; ([(signal, pids ended)], already gone). Raises KillFailed after `timeout` s of killing."""
    def suspend(self) -> None: ...
    def resume(self) -> None: ...
    def wait(self, timeout: float | None) -> bool: ...  # True: empty
    def close(self) -> None: ...
    def detach(self) -> None: ...

@final
class Process:
    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None) -> int | None:
        """returncode, or None when the time is over. Raises JobError when the supervisor is lost."""
    def wait_done(self, timeout: float | None) -> bool:
        """Exited, its captured output collected, and (isolated) its job empty."""
    def send_signal(self, signal: int) -> bool: ...  # False: already ended
    def kill_tree(self) -> list[int]: ...
    def fileno(self) -> int: ...
    def take_stream(self, stream: int) -> int:
        """Descriptor of our end of PIPE stream 0, 1 or 2; -1 when there is none. The caller owns it from now on."""
    def capture(self, stream: int, fd: int) -> None:
        """Collect from a pipe that the caller owned until now (communicate); native takes a duplicate."""
    def feed(self, fd: int, data: bytes) -> None:
        """Write data to a pipe in the background, then close (native takes a duplicate; close yours)."""
    def output(self, stream: int) -> bytes | None: ...  # 1 or 2; None when not captured
    def output_stats(self, stream: int) -> tuple[int, int]: ...  # (total bytes, dropped bytes)
    def summary(
        self,
    ) -> tuple[
        int,  # pid
        int | None,  # exit status
        bytes | None,  # stdout
        bytes | None,  # stderr
        float | None,  # started, seconds since 1970
        float | None,  # ended
        tuple[float, float, int, int, int, int, int] | None,  # usage
        bool,  # timed out
        bool,  # killed by us
        list[tuple[int, list[bytes]]],  # leftovers
        int,  # bytes written
        int,  # bytes dropped
        BaseException | None,  # why it could not be started
    ]:
        """All of a result at once."""
    def cancel(self) -> None:
        """Kill it with all it started, and wait until it is done."""
    @property
    def started_at(self) -> float | None: ...
    @property
    def ended_at(self) -> float | None: ...
    @property
    def duration(self) -> float | None: ...
    @property
    def usage(self) -> tuple[float, float, int, int, int, int, int] | None: ...
    @property
    def timed_out(self) -> bool: ...
    @property
    def killed_by_us(self) -> bool: ...

@final
class Map:
    def room(self) -> int:
        """How many more commands may be submitted now (bounded by concurrency and results not yet taken)."""
    def submit(self, arguments: Sequence[_Arg], options: Options, token: object) -> None: ...
    def next(self) -> tuple[Process, object] | None:
        """The next finished command; None when nothing is submitted. Blocks, interruptibly."""
    def ready(self) -> int: ...  # finished ones that next() would give without blocking
    def close(self) -> None:
        """Kill what runs, drop what waits; returns when nothing of it is alive."""

@final
class Queue:
    """Completion queue for as_completed and wait_any."""
    def __new__(cls) -> Queue: ...
    def add(self, process: Process, token: object) -> None: ...
    def next(self, timeout: float | None) -> object | None: ...
