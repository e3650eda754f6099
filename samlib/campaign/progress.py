"""Progress of a campaign, as one line that is rewritten or logged."""

import sys
import time
from typing import TextIO


def clock(seconds: float | None) -> str:
    """A readable duration.

    >>> clock(75), clock(3 * 3600 + 120), clock(None)
    ('1m15s', '3h02m', '?')
    """
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"


def bar(done: int, total: int) -> str:
    """A bar for the done part of a whole.

    >>> bar(1, 2)
    '[############............]'
    """
    done = round(24 * done / total) if total else 24
    return f"[{'#' * done:.<24}]"


class Progress:
    """One line that is rewritten on a terminal, and a line now and then in a log file."""

    def __init__(self, total: int, done: int, stream: TextIO | None = None, every: float = 30.0):
        self.total, self.done, self.failed = total, done, 0
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self._every, self._last, self._shown = every, -every, ""

    @property
    def due(self) -> bool:
        """Whether it is time to print: once in a while, on a terminal every second."""
        return time.monotonic() - self._last >= (1.0 if self.live else self._every)

    def show(self, left: float | None, final: bool = False) -> None:
        """Print the state; `left` is the expected time in seconds, `final` ends the line."""
        text = f"{bar(self.done, self.total)} {self.done}/{self.total} runs, {clock(left)} left"
        if self.failed:
            text += f", {self.failed} failed"
        if text != self._shown:
            self.stream.write(f"\r\x1b[K{text}" if self.live else f"{text}\n")
        if self.live and final:
            self.stream.write("\n")
        self.stream.flush()
        self._last, self._shown = time.monotonic(), text
