"""The harness of examples/ as a user runs it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

from support import owner_environment

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
    assert "5 run in" in done.stdout
    assert "1 timed out, 1 leaked" in done.stdout


def test_all_passed(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("true\n" * 20)
    done = run("--commands", str(tmp_path / "list"), capture_output=True)
    assert done.returncode == 0, done.stderr
    assert "20 passed, 0 failed" in done.stdout


def test_a_live_line_on_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("true\nfalse\n")
    master, terminal = pty.openpty()
    try:
        done = run("--commands", str(tmp_path / "list"), stdout=terminal)
        shown = os.read(master, 1 << 16)
    finally:
        os.close(master)
        os.close(terminal)
    assert done.returncode == 1
    assert b"\r\x1b[K" in shown
    assert b"\x1b[31mFAIL" in shown
