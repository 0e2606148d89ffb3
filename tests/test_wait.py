"""Waiting, for one, for any, for all."""

from __future__ import annotations

import threading

import pytest

from fastjob import PIPE, Job, TimeoutExpired
from support import short_lived


def test_poll_and_wait(job: Job) -> None:
    process = job.spawn(["cat"], stdin=PIPE)
    assert (process.poll(), process.returncode, process.ended_at, process.usage) == (None, None, None, None)
    for timeout in (0, -5, 0.01):
        with pytest.raises(TimeoutExpired):
            process.wait(timeout=timeout)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=1e10) == process.wait(timeout=float("inf")) == process.wait() == 0
    assert process.wait(timeout=0) == process.poll() == process.returncode == 0
    assert process.ended_at is not None
    assert process.duration == pytest.approx(process.ended_at - process.started_at)


@pytest.mark.parametrize("timeout", [float("nan")])
def test_a_timeout_is_a_number(job: Job, timeout: float) -> None:
    process = job.spawn(["sleep", "300"])
    for wait in (process.wait, job.wait, lambda timeout: list(job.as_completed([process], timeout))):
        with pytest.raises(ValueError, match="nan"):
            wait(timeout=timeout)


def test_any_and_all_of_a_thousand(job: Job) -> None:
    processes = job.spawn_many([[short_lived(), str(number % 250)] for number in range(1000)])
    assert job.wait_any(processes, timeout=60) in processes
    seen = {process.pid: process.returncode for process in job.as_completed(processes, timeout=60)}
    assert seen == {process.pid: number % 250 for number, process in enumerate(processes)}
    job.wait(timeout=60)


def test_completion_follows_the_end(job: Job) -> None:
    slow, quick = job.spawn(["cat"], stdin=PIPE), job.spawn(["true"])
    assert job.wait_any([slow, quick], timeout=30) is quick
    with pytest.raises(TimeoutExpired):
        job.wait_any([slow], timeout=0.01)
    assert slow.stdin is not None
    slow.stdin.close()
    assert list(job.as_completed([slow, quick], timeout=30))[1:] == [slow]


def test_many_threads_wait_for_one(job: Job) -> None:
    process = job.spawn(["cat"], stdin=PIPE)
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(process.wait())) for _ in range(10)]
    for thread in threads:
        thread.start()
    assert process.stdin is not None
    process.stdin.close()
    for thread in threads:
        thread.join()
    assert answers == [0] * 10


def test_wait_for_the_job_is_for_grandchildren_too(job: Job) -> None:
    job.wait(timeout=30)
    process = job.spawn(["sh", "-c", "exec 3<&0; setsid sh -c 'read x' <&3 & exit 0"], stdin=PIPE)
    process.wait(timeout=30)
    with pytest.raises(TimeoutExpired):
        job.wait(timeout=0.05)
    assert process.stdin is not None
    process.stdin.close()
    job.wait(timeout=30)
    assert len(job) == 0


def test_pidfd(job: Job) -> None:
    import select

    process = job.spawn(["cat"], stdin=PIPE)
    assert process.fileno() == process.fileno()
    assert select.select([process], [], [], 0)[0] == []
    assert process.stdin is not None
    process.stdin.close()
    assert select.select([process], [], [], 30)[0] == [process]
    other = job.spawn(["true"])
    other.wait(timeout=30)
    with pytest.raises(ProcessLookupError):
        other.fileno()
