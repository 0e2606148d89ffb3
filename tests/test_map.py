"""`map`: the harness loop."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastjob import (
    DEVNULL,
    CalledProcessError,
    Command,
    Job,
    LeftoverError,
    Reason,
    TimeoutExpired,
)
from support import program, short_lived, until


def numbered(count: int) -> Iterator[list[str]]:
    return (["sh", "-c", f"echo {number}; exit {number % 7}"] for number in range(count))


def test_each_result_comes_once(job: Job) -> None:
    found = {int(done.stdout): done.returncode for done in job.map(numbered(200), concurrency=8)}
    assert found == {number: number % 7 for number in range(200)}
    assert job.pids() == []


def test_ordered(job: Job) -> None:
    delays = [0.2, 0.0, 0.1, 0.0] * 3
    commands = [["sh", "-c", f"sleep {delay}; echo {at}"] for at, delay in enumerate(delays)]
    done = list(job.map(commands, concurrency=4, ordered=True))
    assert [int(one.stdout) for one in done] == list(range(len(delays)))


def test_empty(job: Job) -> None:
    assert list(job.map([])) == []


def test_never_more_at_once(job: Job, tmp_path: Path) -> None:
    # Each counts who is there when it is; directories are made and removed at one moment.
    script = f"mkdir {tmp_path}/$$; ls {tmp_path} | wc -l; sleep 0.02; rmdir {tmp_path}/$$"
    counts = [int(done.stdout) for done in job.map([["sh", "-c", script]] * 60, concurrency=5)]
    assert max(counts) <= 5
    assert max(counts) > 1


def test_lazy_and_endless(job: Job) -> None:
    taken = 0

    def endless() -> Iterator[list[str]]:
        nonlocal taken
        for number in itertools.count():
            taken = number + 1
            yield ["true"]

    with job.map(endless(), concurrency=3) as results:
        for given, _ in enumerate(results, 1):
            assert taken - given <= 6
            if given == 50:
                break
    assert job.pids() == []


def test_options_of_each_command(job: Job, tmp_path: Path) -> None:
    commands = [
        Command(["cat"], input=b"fed"),
        Command(["pwd"], cwd=tmp_path),
        Command(["sh", "-c", "echo $X"], env={"X": "own"}),
        Command(["sleep", "300"], timeout=0.1),
        Command(["sh", "-c", "echo $X"], text=True),
    ]
    done = list(job.map(commands, concurrency=2, ordered=True, env={"X": "given", "PATH": "/usr/bin:/bin"}))
    assert [one.command for one in done] == commands
    assert (done[0].stdout, done[1].stdout) == (b"fed", str(tmp_path).encode() + b"\n")
    assert (done[2].stdout, done[4].stdout) == (b"own\n", "given\n")
    assert (done[3].timed_out, done[3].reason) == (True, Reason.TIMEOUT)


def test_output_that_is_no_text_is_one_commands_affair(job: Job) -> None:
    commands = [["printf", r"a\377b"], ["echo", "fine"]]
    done = list(job.map(commands, text=True, encoding="utf-8", ordered=True))
    assert [one.stdout for one in done] == ["a\\xffb", "fine\n"]
    with pytest.raises(UnicodeDecodeError):
        list(job.map(commands, encoding="utf-8", errors="strict"))
    assert job.pids() == []


def test_what_a_command_leaves_is_its_own(job: Job) -> None:
    commands = [["true"], ["sh", "-c", "setsid sleep 298 & exit 4"], ["sh", "-c", "exit 5"]] * 5
    for done in job.map(commands, concurrency=3, stdout=DEVNULL, stderr=DEVNULL):
        expected = [["sleep", "298"]] if done.returncode == 4 else []
        assert [left.args[-2:] for left in done.leftovers] == expected
    assert job.pids() == []
    with pytest.raises(LeftoverError):
        list(job.map(commands, concurrency=3, leftovers="error"))


def test_a_command_that_can_not_be_started_is_a_result(job: Job) -> None:
    done = list(job.map([["/nowhere"], ["true"], Command(["true"], cwd="/nowhere")], ordered=True))
    assert [one.reason for one in done] == [Reason.SPAWN_FAILED, Reason.EXITED, Reason.SPAWN_FAILED]
    assert [type(one.error) for one in done] == [FileNotFoundError, type(None), FileNotFoundError]
    assert done[0].returncode is None
    with pytest.raises(FileNotFoundError):
        done[0].check_returncode()


def test_check(job: Job) -> None:
    with pytest.raises(CalledProcessError):
        list(job.map([["sleep", "300"], ["false"]], concurrency=2, check=True))
    assert job.pids() == []
    with pytest.raises(TimeoutExpired):
        list(job.map([["sleep", "300"]] * 2, concurrency=2, check=True, timeout=0.1))
    with pytest.raises(FileNotFoundError):
        list(job.map([["/nowhere"]], check=True))


def test_leaving_it_kills_what_runs(job: Job) -> None:
    results = job.map([["true"], *[["sleep", "300"]] * 20], concurrency=4)
    assert next(results).returncode == 0
    assert job.pids() != []
    results.close()
    assert job.pids() == []
    with pytest.raises(StopIteration):
        next(results)
    # Dropping it does so too, without waiting.
    results = job.map([["true"], *[["sleep", "300"]] * 20], concurrency=4)
    next(results)
    del results
    job.wait(timeout=30)


def test_an_error_of_the_input_kills_what_runs(job: Job) -> None:
    def broken() -> Iterator[list[str]]:
        yield ["sleep", "300"]
        yield ["true"]
        raise LookupError("the list is broken")

    with pytest.raises(LookupError, match="broken"):
        list(job.map(broken(), concurrency=8))
    assert job.pids() == []
    with pytest.raises(ValueError, match="null byte"):
        list(job.map([["sleep", "300"], ["a\0b"]], concurrency=8))
    assert job.pids() == []


def test_several_at_once_from_threads(job: Job) -> None:
    counts: list[int] = []

    def work() -> None:
        done = job.map([[short_lived()]] * 200, concurrency=4)
        counts.append(sum(one.returncode == 0 for one in done))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [200] * 4


def test_in_a_nested_job(job: Job) -> None:
    with Job(parent=job) as nested:
        results = nested.map([["true"], *[["sleep", "300"]] * 3], concurrency=2)
        next(results)
        until(lambda: len(nested) == 2, "two run")
        assert sorted(nested.pids()) == sorted(job.pids())
        job.kill()
        # Its commands were killed by the outer job; the others are started and killed by close.
        results.close()
    assert job.pids() == []


@pytest.mark.usefixtures("containment")
def test_waits_for_processes_instead_of_failing() -> None:
    program("few_processes.py")
