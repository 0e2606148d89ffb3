"""Properties that hold for any input and any order of calls."""

from __future__ import annotations

import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from fastjob import CAPTURE, Job, Process, TimeoutExpired
from support import alive, until

few = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
texts = st.binary(max_size=40).map(lambda text: text.replace(b"\0", b""))
names = texts.map(lambda text: text.replace(b"=", b"")).filter(bool)

SHOW_ARGUMENTS = [
    *[sys.executable, "-S", "-E", "-c"],
    "import os, sys; os.write(1, b'\\0'.join(map(os.fsencode, sys.argv[1:])))",
]
SHOW_ENVIRONMENT = ["/usr/bin/env", "-0"]


@pytest.fixture(scope="module")
def shared():  # type: ignore[no-untyped-def]
    with Job() as job:
        # What it keeps open for all its children is there before the first test.
        job.run(["true"])
        yield job


@few
@given(arguments=st.lists(texts, min_size=1, max_size=8))
def test_arguments_arrive_byte_for_byte(shared: Job, arguments: list[bytes]) -> None:
    done = shared.run([*SHOW_ARGUMENTS, *arguments], stdout=CAPTURE)
    assert done.stdout == b"\0".join(arguments)


@few
@given(environment=st.dictionaries(names, texts, max_size=8))
def test_the_environment_arrives_byte_for_byte(shared: Job, environment: dict[bytes, bytes]) -> None:
    done = shared.run(SHOW_ENVIRONMENT, env=environment, stdout=CAPTURE)
    found = dict(entry.split(b"=", 1) for entry in done.stdout.split(b"\0") if entry)
    assert found == environment


@few
@given(timeout=st.one_of(st.floats(allow_nan=False), st.integers(-(10**12), 10**12)))
def test_any_timeout_ends_or_waits(shared: Job, timeout: float) -> None:
    process = shared.spawn(["true"])
    if timeout < 5:
        try:
            assert process.wait(timeout=max(timeout, 0)) == 0
        except TimeoutExpired:
            pass
    assert process.wait(timeout=max(timeout, 30)) == 0


class JobMachine(RuleBasedStateMachine):
    """Who is alive after any calls in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.job = Job()
        self.processes: list[Process] = []
        self.orphans: list[int] = []

    def running(self) -> list[Process]:
        return [process for process in self.processes if process.returncode is None]

    @rule()
    def spawn(self) -> None:
        self.processes.append(self.job.spawn(["sleep", "300"]))

    @rule(count=st.integers(0, 5))
    def spawn_many(self, count: int) -> None:
        self.processes += self.job.spawn_many([["sleep", "300"]] * count)

    @rule()
    def fork_and_leave(self) -> None:
        process = self.job.spawn(["sh", "-c", "setsid sleep 300 >&- & echo $!"], stdout=CAPTURE)
        process.wait()
        until(lambda: process.output.endswith(b"\n"), "the orphan tells its pid")
        self.orphans.append(int(process.output))

    @rule(code=st.integers(0, 255))
    def run(self, code: int) -> None:
        done = self.job.run(["sh", "-c", f"sleep 300 & exit {code}"])
        assert (done.returncode, len(done.leftovers)) == (code, 1)

    @precondition(lambda self: self.running())
    @rule(data=st.data())
    def kill_one(self, data: st.DataObject) -> None:
        process = data.draw(st.sampled_from(self.running()))
        data.draw(st.sampled_from([process.kill, process.terminate, process.kill_tree]))()
        assert process.wait(timeout=30) < 0

    @rule()
    def kill_all(self) -> None:
        expected = {*self.orphans, *(process.pid for process in self.running())}
        assert set(self.job.kill().killed) == expected
        self.orphans.clear()

    @rule()
    def suspend_and_resume(self) -> None:
        self.job.suspend()
        self.job.resume()

    @rule()
    def reopen(self) -> None:
        running = self.running()
        self.job.close()
        assert [process.returncode for process in running] == [-9] * len(running)
        assert not any(alive(pid) for pid in self.orphans)
        self.orphans.clear()
        self.processes.clear()
        self.job = Job()

    @invariant()
    def members_are_those_alive(self) -> None:
        expected = {*self.orphans, *(process.pid for process in self.running())}
        assert set(self.job.pids()) == expected

    def teardown(self) -> None:
        self.job.close()
        assert not any(alive(pid) for pid in self.orphans)


@pytest.mark.usefixtures("containment")
def test_any_calls_in_any_order() -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        JobMachine,
        settings=settings(
            max_examples=15, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
