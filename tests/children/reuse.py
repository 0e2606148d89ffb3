"""reuse.py: first process of a pid namespace with few pids: churn until pids come again and again.

A bystander, who gets pids of the same small stock, counts the signals that reach it.
"""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

from fastjob import Job

PID_MAX = 450
ROUNDS = 100
THREADS = 5
HERE = Path(__file__).parent


def bystander() -> subprocess.Popen[bytes]:
    numbers = set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}
    names = [f"{one.name}=tell" for one in numbers if one < 32]
    program = [sys.executable, "-S", "-E", str(HERE / "signals.py"), *names]
    made = subprocess.Popen(program, stdout=subprocess.PIPE)
    assert made.stdout is not None
    assert made.stdout.readline() == b"ready\n"
    return made


def churn(job: Job, seed: int, seen: list[int]) -> None:
    chance = random.Random(seed)
    ended = []
    for _ in range(ROUNDS):
        made = job.spawn([sys.argv[1]] if chance.random() < 0.5 else ["sleep", "300"])
        seen.append(made.pid)
        chance.choice([made.kill, made.terminate, made.kill_tree])()
        made.wait(timeout=60)
        ended.append(made)
        # Whoever has its pid now is not it.
        chance.choice(ended).send_signal(signal.SIGTERM)
        chance.choice(ended).kill_tree()
        job.signal(signal.SIGUSR1)


def main() -> None:
    Path("/proc/sys/kernel/pid_max").write_text(str(PID_MAX))
    strangers = [bystander() for _ in range(5)]
    seen: list[int] = []
    failures: list[BaseException] = []

    def guarded(job: Job, seed: int) -> None:
        try:
            churn(job, seed, seen)
        except BaseException as error:
            failures.append(error)

    with Job() as job:
        threads = [threading.Thread(target=guarded, args=(job, seed)) for seed in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        job.kill()
    assert not failures, failures
    assert len(seen) == ROUNDS * THREADS
    assert len(set(seen)) < len(seen), "no pid came twice: nothing was tested"
    for stranger in strangers:
        assert stranger.poll() is None, stranger.returncode
        assert stranger.stdout is not None
        heard, _, _ = select.select([stranger.stdout], [], [], 0)
        assert not heard, os.read(stranger.stdout.fileno(), 100)
        stranger.kill()
        stranger.wait()


main()
