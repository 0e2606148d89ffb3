"""Bad input is a clear error before anything starts, and leaves nothing behind."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

import pytest

from fastjob import CAPTURE, STDOUT, Command, Containment, Job, JobClosed, JobError
from support import descriptors

CALLS: tuple[tuple[type[BaseException], Callable[[Job], object]], ...] = (
    (ValueError, lambda job: job.spawn([])),
    (TypeError, lambda job: job.spawn(5)),  # type: ignore[arg-type]
    (TypeError, lambda job: job.spawn([5])),  # type: ignore[list-item]
    (TypeError, lambda job: job.spawn(None)),  # type: ignore[arg-type]
    (ValueError, lambda job: job.spawn(["a\0b"])),
    (ValueError, lambda job: job.spawn([b"true", b"\0"])),
    (ValueError, lambda job: job.spawn(["true"], cwd="a\0b")),
    (ValueError, lambda job: job.spawn(["true"], env={"A": "a\0b"})),
    (ValueError, lambda job: job.spawn(["true"], env={"A=B": "c"})),
    (TypeError, lambda job: job.spawn(["true"], env={"A": 5})),
    (ValueError, lambda job: job.spawn(["true"], stdout=STDOUT)),
    (ValueError, lambda job: job.spawn(["true"], stdin=CAPTURE)),
    (ValueError, lambda job: job.spawn(["true"], stdout=-17)),
    (TypeError, lambda job: job.spawn(["true"], stdout="file")),  # type: ignore[arg-type]
    (ValueError, lambda job: job.spawn(["true"], preexec_fn=print)),  # type: ignore[arg-type]
    (ValueError, lambda job: job.spawn(["true"], close_fds=False)),
    (TypeError, lambda job: job.spawn(["true"], unknown=1)),  # type: ignore[call-arg]
    (TypeError, lambda job: Command(["true"], unknown=1)),  # type: ignore[call-arg]
    (ValueError, lambda job: job.spawn(["true"], timeout=float("nan"))),
    (ValueError, lambda job: job.spawn(["true"], grace=-1.0)),
    (ValueError, lambda job: job.spawn(["true"], user=-7)),
    (KeyError, lambda job: job.spawn(["true"], user="no such user")),
    (ValueError, lambda job: job.spawn(["true"], max_output=-1)),
    (TypeError, lambda job: job.spawn(["cat"], input="text")),
    (TypeError, lambda job: job.spawn(["cat"], input=b"bytes", text=True)),
    (LookupError, lambda job: job.spawn(["true"], encoding="no such encoding")),
    (ValueError, lambda job: job.run(["true"], leftovers="forget")),  # type: ignore[arg-type]
    (ValueError, lambda job: job.run(["true"], capture_output=True, stdout=CAPTURE)),
    (ValueError, lambda job: job.map([], concurrency=0)),
    (ValueError, lambda job: job.map([], concurrency=-1)),
    (TypeError, lambda job: job.map([], concurrency=1.5)),  # type: ignore[arg-type]
    (TypeError, lambda job: job.map(5)),  # type: ignore[arg-type]
    (ValueError, lambda job: job.spawn_many([["true"], []])),
    (ValueError, lambda job: job.stop([(15, -1.0)])),
    (ValueError, lambda job: job.stop([(15, float("nan"))])),
    (ValueError, lambda job: job.signal(1000)),
    (ValueError, lambda job: Job(interrupt="maybe")),  # type: ignore[arg-type]
    (TypeError, lambda job: Job(require="cgroup")),  # type: ignore[arg-type]
    (TypeError, lambda job: Job(parent=job.spawn)),  # type: ignore[arg-type]
)


@pytest.fixture(scope="module")
def shared() -> Iterator[Job]:
    with Job() as job:
        job.run(["true"])
        yield job


@pytest.mark.parametrize("number", range(len(CALLS)))
def test_refused_before_anything_starts(shared: Job, number: int) -> None:
    expected, call = CALLS[number]
    before = set(descriptors())
    with pytest.raises(expected) as raised:
        call(shared)
    assert str(raised.value)
    assert shared.pids() == []
    assert set(descriptors()) <= before
    assert shared.run(["true"]).returncode == 0


def test_a_descriptor_that_is_not_open(shared: Job) -> None:
    for options in ({"stdout": 999}, {"pass_fds": [998]}):
        with pytest.raises(OSError) as raised:
            shared.spawn(["true"], **options)  # type: ignore[arg-type]
        assert raised.value.errno == errno.EBADF


def test_a_closed_job(shared: Job) -> None:
    job = Job()
    process = job.spawn(["sleep", "300"])
    nested = Job(parent=job)
    job.close()
    job.close()
    assert job.closed
    assert process.wait(timeout=30) == -9
    for call in (
        lambda: job.spawn(["true"]),
        lambda: job.run(["true"]),
        lambda: job.map([["true"]]),
        lambda: job.spawn_many([["true"]]),
        job.pids,
        job.kill,
        job.wait,
        job.suspend,
        job.detach,
        lambda: Job(parent=job),
        lambda: nested.spawn(["true"]),
    ):
        with pytest.raises(JobClosed) as raised:
            call()
        assert isinstance(raised.value, (JobError, ValueError))
    process.kill()


def test_weaker_containment_than_required(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastjob import Unsupported

    monkeypatch.setenv("FASTJOB_DISABLE", "cgroup")
    with pytest.raises(Unsupported, match="FASTJOB_DISABLE") as raised:
        Job(require=Containment.CGROUP)
    assert isinstance(raised.value, NotImplementedError)
    Job(require=Containment.SUBREAPER).close()
