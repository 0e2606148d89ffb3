"""``python -m fastjob doctor``: what this machine can do."""

from __future__ import annotations

import argparse
import os
import platform
import resource
import sys

from . import Job, JobError, __version__
from ._results import Containment


def _probe(report: dict[str, str]) -> bool:
    """Make a job, use it, and say how it is held."""
    try:
        with Job() as job:
            report["held by"] = job.containment.value
            if job.containment_reason:
                report["why not better"] = job.containment_reason
            process = job.spawn(["sh", "-c", "exec sleep 60"], suspended=True)
            try:
                report["pidfd"] = f"yes (descriptor {process.fileno()})"
            except JobError as error:
                report["pidfd"] = f"no: {error}"
            process.resume()
            job.spawn(["sh", "-c", "setsid sleep 60 & exec sleep 60"])
            report["kill"] = f"{len(job.kill().killed)} processes ended, none left"
    except (JobError, OSError) as error:
        report["problem"] = str(error)
        return False
    return True


def doctor() -> int:
    """Print a report; 0 when jobs work here."""
    report = {
        "fastjob": __version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "disabled by FASTJOB_DISABLE": os.environ.get("FASTJOB_DISABLE") or "nothing",
    }
    works = _probe(report)
    for name, limit in (("descriptors", resource.RLIMIT_NOFILE), ("processes", resource.RLIMIT_NPROC)):
        soft, hard = (
            "no limit" if n == resource.RLIM_INFINITY else str(n) for n in resource.getrlimit(limit)
        )
        report[f"limit of {name}"] = f"{soft} (can be raised to {hard})"
    if report.get("held by") == Containment.SUBREAPER.value:
        report["what that means"] = (
            "containment, kill and reaping are exact; a fork bomb takes longer to kill, and should supervisor and "
            "guard be killed at the same instant, members in sessions of their own live on"
        )
    width = max(map(len, report))
    for name, value in report.items():
        print(f"{name:<{width}}  {value}")
    return 0 if works else 1


def main() -> int:
    """Run what the arguments name; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m fastjob", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="what this machine can do, and why not more")
    parser.parse_args()
    return doctor()


if __name__ == "__main__":
    sys.exit(main())
