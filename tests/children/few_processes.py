"""few_processes.py: a user with room for 60 processes runs 300 commands, 50 at once."""

import os
import resource
import shutil
import sys
import tempfile
from importlib.util import find_spec

USER = 54321
MOST = 60


def readable_copy() -> str:
    """The installed package where that user may read it, wherever it is installed."""
    spec = find_spec("fastjob")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = tempfile.mkdtemp()
    os.chmod(folder, 0o755)
    shutil.copytree(spec.submodule_search_locations[0], os.path.join(folder, "fastjob"), symlinks=False)
    return folder


def main() -> None:
    folder = readable_copy()
    sys.path.insert(0, folder)
    from fastjob import CAPTURE, Job, SpawnError

    # The child becomes the user; the copy is removed by who made it.
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        shutil.rmtree(folder)
        sys.exit(os.waitstatus_to_exitcode(status))
    resource.setrlimit(resource.RLIMIT_NPROC, (MOST, MOST))
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)
    with Job() as job:
        done = list(job.map((["sleep", "0.01"] for _ in range(300)), concurrency=50))
        assert [one.returncode for one in done] == [0] * 300, {one.error for one in done}
        # Without that, the error says what ran out.
        try:
            for _ in range(MOST + 1):
                job.spawn(["sleep", "300"], stdout=CAPTURE)
        except SpawnError as error:
            assert error.resource == "processes", error
            assert error.errno is not None
            assert "limit" in str(error), error
        else:
            raise AssertionError("no limit was met")


main()
