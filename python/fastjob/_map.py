"""The harness loop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, cast

from . import _native
from ._command import Args, Command, Launcher, SpawnOptions, command_iterator
from ._errors import LeftoverError, TimeoutExpired
from ._results import CompletedProcess

if TYPE_CHECKING:
    from ._job import Job


def check(completed: CompletedProcess, launcher: Launcher, *, status: bool) -> None:
    """Raise what ``check=True`` (``status``) and ``leftovers="error"`` ask for."""
    if status:
        if completed.timed_out:
            raise timeout_expired(completed, launcher)
        completed.check_returncode()
    if launcher.leftovers == "error" and completed.leftovers:
        raise LeftoverError(completed)


def timeout_expired(completed: CompletedProcess, launcher: Launcher) -> TimeoutExpired:
    return TimeoutExpired(completed.args, launcher.timeout or 0.0, completed.stdout, completed.stderr)


class JobMap(Iterator[CompletedProcess]):
    """Results of `Job.map`. Closing it, or dropping it, kills what still runs."""

    def __init__(
        self,
        job: Job,
        native: _native.Map,
        commands: Iterable[Args | Command],
        options: SpawnOptions,
        leftovers: str,
        *,
        check: bool,
    ) -> None:
        self._job = job
        self._native = native
        self._commands: Iterator[Args | Command] | None = command_iterator(commands)
        self._options = options
        self._leftovers = leftovers
        self._check = check
        self._launcher = self._make_launcher(options)

    def _make_launcher(self, options: SpawnOptions) -> Launcher:
        return Launcher(options, leftovers=self._leftovers, collect=True, lenient=True)

    def __iter__(self) -> JobMap:
        return self

    def __next__(self) -> CompletedProcess:
        try:
            found: tuple[_native.Process, object] | None = None
            while found is None:
                self._refill()
                found = self._native.next()
                if found is None and self._commands is None:
                    self._native.close()
                    raise StopIteration
            process, token = found
            command, launcher = cast(tuple[Command, Launcher], token)
            completed = CompletedProcess(command, process, launcher)
            if self._check or self._leftovers == "error":
                check(completed, launcher, status=self._check)
            return completed
        except StopIteration:
            raise
        except BaseException:
            self.close()
            raise

    def _refill(self) -> None:
        for _ in range(self._native.room()):
            if self._commands is None:
                return
            try:
                command = next(self._commands)
            except StopIteration:
                self._commands = None
                return
            self._submit(command)

    def _submit(self, command: Args | Command) -> None:
        launcher = self._launcher
        if not isinstance(command, Command):
            command = Command(command)
        elif command.options:
            launcher = self._make_launcher(cast(SpawnOptions, {**self._options, **command.options}))
        self._native.submit(launcher.argv(command.args), launcher.native, (command, launcher))

    def close(self) -> None:
        """Kill what runs and forget the rest; on return nothing of it is alive."""
        self._commands = None
        self._native.close()

    def __enter__(self) -> JobMap:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
