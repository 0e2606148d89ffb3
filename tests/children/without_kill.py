"""without_kill.py PROGRAM ARGUMENT...: run it as root that may not signal other users' processes."""

import ctypes
import os
import sys

CAP_KILL = 5
PR_CAPBSET_DROP = 24
VERSION_3 = 0x20080522


def main() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    steps = [
        libc.prctl(PR_CAPBSET_DROP, CAP_KILL, 0, 0, 0),
        libc.capget(header, data),
    ]
    for low_word in range(3):
        data[low_word] &= ~(1 << CAP_KILL)
    steps.append(libc.capset(header, data))
    if any(steps):
        raise OSError(ctypes.get_errno(), f"capabilities: {steps}")
    os.execv(sys.argv[1], sys.argv[1:])


main()
