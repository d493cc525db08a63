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


class StopFlag:
    """Remembers the name of the first stop signal that came."""

    def __init__(self) -> None:
        self.name: str | None = None

    def __bool__(self) -> bool:
        return self.name is not None

    def raise_flag(self, number: int, frame: FrameType | None) -> None:
        """The handler.  A second Ctrl+C is taken at its word and interrupts at once."""
        if self.name == "SIGINT" and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.name = self.name or signal.Signals(number).name

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
