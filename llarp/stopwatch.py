"""Where the time of a run goes: calls of chosen methods timed while they are watched."""

from __future__ import annotations

import functools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .rates import finish


class Stopwatch:
    """Seconds by part; of calls within calls the outer part gets only what the inner parts leave, in each thread.

    On CUDA every watched call is waited for, so a watched run is slower than an unwatched one. Parts that run in
    several threads at once count once each: their sum may exceed what passed.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._device = device
        self._local = threading.local()
        self._lock = threading.Lock()
        self._undo: list[Callable[[], None]] = []

    def watch(self, owner: Any, name: str, part: str | Callable[..., str]) -> None:
        """Time `owner.name(...)` as `part`, or as what `part(*args)` says, until the watch is closed.

        An attribute the owner does not have is passed over."""
        if not hasattr(owner, name):
            return
        inner = getattr(owner, name)

        @functools.wraps(inner)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(part if isinstance(part, str) else part(*args, **kwargs)):
                return inner(*args, **kwargs)

        self.replace(owner, name, timed)

    def replace(self, owner: Any, name: str, new: Any) -> None:
        """Put `new` in the place of an attribute until the watch is closed."""
        own = vars(owner)
        if name in own:
            self._undo.append(functools.partial(setattr, owner, name, own[name]))
        else:
            self._undo.append(functools.partial(delattr, owner, name))
        setattr(owner, name, new)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a block as part `name`."""
        stack: list[list[Any]] = self._local.__dict__.setdefault("stack", [])
        finish(self._device)
        now = time.perf_counter()
        if stack:
            self.add(stack[-1][0], now - stack[-1][1])
        stack.append([name, now])
        try:
            yield
        finally:
            finish(self._device)
            now = time.perf_counter()
            own, began = stack.pop()
            self.add(own, now - began)
            if stack:
                stack[-1][1] = now

    def add(self, name: str, seconds: float) -> None:
        """Count seconds for a part."""
        with self._lock:
            self.seconds[name] += seconds

    def close(self) -> None:
        """Everything as it was before."""
        while self._undo:
            self._undo.pop()()

    def shares(self, wall_s: float) -> dict[str, float]:
        """Each part's share of the time that passed, largest first; `rest`: what no part took."""
        found = dict(sorted(self.seconds.items(), key=lambda item: -item[1]))
        rest = max(0.0, wall_s - sum(found.values()))
        return {name: seconds / wall_s for name, seconds in found.items()} | {"rest": rest / wall_s}
