"""What the tests share: facts about processes, and waiting for facts with a deadline."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

HERE = Path(__file__).parent
CHILDREN = HERE / "children"
MARK = "FJMARK"
# Reached only by a failure: long enough for a slow machine under load.
DEADLINE = 30.0

T = TypeVar("T")


def settled(fact: Callable[[], T], deadline: float = DEADLINE) -> T:
    """Ask until the answer is true or the deadline is over; the last answer."""
    end = time.monotonic() + deadline
    pause = 0.001
    while True:
        answer = fact()
        if answer or time.monotonic() > end:
            return answer
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)


def until(fact: Callable[[], T], what: str, deadline: float = DEADLINE) -> T:
    """As `settled`, and a failure when it never came true."""
    answer = settled(fact, deadline)
    assert answer, f"not within {deadline} s: {what}"
    return answer


# --- processes, as the kernel lists them ------------------------------------------------


@dataclass(frozen=True)
class Stat:
    """The part of /proc/PID/stat that the tests ask for (man 5 proc)."""

    pid: int
    comm: str
    state: str
    ppid: int
    pgrp: int
    session: int
    start: int

    @property
    def alive(self) -> bool:
        return self.state not in "ZX"


def stat(pid: int) -> Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    head, _, rest = text.rpartition(")")
    fields = rest.split()
    return Stat(
        pid=pid,
        comm=head.partition("(")[2],
        state=fields[0],
        ppid=int(fields[1]),
        pgrp=int(fields[2]),
        session=int(fields[3]),
        start=int(fields[19]),
    )


def everything() -> list[Stat]:
    found = (stat(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [one for one in found if one is not None]


def alive(pid: int) -> bool:
    one = stat(pid)
    return one is not None and one.alive


def asleep(pid: int) -> bool:
    """Blocked in the kernel, not running: twice in a row, so not only between two instructions."""
    first, second = stat(pid), stat(pid)
    return first is not None and second is not None and first.state == second.state == "S"


def command_line(pid: int) -> list[str]:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [part.decode(errors="replace") for part in raw.split(b"\0")[:-1]]


def marked(mark: str) -> list[int]:
    """Living processes started with FJMARK=mark, this one aside; our own helpers are not members."""
    needle = f"{MARK}={mark}".encode()
    found = []
    for one in everything():
        if one.pid == os.getpid() or not one.alive or ours(one):
            continue
        with contextlib.suppress(OSError):
            if needle in Path(f"/proc/{one.pid}/environ").read_bytes().split(b"\0"):
                found.append(one.pid)
    return found


def ours(one: Stat) -> bool:
    return one.comm.startswith("fastjob-")


def helper_owner(pid: int) -> int:
    """The owner for whom a guard or supervisor works, as its command line says; 0 when it is gone."""
    line = command_line(pid)
    return int(line[4]) if len(line) > 4 else 0


def somebody_elses(owner: int) -> bool:
    """What a living process other than this one owns is not ours to judge."""
    return owner != os.getpid() and alive(owner)


def helpers_above(pid: int) -> list[Stat]:
    """The supervisors above a member and at last the guard, nearest first."""
    chain = []
    one = stat(pid)
    while one is not None and (above := stat(one.ppid)) is not None and ours(above):
        chain.append(above)
        one = above
    return chain


def supervisor_of(pid: int) -> int:
    chain = [one.pid for one in helpers_above(pid) if one.comm == "fastjob-super"]
    assert chain, f"no supervisor above {pid}: {stat(pid)}"
    return chain[0]


def guard_of(pid: int) -> int:
    chain = [one.pid for one in helpers_above(pid) if one.comm == "fastjob-guard"]
    assert chain, f"no guard above {pid}: {stat(pid)}"
    return chain[-1]


def descendants(root: int) -> set[int]:
    """What the usual recipe finds: the tree by parent pids, as it is now."""
    parents: dict[int, list[int]] = {}
    for one in everything():
        parents.setdefault(one.ppid, []).append(one.pid)
    found: set[int] = set()
    todo = [root]
    while todo:
        for pid in parents.get(todo.pop(), []):
            if pid not in found:
                found.add(pid)
                todo.append(pid)
    return found


def zombies(parent: int | None = None) -> list[Stat]:
    return [one for one in everything() if one.state == "Z" and parent in (None, one.ppid)]


def descriptors() -> dict[int, str]:
    table = {}
    for name in os.listdir("/proc/self/fd"):
        # The descriptor of this very listing is gone by now.
        with contextlib.suppress(FileNotFoundError):
            table[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return table


class Watch:
    """A process held by a pidfd: never confused with a later one of the same number."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = os.pidfd_open(pid)

    def wait(self, deadline: float = DEADLINE) -> bool:
        """Whether it has ended, within the deadline."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(deadline * 1000))

    @property
    def alive(self) -> bool:
        return not self.wait(0)

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        assert self.wait(), f"{self.pid} survived SIGKILL"

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def all_gone(watches: Iterable[Watch], deadline: float = DEADLINE) -> list[int]:
    """Those still alive when all had until the deadline."""
    end = time.monotonic() + deadline
    return [one.pid for one in watches if not one.wait(max(0.0, end - time.monotonic()))]


# --- programs that tests start ----------------------------------------------------------


def child(name: str, *args: object) -> list[str]:
    """A small program of tests/children that knows nothing of fastjob; -S -E start it quickly."""
    return [sys.executable, "-S", "-E", str(CHILDREN / name), *map(str, args)]


def owner(name: str, *args: object) -> list[str]:
    """A program of tests/children that uses fastjob."""
    return [sys.executable, str(CHILDREN / name), *map(str, args)]


def owner_environment(**changes: str) -> dict[str, str]:
    """So that a program started by a test finds the fastjob that the test found."""
    import fastjob

    found = str(Path(fastjob.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": found, "PYTHONFAULTHANDLER": "1", **changes}


PID_NAMESPACE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]


def program(
    name: str, *args: object, prefix: Sequence[str] = (), deadline: float = 100.0
) -> subprocess.CompletedProcess[str]:
    """Run a program of tests/children that checks by itself; its traceback is our failure."""
    done = subprocess.run(
        [*prefix, *owner(name, *args)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=deadline,
        env=owner_environment(),
    )
    assert done.returncode == 0, f"{name} {args} returned {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


class Talker:
    """A started program that tells facts as lines of JSON and acts when a line is sent to it."""

    def __init__(self, argv: Sequence[str], **options: Any) -> None:
        options.setdefault("env", owner_environment())
        options.setdefault("stdin", subprocess.PIPE)
        self.process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
        )
        self.pid = self.process.pid
        self.heard = b""

    def hear(self, deadline: float = DEADLINE) -> Any:
        """The next line; a failure with its traceback when the program ended instead."""
        assert self.process.stdout is not None
        # By the descriptor: a line that a file object has buffered would make no select ready.
        fd = self.process.stdout.fileno()
        while b"\n" not in self.heard:
            ready, _, _ = select.select([fd], [], [], deadline)
            assert ready, f"{self.process.args} says nothing"
            more = os.read(fd, 1 << 16)
            if not more:
                _, told = self.process.communicate(timeout=DEADLINE)
                raise AssertionError(f"{self.process.args} ended: {self.process.returncode}\n{told}")
            self.heard += more
        line, _, self.heard = self.heard.partition(b"\n")
        return json.loads(line)

    def say(self, text: str = "go") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def end(self) -> tuple[int, str]:
        """Wait for it; (returncode, standard error)."""
        with contextlib.suppress(OSError):
            if self.process.stdin is not None:
                self.process.stdin.close()
        self.process.stdin = None
        _, told = self.process.communicate(timeout=DEADLINE)
        return self.process.returncode, told


@contextlib.contextmanager
def talking(argv: Sequence[str], **options: Any) -> Iterator[Talker]:
    """A Talker that is ended with the block, whatever the test found."""
    talker = Talker(argv, **options)
    try:
        yield talker
    finally:
        with talker.process:
            talker.process.kill()


# --- programs in C ----------------------------------------------------------------------


def compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


@functools.cache
def compiled(name: str) -> str:
    """Path of tests/children/NAME.c, compiled once a machine; readable by every user."""
    source = CHILDREN / f"{name}.c"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    cache = Path(tempfile.gettempdir()) / f"fastjob-tests-{os.getuid()}"
    cache.mkdir(mode=0o755, exist_ok=True)
    assert cache.stat().st_uid == os.getuid(), f"{cache} belongs to somebody else"
    binary = cache / f"{name}-{digest}"
    if not binary.exists():
        cc = compiler()
        assert cc is not None, "no C compiler"
        fresh = cache / f"{name}-{digest}.{os.getpid()}"
        build = [cc, "-O2", "-Wall", "-o", str(fresh), str(source)]
        # Static ones start three times as fast, where the static C library is installed.
        if subprocess.run([*build, "-static"], stderr=subprocess.DEVNULL).returncode != 0:
            subprocess.run(build, check=True)
        fresh.replace(binary)
    return str(binary)


def short_lived() -> str:
    """A program that ends at once, with the exit code given: ours if it can be compiled."""
    return compiled("tiny") if compiler() else "true"


# --- control groups ---------------------------------------------------------------------


@functools.cache
def cgroup2_mount() -> Path | None:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if right.split()[0] == "cgroup2":
            return Path(left.split()[4].encode().decode("unicode_escape"))
    return None


def own_cgroup() -> Path | None:
    mount = cgroup2_mount()
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if mount is not None and line.startswith("0::"):
            return mount / line[3:].lstrip("/")
    return None


def job_cgroups() -> set[Path]:
    """Directories fastjob-* of control groups, wherever below the mount."""
    mount = cgroup2_mount()
    if mount is None:
        return set()
    return {
        Path(folder) / name
        for folder, names, _ in os.walk(mount)
        for name in names
        if name.startswith("fastjob-")
    }


def cgroup_owner(group: Path) -> int:
    """The pid in the name of a job's cgroup: namespace, pid, start time, number."""
    return int(group.name.split("-")[2])


def populated(group: Path) -> bool:
    with contextlib.suppress(OSError):
        return "populated 1" in (group / "cgroup.events").read_text()
    return False
