"""unkillable.py: run by without_kill.py; a job with one member that it may kill and one that it may not."""

from __future__ import annotations

import json
import sys

from fastjob import Job, KillFailed

ARGS = ["sleep", "299"]


def main() -> None:
    with Job() as job:
        mine = job.spawn(["sleep", "300"])
        other = job.spawn(ARGS, user=65534)
        try:
            report = job.kill(timeout=1)
        except KillFailed as error:
            facts = {
                "survivors": [[one.pid, one.cmdline] for one in error.survivors],
                "text": str(error),
            }
        else:
            facts = {"report": repr(report)}
        facts |= {"mine": mine.returncode, "other": other.pid, "returncode": other.poll()}
        facts |= {"members": job.pids()}
        print(json.dumps(facts), flush=True)
        # Somebody who may ends it; then the job is empty and says so.
        sys.stdin.readline()
        job.wait(timeout=30)
        report = job.kill()
        print(json.dumps({"killed": report.killed, "returncode": other.wait(30)}), flush=True)


main()
