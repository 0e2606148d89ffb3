"""few_descriptors.py: a thousand captured children, sixty at once, with 256 descriptors in all."""

import resource

from fastjob import Job


def main() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    script = "echo out; echo err >&2; ulimit -n"
    with Job() as job:
        done = list(job.map((["sh", "-c", script] for _ in range(1000)), concurrency=60))
        assert len(done) == 1000
        for one in done:
            assert (one.returncode, one.stdout, one.stderr) == (0, b"out\n256\n", b"err\n"), one
        # Far more at once than there are descriptors: it waits instead of failing.
        assert [one.returncode for one in job.map([["true"]] * 600, concurrency=200)] == [0] * 600


main()
