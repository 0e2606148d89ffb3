"""Fixtures and checks that every test runs under."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import sys
import uuid
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

import platforms
import support
from fastjob import Containment, Job

TEST_LIMIT = 120.0
SETTLE = 10.0

# --- skips: only those of the table -----------------------------------------------------


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


def _refuse(report: Any, test: str) -> None:
    if report.skipped and not platforms.allowed(test, _reason(report)):
        report.outcome = "failed"
        report.longrepr = f"{test}: a skip that tests/platforms.py does not list: {_reason(report)}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse(report, item.nodeid)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse(report, collector.nodeid)
    return report


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    timeouts = config.pluginmanager.hasplugin("timeout")
    for item in items:
        for row in platforms.skips(item.nodeid):
            item.add_marker(pytest.mark.skip(reason=row.reason))
        if timeouts and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TEST_LIMIT))


# --- a hung test shows where, and ends the run ------------------------------------------

_stderr = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    # Capturing is off at this moment: descriptor 2 is the real one.
    config.stash[_stderr] = os.dup(2)


def pytest_unconfigure(config: pytest.Config) -> None:
    os.close(config.stash[_stderr])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    # The last resort also where pytest-timeout is there: later than that, and without help
    # from the interpreter.
    grace = 60.0 if item.config.pluginmanager.hasplugin("timeout") else 0.0
    faulthandler.dump_traceback_later(TEST_LIMIT + grace, exit=True, file=item.config.stash[_stderr])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


# --- nothing may be left after a test ---------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def _warm() -> None:
    """What fastjob opens once for the life of the process is no leak of the first test."""
    before = os.environ.get("FASTJOB_DISABLE")
    try:
        for disabled in ("", "cgroup"):
            os.environ["FASTJOB_DISABLE"] = disabled
            with Job() as job:
                job.run(["true"], capture_output=True)
    finally:
        if before is None:
            del os.environ["FASTJOB_DISABLE"]
        else:
            os.environ["FASTJOB_DISABLE"] = before


class _Snapshot:
    """What was there before a test, and what a test left."""

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self.helpers = {(one.pid, one.start) for one in self._helpers()}
        self.children = self._children()
        self.descriptors = support.descriptors()
        self.cgroups = support.job_cgroups()

    @staticmethod
    def _helpers() -> list[support.Stat]:
        # Another run of the tests on this machine, or another user of the package, has its own, in a
        # session of its own or with an owner of its own.
        session = os.getsid(0)
        return [
            one
            for one in support.everything()
            # A dead guard is init's to collect, which takes its time on some machines.
            if support.ours(one) and one.session == session and one.state != "Z"
            if not support.somebody_elses(support.helper_owner(one.pid))
        ]

    @staticmethod
    def _children() -> set[int]:
        return {one.pid for one in support.everything() if one.ppid == os.getpid()}

    def _new_helpers(self) -> list[support.Stat]:
        """Those that no job which was open before the test accounts for."""
        open_before = {pid for pid, _ in self.helpers}
        return [
            one
            for one in self._helpers()
            if (one.pid, one.start) not in self.helpers
            and not any(above.pid in open_before for above in support.helpers_above(one.pid))
        ]

    def left(self) -> list[str]:
        found = [f"process {pid} {support.command_line(pid)}" for pid in support.marked(self.mark)]
        found += [f"helper {one}" for one in self._new_helpers()]
        found += [f"child of this process {support.stat(pid)}" for pid in self._children() - self.children]
        found += [
            f"descriptor {fd} -> {target}"
            for fd, target in support.descriptors().items()
            if self.descriptors.get(fd) != target and fd not in self.descriptors
        ]
        found += [
            f"control group {group}"
            for group in support.job_cgroups() - self.cgroups
            if not support.somebody_elses(support.cgroup_owner(group)) and not support.populated(group)
        ]
        return found


@pytest.fixture(autouse=True)
def mark(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The mark that everything started by the test carries; nothing of it may be left."""
    value = uuid.uuid4().hex
    before = _Snapshot(value)
    monkeypatch.setenv(support.MARK, value)
    yield value
    gc.collect()
    support.settled(lambda: not before.left(), SETTLE)
    left = before.left()
    for pid in support.marked(value):
        with contextlib.suppress(ProcessLookupError):
            watch = support.Watch(pid)
            watch.kill()
            watch.close()
    assert not left, "left behind:\n  " + "\n  ".join(left)


@pytest.fixture
def watch() -> Iterator[Callable[[int], support.Watch]]:
    """Hold processes by pidfd; those still alive at the end are killed, and fail the test."""
    held: list[support.Watch] = []

    def hold(pid: int) -> support.Watch:
        held.append(support.Watch(pid))
        return held[-1]

    yield hold
    alive = [one.pid for one in held if not one.wait(SETTLE)]
    for one in held:
        if one.alive:
            one.kill()
        one.close()
    assert not alive, f"still alive: {alive}"


# --- jobs -------------------------------------------------------------------------------


@pytest.fixture(params=["cgroup", "subreaper"])
def containment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Containment:
    """Both mechanisms in turn, also for the programs that the test starts."""
    disabled = {"cgroup": "", "subreaper": "cgroup"}[request.param]
    monkeypatch.setenv("FASTJOB_DISABLE", disabled)
    return Containment[request.param.upper()]


@pytest.fixture
def job(containment: Containment) -> Iterator[Job]:
    with Job() as made:
        assert made.containment is containment, made.containment_reason
        yield made


@pytest.fixture
def python() -> str:
    return sys.executable
