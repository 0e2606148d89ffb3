"""battery.py [ERRNO CALL...]: what a job must do whatever the kernel refuses; tells how it is contained.

With an errno's name and names of system calls, a seccomp filter makes these calls fail so. It is put on the
main thread after fastjob's own thread has started: where clone3 fails with EPERM, the C library starts none.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fastjob import CAPTURE, DEVNULL, PIPE, Containment, Job, Process, TimeoutExpired

# One number on every architecture since the tables were unified (Linux 5.0).
CALLS = {"pidfd_send_signal": 424, "pidfd_open": 434, "clone3": 435, "close_range": 436}
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
LOAD_ABSOLUTE, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, FAIL = 0x7FFF0000, 0x00050000


def refuse(number: int, names: list[str]) -> None:
    """Calling thread, and what it starts, only (man 2 seccomp)."""
    code = [struct.pack("=HBBI", LOAD_ABSOLUTE, 0, 0, 0)]
    for name in names:
        code.append(struct.pack("=HBBI", JUMP_EQUAL, 0, 1, CALLS[name]))
        code.append(struct.pack("=HBBI", RETURN, 0, 0, FAIL | number))
    code.append(struct.pack("=HBBI", RETURN, 0, 0, ALLOW))
    text = ctypes.create_string_buffer(b"".join(code))
    filter_ = ctypes.create_string_buffer(struct.pack("@HP", len(code), ctypes.addressof(text)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")
    if libc.prctl(PR_SET_SECCOMP, 2, ctypes.c_void_p(ctypes.addressof(filter_)), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_SECCOMP")


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def until(fact: Callable[[], object], what: str) -> None:
    end = time.monotonic() + 30
    while not fact():
        assert time.monotonic() < end, what
        time.sleep(0.005)


def escape(job: Job) -> tuple[Process, int]:
    """A child that has left an orphan in a session of its own."""
    process = job.spawn(["sh", "-c", "setsid sleep 300 >/dev/null & echo $!"], stdout=PIPE)
    out, _ = process.communicate(timeout=30)
    return process, int(out)


def exits(job: Job) -> None:
    assert job.spawn(["sh", "-c", "exit 7"]).wait(timeout=30) == 7
    done = job.run(["cat"], input=b"told", capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"told", b"")
    assert job.run(["sh", "-c", "kill -TERM $$"]).returncode == -signal.SIGTERM
    codes = [one.wait(timeout=30) for one in job.spawn_many([["true"], ["false"]] * 10)]
    assert codes == [0, 1] * 10


def start_errors(job: Job) -> None:
    for argv, expected in ((["/nowhere/at all"], errno.ENOENT), (["/"], errno.EACCES)):
        try:
            job.spawn(argv)
        except OSError as error:
            assert error.errno == expected, error
            assert error.filename == argv[0], error
        else:
            raise AssertionError(f"{argv} started")


def orphan_dies_by_kill(job: Job) -> None:
    process, orphan = escape(job)
    assert process.returncode == 0
    assert job.pids() == [orphan]
    assert orphan in job
    report = job.kill()
    assert report.killed == (orphan,), report
    assert state(orphan) == ""
    assert job.pids() == []


def leftovers_die(job: Job) -> None:
    done = job.run(["sh", "-c", "setsid sleep 300 >/dev/null 2>&1 & echo $!"], capture_output=True)
    assert [one.pid for one in done.leftovers] == [int(done.stdout)], done.leftovers
    assert state(int(done.stdout)) == ""
    try:
        job.run(["sh", "-c", "echo begun; sleep 300 & wait"], capture_output=True, timeout=1)
    except TimeoutExpired as error:
        assert error.output == b"begun\n", error.output
    else:
        raise AssertionError("no TimeoutExpired")
    assert job.pids() == []


def suspended(job: Job) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "begun")
        process = job.spawn(["touch", str(path)], suspended=True)
        assert process.pid in job.pids()
        # Somebody who was started later has come and gone.
        assert job.spawn(["true"]).wait(timeout=30) == 0
        assert not path.exists()
        assert process.poll() is None
        process.resume()
        assert process.wait(timeout=30) == 0
        assert path.exists()
    never = job.spawn(["true"], suspended=True)
    assert never.pid in job.kill().killed
    assert never.returncode == -signal.SIGKILL


def pause(job: Job) -> None:
    process = job.spawn(["cat"], stdin=PIPE, stdout=PIPE)
    job.suspend()
    job.resume()
    assert process.communicate(b"on it goes", timeout=30)[0] == b"on it goes"
    job.spawn(["sleep", "300"])
    job.suspend()
    assert len(job.kill().killed) == 1


def nested(job: Job) -> None:
    outside = job.spawn(["sleep", "300"])
    with Job(parent=job) as inner:
        inside = inner.spawn(["sleep", "300"])
        assert inner.pids() == [inside.pid]
        assert sorted(job.pids()) == sorted([inside.pid, outside.pid])
        inner.kill()
        assert inside.returncode == -signal.SIGKILL
        assert job.pids() == [outside.pid]
        inside = inner.spawn(["sleep", "300"])
        assert sorted(job.kill().killed) == sorted([inside.pid, outside.pid])


def nothing_inherited(job: Job) -> None:
    stray = os.open("/dev/null", os.O_RDONLY)
    os.dup2(stray, 700, inheritable=True)
    passed = os.open("/dev/null", os.O_RDONLY)
    try:
        check = f"test ! -e /proc/self/fd/700 && test -e /proc/self/fd/{passed}"
        assert job.run(["sh", "-c", check], pass_fds=[passed], stdin=DEVNULL).returncode == 0
        listing = "import os; print(sorted(os.listdir('/proc/self/fd'), key=int))"
        made = job.spawn([sys.executable, "-S", "-E", "-c", listing], stdout=CAPTURE)
        assert made.wait(timeout=30) == 0
        until(lambda: made.output, "no output")
        # The listing's own descriptor is the fourth.
        assert made.output == b"['0', '1', '2', '3']\n", made.output
    finally:
        for one in (stray, passed, 700):
            os.close(one)


def no_child_of_ours(job: Job) -> None:
    try:
        raise AssertionError(os.waitpid(-1, os.WNOHANG))
    except ChildProcessError:
        pass


def main() -> None:
    warm = Job()
    if sys.argv[1:]:
        refuse(getattr(errno, sys.argv[1]), sys.argv[2:])
    with Job() as job:
        probe = job.spawn(["sleep", "300"])
        above = int(Path(f"/proc/{probe.pid}/stat").read_text().rpartition(")")[2].split()[1])
        filtered = "Seccomp:\t2" in Path(f"/proc/{above}/status").read_text()
        assert filtered == bool(sys.argv[1:]), "the supervisor does not run under the filter"
        job.kill()
        for check in (
            exits,
            start_errors,
            orphan_dies_by_kill,
            leftovers_die,
            suspended,
            pause,
            nested,
            nothing_inherited,
            no_child_of_ours,
        ):
            check(job)
            assert job.pids() == [], check.__name__
        best = job.containment is Containment.CGROUP
        facts = {"containment": job.containment.name, "reason": job.containment_reason}
        assert best or job.containment_reason, facts
    warm.close()
    print(json.dumps(facts), flush=True)


main()
