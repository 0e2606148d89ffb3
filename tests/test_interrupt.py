"""Guarantee 7: Ctrl-C reaches Python from any blocking call, reaches children once, and loses nobody."""

from __future__ import annotations

import os
import pty
import random
import signal
import subprocess
from collections.abc import Callable

import pytest

from support import Watch, all_gone, asleep, marked, owner, owner_environment, talking, until

CALLS = (
    "wait",
    "wait_timeout",
    "communicate",
    "communicate_timeout",
    "job_wait",
    "wait_any",
    "as_completed",
    "run",
    "run_capture",
    "map",
    "map_ordered",
    "terminate",
    "stop",
)


@pytest.mark.parametrize("call", CALLS)
def test_interrupts_a_blocking_call(call: str, mark: str, watch: Callable[[int], Watch]) -> None:
    with talking(owner("interrupt.py", call)) as talker:
        member = watch(talker.hear()["member"])
        until(lambda: asleep(talker.pid), "it waits")
        os.kill(talker.pid, signal.SIGINT)
        told = talker.hear()
        assert told["alive"]
        # What the interrupted call had started is gone; what the caller holds is not.
        assert told["members"] == [told["first"]]
        returncode, _ = talker.end()
        assert returncode in (130, -signal.SIGINT)
        assert all_gone([member]) == []
    until(lambda: marked(mark) == [], "nothing is left")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("how", ["spawn", "run", "many", "map"])
def test_interrupt_at_a_random_moment(how: str, seed: int, mark: str) -> None:
    chance = random.Random(seed)
    environment = owner_environment()
    process = subprocess.Popen(
        owner("interrupted_loop.py", how), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    with process:
        assert process.stdout is not None
        for _ in range(chance.randrange(1, 20)):
            process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT), told
    assert b"KeyboardInterrupt" in told
    until(lambda: marked(mark) == [], "nothing is left")


@pytest.mark.parametrize("interrupt", ["forward", "isolate"])
@pytest.mark.usefixtures("containment")
def test_terminal_interrupts_a_child_once_or_not_at_all(interrupt: str) -> None:
    rounds = 3
    master, terminal = pty.openpty()
    try:
        argv = owner("terminal.py", interrupt, rounds)
        with talking(argv, stdin=terminal, start_new_session=True) as talker:
            group = talker.hear()
            assert (group["group"] == group["own"]) == (interrupt == "forward")
            for _ in range(rounds):
                assert talker.hear() == {"waiting": True}
                os.write(master, b"\x03")
                expected = ["SIGINT"] if interrupt == "forward" else []
                assert talker.hear()["heard"] == expected
    finally:
        os.close(master)
        os.close(terminal)
