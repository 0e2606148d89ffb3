"""Guarantee 2: kill means dead, the report is true, and nobody else is signalled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from fastjob import CAPTURE, PIPE, Command, Containment, Job, KillFailed, KillReport, Process, Reason
from support import (
    PID_NAMESPACE,
    Talker,
    Watch,
    alive,
    child,
    compiled,
    marked,
    owner,
    owner_environment,
    program,
    short_lived,
    stat,
    talking,
    until,
)

Hold = Callable[[int], Watch]
SLEEP = ["sleep", "300"]
KILL = signal.SIGKILL


def treated(job: Job, *choices: str) -> Process:
    """A member that treats signals as chosen, once it does."""
    process = job.spawn(child("signals.py", *choices), stdout=CAPTURE)
    until(lambda: process.output == b"ready\n", "it is ready")
    return process


# --- the report -------------------------------------------------------------------------


def test_report_names_whom_it_killed(job: Job) -> None:
    made = job.spawn_many([SLEEP] * 10)
    report = job.kill()
    assert isinstance(report, KillReport)
    assert sorted(report.killed) == sorted(one.pid for one in made)
    assert report.already_gone == ()
    assert [one.returncode for one in made] == [-KILL] * 10
    assert {one.reason for one in made} == {Reason.KILLED}


def test_report_of_an_empty_job_is_empty(job: Job) -> None:
    assert job.spawn(["true"]).wait(timeout=30) == 0
    job.wait(timeout=30)
    report = job.kill()
    assert (report.killed, report.already_gone) == ((), ())


def test_wrapper_and_its_tree_are_dead(job: Job) -> None:
    """The wrapper's own children, and those of a middle process that has ended."""
    for script in (
        "sleep 300 & sleep 300 & wait",
        "(sh -c 'sleep 300 & exit 0'); sleep 300",
        "setsid sh -c 'sleep 300 & sleep 300' & sleep 300",
    ):
        job.spawn(["sh", "-c", script])
        until(lambda: sum(one.name == "sleep" for one in job.processes()) >= 2, "two sleep")
        members = job.pids()
        report = job.kill()
        # A shell may end by itself when what it waits for was killed before it.
        assert sorted({*report.killed, *report.already_gone}) == sorted(members)
        assert [stat(pid) for pid in members] == [None] * len(members)
        assert job.pids() == []


def test_control_kill_of_the_wrapper_leaves_its_tree(watch: Hold) -> None:
    wrapper = subprocess.Popen(["sh", "-c", "sleep 300 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
    assert wrapper.stdout is not None
    held = watch(int(wrapper.stdout.readline()))
    wrapper.kill()
    wrapper.wait()
    wrapper.stdout.close()
    assert held.alive
    held.kill()


def test_job_stays_usable_after_kill(job: Job) -> None:
    for _ in range(20):
        process = job.spawn(SLEEP)
        assert job.kill().killed == (process.pid,)
        assert job.run(["sh", "-c", "exit 3"]).returncode == 3


def test_kill_is_complete_while_others_spawn(job: Job, mark: str) -> None:
    made: list[Process] = []
    stop = threading.Event()

    def spawn() -> None:
        while not stop.is_set():
            made.append(job.spawn(["sh", "-c", "setsid sleep 300 & exec sleep 300"]))

    threads = [threading.Thread(target=spawn) for _ in range(2)]
    for thread in threads:
        thread.start()
    for count in range(10, 60, 10):
        until(lambda count=count: len(made) >= count, "members")
        known = list(made)
        job.kill()
        # Those that were there when it was called; later ones may live.
        assert [one.returncode for one in known] == [-KILL] * len(known)
    stop.set()
    for thread in threads:
        thread.join()
    job.kill()
    assert marked(mark) == []


def test_killed_tree_of_one_process_only(job: Job) -> None:
    script = "sleep 300 & setsid sleep 300 & wait"
    first, second = job.spawn_many([["sh", "-c", script]] * 2)
    until(lambda: len(job) == 6, "both trees")
    ended = first.kill_tree()
    assert first.pid in ended
    assert first.wait(timeout=30) == -KILL
    until(lambda: len(job) == 3, "the other tree is whole")
    assert second.poll() is None


# --- it wins ----------------------------------------------------------------------------


def test_fork_bomb_is_bounded_and_dies(job: Job, mark: str) -> None:
    """500 processes that fork again for each that dies; a user of their own holds them at that."""
    program = [compiled("bomb"), "tree", "500", "30"]
    bomb = job.spawn(program, stdout=PIPE, user=50_000 + os.getpid() % 10_000)
    assert bomb.stdout is not None
    assert bomb.stdout.readline() == b"ready\n"
    bomb.stdout.close()
    report = job.kill()
    assert len(report.killed) > 100
    assert job.pids() == []
    assert marked(mark) == []


def test_chain_forkers_die(job: Job, mark: str) -> None:
    """No list of pids is ever true of them: each is gone, its successor there, when it is read."""
    for _ in range(2):
        bomb = job.spawn([compiled("bomb"), "chain", "20", "60"], stdout=PIPE)
        assert bomb.stdout is not None
        assert bomb.stdout.readline() == b"ready\n"
        bomb.stdout.close()
        job.kill()
        assert job.pids() == []
        assert marked(mark) == []


# --- nobody else ------------------------------------------------------------------------

# SIGCHLD is the kernel's own affair.
CATCHABLE = [one.name for one in signal.Signals if one not in (KILL, signal.SIGSTOP, signal.SIGCHLD)]


@pytest.fixture
def bystander(mark: str) -> Iterator[Talker]:
    """Not a member, but in the owner's process group and session, and it tells every signal."""
    names = [f"{name}=tell" for name in CATCHABLE if signal.Signals[name] < 32]
    argv = child("signals.py", *names)
    process = subprocess.Popen(argv, stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
        assert process.poll() is None
        # Had it received one before this one, it would tell that first.
        process.send_signal(signal.SIGUSR2)
        assert process.stdout.readline() == b"SIGUSR2\n"
        process.kill()


def test_bystander_in_our_group_is_left_alone(job: Job, bystander: Talker) -> None:
    job.spawn_many([SLEEP] * 3)
    job.suspend()
    job.resume()
    job.signal(signal.SIGURG)
    job.terminate(grace=30)
    job.spawn_many([SLEEP] * 3)
    job.stop([(signal.SIGINT, 30)])
    job.spawn_many([["setsid", *SLEEP]] * 3)
    job.kill()
    with Job() as other:
        other.spawn(SLEEP)


def test_pid_reuse_does_not_hit_a_stranger(job: Job) -> None:
    """After a member's end its pid goes to a process that has nothing to do with us."""
    keeper = job.spawn(SLEEP)
    for argv in (["true"], SLEEP):
        ended = job.spawn(argv)
        if argv is SLEEP:
            ended.kill()
        ended.wait(timeout=30)
        until(lambda ended=ended: stat(ended.pid) is None, "it is reaped")
        with subprocess.Popen(
            [compiled("stranger"), str(ended.pid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as parent:
            assert parent.stdout is not None
            assert parent.stdin is not None
            assert parent.stdout.readline() == b"ready\n"
            assert alive(ended.pid)
            assert ended.pid not in job
            assert job.pids() == [keeper.pid]
            ended.send_signal(signal.SIGTERM)
            ended.terminate()
            ended.kill()
            ended.kill_tree()
            assert job.signal(signal.SIGURG) == [keeper.pid]
            job.suspend()
            job.resume()
            assert alive(ended.pid)
            # The end of its input ends it, with 0 if nothing else has; all it received is told.
            assert parent.communicate(timeout=30)[0] == b""
            assert parent.returncode == 0
    assert job.kill().killed == (keeper.pid,)


def test_pid_reuse_in_a_small_namespace(containment: Containment) -> None:
    """5 threads churn through 150 pids; bystanders count what reaches them."""
    program("reuse.py", short_lived(), prefix=PID_NAMESPACE)


# --- what can't be killed is named ------------------------------------------------------


def test_kill_failed_names_who_survived(monkeypatch: pytest.MonkeyPatch, watch: Hold) -> None:
    """Root without CAP_KILL may not signal another user's process (man 7 capabilities)."""
    # cgroup.kill asks for no permission beyond that of the file.
    monkeypatch.setenv("FASTJOB_DISABLE", "cgroup")
    with talking(child("without_kill.py", *owner("unkillable.py"))) as talker:
        told = talker.hear()
        other = watch(told["other"])
        assert told.get("survivors") == [[told["other"], ["sleep", "299"]]], told
        assert str(told["other"]) in told["text"]
        assert "sleep 299" in told["text"] or "sleep" in told["text"]
        assert told["mine"] == -KILL
        assert told["returncode"] is None
        assert told["members"] == [told["other"]]
        other.kill()
        talker.say()
        assert talker.hear() == {"killed": [], "returncode": -KILL}
        assert talker.end()[0] == 0


def test_kill_failed_is_a_job_error() -> None:
    assert issubclass(KillFailed, Exception)
    assert KillFailed.__mro__[1].__name__ == "JobError"


# --- ladders ----------------------------------------------------------------------------


def test_stop_tells_which_rung_ended_whom(job: Job) -> None:
    polite = treated(job, "SIGINT=default")
    slow = treated(job, "SIGINT=ignore", "SIGTERM=default")
    deaf = treated(job, "setsid", "SIGINT=ignore", "SIGTERM=ignore")
    report = job.stop([(signal.SIGINT, 1.0), (signal.SIGTERM, 1.0)])
    rungs = {number: sorted(pids) for number, pids in report.rungs if pids}
    assert rungs == {
        signal.SIGINT: [polite.pid],
        signal.SIGTERM: [slow.pid],
        signal.SIGKILL: [deaf.pid],
    }
    assert [one.returncode for one in (polite, slow, deaf)] == [
        -signal.SIGINT,
        -signal.SIGTERM,
        -KILL,
    ]
    assert sorted(report.killed) == sorted([polite.pid, slow.pid, deaf.pid])


def test_rung_ends_early_when_the_job_is_empty(job: Job) -> None:
    """The grace is far longer than a test may take."""
    processes = [treated(job, "SIGTERM=default") for _ in range(3)]
    report = job.terminate(grace=1000)
    assert [one.returncode for one in processes] == [-signal.SIGTERM] * 3
    rungs = {number: sorted(pids) for number, pids in report.rungs if pids}
    assert rungs == {signal.SIGTERM: sorted(one.pid for one in processes)}


def test_member_that_ends_by_itself_on_a_rung_is_of_that_rung(job: Job) -> None:
    process = job.spawn(
        ["sh", "-c", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done"], stdout=CAPTURE
    )
    until(lambda: process.output == b"ready\n", "trap set")
    report = job.stop([(signal.SIGTERM, 100)])
    assert process.returncode == 3
    assert process.pid in dict(report.rungs)[signal.SIGTERM]


def test_terminate_kills_the_deaf(job: Job) -> None:
    deaf = treated(job, "SIGTERM=ignore")
    report = job.terminate(grace=0.1)
    assert deaf.returncode == -KILL
    assert report.killed == (deaf.pid,)


def test_ladder_reaches_what_a_rung_started(job: Job) -> None:
    """A handler that starts a process: it is a member, and the last rung ends it."""
    script = "trap 'setsid sleep 300 & exit 0' TERM; echo ready; while :; do sleep 0.01; done"
    process = job.spawn(["sh", "-c", script], stdout=CAPTURE)
    until(lambda: process.output == b"ready\n", "trap set")
    job.stop([(signal.SIGTERM, 0.5)])
    assert process.returncode == 0
    assert job.pids() == []


def test_bad_ladders_are_refused(job: Job) -> None:
    process = job.spawn(SLEEP)
    for ladder in ([(1000, 1.0)], [(signal.SIGTERM, -1.0)], [(signal.SIGTERM,)], "abc"):
        with pytest.raises((TypeError, ValueError)):
            job.stop(ladder)
    assert process.poll() is None


# --- signals ----------------------------------------------------------------------------


def test_signal_reaches_every_member(job: Job) -> None:
    made = [treated(job, "SIGUSR1=tell"), treated(job, "setsid", "SIGUSR1=tell")]
    assert sorted(job.signal(signal.SIGUSR1)) == sorted(one.pid for one in made)
    for one in made:
        until(lambda one=one: one.output == b"ready\nSIGUSR1\n", f"{one.output!r}")
    assert job.signal(0) == job.pids() or sorted(job.signal(0)) == sorted(job.pids())


def test_bad_signals_are_refused(job: Job) -> None:
    process = job.spawn(SLEEP)
    for number in (-1, 65, 1000):
        with pytest.raises(ValueError):
            job.signal(number)
        with pytest.raises((ValueError, OSError)):
            process.send_signal(number)
    assert process.poll() is None


def test_signal_after_the_end_is_no_error(job: Job) -> None:
    process = job.spawn(["true"])
    process.wait(timeout=30)
    process.send_signal(signal.SIGTERM)
    process.terminate()
    process.kill()
    assert process.kill_tree() == []
    assert process.returncode == 0


def test_suspend_stops_the_tree_and_resume_lets_it_go_on(job: Job) -> None:
    script = "setsid cat <&3 >&4 & wait"
    inner_read, inner_write = os.pipe()
    outer_read, outer_write = os.pipe()
    ends = [
        os.fdopen(fd, mode, buffering=0)
        for fd, mode in ((inner_read, "rb"), (inner_write, "wb"), (outer_read, "rb"), (outer_write, "wb"))
    ]
    argv = [
        *[sys.executable, "-S", "-E", "-c"],
        "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); "
        f"os.execvp('sh', ['sh', '-c', {script!r}])",
        *[str(inner_read), str(outer_write)],
    ]
    job.spawn(argv, pass_fds=[inner_read, outer_write])
    inner, outer = ends[1], ends[2]
    inner.write(b"one")
    assert outer.read(3) == b"one"
    job.suspend()
    inner.write(b"two")
    os.set_blocking(outer_read, False)
    # Others run a while; this one does not answer.
    with Job() as other:
        assert other.run(["sh", "-c", "sleep 0.2"]).returncode == 0
    assert outer.read(3) is None
    job.resume()
    os.set_blocking(outer_read, True)
    assert outer.read(3) == b"two"
    job.kill()
    for end in ends:
        end.close()


def test_suspended_job_can_be_killed(job: Job) -> None:
    made = job.spawn_many([SLEEP] * 3)
    job.suspend()
    assert len(job.kill().killed) == 3
    assert [one.returncode for one in made] == [-KILL] * 3
    assert job.run(["true"]).returncode == 0


def test_suspended_job_can_be_closed(containment: Containment, watch: Hold) -> None:
    with Job() as job:
        held = watch(job.spawn(SLEEP).pid)
        job.suspend()
    assert not held.alive


# --- nested jobs ------------------------------------------------------------------------

TREE = ["sh", "-c", "setsid sleep 300 & exec sleep 300"]


@pytest.fixture
def levels(job: Job) -> Iterator[list[Job]]:
    """Three levels, with a second job beside the middle one; two members each."""
    middle = Job(parent=job)
    inner = Job(parent=middle)
    beside = Job(parent=job)
    made = [job, middle, inner, beside]
    for one in made:
        one.spawn(TREE)
        until(lambda one=one: sum(p.name == "sleep" for p in one.processes()) == made_by(one), "")
    yield made
    for one in reversed(made):
        one.close()


def made_by(one: Job) -> int:
    """Sleeping members when the fixture has just started this one's: nothing is below it yet."""
    return 2


def test_members_of_nested_jobs_are_members_of_both(levels: list[Job]) -> None:
    outer, middle, inner, beside = (set(one.pids()) for one in levels)
    assert [len(one) for one in (outer, middle, inner, beside)] == [8, 4, 2, 2]
    assert inner < middle < outer
    assert beside < outer
    assert not beside & middle
    for pid in inner:
        assert all(pid in one for one in levels[:3])
        assert pid not in levels[3]


def test_killing_the_middle_spares_what_is_beside(levels: list[Job]) -> None:
    outer, middle, inner, beside = levels
    below = middle.pids()
    others = set(outer.pids()) - set(below)
    report = middle.kill()
    assert sorted(report.killed) == sorted(below)
    assert middle.pids() == []
    assert inner.pids() == []
    assert set(outer.pids()) == others
    assert len(beside) == 2
    middle.spawn(SLEEP)
    assert len(outer) == 5
    inner.spawn(SLEEP)
    assert len(middle) == 2


def test_killing_the_outermost_takes_all(levels: list[Job], mark: str) -> None:
    everyone = levels[0].pids()
    assert sorted(levels[0].kill().killed) == sorted(everyone)
    assert [one.pids() for one in levels] == [[]] * 4
    assert marked(mark) == []


def test_closing_the_outermost_takes_all(levels: list[Job], mark: str) -> None:
    levels[0].close()
    assert marked(mark) == []
    assert levels[0].closed


def test_orphan_of_the_middle_job_stays_there(levels: list[Job]) -> None:
    """It is adopted by its own job's supervisor, not by that above."""
    outer, middle, inner, beside = levels
    process = inner.spawn(["sh", "-c", "setsid sleep 300 & exit 0"])
    process.wait(timeout=30)
    assert len(inner) == 3
    assert len(outer) == 9
    inner.kill()
    assert len(middle) == 2
    assert len(beside) == 2


def test_report_is_data(job: Job) -> None:
    process = job.spawn(SLEEP)
    report = job.kill()
    told = json.dumps({"killed": report.killed, "gone": report.already_gone})
    assert json.loads(told) == {"killed": [process.pid], "gone": []}
    with pytest.raises(AttributeError):
        report.killed = ()  # type: ignore[misc]
    assert Command(SLEEP) is not None


@pytest.fixture(autouse=True)
def _environment() -> None:
    # Programs are started with it by several tests; asked once so that a failure is early.
    assert owner_environment()["PYTHONPATH"]
