"""Exceptions, with bases that let existing ``except`` clauses go on working."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._results import CompletedProcess, ProcessInfo


class JobError(Exception):
    """Base of this package's own errors.

    ``step`` says what failed, ``errno`` is the system's reason; each may be None.
    """

    step: str | None = None
    # No default in the class: it would hide OSError's in `SpawnError`.
    errno: int | None

    def __init__(self, message: str, *, step: str | None = None, errno: int | None = None) -> None:
        super().__init__(message)
        self.step = step
        self.errno = errno


class JobClosed(JobError, ValueError):
    """The job was closed or detached."""


class Unsupported(JobError, NotImplementedError):
    """This machine can't do it; the message says what, why, and what would make it work."""


class SpawnError(JobError, OSError):
    """The system, or a limit, has no more of something.

    ``resource`` is ``"processes"``, ``"memory"`` or ``"descriptors"``.
    """

    def __init__(self, errno: int, message: str, *, resource: str) -> None:
        OSError.__init__(self, errno, message)
        self.resource = resource

    def __new__(cls, errno: int, message: str, *, resource: str) -> SpawnError:
        return OSError.__new__(cls, errno, message)

    def __reduce__(self) -> tuple[Any, ...]:
        return _spawn_error, (self.errno, self.strerror, self.resource)


def _spawn_error(errno: int, message: str, resource: str) -> SpawnError:
    return SpawnError(errno, message, resource=resource)


class KillFailed(JobError):
    """Members outlived SIGKILL: in uninterruptible sleep, or not ours to kill.

    ``survivors`` has a `ProcessInfo` of each.
    """

    def __init__(self, message: str, *, survivors: Iterable[tuple[Any, ...]] = ()) -> None:
        from ._results import ProcessInfo

        super().__init__(message)
        self.survivors: tuple[ProcessInfo, ...] = tuple(map(ProcessInfo._from_native, survivors))


class LeftoverError(JobError):
    """A command left processes running. They have been killed; ``completed`` is its result."""

    def __init__(self, completed: CompletedProcess) -> None:
        names = ", ".join(f"{left.pid} ({' '.join(left.args)})" for left in completed.leftovers)
        super().__init__(f"{completed.args!r} left running: {names}")
        self.completed = completed

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.completed,)


class TimeoutExpired(subprocess.TimeoutExpired, TimeoutError):
    """The time was over. ``output`` and ``stderr`` have what there is, in the type asked for."""

    def __init__(self, cmd: Any, timeout: float, output: Any = None, stderr: Any = None) -> None:
        super().__init__(cmd, timeout, output, stderr)
        # OSError's constructor leaves them empty, and with them the repr and the pickle.
        self.args = (cmd, timeout, output, stderr)


class CalledProcessError(subprocess.CalledProcessError):
    """With ``check=True``: the exit status was not 0. ``completed`` is the whole result."""

    completed: CompletedProcess
