"""`run`: one command, alone, and nothing of it left."""

from __future__ import annotations

import pickle
import signal
import subprocess

import pytest

from fastjob import (
    CAPTURE,
    DEVNULL,
    PIPE,
    STDOUT,
    CalledProcessError,
    Job,
    LeftoverError,
    Reason,
    TimeoutExpired,
)
from support import program


def test_results(job: Job) -> None:
    done = job.run(["sh", "-c", "echo out; echo err >&2; exit 3"], capture_output=True, text=True)
    assert isinstance(done, subprocess.CompletedProcess)
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
    assert (done.reason, done.leftovers, done.error, done.timed_out) == (Reason.EXITED, (), None, False)
    assert done.usage is not None
    assert 0 < done.usage.max_rss < 100 << 20
    assert done.started_at is not None
    assert done.ended_at == pytest.approx(done.started_at + done.duration)
    assert (done.total_bytes, done.truncated) == (8, 0)
    assert pickle.loads(pickle.dumps(done)).stdout == "out\n"
    assert job.run(["cat"], input="tëxt", stdout=PIPE, text=True).stdout == "tëxt"
    merged = job.run(["sh", "-c", "echo out; echo err >&2"], stdout=CAPTURE, stderr=STDOUT)
    assert (merged.stdout, merged.stderr) == (b"out\nerr\n", None)
    assert job.run(["cat"], stdin=DEVNULL, capture_output=True).stdout == b""


def test_reasons(job: Job) -> None:
    signaled = job.run(["sh", "-c", "kill -9 $$"])
    assert (signaled.returncode, signaled.reason) == (-signal.SIGKILL, Reason.SIGNALED)
    process = job.spawn(["sleep", "300"])
    process.terminate()
    process.wait(timeout=30)
    assert process.reason is Reason.KILLED
    process = job.spawn(["sleep", "300"], timeout=0.05)
    assert process.wait(timeout=30) == -signal.SIGKILL
    assert (process.reason, process.timed_out) == (Reason.TIMEOUT, True)


def test_check(job: Job) -> None:
    with pytest.raises(CalledProcessError) as raised:
        job.run(["sh", "-c", "echo why; exit 2"], capture_output=True, check=True)
    assert isinstance(raised.value, subprocess.CalledProcessError)
    assert (raised.value.returncode, raised.value.output) == (2, b"why\n")
    assert raised.value.completed.reason is Reason.EXITED
    assert job.run(["true"], check=True).returncode == 0


def test_timeout_has_the_output_so_far(job: Job) -> None:
    with pytest.raises(TimeoutExpired) as raised:
        job.run(["sh", "-c", "echo before; sleep 300 & wait"], capture_output=True, text=True, timeout=0.3)
    assert isinstance(raised.value, subprocess.TimeoutExpired)
    assert isinstance(raised.value, TimeoutError)
    assert raised.value.output == "before\n"
    assert "before" in repr(raised.value)
    assert job.pids() == []


def test_grace_lets_a_command_say_goodbye(job: Job) -> None:
    script = "trap 'echo bye; exit 5' TERM; echo here; while :; do sleep 0.02; done"
    with pytest.raises(TimeoutExpired) as raised:
        job.run(["sh", "-c", script], capture_output=True, timeout=0.3, grace=30)
    assert raised.value.output == b"here\nbye\n"
    stubborn = "trap '' TERM; while :; do sleep 0.02; done"
    with pytest.raises(TimeoutExpired):
        job.run(["sh", "-c", stubborn], timeout=0.1, grace=0.1)
    assert job.pids() == []


def test_timeouts_that_are_over_at_once_or_never(job: Job) -> None:
    for timeout in (0, -1):
        with pytest.raises(TimeoutExpired):
            job.run(["sleep", "300"], timeout=timeout)
    for timeout in (1e10, float("inf"), None):
        assert job.run(["true"], timeout=timeout).returncode == 0
    with pytest.raises(ValueError, match="timeout"):
        job.run(["true"], timeout=float("nan"))


@pytest.mark.parametrize("escape", ["", "setsid "])
def test_leftovers(job: Job, escape: str) -> None:
    command = ["sh", "-c", f"{escape}sleep 299 & echo done"]
    done = job.run(command, capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"done\n")
    # It may still be setsid that becomes sleep.
    assert [left.args[-2:] for left in done.leftovers] == [["sleep", "299"]]
    assert job.pids() == []
    with pytest.raises(LeftoverError, match="sleep 299") as raised:
        job.run(command, capture_output=True, leftovers="error")
    assert raised.value.completed.stdout == b"done\n"
    assert job.pids() == []
    kept = job.run(command, capture_output=True, leftovers="keep")
    assert job.pids() == [left.pid for left in kept.leftovers]
    assert job.run(["true"]).returncode == 0
    assert job.kill().killed == tuple(left.pid for left in kept.leftovers)


def test_clean_commands_are_never_called_leaking(job: Job) -> None:
    script = "true | true; (true); sh -c true & wait"
    for done in job.map([["sh", "-c", script]] * 1000, concurrency=32):
        assert done.leftovers == ()


def test_peak_memory_is_not_the_owners() -> None:
    program("fat_owner.py")
