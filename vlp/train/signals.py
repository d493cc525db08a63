"""A signal only sets a flag; the work it asks for happens at the next step boundary.

Saving inside a handler would cut a step in two, so handlers here do nothing but remember which signal came.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""A scheduler's notice (TERM, USR1) and a person's Ctrl+C."""


class Stopped(BaseException):
    """Work that a signal ended in good order, with what was done saved; the command line exits with 128 + `number`.

    No fault, and no `KeyboardInterrupt` either: libraries make something of their own of those.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number}")
        self.number = number


class StopFlag:
    """Remembers the first stop signal that came."""

    def __init__(self) -> None:
        self.number = 0
        """Of the signal; 0 while none has come."""

    def __bool__(self) -> bool:
        return self.number != 0

    @property
    def name(self) -> str | None:
        """As SIGTERM; None while none has come."""
        return signal.Signals(self.number).name if self.number else None

    def raise_flag(self, number: int, frame: FrameType | None) -> None:
        """The handler.  A second Ctrl+C is taken at its word and interrupts at once."""
        if self.number == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = self.number or number

    def attach(self) -> None:
        """Sets the handlers; outside the main thread, where Python allows none, it does nothing."""
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                signal.signal(number, self.raise_flag)

    @contextmanager
    def listening(self) -> Iterator["StopFlag"]:
        """Sets the handlers inside the block and restores the earlier ones after it."""
        earlier = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        self.attach()
        try:
            yield self
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in earlier.items():
                    signal.signal(number, handler)
