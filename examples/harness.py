"""Run real test programs, each contained, with a timeout, many at once.

python examples/harness.py                    # test files of this Python's own `test` package
python examples/harness.py --commands FILE    # one command per line

Exit status: 0 all passed, 1 some did not, 2 nothing could be run, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shlex
import shutil
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from fastjob import DEVNULL, Command, CompletedProcess, Job, Reason

# Quick ones, and those that start processes, send signals or use terminals: the interesting ones for a harness.
# Not those that depend on the machine or fail in a virtual environment (test_socket, test_cmd_line, test_venv).
CPYTHON_TESTS = """
    test_argparse test_array test_ast test_atexit test_base64 test_bisect test_builtin test_bytes
    test_c_locale_coercion test_cmd_line_script test_code_module test_collections test_contextlib test_csv
    test_dataclasses test_dict test_dis test_doctest test_enum test_eof test_epoll test_exceptions
    test_faulthandler test_fcntl test_file_eintr test_fork1 test_functools test_glob test_heapq test_importlib
    test_inspect test_io test_itertools test_json test_mmap test_multiprocessing_main_handling test_openpty
    test_os test_pathlib test_pdb test_pickle test_platform test_poll test_popen test_posix test_pty test_queue
    test_re test_repl test_resource test_runpy test_select test_selectors test_shutil test_signal test_site
    test_sqlite3 test_struct test_subprocess test_support test_sys test_tempfile test_thread test_threading
    test_threadsignals test_traceback test_unittest test_wait3 test_wait4 test_weakref test_zipfile
"""

Test = tuple[str, list[str]]


def cpython_tests() -> list[Test]:
    """(name, command) of each of the files above that this Python has."""
    spec = importlib.util.find_spec("test")
    where = spec.submodule_search_locations if spec is not None else None
    # Debian ships a `test` package with hardly more than its `support`.
    if not where or importlib.util.find_spec("test.support") is None:
        return []
    root = Path(next(iter(where)))
    found = [
        name for name in CPYTHON_TESTS.split() if (root / f"{name}.py").exists() or (root / name).is_dir()
    ]
    return [(name, [sys.executable, "-m", "test", name]) for name in found]


def listed_commands(path: str) -> list[Test]:
    lines = (line.strip() for line in Path(path).read_text().splitlines())
    return [(line, shlex.split(line)) for line in lines if line and not line.startswith("#")]


class Screen:
    """One live line on a terminal, plain lines elsewhere."""

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self.live = out.isatty()
        # no-color.org: set and not empty.
        self.color = self.live and not os.environ.get("NO_COLOR")
        self.lock = threading.Lock()

    def line(self, text: str, *, good: bool = True) -> None:
        if self.color and not good:
            text = f"\033[31m{text}\033[0m"
        with self.lock:
            self.out.write(f"\r\033[K{text}\n" if self.live else f"{text}\n")
            self.out.flush()

    def status(self, text: str) -> None:
        if self.live:
            with self.lock:
                self.out.write(f"\r\033[K{text[: shutil.get_terminal_size().columns - 1]}")
                self.out.flush()


class Board:
    """Which commands run, since when, and what came of the others."""

    def __init__(self, tests: list[Test], at_once: int) -> None:
        self.tests = tests
        self.at_once = at_once
        self.results: list[CompletedProcess] = []
        # By identity: the same command may be there twice. `kept` makes identities last.
        self.kept: list[Command] = []
        self.names: dict[int, str] = {}
        self.running: dict[int, float] = {}
        # `map` takes commands ahead of the places for them.
        self.waiting: deque[int] = deque()

    def commands(self) -> Iterator[Command]:
        for name, argv in self.tests:
            command = Command(argv)
            self.kept.append(command)
            self.names[id(command)] = name
            self.waiting.append(id(command))
            self._fill()
            yield command

    def ended(self, result: CompletedProcess) -> str:
        self.running.pop(id(result.command), None)
        self.results.append(result)
        self._fill()
        return self.name(result)

    def name(self, result: CompletedProcess) -> str:
        return self.names[id(result.command)]

    def _fill(self) -> None:
        while self.waiting and len(self.running) < self.at_once:
            self.running[self.waiting.popleft()] = time.monotonic()

    def status(self) -> str:
        now = time.monotonic()
        # A copy in one step: this is called from the thread that redraws.
        running = sorted(self.running.copy().items(), key=lambda item: item[1])
        ages = ", ".join(f"{self.names[command]} {now - since:.0f}s" for command, since in running)
        bad = sum(not passed(result) for result in self.results.copy())
        return f"{len(self.results)}/{len(self.tests)}  {bad} bad  running: {ages}"

    def summary(self, seconds: float) -> str:
        results = self.results
        good = sum(map(passed, results))
        late = sum(result.timed_out for result in results)
        leaked = sum(bool(result.leftovers) for result in results)
        failed = sum(result.returncode != 0 and not result.timed_out for result in results)
        slow = sorted(results, key=lambda result: -(result.duration or 0.0))[:3]
        heavy = sorted(results, key=lambda result: -peak(result))[:3]
        return (
            f"\n{len(results)} of {len(self.tests)} run in {seconds:.1f} s: {good} passed, {failed} failed, "
            f"{late} timed out, {leaked} leaked"
            f"\nslowest:  {', '.join(f'{self.name(r)} {r.duration or 0.0:.1f} s' for r in slow)}"
            f"\nheaviest: {', '.join(f'{self.name(r)} {peak(r):.0f} MiB' for r in heavy)}"
        )


def passed(result: CompletedProcess) -> bool:
    return result.returncode == 0 and not result.timed_out and not result.leftovers


def peak(result: CompletedProcess) -> float:
    """MiB of the largest process of it."""
    return result.usage.max_rss / 2**20 if result.usage else 0.0


def verdict(result: CompletedProcess) -> tuple[str, str]:
    """A word of four letters, and why."""
    if result.error is not None:
        return "MISS", f": {result.error}"
    if result.timed_out:
        return "TIME", ""
    if result.reason in (Reason.SIGNALED, Reason.KILLED):
        return "SIGN", f": {signal.strsignal(-(result.returncode or 0))}"
    if result.returncode != 0:
        return "FAIL", f": exit status {result.returncode}"
    return ("LEAK" if result.leftovers else "pass"), ""


def describe(name: str, result: CompletedProcess) -> str:
    word, why = verdict(result)
    left = [f"\n      left running: {one.pid} {shlex.join(one.args)}" for one in result.leftovers]
    return f"{word}  {result.duration or 0.0:7.2f} s  {peak(result):7.1f} MiB  {name}{why}{''.join(left)}"


def redraw(screen: Screen, board: Board, over: threading.Event) -> None:
    while not over.wait(0.25):
        screen.status(board.status())


def run(tests: list[Test], options: argparse.Namespace) -> int:
    screen, board, over = Screen(sys.stdout), Board(tests, options.jobs), threading.Event()
    ticker = threading.Thread(target=redraw, args=(screen, board, over), daemon=True)
    began, interrupted = time.monotonic(), False
    try:
        with Job() as job:
            why = f" ({job.containment_reason})" if job.containment_reason else ""
            screen.line(
                f"{len(tests)} test programs, {options.jobs} at once, {options.timeout:g} s each; "
                f"Python {platform.python_version()}, held by {job.containment.value}{why}"
            )
            if screen.live:
                ticker.start()
            with job.map(
                board.commands(),
                concurrency=options.jobs,
                timeout=options.timeout,
                grace=2.0,
                stdin=DEVNULL,
                errors="replace",
            ) as results:
                for result in results:
                    name = board.ended(result)
                    screen.line(describe(name, result), good=passed(result))
                    tails = [output[-2000:].rstrip() for output in (result.stdout, result.stderr) if output]
                    if options.verbose and tails and not passed(result):
                        screen.line("\n".join(tails))
    except KeyboardInterrupt:
        interrupted = True
    finally:
        over.set()
        if ticker.ident is not None:
            ticker.join()
    screen.line(board.summary(time.monotonic() - began))
    return 130 if interrupted else 0 if all(map(passed, board.results)) else 1


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--commands", metavar="FILE", help="run these instead: one command per line")
    at_once = 2 * (os.cpu_count() or 1)
    parser.add_argument("-j", "--jobs", type=int, default=at_once, help="at once (%(default)s)")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for each (%(default)s)")
    parser.add_argument("--match", default="", help="only those whose name contains this")
    parser.add_argument("--verbose", action="store_true", help="show the end of failing output")
    options = parser.parse_args()
    if options.jobs < 1 or not options.timeout > 0:
        parser.error("--jobs and --timeout are above zero")
    try:
        tests = listed_commands(options.commands) if options.commands else cpython_tests()
    except (OSError, ValueError) as error:
        parser.error(f"failed to read the commands: {error}")
    if not tests and not options.commands:
        print(
            f"{sys.executable} has no `test` package: install it (Debian: libpython3-testsuite, Fedora: "
            "python3-test), take another Python, or give --commands FILE",
            file=sys.stderr,
        )
        return 2
    tests = [test for test in tests if options.match in test[0]]
    if not tests:
        parser.error("nothing to run")
    return run(tests, options)


if __name__ == "__main__":
    sys.exit(main())
