"""Guarantee 1: every process is a member from its first instruction, however it was started.

Every escape is tried on us, and by a control twin on the usual recipe (a process group of its own and `killpg`, or
the tree by parent pids), which it does escape: otherwise the test would show nothing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from fastjob import DEVNULL, PIPE, Command, Containment, Job, Unsupported
from support import (
    Watch,
    alive,
    child,
    compiled,
    descendants,
    marked,
    stat,
    supervisor_of,
    until,
    zombies,
)

Hold = Callable[[int], Watch]


def double_fork(file: Path) -> list[str]:
    return child("daemon.py", file)


def set_session(file: Path) -> list[str]:
    return ["sh", "-c", f"setsid sleep 300 & echo $! >{file}.new; mv {file}.new {file}; wait"]


def set_session_and_leave(file: Path) -> list[str]:
    return ["sh", "-c", f"setsid sleep 300 & echo $! >{file}.new; mv {file}.new {file}"]


def no_hangup(file: Path) -> list[str]:
    script = "setsid nohup sleep 300 >/dev/null 2>&1 &"
    return ["sh", "-c", f"{script} echo $! >{file}.new; mv {file}.new {file}; kill -9 $$"]


def closed_and_cleared(file: Path) -> list[str]:
    script = "setsid env -i sleep 300 <&- >&- 2>&- &"
    return ["sh", "-c", f"{script} echo $! >{file}.new; mv {file}.new {file}"]


ESCAPES = (double_fork, set_session, set_session_and_leave, no_hangup, closed_and_cleared)
escapes = pytest.mark.parametrize("escape", ESCAPES, ids=lambda escape: escape.__name__)


def escaped(file: Path) -> int:
    until(file.exists, "the escaped process tells its pid")
    pid = int(file.read_text())
    # Otherwise it may still be in the group of its parent.
    until(lambda: (one := stat(pid)) is not None and one.comm == "sleep", "it sleeps")
    return pid


@escapes
def test_escape_is_a_member_and_dies(
    job: Job, escape: Callable[[Path], Sequence[str]], tmp_path: Path, watch: Hold
) -> None:
    job.spawn(escape(tmp_path / "pid"))
    pid = escaped(tmp_path / "pid")
    held = watch(pid)
    assert pid in job.pids()
    assert pid in job
    assert pid in [one.pid for one in job.processes()]
    report = job.kill()
    assert pid in report.killed
    assert not held.alive
    assert job.pids() == []


@escapes
def test_escape_dies_at_close(
    job: Job, escape: Callable[[Path], Sequence[str]], tmp_path: Path, watch: Hold
) -> None:
    with Job(parent=job) as nested:
        nested.spawn(escape(tmp_path / "pid"))
        held = watch(escaped(tmp_path / "pid"))
    assert not held.alive
    assert job.pids() == []


@escapes
def test_control_escape_survives_the_group_kill(
    escape: Callable[[Path], Sequence[str]], tmp_path: Path, watch: Hold
) -> None:
    leader = subprocess.Popen(escape(tmp_path / "pid"), start_new_session=True)
    pid = escaped(tmp_path / "pid")
    held = watch(pid)
    os.killpg(leader.pid, signal.SIGKILL)
    leader.wait()
    assert held.alive
    held.kill()


def test_child_is_a_member_when_spawn_returns(job: Job) -> None:
    process = job.spawn(["sleep", "300"])
    assert job.pids() == [process.pid]
    assert len(job) == 1
    assert process.pid in job
    assert os.getpid() not in job


def test_child_is_a_member_before_its_first_instruction(job: Job, tmp_path: Path) -> None:
    process = job.spawn(["touch", str(tmp_path / "begun")], suspended=True)
    assert job.pids() == [process.pid]
    assert supervisor_of(process.pid)
    # Others start and end after it; it has done nothing.
    assert [one.wait(timeout=30) for one in job.spawn_many([["true"]] * 5)] == [0] * 5
    assert not (tmp_path / "begun").exists()
    process.resume()
    assert process.wait(timeout=30) == 0
    assert (tmp_path / "begun").exists()


def test_suspended_child_dies_with_its_job(job: Job, tmp_path: Path, watch: Hold) -> None:
    with Job(parent=job) as nested:
        held = watch(nested.spawn(["touch", str(tmp_path / "begun")], suspended=True).pid)
    assert not held.alive
    assert not (tmp_path / "begun").exists()


ROUNDS, BATCH = 20, 50


def stayed(reader: int, count: int) -> list[int]:
    """The pids that COUNT grandchildren tell on a pipe that they share."""
    told = b""
    while told.count(b"\n") < count:
        part = os.read(reader, 65536)
        assert part, "the pipe ended"
        told += part
    return [int(line) for line in told.split()]


def test_fork_and_exit_as_the_first_act(job: Job) -> None:
    """1,000 times: a child that is gone before anybody could have looked at it."""
    program = [compiled("fork_and_exit"), "stay"]
    for _ in range(ROUNDS):
        reader, writer = os.pipe()
        with open(reader, "rb"), open(writer, "wb"):
            made = job.spawn_many([Command(program, stdout=writer)] * BATCH)
            found = stayed(reader, BATCH)
            assert [one.wait(timeout=30) for one in made] == [0] * BATCH
            assert sorted(job.pids()) == sorted(found)
            report = job.kill()
            assert sorted(report.killed) == sorted(found)
            assert not any(alive(pid) for pid in found)


def test_control_fork_and_exit_is_lost_to_the_tree_walk(watch: Hold) -> None:
    program = [compiled("fork_and_exit"), "stay"]
    reader, writer = os.pipe()
    with open(reader, "rb"), open(writer, "wb"):
        made = [subprocess.Popen(program, stdout=writer) for _ in range(BATCH)]
        found = [watch(pid) for pid in stayed(reader, BATCH)]
        assert [one.wait() for one in made] == [0] * BATCH
        assert not descendants(os.getpid()) & {one.pid for one in found}
        assert all(one.alive for one in found)
        for one in found:
            one.kill()


def test_grandchildren_are_listed(job: Job) -> None:
    process = job.spawn(
        ["sh", "-c", "sleep 300 & echo $!; sh -c 'sleep 300 & echo $!; wait' & wait"], stdout=PIPE
    )
    assert process.stdout is not None
    first, second = (int(process.stdout.readline()) for _ in range(2))
    until(lambda: len(job) == 4, "shell, shell, sleep and sleep")
    assert {process.pid, first, second} <= set(job.pids())
    tree = str(job.tree())
    assert str(process.pid) in tree
    assert str(second) in tree
    job.kill()
    process.stdout.close()


def test_parent_is_the_supervisor_from_the_beginning(job: Job) -> None:
    """By birth, not by adoption: the first thing that the child does is to look."""
    for _ in range(20):
        process = job.spawn(["sh", "-c", "echo $PPID"], stdout=PIPE)
        out, _ = process.communicate(timeout=30)
        parent = stat(int(out))
        assert parent is not None
        assert parent.comm == "fastjob-super"


def test_close_without_kill_leaves_nothing(containment: Containment, mark: str) -> None:
    with Job() as job:
        job.spawn_many([["sh", "-c", "sleep 300 & setsid sleep 300 & wait"]] * 10)
        until(lambda: len(marked(mark)) == 30, "all have started")
        assert sorted(job.pids()) == sorted(marked(mark))
    assert marked(mark) == []


def test_dropped_job_leaves_nothing(containment: Containment, watch: Hold) -> None:
    job = Job()
    held = watch(job.spawn(["setsid", "sleep", "300"]).pid)
    del job
    assert held.wait()


def test_process_keeps_its_job_alive(containment: Containment, watch: Hold) -> None:
    process = Job().spawn(["cat"], stdin=PIPE, stdout=PIPE)
    held = watch(process.pid)
    assert process.communicate(b"here", timeout=30)[0] == b"here"
    assert process.wait() == 0
    process.job.close()
    assert not held.alive


def test_detached_job_lets_its_members_live(containment: Containment, watch: Hold) -> None:
    with Job() as job:
        process = job.spawn(["cat"], stdin=PIPE, stdout=PIPE)
        held = watch(process.pid)
        job.detach()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"free\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"free\n"
    held.kill()
    process.stdin.close()
    process.stdout.close()


def test_kill_on_close_off(containment: Containment, watch: Hold) -> None:
    with Job(kill_on_close=False) as job:
        process = job.spawn(["cat"], stdin=PIPE, stdout=DEVNULL)
        held = watch(process.pid)
    assert held.alive
    assert process.stdin is not None
    process.stdin.close()
    assert held.wait()


def test_orphans_are_reaped_by_the_job(job: Job) -> None:
    keeper = job.spawn(["sleep", "300"])
    above = supervisor_of(keeper.pid)
    job.spawn_many([["sh", "-c", "(sleep 0.01; exit 3) & exit 0"]] * 50)
    until(lambda: job.pids() == [keeper.pid], "all orphans have ended")
    until(lambda: zombies(above) == [], "no orphan stays a zombie")


def test_containment_is_told(job: Job, containment: Containment) -> None:
    assert job.containment is containment
    if containment is Containment.CGROUP:
        assert job.containment_reason == ""
    else:
        assert "disabled by FASTJOB_DISABLE" in job.containment_reason
        with pytest.raises(Unsupported, match="FASTJOB_DISABLE"):
            Job(require=Containment.CGROUP)
    with Job(require=containment) as other:
        assert other.containment is containment


def test_start_time_is_told(job: Job) -> None:
    before = time.time()
    process = job.spawn(["sleep", "300"])
    (info,) = job.processes()
    assert (info.pid, info.ppid) == (process.pid, supervisor_of(process.pid))
    assert info.name == "sleep"
    assert info.cmdline == ["sleep", "300"]
    # The kernel counts in ticks since boot: ten to twenty milliseconds of grain.
    assert before - 1 < info.create_time < time.time() + 1
