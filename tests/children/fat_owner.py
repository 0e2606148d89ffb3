"""fat_owner.py: an owner of 300 MiB; `ru_maxrss` of a fork of it would begin with that (man 2 getrusage)."""

import subprocess
import sys

from fastjob import Job

CODE = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)"


def main() -> None:
    ballast = bytearray(300 << 20)
    ballast[::4096] = b"x" * len(ballast[::4096])
    with Job() as job:
        usage = job.run(["true"]).usage
        assert usage is not None
        assert usage.max_rss < 20 << 20, usage
        # The control twin: a child of ours by fork or vfork.
        seen = subprocess.run([sys.executable, "-S", "-E", "-c", CODE], stdout=subprocess.PIPE, check=True)
        assert int(seen.stdout) > 250, seen.stdout


main()
