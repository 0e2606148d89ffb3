"""interrupt.py CALL: block in CALL until ^C, tell what is true when Python has it, and end as Python does."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fastjob import CAPTURE, Job, Process

SLEEP = ["sleep", "300"]
STUBBORN = [
    *[sys.executable, "-S", "-E", str(Path(__file__).parent / "signals.py")],
    *["SIGTERM=ignore", "SIGINT=ignore"],
]


def say(**facts: object) -> None:
    os.write(1, json.dumps(facts).encode() + b"\n")


def calls(job: Job, process: Process) -> dict[str, Callable[[], object]]:
    return {
        "wait": process.wait,
        "wait_timeout": lambda: process.wait(timeout=200),
        "communicate": process.communicate,
        "communicate_timeout": lambda: process.communicate(timeout=200),
        "job_wait": job.wait,
        "wait_any": lambda: job.wait_any([process]),
        "as_completed": lambda: list(job.as_completed([process])),
        "run": lambda: job.run(SLEEP),
        "run_capture": lambda: job.run(SLEEP, capture_output=True, timeout=200),
        "map": lambda: list(job.map([SLEEP] * 10, concurrency=3)),
        "map_ordered": lambda: list(job.map([SLEEP] * 3, concurrency=3, ordered=True)),
        "terminate": lambda: job.terminate(grace=200),
        "stop": lambda: job.stop([(signal.SIGINT, 100), (signal.SIGTERM, 100)]),
    }


def main() -> None:
    # A shell that runs us in the background would have it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with Job() as job:
        process = job.spawn(STUBBORN, stdout=CAPTURE)
        while process.output != b"ready\n":
            time.sleep(0.005)
        call = calls(job, process)[sys.argv[1]]
        say(ready=True, member=process.pid)
        try:
            call()
        except KeyboardInterrupt:
            at = time.monotonic()
            say(at=at, alive=process.poll() is None, members=job.pids(), first=process.pid)
            raise
        say(returned=True)


main()
