"""What the documents show runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from support import owner_environment

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "benches/README.md")


def examples() -> list[tuple[str, str]]:
    found = []
    for document in DOCUMENTS:
        text = (ROOT / document).read_text()
        blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        found += [(f"{document}-{number}", block) for number, block in enumerate(blocks)]
    return found


@pytest.mark.parametrize(("name", "code"), examples(), ids=lambda value: value if len(value) < 40 else "")
def test_example_runs(name: str, code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env=owner_environment(),
    )
    assert (done.returncode, done.stderr) == (0, ""), name
    assert done.stdout


def test_the_readme_has_an_example() -> None:
    assert any(name.startswith("README") for name, _ in examples())


def test_paths_in_documents_exist() -> None:
    for document in DOCUMENTS:
        for path in re.findall(
            r"`((?:benches|examples|tests|src|python|\.ci)/[\w./-]+)`", (ROOT / document).read_text()
        ):
            assert (ROOT / path).exists(), f"{document}: {path}"


def test_module_docstring() -> None:
    import doctest

    import fastjob

    result = doctest.testmod(fastjob)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("disabled", ["", "cgroup"])
def test_doctor(disabled: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fastjob", "doctor"],
        capture_output=True,
        text=True,
        timeout=60,
        env=owner_environment(FASTJOB_DISABLE=disabled),
    )
    assert done.returncode == 0, done.stderr
    assert "held by" in done.stdout
    assert ("disabled by FASTJOB_DISABLE" in done.stdout.split("why not better")[-1]) == bool(
        disabled
    ) or not disabled


def test_public_names_have_docstrings() -> None:
    import fastjob

    for name in fastjob.__all__:
        thing = getattr(fastjob, name)
        if isinstance(thing, type):
            assert thing.__doc__, name
            for member, value in vars(thing).items():
                if not member.startswith("_") and callable(value):
                    assert value.__doc__, f"{name}.{member}"
