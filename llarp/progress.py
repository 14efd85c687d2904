"""Progress of long jobs: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

SHOWN = {
    "success_rate": ("success", "{:.1%}"),
    "mean_return": ("return", "{:.2f}"),
    "steps_per_s": ("steps/s", "{:.1f}"),
    "policy_loss": ("policy loss", "{:.4f}"),
    "value_loss": ("value loss", "{:.4f}"),
    "entropy": ("entropy", "{:.3f}"),
    "approx_kl": ("KL", "{:.4f}"),
    "clip_fraction": ("clipped", "{:.1%}"),
    "loss": ("loss", "{:.4f}"),
    "accuracy": ("accuracy", "{:.1%}"),
}
"""What is shown of an update, in this order: metric -> (words, format)."""


def clock(seconds: float) -> str:
    """3725 -> "1:02:05", 65 -> "1:05"."""
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


class Progress:
    """Shows how far a job is.

    Args:
        total: value of `counter` at which the job is done; 0 where it is not known.
        title: what is going on.
        counter: the metric that counts towards `total`.
        live: force the panel on or off; default: on where stdout is a terminal.

    Use as a context manager; `update` takes any dict of metrics and picks what it knows.
    """

    def __init__(self, total: float = 0, title: str = "train", counter: str = "env_steps", live: bool | None = None):
        self.total, self.title, self.counter = total, title, counter
        self.metrics: dict[str, Any] = {}
        self._started: tuple[float, float] | None = None  # time and count at the first update
        self._console = Console(highlight=False)
        shown = self._console.is_terminal if live is None else live
        self._live = Live(console=self._console, refresh_per_second=4, transient=False) if shown else None

    def update(self, metrics: dict[str, Any]) -> None:
        """Show newer values; those not given keep their last ones on the panel."""
        self.metrics |= metrics
        count = float(self.metrics.get(self.counter, 0))
        if self._started is None:
            self._started = (time.monotonic(), count)
        if self._live is not None:
            self._live.update(self._panel(count))
        else:
            self.message(self.line())

    def line(self) -> str:
        """The latest values as one plain line."""
        count = float(self.metrics.get(self.counter, 0))
        parts = [f"{self.title}: {count:,.0f}" + (f" of {self.total:,.0f}" if self.total else "")]
        parts += [f"{words} {value}" for words, value in self._values()]
        left = self.seconds_left(count)
        return ", ".join(parts + ([f"{clock(left)} left"] if left is not None else []))

    def message(self, text: str) -> None:
        """Print a line (above the panel where there is one)."""
        if self._live is not None:
            self._console.print(Text(text))
        else:
            print(text, file=sys.stdout, flush=True)

    def seconds_left(self, count: float) -> float | None:
        """Time left at the speed since the first update, or at `steps_per_s` before that says anything."""
        if not self.total or self._started is None:
            return None
        elapsed, done = time.monotonic() - self._started[0], count - self._started[1]
        speed = done / elapsed if done > 0 and elapsed > 0 else float(self.metrics.get("steps_per_s") or 0)
        return max(0.0, self.total - count) / speed if speed > 0 else None

    def _values(self) -> list[tuple[str, str]]:
        found = []
        for name, (words, form) in SHOWN.items():
            value = self.metrics.get(name)
            if isinstance(value, (int, float)):
                found.append((words, form.format(value)))
        return found

    def _panel(self, count: float) -> Group:
        left = self.seconds_left(count)
        head = Table.grid(padding=(0, 2))
        of = f" of {self.total:,.0f}" if self.total else ""
        bar = ProgressBar(total=self.total or 1, completed=min(count, self.total or 1), width=40)
        time_left = f"{clock(left)} left" if left is not None else ""
        head.add_row(Text(self.title, "bold"), bar, f"{count:,.0f}{of}", time_left)
        body = Table.grid(padding=(0, 2))
        values = self._values()
        body.add_row(*(Text(words, "dim") for words, _ in values))
        body.add_row(*(value for _, value in values))
        return Group(head, body)

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()
