"""Several processes (ranks) that train one policy together, as torchrun starts them, and all that they exchange.

What is called a meeting here is made by every rank, in the same order; it returns when all have come. Alone
(`WORLD_SIZE` 1 or not set) nothing is exchanged and a meeting is only what it returns. Numbers and checkpoints travel
over Gloo, gradients over NCCL where every rank has a CUDA device of its own.

A team is one or more ranks that hold one language model together (`policy.tensor_parallel`), play the same worlds with
the same random numbers, and so count as one. Without `form_teams` every rank is a team of its own.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from llarp.errors import PeersLost, UserError
from llarp.machine import cores, from_launcher
from llarp.policy.base import Policy

from .ppo import explained_variance, normalize

T = TypeVar("T")
JOIN = timedelta(minutes=30)  # until all processes have come together, and longest wait within one gradient step
PATIENCE = timedelta(days=1)  # longest wait at a meeting: others may evaluate, film or clone meanwhile
SEED_STRIDE = 1_000_003  # between the seeds of two ranks


@dataclass
class Ranks:
    """This process's place among those that train together."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # on this machine
    team_size: int = 1
    mesh: DeviceMesh | None = None  # of this rank's team; None where it is alone in it
    _meetings: Any = None  # Gloo group
    _gradients: Any = None  # NCCL group; None: gradients go over Gloo, by way of main memory
    _team: Any = None  # Gloo group of this rank's team
    _store: Any = None  # the job's key-value store
    _races: int = 0

    @property
    def alone(self) -> bool:
        return self.world_size == 1

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    @property
    def team(self) -> int:
        """Number of this rank's team; team 0 clones and evaluates."""
        return self.rank // self.team_size

    @property
    def num_teams(self) -> int:
        return self.world_size // self.team_size

    def seed(self, seed: int) -> int:
        """This team's own seed, for what teams must not do alike; team 0's is the run's."""
        return seed + SEED_STRIDE * self.team

    def threads(self) -> int:
        """How many threads this rank may keep busy on its machine; 0: all."""
        return 0 if self.alone else max(1, cores() // from_launcher().local_world_size)

    # -- meetings -------------------------------------------------------------------------------------------------

    def gather(self, value: T) -> list[T]:
        """Every team's (small, plain) value, by team. A meeting."""
        return self.gather_all(value)[:: self.team_size]

    def gather_all(self, value: T) -> list[T]:
        """Every rank's (small, plain) value, by rank. A meeting."""
        if self.alone:
            return [value]
        found: list[Any] = [None] * self.world_size
        with self._lost_peers():
            dist.all_gather_object(found, value, group=self._meetings)
        return found

    def collect(self, value: bytes) -> list[bytes]:
        """Every team's value, by team, at rank 0; nothing elsewhere. A meeting."""
        found: list[Any] = [None] * self.world_size
        with self._lost_peers():
            dist.gather_object(value, found if self.leads else None, dst=0, group=self._meetings)
        return found[:: self.team_size] if self.leads else []

    def any(self, flag: bool) -> bool:
        """Whether it is so at any rank. A meeting."""
        return flag if self.alone else any(self.gather_all(bool(flag)))

    def total(self, numbers: dict[str, float]) -> dict[str, float]:
        """Sums over all teams by name; a name that a team does not give counts 0 there. A meeting."""
        if self.alone:
            return numbers
        parts = self.gather(numbers)
        names = dict.fromkeys(name for part in parts for name in part)
        return {name: sum(part.get(name, 0) for part in parts) for name in names}

    def agree(self, make: Callable[[], T]) -> T:
        """What `make` returns at rank 0, at all ranks; where it refuses there, all end, and only rank 0 says why.

        A meeting.
        """
        if self.alone:
            return make()
        refused: UserError | None = None
        made: list[Any] = [None, False]
        if self.leads:
            try:
                made = [make(), True]
            except UserError as error:
                refused = error
        with self._lost_peers():
            dist.broadcast_object_list(made, src=0, group=self._meetings, device=torch.device("cpu"))
        if refused is not None:
            raise refused
        if not made[1]:
            sys.exit(2)
        return made[0]

    def wait(self) -> None:
        """Until all are here. A meeting."""
        self.gather_all(None)

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """One process of each machine goes first, so that the others find what it has fetched or made. A meeting."""
        if self.local_rank > 0:
            self.wait()
        yield
        if self.local_rank == 0:
            self.wait()

    # -- the policy -----------------------------------------------------------------------------------------------

    def average_gradients(self, parameters: Sequence[Tensor], count: int) -> int:
        """From the gradients of a mean over `count` of this rank's transitions to those of the mean over all ranks'.

        Returns how many transitions those are (a team's once). A rank with count 0 needs no gradients. A meeting.
        """
        if self.alone:
            return count
        parts = [torch.zeros_like(p) if p.grad is None or count == 0 else p.grad * count for p in parameters]
        flat = torch.cat([part.flatten().float() for part in parts] + [parts[0].new_tensor([count]).float()])
        if self._gradients is None:
            flat = flat.cpu()
        with self._lost_peers():
            dist.all_reduce(flat, group=self._gradients or self._meetings)
        total, mean = round(float(flat[-1])), flat[:-1] / flat[-1].clamp(min=1)
        for p, part in zip(parameters, mean.split([p.numel() for p in parameters]), strict=True):
            p.grad = part.view_as(p).to(p)
        return total // self.team_size

    def share_weights(self, policy: Policy) -> None:
        """Gives all ranks rank 0's trainable weights; UserError where frozen ones differ. A meeting."""
        if self.alone:
            return
        frozen = self.gather_all(policy.frozen_fingerprint())
        for rank, theirs in enumerate(frozen):
            for part in sorted(frozen[0].keys() | theirs.keys()):
                if frozen[0].get(part) != theirs.get(part):
                    raise UserError(
                        f"rank {rank} has other frozen weights of {part!r} than rank 0: give all the same files"
                    )
        packed = self.agree(lambda: pack(policy.trainable_state_dict()))
        if not self.leads:
            policy.load_trainable_state_dict(unpack(packed))
        self.check_weights(policy)

    def check_weights(self, policy: Policy) -> None:
        """RuntimeError unless all ranks have the same trainable weights, bit for bit. A meeting."""
        if self.alone:
            return
        digest = hashlib.sha256()
        for name, tensor in sorted(policy.trainable_state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        found = self.gather_all(digest.hexdigest())
        if apart := [str(rank) for rank, theirs in enumerate(found) if theirs != found[0]]:
            raise RuntimeError(f"the weights of rank {', '.join(apart)} are no longer those of rank 0")

    # -- devices --------------------------------------------------------------------------------------------------

    def take_device(self, device: str) -> str:
        """This rank's device where the run's is `device` ("cuda": the one of this process's number on its machine).

        Chooses what gradients travel over. A meeting.
        """
        if self.alone:
            return device
        if device == "cuda":
            count = torch.cuda.device_count()
            if count == 0:
                raise UserError(f"rank {self.rank} has no CUDA device, rank 0 has: give all one, or device=cpu")
            device = f"cuda:{self.local_rank % count}"
        card = None
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
            card = (socket.gethostname(), str(torch.cuda.get_device_properties(device).uuid))
        cards = self.gather_all(card)
        if None not in cards and len(set(cards)) == len(cards) and dist.is_nccl_available():
            with self._lost_peers():  # a device given connects at once, here, and not within the first gradient step
                self._gradients = dist.new_group(backend="nccl", timeout=JOIN, device_id=torch.device(device))
        return device

    def form_teams(self, size: int, device: str) -> None:
        """Puts every `size` ranks, one after another, into a team; `device` is this rank's. A meeting.

        UserError where they do not come out even.
        """
        if size == 1:
            return
        self.agree(lambda: check_team_size(size, self.world_size))
        kind, _, _ = device.partition(":")
        with self._lost_peers():
            for first in range(0, self.world_size, size):  # every rank makes every group
                members = list(range(first, first + size))
                group = words = dist.new_group(members, backend="gloo", timeout=PATIENCE)
                if self._gradients is not None:
                    group = dist.new_group(members, backend="nccl", timeout=JOIN, device_id=torch.device(device))
                if self.rank in members:
                    self._team, self.mesh = words, DeviceMesh.from_group(group, kind)
        self.team_size = size

    def in_team(self, flag: bool) -> bool:
        """Whether it is so at any rank of this team. A meeting of the team."""
        if self._team is None:
            return flag
        found = torch.tensor(float(flag))
        with self._lost_peers():
            dist.all_reduce(found, dist.ReduceOp.MAX, group=self._team)
        return bool(found)

    def clock(self) -> float:
        """Seconds that pass alike at all ranks of this team, from any beginning. A meeting of the team."""
        now = torch.tensor(time.monotonic(), dtype=torch.float64)
        if self._team is not None:
            with self._lost_peers():
                dist.broadcast(now, group=self._team, group_src=0)
        return float(now)

    # -- who has finished what all began together; no meetings -----------------------------------------------------

    def begin_race(self) -> None:
        """All teams begin a rollout, after a meeting in which all had ended the last one."""
        if self.leads and self._races:
            self._store.delete_key(f"race {self._races}")
        self._races += 1

    def arrive(self) -> None:
        """This team has ended it."""
        if self.rank % self.team_size == 0:
            with self._lost_peers():
                self._store.add(f"race {self._races}", 1)

    def arrived(self) -> int:
        """How many teams have ended it so far."""
        with self._lost_peers():
            return self._store.add(f"race {self._races}", 0)

    def leave(self) -> None:
        """Ends the exchange. A meeting."""
        if not self.alone:
            self.wait()
            dist.destroy_process_group()
            # Living on, they may keep the interpreter from ending.
            self._meetings = self._gradients = self._team = self.mesh = None

    @contextmanager
    def _lost_peers(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # what Gloo and NCCL raise
            text = re.sub(r"\[\S*\.cc:\d+\]\s*", "", str(error)).strip()  # where in Gloo it happened
            reason = (text or type(error).__name__).splitlines()[0].partition(". ")[0]
            raise PeersLost(
                f"rank {self.rank} stops: another process of this job has ended or cannot be reached ({reason})"
            ) from error


ALONE = Ranks()


def join() -> Ranks:
    """This process's place, from the environment that torchrun makes; `ALONE` without. UserError for half of one."""
    here = from_launcher()
    if here.world_size == 1:
        return ALONE
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise UserError(
            f"WORLD_SIZE={here.world_size} is set but {missing[0]} is not: start several processes with "
            "torchrun --nproc-per-node=K -m llarp train ..., or unset WORLD_SIZE"
        )
    ranks = Ranks(int(os.environ["RANK"]), here.world_size, here.local_rank)
    with ranks._lost_peers():
        store, rank, world_size = next(iter(dist.rendezvous("env://", timeout=JOIN)))
        # A launcher that starts us again may keep its store, with the addresses of those who have died.
        store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=JOIN)
        ranks._meetings, ranks._store = dist.new_group(backend="gloo", timeout=PATIENCE), store
    return ranks


def check_team_size(size: int, world_size: int) -> None:
    """UserError unless so many processes can be put into teams of `size`."""
    if world_size % size:
        raise UserError(
            f"policy.tensor_parallel={size}: the number of processes must be a multiple of it, but is {world_size}; "
            f"start torchrun --nproc-per-node={size} -m llarp train ..., or as many more"
        )


def pack(tree: Any) -> bytes:
    """A tree of tensors and plain values as bytes."""
    data = io.BytesIO()
    torch.save(tree, data)
    return data.getvalue()


def unpack(data: bytes) -> Any:
    """What `pack` was given, tensors on the CPU."""
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def mean_over(values: Tensor, ranks: Ranks) -> float:
    """Mean of the values (flat) of all ranks, of which some may have none. A meeting."""
    if ranks.alone:
        return float(values.mean())
    sums = ranks.total({"count": len(values), "sum": float(values.double().sum())})
    return sums["sum"] / max(sums["count"], 1)


def normalize_over(advantage: Tensor, ranks: Ranks) -> Tensor:
    """`normalize` of the advantages (flat) of all ranks together. A meeting."""
    if ranks.alone:
        return normalize(advantage)
    mean = mean_over(advantage, ranks)
    variance = mean_over((advantage.double() - mean).square(), ranks)
    return ((advantage.double() - mean) / (math.sqrt(variance) + 1e-8)).to(advantage)


def explained_over(value: Tensor, return_: Tensor, ranks: Ranks) -> float:
    """`explained_variance` of the transitions (flat) of all ranks together. A meeting."""
    if ranks.alone:
        return explained_variance(value, return_)
    error, wanted = (return_ - value).double(), return_.double()
    left = mean_over((error - mean_over(error, ranks)).square(), ranks)
    variance = mean_over((wanted - mean_over(wanted, ranks)).square(), ranks)
    return 1 - left / variance if variance > 1e-12 else 0.0
