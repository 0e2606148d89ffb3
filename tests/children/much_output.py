"""much_output.py: 200 MB of output under a bound of 1 MiB do not make the owner larger."""

import resource

from fastjob import CAPTURE, Job


def resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def main() -> None:
    with Job() as job:
        job.run(["true"], capture_output=True)
        before = resident()
        done = job.run(["sh", "-c", "yes | head -c 200M"], stdout=CAPTURE, max_output=1 << 20)
        assert done.total_bytes == 200 << 20, done.total_bytes
        assert len(done.stdout) == 1 << 20
        assert done.stdout.startswith(b"y\ny\n")
        assert done.stdout.endswith(b"y\ny\n")
        assert resident() - before < 8 << 20, resident() - before


main()
