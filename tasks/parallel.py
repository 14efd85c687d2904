"""Pieces of work spread over processes, with the results in the order of the pieces."""

from __future__ import annotations

import pickle
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, TypeVar

import torch

Piece = TypeVar("Piece")
Result = TypeVar("Result")

_job: Callable[[Any], Any]  # of a worker process


def spread(job: Callable[[Piece], Result], pieces: Iterable[Piece], processes: int = 1) -> Iterator[Result]:
    """`job(piece)` of every piece, in order; pieces are taken only as they are needed.

    With several processes job, pieces and results are pickled once more than multiprocessing would: it would pass
    tensors by open file, and of those there are not enough."""
    if processes < 2:
        yield from map(job, pieces)
        return
    waiting: deque[Future[bytes]] = deque()
    with ProcessPoolExecutor(
        processes, get_context("spawn"), initializer=_start, initargs=(pickle.dumps(job),)
    ) as pool:
        try:
            for piece in pieces:
                waiting.append(pool.submit(_work, pickle.dumps(piece)))
                if len(waiting) > 2 * processes:
                    yield pickle.loads(waiting.popleft().result())
            while waiting:
                yield pickle.loads(waiting.popleft().result())
        finally:
            pool.shutdown(cancel_futures=True)


def _start(job: bytes) -> None:
    global _job
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the first process, which then stops this one
    torch.set_num_threads(1)  # the other processes have the other cores
    _job = pickle.loads(job)


def _work(piece: bytes) -> bytes:
    return pickle.dumps(_job(pickle.loads(piece)))
