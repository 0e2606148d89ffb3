"""few_processes.py: a user with room for 60 processes runs 300 commands, 50 at once."""

import os
import resource

from fastjob import CAPTURE, Job, SpawnError

USER = 54321
MOST = 60


def main() -> None:
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
