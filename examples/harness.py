"""Run real test programs, each contained, with a timeout, many at once.

python examples/harness.py                    # test files of this Python's own `test` package
python examples/harness.py --commands FILE    # one command per line
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shlex
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from fastjob import Command, CompletedProcess, Job, Reason

# Quick ones, and those that start processes: the interesting ones for a harness.
CPYTHON_TESTS = [
    "test_argparse",
    "test_array",
    "test_ast",
    "test_atexit",
    "test_base64",
    "test_bisect",
    "test_bool",
    "test_builtin",
    "test_bytes",
    "test_c_locale_coercion",
    "test_cmd_line",
    "test_cmd_line_script",
    "test_code_module",
    "test_collections",
    "test_compile",
    "test_contextlib",
    "test_copy",
    "test_csv",
    "test_dataclasses",
    "test_dict",
    "test_dis",
    "test_doctest",
    "test_enum",
    "test_eof",
    "test_epoll",
    "test_exceptions",
    "test_faulthandler",
    "test_fcntl",
    "test_file_eintr",
    "test_float",
    "test_fork1",
    "test_functools",
    "test_genericpath",
    "test_getpass",
    "test_glob",
    "test_hash",
    "test_heapq",
    "test_importlib",
    "test_inspect",
    "test_io",
    "test_iter",
    "test_itertools",
    "test_json",
    "test_keyword",
    "test_kqueue",
    "test_list",
    "test_mmap",
    "test_module",
    "test_multiprocessing_main_handling",
    "test_openpty",
    "test_operator",
    "test_os",
    "test_pathlib",
    "test_pdb",
    "test_pickle",
    "test_pipes",
    "test_pkg",
    "test_platform",
    "test_poll",
    "test_popen",
    "test_posix",
    "test_pty",
    "test_pwd",
    "test_queue",
    "test_quopri",
    "test_random",
    "test_re",
    "test_regrtest",
    "test_repl",
    "test_resource",
    "test_runpy",
    "test_sched",
    "test_select",
    "test_selectors",
    "test_set",
    "test_shelve",
    "test_shlex",
    "test_shutil",
    "test_signal",
    "test_site",
    "test_socket",
    "test_sqlite3",
    "test_stat",
    "test_string",
    "test_struct",
    "test_subprocess",
    "test_support",
    "test_sys",
    "test_sysconfig",
    "test_tempfile",
    "test_thread",
    "test_threading",
    "test_threadsignals",
    "test_time",
    "test_traceback",
    "test_unittest",
    "test_uuid",
    "test_venv",
    "test_wait3",
    "test_wait4",
    "test_weakref",
    "test_zipfile",
]

MARKS = {True: "pass", False: "FAIL"}


def cpython_tests() -> list[tuple[str, list[str]]]:
    """(name, command) of each of the files above that this Python has."""
    spec = importlib.util.find_spec("test")
    if (
        spec is None
        or not spec.submodule_search_locations
        or importlib.util.find_spec("test.support") is None
    ):
        sys.exit(
            f"{sys.executable} has no `test` package: install it (Debian: libpython3-testsuite), "
            "take another Python, or give --commands FILE"
        )
    root = Path(spec.submodule_search_locations[0])
    found = [name for name in CPYTHON_TESTS if (root / f"{name}.py").exists() or (root / name).is_dir()]
    return [(name, [sys.executable, "-m", "test", name]) for name in found]


def listed_commands(path: str) -> list[tuple[str, list[str]]]:
    lines = (line.strip() for line in Path(path).read_text().splitlines())
    return [(line, shlex.split(line)) for line in lines if line and not line.startswith("#")]


class Screen:
    """One live line on a terminal, plain lines elsewhere."""

    def __init__(self, out: TextIO, total: int) -> None:
        self.out = out
        self.total = total
        self.live = out.isatty()
        self.color = self.live and "NO_COLOR" not in os.environ

    def line(self, text: str, good: bool = True) -> None:
        if self.color and not good:
            text = f"\033[31m{text}\033[0m"
        self.out.write(f"\r\033[K{text}\n" if self.live else f"{text}\n")
        self.out.flush()

    def progress(self, results: list[CompletedProcess], running: dict[str, float]) -> None:
        if not self.live:
            return
        bad = sum(not passed(result) for result in results)
        now = time.monotonic()
        oldest = sorted(running.items(), key=lambda item: item[1])[:4]
        names = ", ".join(f"{name} {now - since:.0f}s" for name, since in oldest)
        text = f"{len(results)}/{self.total}  {bad} bad  running: {names}"
        self.out.write(f"\r\033[K{text[: shutil.get_terminal_size().columns - 1]}")
        self.out.flush()


def passed(result: CompletedProcess) -> bool:
    return result.returncode == 0 and not result.leftovers


def describe(name: str, result: CompletedProcess) -> str:
    status = {
        Reason.TIMEOUT: "TIME",
        Reason.SPAWN_FAILED: "MISS",
        Reason.SIGNALED: "SIGN",
    }.get(result.reason, MARKS[result.returncode == 0])
    if status == "pass" and result.leftovers:
        status = "LEAK"
    peak = result.usage.max_rss / 2**20 if result.usage else 0.0
    text = f"{status}  {result.duration or 0.0:7.2f} s  {peak:7.1f} MiB  {name}"
    if result.error is not None:
        text += f": {result.error}"
    elif result.returncode and result.reason is not Reason.TIMEOUT:
        text += f": exit status {result.returncode}"
    for leftover in result.leftovers:
        text += f"\n      left running: {leftover.pid} {shlex.join(leftover.args)}"
    return text


def summary(names: dict[int, str], results: list[CompletedProcess], seconds: float) -> str:
    count = Counter(
        "timed out" if r.reason is Reason.TIMEOUT else "passed" if r.returncode == 0 else "failed"
        for r in results
    )
    leaked = sum(bool(r.leftovers) for r in results)
    slow = sorted(results, key=lambda r: -(r.duration or 0.0))[:3]
    heavy = sorted(results, key=lambda r: -(r.usage.max_rss if r.usage else 0))[:3]
    return "\n".join(
        [
            "",
            f"{len(results)} run in {seconds:.1f} s: {count['passed']} passed, {count['failed']} failed, "
            f"{count['timed out']} timed out, {leaked} leaked",
            "slowest:  " + ", ".join(f"{names[id(r.command)]} {r.duration or 0:.1f} s" for r in slow),
            "heaviest: "
            + ", ".join(f"{names[id(r.command)]} {r.usage.max_rss >> 20} MiB" for r in heavy if r.usage),
        ]
    )


def run(tests: list[tuple[str, list[str]]], options: argparse.Namespace) -> int:
    screen = Screen(sys.stdout, len(tests))
    results: list[CompletedProcess] = []
    names: dict[int, str] = {}
    kept: list[Command] = []
    running: dict[str, float] = {}

    def commands() -> Iterator[Command]:
        for name, argv in tests:
            command = Command(argv)
            kept.append(command)
            names[id(command)] = name
            # It starts as soon as a place is free.
            running[name] = time.monotonic()
            yield command

    started = time.monotonic()
    interrupted = False
    with Job() as job:
        screen.line(
            f"{len(tests)} test programs, {options.jobs} at once, {options.timeout:g} s each; "
            f"Python {platform.python_version()}, held by {job.containment.value}"
        )
        try:
            for result in job.map(
                commands(),
                concurrency=options.jobs,
                timeout=options.timeout,
                grace=2.0,
                stdin=-3,
                errors="replace",
            ):
                name = names[id(result.command)]
                running.pop(name, None)
                results.append(result)
                screen.line(describe(name, result), passed(result))
                if options.verbose and result.returncode != 0:
                    screen.line((result.stdout or "")[-2000:] + (result.stderr or "")[-2000:])
                screen.progress(results, running)
        except KeyboardInterrupt:
            interrupted = True
    screen.line(summary(names, results, time.monotonic() - started) if results else "nothing was run")
    if interrupted:
        return 130
    return 0 if all(map(passed, results)) else 1


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--commands", metavar="FILE", help="run these instead: one command per line")
    parser.add_argument(
        "-j", "--jobs", type=int, default=2 * (os.cpu_count() or 1), help="at once (%(default)s)"
    )
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for each (%(default)s)")
    parser.add_argument("--match", default="", help="only those whose name contains this")
    parser.add_argument("--verbose", action="store_true", help="show the end of failing output")
    options = parser.parse_args()
    tests = listed_commands(options.commands) if options.commands else cpython_tests()
    tests = [test for test in tests if options.match in test[0]]
    if not tests:
        sys.exit("nothing to run")
    return run(tests, options)


if __name__ == "__main__":
    sys.exit(main())
