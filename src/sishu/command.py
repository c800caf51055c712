"""Where the `sishu` command begins: Ctrl-C counts from here on, though the rest takes seconds to import."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Import the command and run it; Ctrl-C before it can run ends like Ctrl-C in it, with 130."""
    # a handler that raised would be lost where a library under import catches everything; an ignored
    # signal, as after `nohup`, stays ignored
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heeded:
        signal.signal(signal.SIGINT, _leave)
    from sishu.cli import main as command

    if heeded:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    command()


def _leave(*_: object) -> None:
    """End at once: nothing is open yet."""
    print("Stopped; the same command goes on where it was.", file=sys.stderr, flush=True)
    os._exit(130)
