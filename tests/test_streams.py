"""Streams: exit and end of output are two events."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastjob import CAPTURE, PIPE, STDOUT, Job, TimeoutExpired
from support import program

# Far less than the grandchild that holds the pipe lives, far more than anything here takes.
HELD, SOON = "60", 30.0


def test_pipes_are_files(job: Job) -> None:
    with job.spawn(["cat"], stdin=PIPE, stdout=PIPE, text=True, bufsize=1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line in ("one\n", "tëo\n"):
            process.stdin.write(line)
            assert process.stdout.readline() == line
        process.stdin.close()
        assert process.stdout.read() == ""
    assert process.returncode == 0


def test_communicate_both_ways(job: Job) -> None:
    data = bytes(range(256)) * 40_000
    process = job.spawn(["sh", "-c", "cat; echo err >&2"], stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert process.communicate(data, timeout=SOON) == (data, b"err\n")
    process = job.spawn(["cat"], stdin=PIPE, stdout=PIPE, text=True)
    assert process.communicate("täxt\r\nx", timeout=SOON) == ("täxt\nx", None)
    process = job.spawn(["cat"], input=data, stdout=CAPTURE)
    assert process.communicate(timeout=SOON) == (data, None)


def test_communicate_again_after_a_timeout_loses_nothing(job: Job) -> None:
    script = "echo one; read go; echo two; cat"
    process = job.spawn(["sh", "-c", script], stdin=PIPE, stdout=PIPE, text=True)
    data = "go\n" + "x" * 1_000_000
    assert process.stdin is not None
    process.send_signal(19)
    with pytest.raises(TimeoutExpired):
        process.communicate(data, timeout=0.05)
    with pytest.raises(ValueError, match="input"):
        process.communicate("more", timeout=0.05)
    process.send_signal(18)
    assert process.communicate(timeout=SOON) == ("one\ntwo\n" + "x" * 1_000_000, None)
    assert process.communicate() == ("one\ntwo\n" + "x" * 1_000_000, None)


def test_a_child_that_does_not_read(job: Job) -> None:
    process = job.spawn(["true"], stdin=PIPE, stdout=PIPE)
    assert process.communicate(b"x" * 1_000_000, timeout=SOON) == (b"", None)
    assert job.run(["true"], input=b"x" * 1_000_000).returncode == 0


@pytest.mark.parametrize("how", ["spawn", "run"])
def test_a_grandchild_that_holds_the_pipe_is_not_waited_for(job: Job, how: str) -> None:
    script = f"echo done; sleep {HELD} &"
    began = time.monotonic()
    if how == "spawn":
        for kind in (PIPE, CAPTURE):
            assert job.spawn(["sh", "-c", script], stdout=kind).communicate() == (b"done\n", None)
        assert len(job.pids()) == 2
    else:
        assert job.run(["sh", "-c", script], capture_output=True).stdout == b"done\n"
    assert time.monotonic() - began < SOON


def test_timeout_then_kill_then_output(job: Job) -> None:
    process = job.spawn(["sh", "-c", f"echo begun; sleep {HELD} & wait"], stdout=PIPE, text=True)
    with pytest.raises(TimeoutExpired) as raised:
        process.communicate(timeout=0.3)
    assert raised.value.output == "begun\n"
    process.kill()
    assert process.communicate(timeout=SOON) == ("begun\n", None)


def test_control_subprocess_waits_for_the_grandchild() -> None:
    process = subprocess.Popen(["sh", "-c", "echo $$; sleep 60 & echo $!; wait"], stdout=PIPE)
    with pytest.raises(subprocess.TimeoutExpired) as raised:
        process.communicate(timeout=0.3)
    process.kill()
    process.wait()
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=0.3)
    assert raised.value.output
    subprocess.run(["kill", raised.value.output.split()[1]], check=True)
    process.communicate()


def test_bounded_capture(job: Job) -> None:
    code = "import sys; w = sys.stdout.buffer.write; w(b'HEAD'); w(bytes(10_000_000)); w(b'TAIL')"
    argv = [sys.executable, "-S", "-E", "-c", code]
    done = job.run(argv, stdout=CAPTURE, max_output=1000)
    assert (len(done.stdout), done.total_bytes) == (1000, 10_000_008)
    assert done.truncated == done.total_bytes - 1000
    assert (done.stdout[:5], done.stdout[-5:]) == (b"HEAD\0", b"\0TAIL")
    done = job.run(argv, stdout=CAPTURE, max_output=None)
    assert (len(done.stdout), done.truncated) == (10_000_008, 0)
    assert job.run(["echo", "x"], stdout=CAPTURE, max_output=0).stdout == b""


def test_unread_output_does_not_fill_the_owner() -> None:
    program("much_output.py")


def test_output_before_the_exit_is_never_lost(job: Job) -> None:
    text = b"x" * 60_000
    argv = ["sh", "-c", "head -c 60000 /dev/zero | tr '\\0' x; echo e >&2"]
    for done in job.map([argv] * 200, concurrency=16):
        assert (done.stdout, done.stderr) == (text, b"e\n")
    for process in job.spawn_many([["echo", str(number)] for number in range(20)]):
        process.wait(timeout=SOON)
    made = [job.spawn(["echo", str(number)], stdout=CAPTURE, stderr=STDOUT) for number in range(100)]
    for number, process in enumerate(made):
        process.wait(timeout=SOON)
        assert process.output == f"{number}\n".encode()


def test_files(job: Job, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"from a file")
    with open(tmp_path / "in", "rb") as source, open(tmp_path / "out", "wb") as target:
        assert job.run(["cat"], stdin=source, stdout=target).returncode == 0
        assert job.run(["sh", "-c", "echo >&2 e"], stderr=target.fileno()).returncode == 0
    assert (tmp_path / "out").read_bytes() == b"from a filee\n"
