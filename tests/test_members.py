"""Looking at members."""

from __future__ import annotations

import os
import sys
import time

from fastjob import PIPE, Job
from support import until


def test_start_time_is_told(job: Job) -> None:
    process = job.spawn(["sh", "-c", "sleep 300 & echo; wait"], stdout=PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    until(lambda: sorted(one.name for one in job.processes()) == ["sh", "sleep"], "both are there")
    found = {one.name: one for one in job.processes()}
    assert found["sh"].pid == process.pid
    assert found["sh"].ppid == job.supervisor_pid
    assert found["sleep"].ppid == process.pid
    assert found["sleep"].cmdline == ["sleep", "300"]
    assert found["sleep"].exe is not None
    assert os.path.basename(found["sleep"].exe) in ("sleep", "busybox", "coreutils")
    assert abs(found["sh"].create_time - time.time()) < 60
    assert found["sh"].rss > 0
    assert found["sh"] == next(one for one in job.processes() if one.pid == process.pid)
    assert len({*job.processes(), *job.processes()}) == 2
    process.stdout.close()


def test_pids_in_and_len(job: Job) -> None:
    assert (job.pids(), len(job), bool(job)) == ([], 0, True)
    made = job.spawn_many([["sleep", "300"]] * 5)
    assert sorted(job.pids()) == sorted(process.pid for process in made)
    assert len(job) == 5
    assert made[0] in job
    assert made[0].pid in job
    assert os.getpid() not in job
    assert "text" not in job
    job.kill()
    assert made[0] not in job


def test_tree_is_drawn(job: Job) -> None:
    code = "import subprocess; subprocess.Popen(['sleep', '300']); subprocess.Popen(['sleep', '301']).wait()"
    process = job.spawn([sys.executable, "-S", "-E", "-c", code])
    other = job.spawn(["sleep", "302"])
    until(lambda: sum(one.cmdline[:1] == ["sleep"] for one in job.processes()) == 3, "three sleep")
    tree = job.tree()
    assert {one.pid for one in tree.roots} == {process.pid, other.pid}
    assert len(tree) == len(list(tree)) == 4
    root = next(one for one in tree.roots if one.pid == process.pid)
    assert sorted(one.cmdline[1] for one in tree.children(root)) == ["300", "301"]
    text = str(tree)
    assert f"{other.pid} sleep 302" in text.splitlines()
    assert len([line for line in text.splitlines() if line.startswith(("├─ ", "└─ "))]) == 2
    assert str(Job().tree()) == ""


def test_members_of_nested_jobs_are_members_of_both(job: Job) -> None:
    with Job(parent=job) as inner, Job(parent=inner) as innermost:
        processes = [one.spawn(["sleep", "300"]) for one in (job, inner, innermost)]
        pids = [process.pid for process in processes]
        assert sorted(job.pids()) == sorted(pids)
        assert sorted(inner.pids()) == sorted(pids[1:])
        assert innermost.pids() == pids[2:]
        inner.kill()
        assert job.pids() == pids[:1]
        assert [process.poll() for process in processes] == [None, -9, -9]


def test_supervisors_are_no_members_of_their_own_job(job: Job) -> None:
    job.run(["true"])
    with Job(parent=job):
        assert job.pids() == []


def test_a_job_in_a_job(job: Job) -> None:
    """A program that uses this package itself: its helpers are ordinary members."""
    code = (
        "from fastjob import Job\n"
        "job = Job()\n"
        "job.spawn(['sleep', '300'])\n"
        "print('ready', flush=True)\n"
        "input()\n"
    )
    from support import owner_environment

    process = job.spawn([sys.executable, "-c", code], stdin=PIPE, stdout=PIPE, env=owner_environment())
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    names = sorted(one.name for one in job.processes())
    assert names[:2] == ["fastjob-guard", "fastjob-super"]
    assert "sleep" in names
    assert len(job.kill().killed) == 4
    assert job.pids() == []
    process.communicate()
