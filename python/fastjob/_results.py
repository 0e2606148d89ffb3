"""What the package answers with."""

from __future__ import annotations

import enum
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from . import _native
from ._command import Command, Launcher
from ._errors import CalledProcessError


class Containment(enum.Enum):
    """What holds a job, the strongest first."""

    JOB_OBJECT = "job_object"
    """Windows: the kernel's job object."""
    CGROUP = "cgroup"
    """Linux: a supervisor that is subreaper of all members, and a cgroup of the job's own."""
    SUBREAPER = "subreaper"
    """Linux: the supervisor alone. Membership, kill and reaping are as exact."""

    def _rank(self) -> int:
        return list(Containment).index(self)


class Reason(str, enum.Enum):
    """Why a command ended."""

    EXITED = "exited"
    SIGNALED = "signaled"
    """By a signal that this package did not send."""
    TIMEOUT = "timeout"
    KILLED = "killed"
    """By a signal that was sent through this package."""
    SPAWN_FAILED = "spawn_failed"
    """It could not be started."""

    def __str__(self) -> str:
        return self.value


def _reason(returncode: int | None, timed_out: bool, killed_by_us: bool) -> Reason:
    if returncode is None:
        return Reason.SPAWN_FAILED
    if timed_out:
        return Reason.TIMEOUT
    if returncode >= 0:
        return Reason.EXITED
    return Reason.KILLED if killed_by_us else Reason.SIGNALED


class Usage(NamedTuple):
    """What a process and the children that it waited for used (man 2 getrusage)."""

    user_time: float
    """Seconds."""
    system_time: float
    """Seconds."""
    max_rss: int
    """Peak resident memory of the largest process, in bytes."""
    minor_faults: int
    major_faults: int
    voluntary_switches: int
    involuntary_switches: int


class Leftover(NamedTuple):
    """A process that a command left running."""

    pid: int
    args: list[str]


class CompletedProcess(subprocess.CompletedProcess[Any]):
    """The result of `Job.run` and `Job.map`: a `subprocess.CompletedProcess` that knows more.

    ``returncode`` is None when the command could not be started; then ``error`` says why.
    """

    pid: int
    command: Command
    reason: Reason
    error: BaseException | None
    timed_out: bool
    started_at: float | None
    """Seconds since 1970."""
    ended_at: float | None
    duration: float | None
    """Seconds."""
    usage: Usage | None
    leftovers: tuple[Leftover, ...]
    """What it left running; dead by now unless ``leftovers="keep"`` was given."""
    truncated: int
    """Captured bytes that ``max_output`` made us drop; 0 when all are there."""
    total_bytes: int
    """Bytes written to the captured streams."""

    def __init__(self, command: Command, native: _native.Process, launcher: Launcher) -> None:
        (
            self.pid,
            returncode,
            stdout,
            stderr,
            self.started_at,
            self.ended_at,
            usage,
            self.timed_out,
            killed_by_us,
            leftovers,
            self.total_bytes,
            self.truncated,
            self.error,
        ) = native.summary()
        partial = self.timed_out or self.truncated > 0
        self.args = command.args
        # subprocess has it an int always; None says that there was no process.
        self.returncode = returncode  # type: ignore[assignment]
        self.stdout = launcher.decode(stdout, partial=partial)
        self.stderr = launcher.decode(stderr, partial=partial)
        self.command = command
        self.reason = _reason(returncode, self.timed_out, killed_by_us)
        self.usage = None if usage is None else Usage._make(usage)
        self.leftovers = tuple(Leftover(pid, [os.fsdecode(arg) for arg in args]) for pid, args in leftovers)
        ended = self.started_at is not None and self.ended_at is not None
        self.duration = self.ended_at - self.started_at if ended else None  # type: ignore[operator]

    def check_returncode(self) -> None:
        """Raise `CalledProcessError` unless the exit status is 0; if it was never started, why."""
        if self.error is not None:
            raise self.error
        if self.returncode:
            error = CalledProcessError(self.returncode, self.args, self.stdout, self.stderr)
            error.completed = self
            raise error


def signal_number(sig: int) -> int:
    """A number that the system may be given."""
    number = int(sig)
    if not 0 <= number < signal.NSIG:
        raise ValueError(f"{sig} is not a signal")
    return number


def signal_name(number: int) -> int:
    """`signal.Signals` where it has a name; real-time signals between the ends have none."""
    try:
        return signal.Signals(number)
    except ValueError:
        return number


@dataclass(frozen=True)
class KillReport:
    """Who was ended. When you have it, no member is alive."""

    rungs: tuple[tuple[int, tuple[int, ...]], ...]
    """Each signal that was sent (`signal.Signals`), and the pids that ended by it."""
    already_gone: tuple[int, ...] = ()
    """Pids that ended by themselves while they were being killed."""

    @property
    def killed(self) -> tuple[int, ...]:
        """All pids that we ended."""
        return tuple(pid for _, pids in self.rungs for pid in pids)


@dataclass(frozen=True, eq=False)
class ProcessInfo:
    """A member as it was when it was looked at (man 5 proc). Identity is (pid, create_time)."""

    pid: int
    ppid: int
    name: str
    exe: str | None
    """None where we may not know."""
    cmdline: list[str]
    create_time: float
    """Seconds since 1970."""
    user_time: float
    """Seconds, like system_time."""
    system_time: float
    rss: int
    """Resident memory in bytes."""

    @classmethod
    def _from_native(cls, row: tuple[Any, ...]) -> ProcessInfo:
        pid, ppid, name, exe, cmdline, *rest = row
        arguments = [os.fsdecode(argument) for argument in cmdline]
        return cls(pid, ppid, name, None if exe is None else os.fsdecode(exe), arguments, *rest)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ProcessInfo):
            return NotImplemented
        return (self.pid, self.create_time) == (other.pid, other.create_time)

    def __hash__(self) -> int:
        return hash((self.pid, self.create_time))


class Tree:
    """The members of a job by parent; ``str()`` draws it."""

    def __init__(self, processes: list[ProcessInfo]) -> None:
        pids = {process.pid for process in processes}
        self.roots: list[ProcessInfo] = [process for process in processes if process.ppid not in pids]
        """Those whose parent is no member: it is the job's supervisor."""
        self._children: dict[int, list[ProcessInfo]] = {}
        for process in processes:
            self._children.setdefault(process.ppid, []).append(process)

    def children(self, process: ProcessInfo) -> list[ProcessInfo]:
        """Those that have ``process`` for their parent."""
        return list(self._children.get(process.pid, ()))

    def __iter__(self) -> Iterator[ProcessInfo]:
        """All, each before its children."""
        return (process for _, process in self._walk())

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _walk(self) -> Iterator[tuple[str, ProcessInfo]]:
        todo = [("", "", root) for root in reversed(self.roots)]
        while todo:
            lead, indent, process = todo.pop()
            yield lead, process
            children = self._children.get(process.pid, [])
            for child in reversed(children):
                last = child is children[-1]
                branch, below = ("└─ ", "   ") if last else ("├─ ", "│  ")
                todo.append((indent + branch, indent + below, child))

    def __str__(self) -> str:
        lines = (f"{lead}{p.pid} {' '.join(p.cmdline) or f'[{p.name}]'}" for lead, p in self._walk())
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Tree of {len(self)} processes>"
