"""The harness of examples/ as a user runs it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support import marked, owner_environment, until

HARNESS = str(Path(__file__).parents[1] / "examples" / "harness.py")
COMMANDS = """
# pass, fail, hang, leak, missing
true
sh -c "echo why; exit 3"
sh -c "sleep 297"
sh -c "sleep 296 & echo x"
not-a-program-anywhere
"""


def run(*args: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [sys.executable, HARNESS, *args], text=True, timeout=100, env=owner_environment(), **options
    )


def test_every_kind_of_end_is_told(tmp_path: Path) -> None:
    (tmp_path / "list").write_text(COMMANDS)
    done = run("--commands", str(tmp_path / "list"), "--timeout", "1", "--verbose", capture_output=True)
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    marks = {line.split("MiB")[1].strip(): line[:4] for line in lines if "MiB  " in line and line[:4].strip()}
    assert marks["true"] == "pass"
    assert marks['sh -c "echo why; exit 3": exit status 3'] == "FAIL"
    assert marks['sh -c "sleep 297"'] == "TIME"
    assert marks['sh -c "sleep 296 & echo x"'] == "LEAK"
    assert any("left running" in line and "sleep 296" in line for line in lines)
    assert any(line.startswith("MISS") and "No such file" in line for line in lines)
    assert "why" in lines
    assert "5 of 5 run in" in done.stdout
    assert "1 passed, 2 failed, 1 timed out, 1 leaked" in done.stdout


def test_all_passed(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("true\n" * 20)
    done = run("--commands", str(tmp_path / "list"), capture_output=True)
    assert done.returncode == 0, done.stderr
    assert "20 passed, 0 failed" in done.stdout


def test_a_leak_alone_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "list").write_text('sh -c "sleep 296 & echo x"\n')
    done = run("--commands", str(tmp_path / "list"), capture_output=True)
    assert done.returncode == 1, done.stderr
    assert "0 passed, 0 failed, 0 timed out, 1 leaked" in done.stdout


def test_nothing_to_run(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("# nothing\n")
    for arguments in (["list"], ["absent"], ["list", "--jobs", "0"]):
        done = run("--commands", str(tmp_path / arguments[0]), *arguments[1:], capture_output=True)
        assert done.returncode == 2, done.stderr


def test_a_python_without_its_tests(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "__init__.py").touch()
    found = owner_environment()["PYTHONPATH"]
    environment = owner_environment(PYTHONPATH=f"{tmp_path}{os.pathsep}{found}")
    done = subprocess.run(
        [sys.executable, HARNESS], env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 2, done.stderr
    assert "has no `test` package: install it" in done.stderr


def test_interrupted_it_tells_what_there_is(tmp_path: Path, mark: str) -> None:
    (tmp_path / "list").write_text("true\nsh -c 'sleep 295'\nsh -c 'sleep 294; true'\n")
    command = [sys.executable, HARNESS, "--commands", str(tmp_path / "list")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=owner_environment()) as harness:
        assert harness.stdout is not None
        while not harness.stdout.readline().startswith("pass"):
            pass
        harness.send_signal(signal.SIGINT)
        told, _ = harness.communicate(timeout=60)
    assert harness.returncode == 130
    assert "1 of 3 run in" in told
    assert "1 passed, 0 failed, 0 timed out, 0 leaked" in told
    until(lambda: marked(mark) == [], "nothing is left")


def on_a_terminal(commands: Path, **changes: str) -> tuple[int, bytes]:
    """Exit status, and what was shown."""
    master, terminal = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, HARNESS, "--commands", str(commands)],
            stdout=terminal,
            timeout=100,
            env=owner_environment(**changes),
        )
        return done.returncode, os.read(master, 1 << 16)
    finally:
        os.close(master)
        os.close(terminal)


@pytest.mark.parametrize("no_color", ["", "1"])
def test_a_live_line_on_a_terminal(tmp_path: Path, no_color: str) -> None:
    # Longer than two redraws: the age of what runs is seen to grow.
    (tmp_path / "list").write_text("true\nfalse\nsleep 1.6\n")
    status, shown = on_a_terminal(tmp_path / "list", NO_COLOR=no_color)
    assert status == 1
    assert b"\r\x1b[K2/3  1 bad  running: sleep 1.6 0s" in shown
    assert b"running: sleep 1.6 1s" in shown
    assert (b"\x1b[31mFAIL" in shown) == (no_color == "")
    assert b"FAIL" in shown
