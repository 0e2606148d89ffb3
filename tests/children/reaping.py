"""reaping.py SCENARIO: each checks by itself that exits are collected and the host is left alone."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
SHORT = os.environ.get("FJSHORT", "true")


def until(fact: Callable[[], T], what: str, deadline: float = 30) -> T:
    end = time.monotonic() + deadline
    while not (answer := fact()):
        assert time.monotonic() < end, what
        time.sleep(0.005)
    return answer


def states() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                text = Path(f"/proc/{name}/stat").read_text()
            except OSError:
                continue
            found[int(name)] = text.rpartition(")")[2].split()[0]
    return found


def exits(code: int) -> list[str]:
    return ["sh", "-c", f"exit {code}"]


def check_codes(rounds: int) -> None:
    from fastjob import Job

    with Job() as job:
        made = [(number % 251, job.spawn(exits(number % 251))) for number in range(rounds)]
        for code, process in made:
            assert process.wait(timeout=60) == code, (process.returncode, code)
        killed = job.spawn(["sleep", "300"])
        killed.kill()
        assert killed.wait(timeout=60) == -signal.SIGKILL
        assert job.run(exits(5)).returncode == 5


def sigchld_ignored() -> None:
    """Then the kernel throws the statuses of a process's own children away (man 2 wait)."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    check_codes(100)
    assert signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN


def waitpid_thread() -> None:
    """A library that collects every child there is."""
    stop = threading.Event()
    stolen = []

    def collect() -> None:
        while not stop.is_set():
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
                if pid:
                    stolen.append(pid)
            except ChildProcessError:
                pass
            time.sleep(0)

    thread = threading.Thread(target=collect)
    thread.start()
    try:
        check_codes(100)
    finally:
        stop.set()
        thread.join()
    assert not stolen, stolen


def side_by_side() -> None:
    """fastjob, subprocess and asyncio in one process: each gets its own statuses, all of them."""
    from fastjob import Job

    failures: list[str] = []

    def check(kind: str, code: int, answer: int | None) -> None:
        if answer != code:
            failures.append(f"{kind}: {answer} instead of {code}")

    def contained() -> None:
        with Job() as job:
            for start in range(0, 500, 20):
                codes = [(start + one) % 251 for one in range(20)]
                made = job.spawn_many([[SHORT, str(code)] for code in codes])
                for code, process in zip(codes, made, strict=True):
                    check("fastjob", code, process.wait(timeout=60))

    def standard() -> None:
        for start in range(0, 500, 20):
            codes = [(start + one) % 251 for one in range(20)]
            made = [subprocess.Popen([SHORT, str(code)]) for code in codes]
            for code, process in zip(codes, made, strict=True):
                check("subprocess", code, process.wait(timeout=60))

    async def one(code: int, gate: asyncio.Semaphore) -> None:
        async with gate:
            process = await asyncio.create_subprocess_exec(SHORT, str(code))
            check("asyncio", code, await process.wait())

    async def looped() -> None:
        gate = asyncio.Semaphore(10)
        await asyncio.gather(*(one(number, gate) for number in range(100)))

    if SHORT == "true":
        raise SystemExit("needs a program that returns its argument")
    threads = [threading.Thread(target=work) for work in (contained, standard)]
    for thread in threads:
        thread.start()
    asyncio.run(looped())
    for thread in threads:
        thread.join()
    assert not failures, failures[:10]


def signal_masks() -> list[str]:
    lines = []
    for task in sorted(os.listdir("/proc/self/task"), key=int)[:1]:
        for line in Path(f"/proc/self/task/{task}/status").read_text().splitlines():
            name, _, mask = line.partition(":")
            if name in ("SigCgt", "SigIgn", "SigBlk"):
                # 32 and 33 are the C library's, which takes them with the first thread.
                lines.append(f"{name} {int(mask, 16) & ~(3 << 31):x}")
    return lines


def no_handler() -> None:
    everything = [one for one in signal.Signals if one.name not in ("SIGKILL", "SIGSTOP")]
    before = signal_masks(), [signal.getsignal(one) for one in everything]
    wakeup = signal.set_wakeup_fd(-1)
    check_codes(5)
    assert (signal_masks(), [signal.getsignal(one) for one in everything]) == before
    assert signal.set_wakeup_fd(-1) == wakeup == -1


def no_children() -> None:
    """Nothing for waitpid(-1), also with __WALL and __WCLONE: not a job's helper, not a member."""
    from fastjob import Job

    def none_there() -> None:
        for options in (0, os.WNOHANG, 0x40000000, 0x80000000 - (1 << 32)):
            try:
                answer = os.waitpid(-1, options | os.WNOHANG)
            except ChildProcessError:
                continue
            raise AssertionError(f"there is a child: {answer}")

    with Job() as job:
        none_there()
        process = job.spawn(["sleep", "300"])
        job.spawn(exits(0)).wait()
        job.run(exits(0))
        none_there()
        process.kill()
        none_there()
        with Job(parent=job) as nested:
            nested.spawn(["sleep", "300"])
            none_there()
    none_there()


def forked_child() -> None:
    """A fork of the owner neither waits for nor kills what belongs to the owner."""
    from fastjob import Job, JobError

    job = Job()
    process = job.spawn(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    for leave in ("_exit", "exit", "close"):
        pid = os.fork()
        if pid == 0:
            refused = 0
            uses: list[Callable[[], object]] = [
                job.pids,
                job.kill,
                lambda: job.spawn(["true"]),
                lambda: job.wait(timeout=5),
                lambda: process.wait(timeout=5),
                process.kill,
            ]
            for use in uses:
                try:
                    use()
                except JobError:
                    refused += 1
            if refused != len(uses):
                os._exit(10 + refused)
            if leave == "_exit":
                os._exit(0)
            if leave == "close":
                job.close()
                del job, process
            # The interpreter's exit, with all that runs then.
            sys.exit(0)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0, (leave, status)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"still here\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"still here\n", leave
    assert process.poll() is None
    report = job.kill()
    assert report.killed == (process.pid,), report
    process.stdin.close()
    process.stdout.close()
    job.close()


def ending_threads() -> None:
    """PR_SET_PDEATHSIG fires when the *thread* ends that started the child (man 2 prctl)."""
    from fastjob import Job

    with Job() as job:
        made = []

        def start() -> None:
            made.append(job.spawn(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE))

        for _ in range(5):
            tasks = set(os.listdir("/proc/self/task"))
            thread = threading.Thread(target=start)
            thread.start()
            native = str(thread.native_id)
            thread.join()
            assert native not in tasks
            until(lambda name=native: name not in os.listdir("/proc/self/task"), "thread there")
        for process in made:
            for _ in range(3):
                process.stdin.write(b"alive\n")
                process.stdin.flush()
                assert process.stdout.readline() == b"alive\n"
            process.stdin.close()
            assert process.wait(timeout=30) == 0
            process.stdout.close()


def job_made_in_a_thread() -> None:
    """The helpers too must outlive the thread that made the job."""
    from fastjob import Job

    made: list[Job] = []
    thread = threading.Thread(target=lambda: made.append(Job()))
    thread.start()
    native = str(thread.native_id)
    thread.join()
    until(lambda: native not in os.listdir("/proc/self/task"), "thread is there")
    with made.pop() as job:
        for _ in range(3):
            assert job.run(["echo", "alive"], capture_output=True).stdout == b"alive\n"


def pid_one() -> None:
    """First process of a namespace: whoever loses its parent comes to us."""
    from fastjob import Job

    assert os.getpid() == 1
    orphaning = [os.environ["FJFORK"], "short"]
    with Job() as job:
        for _ in range(20):
            job.spawn_many([orphaning] * 100)
            job.wait(timeout=60)
        assert job.pids() == []
        until(lambda: "Z" not in states().values(), f"zombies: {states()}")
        for _ in range(20):
            job.run(orphaning)
        until(lambda: "Z" not in states().values(), f"zombies: {states()}")
    # The job's own helpers are orphans of ours too, once it is closed.
    until(lambda: set(states()) == {1}, f"left: {states()}")
    try:
        raise AssertionError(os.waitpid(-1, os.WNOHANG))
    except ChildProcessError:
        pass


def under_no_init() -> None:
    """The first process of the namespace collects nobody: zombies of helpers must not pile up."""
    from fastjob import Job

    Job().close()
    # It is noticed after a while; from then on they are children of ours, and collected here.
    until(adopted, "guards are ours", 60)
    before = list(states().values()).count("Z")
    for _ in range(20):
        with Job() as job:
            assert job.run(exits(3)).returncode == 3
    assert list(states().values()).count("Z") <= before


def adopted() -> bool:
    from fastjob import Job

    time.sleep(0.5)
    with Job() as job:
        above = Path(f"/proc/{job.supervisor_pid}/stat").read_text().rpartition(")")[2].split()[1]
        parent = Path(f"/proc/{above}/stat").read_text().rpartition(")")[2].split()[1]
    return int(parent) == os.getpid()


def pid_one_death() -> None:
    """An owner that is pid 1 must not take itself for an orphaned process."""
    from fastjob import Job

    assert os.getpid() == 1
    with Job() as job:
        process = job.spawn(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.communicate(b"hello", timeout=30)[0] == b"hello"
        assert job.run(exits(4)).returncode == 4


def subinterpreter() -> None:
    """Works, or says that it does not: never a crash."""
    code = "\n".join(
        [
            "try:",
            "    from fastjob import Job",
            "except ImportError as error:",
            "    assert 'interpreter' in str(error), error",
            "else:",
            "    with Job() as job:",
            "        assert job.run(['sh', '-c', 'exit 3']).returncode == 3",
        ]
    )
    check_codes(3)
    try:
        import _interpreters as interpreters  # Python 3.13
    except ImportError:
        import _xxsubinterpreters as interpreters
    made = interpreters.create()
    # Before 3.13 an exception is raised here, since then it is returned.
    failure = interpreters.run_string(made, code)
    interpreters.destroy(made)
    assert failure is None, failure
    check_codes(3)


globals()[sys.argv[1]]()
