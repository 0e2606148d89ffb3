"""What is shipped: the installed package, and an sdist that builds."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMOKE = """
from fastjob import Job, __version__
with Job() as job:
    assert job.run(["echo", "built"], capture_output=True).stdout == b"built\\n"
print(__version__)
"""


def test_the_installed_package_is_whole() -> None:
    import fastjob

    folder = Path(fastjob.__file__).parent
    assert os.access(folder / "fastjob-supervisor", os.X_OK)
    for name in ("py.typed", "_native.pyi"):
        assert (folder / name).exists()
    assert fastjob.__version__ == metadata.version("fastjob")
    assert metadata.requires("fastjob") is None


def test_the_supervisor_needs_nothing() -> None:
    import fastjob

    program = Path(fastjob.__file__).parent / "fastjob-supervisor"
    image = program.read_bytes()
    assert image[:4] == b"\x7fELF"
    # No interpreter segment: nothing is loaded with it.
    assert b"ld-linux" not in image
    assert b"ld-musl" not in image
    # By itself it has no owner, and ends.
    done = subprocess.run([program], stdin=subprocess.DEVNULL, timeout=60)
    assert done.returncode in (0, 1)


@pytest.mark.timeout(900)
def test_sdist_installs(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "maturin", "sdist", "--out", tmp_path],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=110,
    )
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    assert {"Cargo.lock", "Cargo.toml", "build.rs", "pyproject.toml", "LICENSE", "README.md"} <= names
    assert {"src/sys/supervisor/main.rs", "python/fastjob/py.typed"} <= names
    assert not [name for name in names if name.endswith((".so", ".pyc"))]
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True, timeout=110)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "-q", sdist], check=True, timeout=600, capture_output=True
    )
    done = subprocess.run(
        [python, "-c", SMOKE], check=True, capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert done.stdout.split() == [metadata.version("fastjob")]
