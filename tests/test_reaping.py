"""Guarantees 4, 5 and 7: exits are collected in the background, and the host is left alone."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import pytest

from fastjob import Job
from support import PID_NAMESPACE, compiled, descriptors, program, short_lived, until, zombies

SCENARIOS = (
    "sigchld_ignored",
    "waitpid_thread",
    "no_handler",
    "no_children",
    "forked_child",
    "ending_threads",
    "job_made_in_a_thread",
    "subinterpreter",
)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.usefixtures("containment")
def test_scenario(scenario: str) -> None:
    program("reaping.py", scenario)


def test_side_by_side_with_subprocess_and_asyncio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FJSHORT", compiled("tiny"))
    program("reaping.py", "side_by_side")


@pytest.mark.usefixtures("containment")
def test_pid_one_reaps_thousands_of_orphans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FJFORK", compiled("fork_and_exit"))
    program("reaping.py", "pid_one", prefix=PID_NAMESPACE)


def test_pid_one_that_collects_nobody() -> None:
    """As in containers whose first process is `sleep` or `tail`."""
    first = (
        "import os, sys; pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ); "
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )
    prefix = [*PID_NAMESPACE, sys.executable, "-S", "-E", "-c", first]
    program("reaping.py", "under_no_init", prefix=prefix)


@pytest.mark.usefixtures("containment")
def test_pid_one_is_no_dead_owner() -> None:
    program("reaping.py", "pid_one_death", prefix=PID_NAMESPACE)


def test_foreign_proc_in_pid_one_without_its_own_mount() -> None:
    """`/proc` of the outer namespace has other numbers: nobody there may be taken for a member."""
    prefix = [option for option in PID_NAMESPACE if option != "--mount-proc"]
    code = (
        "from fastjob import Job\n"
        "job = Job()\n"
        "made = job.spawn(['sh', '-c', 'setsid sleep 300 & exec sleep 300'])\n"
        "while len(job) != 2: pass\n"
        "assert made.pid in job.pids()\n"
        "assert len(job.kill().killed) == 2\n"
        "assert job.pids() == [] and made.returncode == -9\n"
        "job.close()\n"
    )
    from support import owner, owner_environment

    done = subprocess.run(
        [*prefix, owner("x")[0], "-c", code], env=owner_environment(FASTJOB_DISABLE="cgroup"), timeout=60
    )
    assert done.returncode == 0


def test_ten_thousand_dropped_handles(job: Job) -> None:
    argv = [short_lived()]
    # What a job holds open for all its children is there from the first one.
    job.spawn(argv).wait(timeout=60)
    before = len(descriptors())
    for _ in range(100):
        job.spawn_many([argv] * 100)
    job.wait(timeout=60)
    gc.collect()
    supervisor = job.supervisor_pid
    until(lambda: not zombies(supervisor), "all are collected")
    until(lambda: len(descriptors()) == before, "descriptors are back")
    # Few are left open in the supervisor either.
    until(lambda: len(os.listdir(f"/proc/{supervisor}/fd")) < 20, "the supervisor's descriptors are back")


def test_control_dropped_popen_leaves_zombies() -> None:
    kept = [subprocess.Popen(["true"]) for _ in range(20)]
    until(lambda: len(zombies(os.getpid())) >= 20, "zombies")
    for one in kept:
        one.wait()
