"""The guarantees of a Windows Job Object for processes started from Python.

>>> from fastjob import Job
>>> with Job() as job:
...     print(job.run(["echo", "hello"], capture_output=True, text=True).stdout, end="")
hello
"""

import atexit as _atexit
import os as _os

from . import _native
from ._command import CAPTURE, DEVNULL, PIPE, STDOUT, Command, SpawnOptions
from ._errors import (
    CalledProcessError,
    JobClosed,
    JobError,
    KillFailed,
    LeftoverError,
    SpawnError,
    TimeoutExpired,
    Unsupported,
)
from ._job import Job
from ._map import JobMap
from ._process import Process
from ._results import CompletedProcess, Containment, KillReport, Leftover, ProcessInfo, Reason, Tree, Usage

__all__ = [
    "CAPTURE",
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "CalledProcessError",
    "Command",
    "CompletedProcess",
    "Containment",
    "Job",
    "JobClosed",
    "JobError",
    "JobMap",
    "KillFailed",
    "KillReport",
    "Leftover",
    "LeftoverError",
    "Process",
    "ProcessInfo",
    "Reason",
    "SpawnError",
    "SpawnOptions",
    "TimeoutExpired",
    "Tree",
    "Unsupported",
    "Usage",
    "__version__",
]

__version__: str = _native.__version__

_native.configure(_os.path.join(_os.path.dirname(_os.path.abspath(__file__)), "fastjob-supervisor"))
# At interpreter exit members are dead before the process is; however else it ends, soon after.
_atexit.register(_native.close_all)
