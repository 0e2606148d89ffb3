"""daemon.py FILE: the complete escape: double fork, session of its own, nothing open, no environment.

FILE appears when it is done, with the pid that sleeps on.
"""

import os
import sys


def main() -> None:
    path = sys.argv[1]
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    os.umask(0)
    with open(path + ".new", "w") as file:
        file.write(str(os.getpid()))
    os.closerange(0, 4096)
    os.rename(path + ".new", path)
    os.execve("/bin/sleep", ["sleep", "300"], {})


main()
