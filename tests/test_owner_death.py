"""Guarantee 3: whatever becomes of the owner, the supervisor or the guard, no member is left."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support import Watch, all_gone, guard_of, job_cgroups, marked, owner, supervisor_of, talking, until

Hold = Callable[[int], Watch]
WAYS = ("kill", "_exit", "abort", "segfault", "sys.exit", "raise", "return", "exec")
EXPECTED = 13


# With "hold" a fork of the owner has all that is open in it. When the owner becomes another program
# meanwhile, the fork's handle to the job is one that has not gone away.
@pytest.mark.parametrize(
    ("how", "hold"), [(how, hold) for how in WAYS for hold in ("", "hold") if (how, hold) != ("exec", "hold")]
)
@pytest.mark.usefixtures("containment")
def test_members_die_with_the_owner(how: str, hold: str, tmp_path: Path, mark: str, watch: Hold) -> None:
    mode = "stay" if how == "kill" else how
    with talking(owner("owner.py", mode, tmp_path / "daemon", *filter(None, [hold]))) as talker:
        facts = talker.hear()
        assert len(facts["members"]) == EXPECTED
        watches = [watch(pid) for pid in facts["members"]]
        if how == "kill":
            os.kill(talker.pid, signal.SIGKILL)
        else:
            talker.say()
        if how != "exec":
            talker.process.wait(timeout=30)
        assert all_gone(watches) == []
        if facts["holder"]:
            os.kill(facts["holder"], signal.SIGKILL)
    until(lambda: marked(mark) == [], "nothing carries the mark")


def test_control_children_outlive_a_killed_owner(tmp_path: Path, watch: Hold) -> None:
    with talking(owner("owner.py", "plain stay", tmp_path / "daemon")) as talker:
        facts = talker.hear()
        watches = [watch(pid) for pid in [*facts["members"], facts["daemon"]]]
        os.kill(talker.pid, signal.SIGKILL)
        talker.process.wait(timeout=30)
        assert all(one.alive for one in watches)
        for one in watches:
            one.kill()
        for pid in marked(os.environ["FJMARK"]):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("victim", ["owner", "supervisor", "guard then owner"])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.usefixtures("containment")
def test_kill_at_a_random_moment(victim: str, seed: int, mark: str) -> None:
    chance = random.Random(seed)
    with talking(owner("busy_owner.py")) as talker:
        for _ in range(chance.randrange(1, 30)):
            member = talker.hear()["member"]
        supervisor, guard = supervisor_of(member), guard_of(member)
        time.sleep(chance.random() / 100)
        if victim == "supervisor":
            os.kill(supervisor, signal.SIGKILL)
            # The owner is told, by whatever it waits in.
            told: dict[str, object] = {}
            while "error" not in told:
                told = talker.hear()
            assert told["type"] == "JobError"
            assert "supervisor" in str(told["error"])
            until(lambda: [pid for pid in marked(mark) if pid != talker.pid] == [], "members are dead")
        elif victim == "guard then owner":
            os.kill(guard, signal.SIGKILL)
            os.kill(talker.pid, signal.SIGKILL)
        else:
            os.kill(talker.pid, signal.SIGKILL)
    until(lambda: marked(mark) == [], "nothing carries the mark")
    until(
        lambda: not [group for group in job_cgroups() if str(talker.pid) in group.name], "no cgroup is left"
    )


def test_supervisor_and_guard_killed_at_once(mark: str) -> None:
    """Then only the cgroup knows the members: the owner kills that, and removes it."""
    with talking(owner("busy_owner.py")) as talker:
        member = talker.hear()["member"]
        supervisor, guard = supervisor_of(member), guard_of(member)
        os.kill(guard, signal.SIGKILL)
        os.kill(supervisor, signal.SIGKILL)
        until(lambda: [pid for pid in marked(mark) if pid != talker.pid] == [], "members are dead")
        until(
            lambda: not [group for group in job_cgroups() if str(talker.pid) in group.name],
            "no cgroup is left",
        )
    until(lambda: marked(mark) == [], "nothing carries the mark")
