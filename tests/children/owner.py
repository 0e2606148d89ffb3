"""owner.py HOW FILE [hold]: own a job with many kinds of members, tell their pids, then go as HOW says.

plain HOW: the same children by subprocess, without a job.
hold: another process holds a fork of the owner, with all that is open in it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
SLEEP = ["sleep", "300"]
COMMANDS = [
    *[SLEEP] * 5,
    *[["setsid", *SLEEP]] * 5,
    ["sh", "-c", "setsid sleep 300 & nohup sleep 300 >/dev/null 2>&1 & exit 0"],
]
EXPECTED = 13


def daemon(path: str) -> list[str]:
    return [sys.executable, "-S", "-E", str(HERE / "daemon.py"), path]


def read_when_there(path: Path) -> int:
    while not path.exists():
        time.sleep(0.005)
    return int(path.read_text())


def hold() -> int:
    """A fork of this process that keeps everything open and does nothing."""
    pid = os.fork()
    if pid == 0:
        while True:
            signal.pause()
    return pid


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def go(how: str) -> None:
    if how == "_exit":
        os._exit(7)
    if how == "abort":
        os.abort()
    if how == "segfault":
        ctypes.string_at(8)
    if how == "sys.exit":
        sys.exit(3)
    if how == "raise":
        raise RuntimeError("not caught")
    if how == "exec":
        os.execvp("sleep", SLEEP)
    if how == "stay":
        signal.pause()
    assert how == "return", how


def plain(how: str, path: Path) -> None:
    started = [subprocess.Popen(argv) for argv in [*COMMANDS, daemon(str(path))]]
    started[10].wait()
    found = read_when_there(path)
    say(daemon=found, members=[one.pid for one in started[:10]], holder=None)
    sys.stdin.readline()
    go(how)


def owned(how: str, path: Path, holding: bool) -> None:
    from fastjob import Job

    global job  # As a user's module would: alive until the interpreter ends.
    job = Job()
    job.spawn_many([*COMMANDS, daemon(str(path))])
    found = read_when_there(path)
    while len(members := job.pids()) != EXPECTED:
        time.sleep(0.005)
    say(daemon=found, members=members, holder=hold() if holding else None)
    sys.stdin.readline()
    go(how)


def main() -> None:
    how, path = sys.argv[1], Path(sys.argv[2])
    if how.startswith("plain "):
        plain(how.removeprefix("plain "), path)
    else:
        owned(how, path, "hold" in sys.argv[3:])


main()
