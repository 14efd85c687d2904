"""Processes that are ranks of one job, for tests."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
from collections.abc import Callable
from typing import Any

import torch

from llarp.rl import distributed


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def serve(rank: int, world_size: int, port: int, pipe: Any) -> None:
    """A rank's process: joins, then makes the calls that come through the pipe."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size,
             "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}  # fmt: skip
    os.environ.update({name: str(value) for name, value in names.items()})
    torch.set_num_threads(1)
    ranks = distributed.join()
    while True:
        try:
            call, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer: tuple[Any, str] = (call(ranks, *arguments), "")
        except (Exception, SystemExit) as error:
            answer = (None, f"{type(error).__name__}: {error}")
        pipe.send_bytes(pickle.dumps(answer))


class Crew:
    """Processes that are ranks of one job; one crew serves a whole file, as starting one costs seconds."""

    def __init__(self, world_size: int = 2) -> None:
        context, port = multiprocessing.get_context("spawn"), free_port()
        self.pipes, self.processes = [], []
        for rank in range(world_size):
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(rank, world_size, port, theirs), daemon=True)
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)

    def answers(self, call: Callable[..., Any], *arguments: Any) -> list[tuple[Any, str]]:
        """What `call(ranks, *arguments)` returned at each rank, and what it raised, in words."""
        for pipe in self.pipes:
            pipe.send((call, arguments))
        found = []
        for rank, pipe in enumerate(self.pipes):
            if not pipe.poll(120):
                self.close()  # the other tests had better fail at once
                raise TimeoutError(f"rank {rank} does not come back")
            found.append(pickle.loads(pipe.recv_bytes()))
        return found

    def run(self, call: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What `call` returned at each rank."""
        answers = self.answers(call, *arguments)
        assert [error for _, error in answers] == [""] * len(answers)
        return [result for result, _ in answers]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()
