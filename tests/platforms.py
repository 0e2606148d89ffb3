"""The one table of skips: which tests may be skipped, why, and where.

A row skips the tests it names where its condition holds. Any other skip fails the run.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import support


def not_linux() -> bool:
    return sys.platform != "linux"


def not_root() -> bool:
    return os.geteuid() != 0


def no_compiler() -> bool:
    return support.compiler() is None


@functools.cache
def no_cgroup() -> bool:
    """Tried by doing it: a mount that looks writable may still refuse (man 7 cgroups)."""
    own = support.own_cgroup()
    if own is None or not os.access(own / "cgroup.procs", os.W_OK):
        return True
    probe = own / f"probe-{os.getpid()}"
    try:
        probe.mkdir()
    except OSError:
        return True
    try:
        return not (probe / "cgroup.kill").exists()
    finally:
        probe.rmdir()


@functools.cache
def no_pid_namespace() -> bool:
    if shutil.which("unshare") is None:
        return True
    made = subprocess.run([*support.PID_NAMESPACE, "true"], stderr=subprocess.DEVNULL)
    return made.returncode != 0


def no_own_pid_max() -> bool:
    """Before Linux 6.14 pid_max was one for the whole machine, not one per namespace."""
    release = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])
    return no_pid_namespace() or release < (6, 14)


@dataclass(frozen=True)
class Skip:
    tests: str
    """Regular expression, searched in the test's id."""
    reason: str
    when: Callable[[], bool]


def no_maturin() -> bool:
    return importlib.util.find_spec("maturin") is None


TABLE = (
    Skip(r"^(?!.*test_platforms)", "only Linux is done so far", not_linux),
    Skip(r"test_user_and_groups|test_waits_for_processes", "needs root", not_root),
    Skip(r"test_sdist_installs", "maturin is not installed here", no_maturin),
    Skip(r"[\[-]cgroup[\]-]", "no writable cgroup2 here", no_cgroup),
    Skip(r"\[pid-one\]|pid_one", "no pid namespace can be made here", no_pid_namespace),
    Skip(r"test_pid_reuse_in_a_small_namespace", "pid_max is not ours alone", no_own_pid_max),
    Skip(r"test_pid_reuse|test_fork_bomb|test_kill_failed", "needs root", not_root),
    Skip(
        r"test_pid_reuse|test_fork_bomb|test_chain_forkers|test_fork_and_exit|pid_one_reaps|test_side_by_side",
        "no C compiler",
        no_compiler,
    ),
)


def skips(test: str) -> list[Skip]:
    """The rows that apply to this test on this machine."""
    return [row for row in TABLE if re.search(row.tests, test) and row.when()]


def allowed(test: str, reason: str) -> bool:
    return any(row.reason == reason for row in skips(test))
