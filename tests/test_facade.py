"""The façade's own promises: nothing is started by a bad call, and `subprocess`' semantics hold."""

from __future__ import annotations

import errno
import pickle
import time
from pathlib import Path

import pytest

from fastjob import PIPE, Command, Job, LeftoverError, SpawnError

SLEEP = ["sleep", "300"]


@pytest.mark.parametrize("bad", [{"encoding": "nowhere"}, {"text": True, "errors": "nowhere"}])
def test_unknown_codec_starts_nothing(job: Job, bad: dict[str, object]) -> None:
    with pytest.raises(LookupError):
        job.spawn(SLEEP, stdout=PIPE, **bad)
    with pytest.raises(LookupError):
        job.spawn_many([SLEEP, Command(SLEEP, stdout=PIPE, **bad)])
    assert job.pids() == []


def test_buffer_that_can_not_be_made_leaves_nothing(job: Job) -> None:
    with pytest.raises(OverflowError):
        job.spawn(SLEEP, stdout=PIPE, bufsize=1 << 70)
    assert job.pids() == []


def test_warning_as_error_leaves_nothing(job: Job) -> None:
    with pytest.warns(RuntimeWarning, match="line buffering"):
        job.spawn(["true"], stdin=PIPE, bufsize=1).communicate()
    with pytest.raises(RuntimeWarning):
        job.spawn(SLEEP, stdin=PIPE, bufsize=1)
    assert job.pids() == []


def test_spawn_error_has_its_errno() -> None:
    error = SpawnError(errno.EAGAIN, "no more", resource="processes")
    assert (error.errno, error.resource) == (errno.EAGAIN, "processes")
    assert pickle.loads(pickle.dumps(error)).errno == errno.EAGAIN


def test_leftover_error_can_be_pickled(job: Job) -> None:
    with pytest.raises(LeftoverError) as caught:
        job.run("sleep 300 &", shell=True, leftovers="error")
    assert pickle.loads(pickle.dumps(caught.value)).completed.leftovers


def test_run_closes_a_pipe_that_nobody_writes_to(job: Job) -> None:
    assert job.run(["cat"], stdin=PIPE, stdout=PIPE, timeout=10).stdout == b""


def test_run_can_not_be_suspended(job: Job) -> None:
    with pytest.raises(ValueError, match="suspended"):
        job.run(["true"], suspended=True, timeout=1)


@pytest.mark.parametrize("text", [True, False])
def test_communicate_has_what_a_readline_left(job: Job, text: bool) -> None:
    process = job.spawn("echo one; echo two; echo three", shell=True, stdout=PIPE, text=text)
    assert process.stdout is not None
    process.stdout.readline()
    rest = process.communicate(timeout=10)[0]
    assert rest == ("two\nthree\n" if text else b"two\nthree\n")


def test_with_block_lets_interrupt_through(job: Job) -> None:
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt), job.spawn(["sleep", "3"]):
        raise KeyboardInterrupt
    assert time.monotonic() - begun < 1


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (TypeError, lambda job: job.spawn(Path("true"), shell=True)),
        (ValueError, lambda job: job.spawn(["true"], extra_groups="nogroup")),
        (TypeError, lambda job: job.spawn(["true"], extra_groups=[None])),
        (TypeError, lambda job: job.map("ab")),
        (TypeError, lambda job: job.spawn_many("ab")),
        (TypeError, lambda job: job.wait_any([5])),
        (TypeError, lambda job: Job(parent=5)),
    ],
)
def test_bad_argument(job: Job, error: type[Exception], call: object) -> None:
    with pytest.raises(error):
        call(job)


def test_none_is_the_default_size(job: Job) -> None:
    assert job.spawn(["true"], bufsize=None, pipesize=None).wait(timeout=10) == 0
