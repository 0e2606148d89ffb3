"""Starting: what the child gets, and what a failed start says."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fastjob import CAPTURE, DEVNULL, PIPE, STDOUT, Command, Job
from support import descriptors, program, short_lived

SHOW = [sys.executable, "-S", "-E", "-c"]


def output(job: Job, args: object, **options: object) -> bytes:
    process = job.spawn(args, stdout=CAPTURE, **options)  # type: ignore[arg-type]
    assert process.wait(timeout=30) == 0
    return process.output


def test_arguments_of_all_kinds(job: Job) -> None:
    argv = [Path("/bin/echo"), b"by\xfftes", "te\udcfext", Path("a/b"), ""]
    assert output(job, argv) == b"by\xfftes te\xfext a/b \n"


def test_a_text_is_a_program(job: Job) -> None:
    assert job.spawn("true").wait(timeout=30) == 0
    assert output(job, "echo $0 two", shell=True) == b"/bin/sh two\n"
    assert output(job, ["echo $0 $1", "x", "y"], shell=True) == b"x y\n"


def test_executable_replaces_the_program(job: Job) -> None:
    assert output(job, ["not-echo", "said"], executable="/bin/echo") == b"said\n"
    assert output(job, "echo $0", shell=True, executable="/bin/bash") == b"/bin/bash\n"


def test_working_directory(job: Job, tmp_path: Path) -> None:
    assert output(job, ["pwd"], cwd=tmp_path) == os.fsencode(tmp_path) + b"\n"
    script = tmp_path / "here"
    script.write_text("#!/bin/sh\necho found\n")
    script.chmod(0o755)
    # As in subprocess on POSIX: relative to the directory it is started in.
    assert output(job, ["./here"], cwd=tmp_path) == b"found\n"


def test_working_directory_is_the_owners_of_this_moment(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert output(job, ["pwd"]) == os.fsencode(tmp_path / name) + b"\n"
    (tmp_path / "two").rmdir()
    # It has no name any more, but it is still where we are.
    assert job.spawn(["true"]).wait(timeout=30) == 0


def test_environment(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    assert output(job, ["env"], env={"A": "1", b"B": b"\xff", "C": ""}) == b"A=1\nB=\xff\nC=\n"
    for value in ("before", "after"):
        monkeypatch.setenv("FJTEST", value)
        assert output(job, ["sh", "-c", "echo $FJTEST"]) == os.fsencode(value) + b"\n"
    monkeypatch.delenv("FJTEST")
    assert output(job, ["sh", "-c", "echo ${FJTEST-gone}"]) == b"gone\n"
    assert output(job, ["/usr/bin/env"], env={}) == b""


def test_search_path_is_that_of_the_child(job: Job, tmp_path: Path) -> None:
    script = tmp_path / "only-here"
    script.write_text("#!/bin/sh\necho found\n")
    script.chmod(0o755)
    assert output(job, ["only-here"], env={"PATH": f"/nowhere:{tmp_path}"}) == b"found\n"
    with pytest.raises(FileNotFoundError):
        job.spawn(["only-here"])


def test_umask_session_and_group(job: Job, tmp_path: Path) -> None:
    job.spawn(["touch", tmp_path / "file"], umask=0o077).wait(timeout=30)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
    show = [*SHOW, "import os; print(os.getpid(), os.getpgrp(), os.getsid(0))"]
    pid, group, session = map(int, output(job, show).split())
    assert (group, session) == (os.getpgrp(), os.getsid(0))
    pid, group, session = map(int, output(job, show, start_new_session=True).split())
    assert pid == group == session
    pid, group, session = map(int, output(job, show, process_group=0).split())
    assert (pid, os.getsid(0)) == (group, session)


def test_user_and_groups(job: Job) -> None:
    show = ["sh", "-c", "id -u; id -g; id -G"]
    assert (
        output(job, show, user=12345, group=23456, extra_groups=[5, "daemon"]) == b"12345\n23456\n23456 1 5\n"
    )
    assert output(job, ["id", "-un"], user="nobody") == b"nobody\n"


def test_only_named_descriptors_reach_the_child(job: Job) -> None:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    passed = os.open("/dev/null", os.O_RDONLY)
    high = os.dup2(passed, 500)
    try:
        # The listing itself needs one more, the lowest that is free.
        listing = [*SHOW, "import os; print(sorted(map(int, os.listdir('/proc/self/fd'))))"]
        assert output(job, listing) == b"[0, 1, 2, 3]\n"
        found = output(job, listing, pass_fds=[passed, high, high])
        expected = sorted({0, 1, 2, passed, high})
        expected.append(next(fd for fd in range(99) if fd not in expected))
        assert found.decode().strip() == str(sorted(expected))
    finally:
        for fd in (read, write, passed, high):
            os.close(fd)


def test_standard_streams_are_the_owners_of_this_moment(job: Job, tmp_path: Path) -> None:
    saved = os.dup(1)
    try:
        for name in ("first", "second"):
            with open(tmp_path / name, "wb") as file:
                os.dup2(file.fileno(), 1)
            job.spawn(["echo", name]).wait(timeout=30)
    finally:
        os.dup2(saved, 1)
        os.close(saved)
    assert [(tmp_path / name).read_text() for name in ("first", "second")] == ["first\n", "second\n"]


def test_streams_that_trade_places(job: Job, tmp_path: Path) -> None:
    with open(tmp_path / "out", "wb") as out, open(tmp_path / "err", "wb") as err:
        job.spawn(["sh", "-c", "echo o; echo e >&2"], stdout=err, stderr=out).wait(timeout=30)
        job.spawn(["sh", "-c", "echo o; echo e >&2"], stdout=2, stderr=STDOUT, stdin=DEVNULL).wait(timeout=30)
    assert ((tmp_path / "out").read_text(), (tmp_path / "err").read_text()) == ("e\n", "o\n")


def test_signals_are_as_programs_expect_them(job: Job) -> None:
    show = ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]
    lines = output(job, show).split()
    blocked, ignored = int(lines[1], 16), int(lines[3], 16)
    assert blocked == 0
    assert not ignored & (1 << (signal.SIGPIPE - 1))
    ignored = int(output(job, show, restore_signals=False).split()[3], 16)
    assert ignored & (1 << (signal.SIGPIPE - 1))


def test_suspended_has_not_run(job: Job, tmp_path: Path) -> None:
    process = job.spawn(["touch", tmp_path / "ran"], suspended=True)
    assert process.pid in job.pids()
    assert job.run(["true"]).returncode == 0
    assert not (tmp_path / "ran").exists()
    process.resume()
    assert process.wait(timeout=30) == 0
    assert (tmp_path / "ran").exists()
    with pytest.raises(FileNotFoundError):
        job.spawn(["/nowhere"], suspended=True)


CASES = (
    (["/nowhere/at/all"], {}),
    (["not-a-program-anywhere"], {}),
    (["/"], {}),
    (["/etc/passwd"], {}),
    (["/etc/passwd/x"], {}),
    ([""], {}),
    (["true"], {"cwd": "/nowhere"}),
    (["true"], {"cwd": "/etc/passwd"}),
    (["true", "x" * 3_000_000], {}),
    (["true", *["x" * 100_000] * 30], {}),
    (["x"], {"executable": "/nowhere"}),
)


@pytest.mark.parametrize("case", range(len(CASES)))
def test_start_errors_are_those_of_subprocess(job: Job, case: int) -> None:
    argv, options = CASES[case]
    with pytest.raises(OSError) as theirs:
        subprocess.Popen(argv, **options)  # type: ignore[call-overload]
    with pytest.raises(OSError) as ours:
        job.spawn(argv, **options)
    assert type(ours.value) is type(theirs.value)
    assert (ours.value.errno, ours.value.filename) == (theirs.value.errno, theirs.value.filename)
    assert job.pids() == []


def test_not_a_program_without_an_interpreter(job: Job, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("no interpreter named")
    script.chmod(0o755)
    with pytest.raises(OSError) as raised:
        job.spawn([script])
    assert raised.value.errno == errno.ENOEXEC


def test_failed_starts_leave_nothing(job: Job) -> None:
    job.spawn(["true"], stdout=PIPE).communicate()
    before = descriptors()
    for _ in range(100):
        with pytest.raises(FileNotFoundError):
            job.spawn(["/nowhere"], stdin=PIPE, stdout=PIPE, stderr=CAPTURE)
    assert set(descriptors()) == set(before)
    assert job.pids() == []


def test_a_batch_starts_whole_or_not_at_all(job: Job) -> None:
    made = job.spawn_many([["true"], Command(["false"]), Command(["sh", "-c", "exit 3"], stdin=DEVNULL)])
    assert [process.wait(timeout=30) for process in made] == [0, 1, 3]
    with pytest.raises(FileNotFoundError):
        job.spawn_many([["sleep", "300"], ["/nowhere"], ["sleep", "300"]])
    job.wait(timeout=30)
    with pytest.raises(ValueError, match="null byte"):
        job.spawn_many([["sleep", "300"], ["a\0b"]])
    assert job.pids() == []
    argv = [short_lived()]
    assert all(process.wait(timeout=60) == 0 for process in job.spawn_many([argv] * 500))


def test_written_then_executed_by_many_threads(job: Job, tmp_path: Path) -> None:
    """A write descriptor that leaks into another child for a moment makes the exec fail (ETXTBSY)."""
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for number in range(60):
                script = tmp_path / f"{name}-{number}"
                with open(script, "wb") as file:
                    file.write(b"#!/bin/sh\nexit 0\n")
                script.chmod(0o755)
                assert job.spawn([script]).wait(timeout=30) == 0
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(str(number),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_works_with_few_descriptors() -> None:
    program("few_descriptors.py")
