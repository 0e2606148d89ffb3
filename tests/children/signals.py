"""signals.py [NAME=ignore|default|tell]...: treat the signals so, tell "ready", stay.

"tell" writes the signal's name as a line. A session of its own with the first argument "setsid".
"""

import os
import signal
import sys


def tell(number: int, frame: object) -> None:
    os.write(1, signal.Signals(number).name.encode() + b"\n")


def main() -> None:
    chosen = sys.argv[1:]
    if chosen[:1] == ["setsid"]:
        chosen.pop(0)
        os.setsid()
    actions = {"ignore": signal.SIG_IGN, "default": signal.SIG_DFL, "tell": tell}
    for choice in chosen:
        name, _, action = choice.partition("=")
        signal.signal(signal.Signals[name], actions[action])
    os.write(1, b"ready\n")
    while True:
        signal.pause()


main()
