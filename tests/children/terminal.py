"""terminal.py forward|isolate: a harness on a terminal of its own (standard input), with a child that counts.

After each ^C it asks the child by SIGUSR1 to say what it has received so far. Twice: a handler that has begun
may be overtaken by the next one before it says anything.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
from pathlib import Path

from fastjob import Job, Process

COUNTER = [
    *[sys.executable, "-S", "-E", str(Path(__file__).parent / "signals.py")],
    *["SIGINT=tell", "SIGUSR1=tell"],
]


def say(**facts: object) -> None:
    os.write(1, json.dumps(facts).encode() + b"\n")


def ask(process: Process) -> list[str]:
    """What it has received, up to our own signal."""
    process.send_signal(signal.SIGUSR1)
    assert process.stdout is not None
    heard = []
    while (line := process.stdout.readline().decode().strip()) != "SIGUSR1":
        heard.append(line)
    return heard


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    with Job(interrupt=sys.argv[1]) as job:
        process = job.spawn(COUNTER, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        say(group=os.getpgid(process.pid), own=os.getpgrp(), member=process.pid)
        for _ in range(int(sys.argv[2])):
            try:
                say(waiting=True)
                job.wait()
            except KeyboardInterrupt:
                heard = [*ask(process), *ask(process)]
                say(heard=heard)
        job.wait()


main()
