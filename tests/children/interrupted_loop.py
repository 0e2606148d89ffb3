"""interrupted_loop.py: the harness whose user presses ^C at any moment around spawn, run, map and wait."""

from __future__ import annotations

import os
import signal
import sys

from fastjob import Job

TREE = ["sh", "-c", "setsid sleep 300 & sleep 300"]


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    how = sys.argv[1]
    with Job() as job:
        for number in range(100_000):
            # The line says only that it is under way; it is written before the work.
            os.write(1, f"{number}\n".encode())
            if how == "spawn":
                job.spawn(TREE).kill_tree()
            elif how == "run":
                job.run(["sh", "-c", "setsid sleep 300 & exit 0"], capture_output=True)
            elif how == "many":
                for process in job.spawn_many([TREE] * 5):
                    process.kill_tree()
            else:
                for _ in job.map([["sh", "-c", "setsid sleep 300 & exit 0"]] * 8, concurrency=4):
                    pass


main()
