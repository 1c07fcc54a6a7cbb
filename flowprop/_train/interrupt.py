"""Ctrl-C and SIGTERM end a training between two steps, and not in the middle of one."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupt:
    """Which signal has come: `name` is `None` as long as none has."""

    def __init__(self) -> None:
        self.name: str | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.name is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.name = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}[signal.Signals(number)]


@contextlib.contextmanager
def interruptible() -> Iterator[Interrupt]:
    """While this runs, a first Ctrl-C or SIGTERM is only noted; a second Ctrl-C interrupts as usual.

    Python has signals in its main thread only. In other threads nothing changes, and the same holds for a program that
    ignores SIGINT or has a handler of its own.
    """
    found = Interrupt()
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    old = {}
    if threading.current_thread() is threading.main_thread():
        old = {number: handler for number, handler in usual.items() if signal.getsignal(number) is handler}
    for number in old:
        signal.signal(number, found)
    try:
        yield found
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
