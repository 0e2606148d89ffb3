"""busy_owner.py [hold]: spawn small trees one after another, tell of each, then wait for the job.

A line on standard input ends it; an error of the job is told.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading

from fastjob import Job, JobError

TREES = 40


def say(**facts: object) -> None:
    os.write(1, json.dumps(facts).encode() + b"\n")


def main() -> None:
    holder = 0
    job = Job()
    job.spawn(["sleep", "300"])
    if "hold" in sys.argv[1:]:
        holder = os.fork()
        if holder == 0:
            while True:
                signal.pause()
    threading.Thread(target=lambda: (sys.stdin.readline(), os._exit(0)), daemon=True).start()
    try:
        for number in range(TREES):
            made = job.spawn(["sh", "-c", "setsid sleep 300 & exec sleep 300"])
            say(spawned=number, member=made.pid, holder=holder)
        job.wait()
    except JobError as error:
        say(error=str(error), type=type(error).__name__)
    sys.stdin.readline()


main()
