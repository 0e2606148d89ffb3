"""`Job`: what holds processes."""

from __future__ import annotations

import os
import signal as signals
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, cast

from . import _native
from ._command import CAPTURE, Args, Command, Launcher, SpawnOptions, command_iterator
from ._errors import TimeoutExpired, Unsupported
from ._map import JobMap, timeout_expired
from ._map import check as check_result
from ._process import Process
from ._results import (
    CompletedProcess,
    Containment,
    KillReport,
    ProcessInfo,
    Tree,
    signal_name,
    signal_number,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

Leftovers = Literal["kill", "keep", "error"]
_KILL_TIMEOUT = 10.0


def _disabled() -> list[str]:
    names = os.environ.get("FASTJOB_DISABLE", "")
    return [name.strip() for name in names.split(",") if name.strip()]


class Job:
    """A set of processes that nothing escapes from.

    Every process that is started in it, and everything that those start, however they do it, is a member
    before its first instruction runs. When the job is closed, dropped, or its owner dies in whatever way, all
    members are killed; ``close`` returns when none is alive.

    ``parent`` nests the job: killing or closing the parent does the same to it, and its members are members of
    both. ``kill_on_close=False`` lets members live on. ``require`` is the weakest `Containment` that will do:
    `Unsupported` otherwise. ``interrupt="forward"`` leaves children in the owner's process group, where the
    terminal's Ctrl-C reaches them once; ``"isolate"`` gives each a group of its own, which it does not reach.

    All methods may be called from any thread. In a forked child they raise `JobError`, and ``close`` does nothing.
    """

    def __init__(
        self,
        *,
        parent: Job | None = None,
        kill_on_close: bool = True,
        require: Containment | None = None,
        interrupt: Literal["forward", "isolate"] = "forward",
    ) -> None:
        if interrupt not in ("forward", "isolate"):
            raise ValueError(f"interrupt must be 'forward' or 'isolate', not {interrupt!r}")
        if require is not None and not isinstance(require, Containment):
            raise TypeError(f"require must be a Containment, not {require!r}")
        if parent is not None and not isinstance(parent, Job):
            raise TypeError(f"parent must be a Job, not {parent!r}")
        self._parent = parent
        native_parent = None if parent is None else parent._native
        self._native: _native.Job = _native.Job(
            native_parent, kill_on_close, interrupt == "isolate", _disabled()
        )
        if require is not None and require._rank() < self.containment._rank():
            held, reason = self.containment, self.containment_reason
            self._native.close()
            raise Unsupported(
                f"require={require}: here a job is held by {held} only: {reason or 'it is the best there is'}; "
                "see `python -m fastjob doctor`"
            )

    # --- what it is ---

    @property
    def containment(self) -> Containment:
        """What holds the job."""
        return Containment(self._native.containment[0])

    @property
    def containment_reason(self) -> str:
        """Why it is not held by something better; empty when it is held by the best."""
        return self._native.containment[1]

    @property
    def closed(self) -> bool:
        """No process can be started in it any more."""
        return self._native.closed

    @property
    def supervisor_pid(self) -> int:
        """Linux: the process that is the parent of all that is started here (``os.getppid()`` there)."""
        return self._native.supervisor_pid

    # --- starting ---

    def spawn(self, args: Args, **options: Unpack[SpawnOptions]) -> Process:
        """Start one process. Options are those of `subprocess.Popen`, and those named in `SpawnOptions`.

        A program that can't be started raises what `subprocess` raises, with ``filename``; `SpawnError` when the
        system has no more processes, memory or descriptors. Bad arguments raise before anything is started.
        """
        launcher = Launcher(self._known(options))
        return Process(self._native.spawn(launcher.argv(args), launcher.native), self, args, launcher)

    def spawn_many(self, commands: Iterable[Args | Command]) -> list[Process]:
        """Start all at once. If one fails, those that were started are killed and its error is raised."""
        default = Launcher({})
        prepared = []
        for command in command_iterator(commands):
            if not isinstance(command, Command):
                command = Command(command)
            launcher = Launcher(command.options) if command.options else default
            prepared.append((command.args, launcher))
        natives = self._native.spawn_many(
            [(launcher.argv(args), launcher.native) for args, launcher in prepared]
        )
        return [Process(native, self, *what) for native, what in zip(natives, prepared, strict=True)]

    def run(
        self,
        args: Args,
        *,
        capture_output: bool = False,
        check: bool = False,
        leftovers: Leftovers = "kill",
        **options: Unpack[SpawnOptions],
    ) -> CompletedProcess:
        """Run one command in a nested job of its own, as `subprocess.run` does.

        When it returns, nothing of the command is alive, unless ``leftovers="keep"``; what the command itself
        left running is named in ``leftovers``, and raises `LeftoverError` with ``leftovers="error"``.
        ``timeout`` raises `TimeoutExpired` with the output so far.
        """
        options = self._known(options)
        if capture_output:
            if options.get("stdout") is not None or options.get("stderr") is not None:
                raise ValueError("stdout and stderr arguments may not be used with capture_output.")
            options = cast(SpawnOptions, {**options, "stdout": CAPTURE, "stderr": CAPTURE})
        launcher = Launcher(options, leftovers=leftovers, collect=True)
        native = self._native.start_isolated(launcher.argv(args), launcher.native)
        try:
            native.wait_done(None)
        except BaseException:
            native.cancel()
            raise
        completed = CompletedProcess(Command(args, **options), native, launcher)
        if completed.timed_out:
            raise timeout_expired(completed, launcher)
        check_result(completed, launcher, status=check)
        return completed

    def map(
        self,
        commands: Iterable[Args | Command],
        *,
        concurrency: int | None = None,
        ordered: bool = False,
        check: bool = False,
        capture_output: bool = True,
        leftovers: Leftovers = "kill",
        **options: Unpack[SpawnOptions],
    ) -> JobMap:
        """Run commands, each as `run` does, at most ``concurrency`` at once (default: the number of CPUs).

        ``commands`` may be lazy and endless: at most ``2 * concurrency`` are taken beyond the results handed
        out. Results come as commands complete, or in order with ``ordered``. A command that can't be started or
        is over time gives a result that says so; with ``check`` it raises, as does a status other than 0.
        In text mode bytes that are no text are shown as ``\\xff`` unless ``errors`` says otherwise.
        Closing the iterator, an exception from ``commands`` or Ctrl-C kills what runs.
        """
        if concurrency is None:
            concurrency = os.cpu_count() or 1
        if isinstance(concurrency, bool) or not isinstance(concurrency, int):
            raise TypeError(f"concurrency must be an integer, not {concurrency!r}")
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {concurrency}")
        options = self._known(options)
        if capture_output:
            options = cast(SpawnOptions, {"stdout": CAPTURE, "stderr": CAPTURE, **options})
        native = self._native.map(concurrency, ordered)
        return JobMap(self, native, commands, options, leftovers, check=check)

    @staticmethod
    def _known(options: SpawnOptions) -> SpawnOptions:
        # Command refuses what SpawnOptions does not have.
        return Command((), **options).options

    # --- members ---

    def pids(self) -> list[int]:
        """All members now, those of nested jobs included."""
        return self._native.pids()

    def processes(self) -> list[ProcessInfo]:
        """All members now, with what `/proc` says of them."""
        return [ProcessInfo._from_native(row) for row in self._native.processes()]

    def tree(self) -> Tree:
        """All members now, by parent; ``str()`` draws it."""
        return Tree(self.processes())

    def __contains__(self, process: object) -> bool:
        pid = getattr(process, "pid", process)
        return isinstance(pid, int) and pid in self.pids()

    def __len__(self) -> int:
        return len(self.pids())

    def __bool__(self) -> bool:
        return True

    # --- ending ---

    def kill(self, exit_code: int = 1, *, timeout: float | None = None) -> KillReport:
        """Kill all members; returns when none is alive, else raises `KillFailed` after ``timeout`` seconds (10).

        A fork bomb loses. The job can be used again. ``exit_code`` is what they exit with on Windows.
        """
        return self._stop([], _KILL_TIMEOUT if timeout is None else timeout)

    def terminate(self, grace: float = 5.0) -> KillReport:
        """Send SIGTERM to all members, and kill those that are alive after ``grace`` seconds."""
        return self._stop([(signals.SIGTERM, grace)])

    def stop(
        self, ladder: Sequence[tuple[int, float]] = ((signals.SIGINT, 0.3), (signals.SIGTERM, 2.0))
    ) -> KillReport:
        """Send each signal and wait so many seconds for all to end, then kill what is left.

        Each rung ends early when the job is empty; the report says which ended whom.
        """
        return self._stop(ladder)

    def _stop(self, ladder: Sequence[tuple[int, float]], timeout: float = _KILL_TIMEOUT) -> KillReport:
        rungs = []
        for number, seconds in ladder:
            if not seconds >= 0:
                raise ValueError(f"a rung's seconds can't be {seconds}")
            rungs.append((signal_number(number), float(seconds)))
        ended, gone = self._native.stop(rungs, timeout)
        return KillReport(tuple((signal_name(number), tuple(pids)) for number, pids in ended), tuple(gone))

    def signal(self, sig: int) -> list[int]:
        """Send a signal to all members; the pids that got it."""
        return self._native.signal(signal_number(sig))

    def suspend(self) -> None:
        """Stop all members (freezer, else SIGSTOP). Until `resume` no process can be started."""
        self._native.suspend()

    def resume(self) -> None:
        """Let all members go on."""
        self._native.resume()

    # --- waiting ---

    def wait(self, timeout: float | None = None) -> None:
        """Wait until no member is alive; `TimeoutExpired` after so many seconds."""
        if not self._native.wait(timeout):
            raise TimeoutExpired("a job's members", timeout or 0.0)

    def as_completed(self, processes: Iterable[Process], timeout: float | None = None) -> Iterator[Process]:
        """Processes in the order in which they end; `TimeoutExpired` when not all have in time."""
        import time

        queue = _native.Queue()
        count = 0
        for process in processes:
            if not isinstance(process, Process):
                raise TypeError(f"processes must be of this package, not {process!r}")
            queue.add(process._native, process)
            count += 1
        end = None if timeout is None else time.monotonic() + timeout
        for _ in range(count):
            found = queue.next(None if end is None else end - time.monotonic())
            if found is None:
                raise TimeoutExpired("processes", timeout or 0.0)
            yield cast(Process, found)

    def wait_any(self, processes: Iterable[Process], timeout: float | None = None) -> Process:
        """The first that ends; `TimeoutExpired` after so many seconds."""
        for process in self.as_completed(processes, timeout):
            return process
        raise ValueError("wait_any of no process")

    # --- the end ---

    def close(self) -> None:
        """Kill all members (unless ``kill_on_close=False``) and end the supervisor. May be called again."""
        self._native.close()

    def detach(self) -> None:
        """Give up ownership: members live on, are still reaped, and die with nobody's death."""
        self._native.detach()

    def __enter__(self) -> Job:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state: Any = "closed" if self.closed else self.containment.value
        return f"<Job {state} {id(self):#x}>"
