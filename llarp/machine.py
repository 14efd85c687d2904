"""What this machine has, and how a run is sized to it: by worlds, steps and micro-batch, never by the task or model."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import UserError

GIB = 1024**3
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
BASE_MEMORY_GIB = 2.5
"""What a run needs besides its worlds: libraries, LLM and ViT in the default preset (measured, rounded up)."""
HABITAT_WORLD_GIB = 1.1
"""What a process with a Habitat simulator and a ReplicaCAD scene needs of its own (measured 0.9 to 1.0)."""
MIN_DISK_GIB = 1.0
"""Free space a run asks for: checkpoints, events and films of the default preset, with room to spare."""


@dataclass(frozen=True)
class Machine:
    """Cores this process may use, memory and disk still free (GiB), and the first CUDA device, if any."""

    cores: int
    memory_gib: float
    disk_gib: float
    gpu: str | None = None
    gpu_memory_gib: float = 0.0


@dataclass(frozen=True)
class Launched:
    """How this process was started: one of how many, and its number and how many they are on this machine."""

    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1


def from_launcher() -> Launched:
    """What torchrun says in the environment; one process alone without it."""
    names = ("WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    values = {name: os.environ.get(name) or default for name, default in zip(names, "101", strict=True)}
    for name, value in values.items():
        if not value.isdigit() or (value == "0" and name != "LOCAL_RANK"):
            raise UserError(f"{name}={value} in the environment is no such number: torchrun sets it, else unset it")
    found = Launched(*map(int, values.values()))
    return found if found.world_size > 1 else Launched()


def inspect(folder: Path | str = ".") -> Machine:
    """This machine, shared among the processes that torchrun started on it, and the disk that holds `folder`."""
    import torch

    gpu, gpu_memory = None, 0.0
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        gpu, gpu_memory = properties.name, properties.total_memory / GIB
    here = from_launcher().local_world_size
    return Machine(max(1, cores() // here), free_memory_gib() / here, free_disk_gib(folder), gpu, gpu_memory)


def cores() -> int:
    """CPU cores this process may use: its affinity, cut by a container's quota."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _read("/sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit():
        usable = min(usable, max(1, int(quota[0]) // int(quota[1])))
    return usable


def keep_memory() -> None:
    """Let malloc keep up to a gigabyte of what is freed until `give_back_memory` (glibc; elsewhere nothing happens, nor
    where less than two are free).

    By itself it returns megabytes after every pass of a model, and the next pass faults them in again.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and free_memory_gib() > 2:
        mallopt(M_TRIM_THRESHOLD, 1 << 30)
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the most that it takes


def give_back_memory() -> None:
    """Return memory that is free to the system, also between what is in use (glibc; elsewhere nothing happens).

    Temporary tensors, each time of other sizes, leave holes among what stays, and these add up.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def held_memory_mb() -> float:
    """Main memory that this process holds now, MB (where the system does not say: the most it has held)."""
    held = re.search(r"VmRSS:\s+(\d+) kB", _read("/proc/self/status"))
    return (int(held[1]) if held else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024


def share_cores() -> None:
    """Let torch use as many threads as this process has cores. Of a container's quota torch knows nothing, and torchrun
    allows each rank one; OMP_NUM_THREADS that somebody else has set stays."""
    import torch

    told, ranks = os.environ.get("OMP_NUM_THREADS"), from_launcher().local_world_size
    if not told:
        torch.set_num_threads(max(1, min(torch.get_num_threads(), cores() // ranks)))
    elif told == "1" and ranks > 1:  # torchrun's own
        both = _read("/sys/devices/system/cpu/smt/active") == "1"  # two threads of a core multiply no faster than one
        torch.set_num_threads(max(1, cores() // ranks // (1 + both)))


def free_memory_gib() -> float:
    """Memory that can still be taken: what the system has free, cut by a container's limit."""
    rows = dict(line.split(":", 1) for line in _read("/proc/meminfo").splitlines() if ":" in line)
    if "MemAvailable" in rows:
        free = int(rows["MemAvailable"].split()[0]) * 1024
    else:
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit, used = _read("/sys/fs/cgroup/memory.max"), _read("/sys/fs/cgroup/memory.current")
    if limit.isdigit() and used.isdigit():
        free = min(free, int(limit) - int(used))
    return free / GIB


def free_disk_gib(folder: Path | str) -> float:
    """Free space on the disk that holds `folder`, or would hold it once made."""
    path = Path(folder).absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free / GIB


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def pick_device(device: str) -> str:
    """A torch device name for a `device` setting; UserError where this machine has no such device."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise UserError(f"device={device} is unknown: choose auto, cpu, cuda or cuda:N")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UserError(f"device={device}: PyTorch sees {count} CUDA devices here; use device=cpu or auto")
    return device


def size_run(machine: Machine, device: str) -> dict[str, Any]:
    """The settings behind `auto`: full key -> value.

    On a CPU the default preset is meant to fill about 15 minutes of a 2-core machine; more cores buy more steps, a GPU
    buys worlds as well. Little memory means fewer worlds, then smaller micro-batches.
    """
    if device.startswith("cuda"):
        worlds = 256 if machine.gpu_memory_gib >= 40 else 64
        return {
            "env.num_envs": worlds,
            "train.total_steps": 4096 * worlds,
            "ppo.micro_batch_tokens": 16384 if machine.gpu_memory_gib >= 40 else 4096,
        }
    scarce = machine.memory_gib < 6
    return {
        "env.num_envs": 8 if scarce else 16 if machine.cores < 8 else 32,
        "train.total_steps": 8_000 * max(1, min(machine.cores, 32) // 2),
        "ppo.micro_batch_tokens": 512 if scarce else 1024,
    }


def habitat_worlds(machine: Machine) -> int:
    """How many Habitat simulators, a process each, this machine is to run: two a core, as memory allows.

    A run evaluates in as many further ones."""
    return max(1, min(2 * machine.cores, 64, int((machine.memory_gib - BASE_MEMORY_GIB) / (2 * HABITAT_WORLD_GIB))))


def settings_of(tree: dict[str, Any], group: str) -> dict[str, Any]:
    """A group of a settings tree that may not have it."""
    found = tree.get(group)
    return found if isinstance(found, dict) else {}


def fill_in_auto(tree: dict[str, Any]) -> dict[str, Any]:
    """A settings tree with its device made definite and every `auto` that `size_run` knows replaced."""
    device = pick_device(str(tree.get("device", "auto")))
    filled = tree | {"device": device}
    sizes: dict[str, Any] | None = None
    for key in ("env.num_envs", "train.total_steps", "ppo.micro_batch_tokens"):
        group, name = key.split(".")
        settings = filled.get(group)
        if isinstance(settings, dict) and settings.get(name) == "auto":
            if sizes is None:
                sizes = size_run(inspect(str(tree.get("output_dir", "runs"))), device)
                sizes["train.total_steps"] *= from_launcher().world_size
                if settings_of(tree, "env").get("backend") == "habitat":
                    sizes["env.num_envs"] = habitat_worlds(inspect())
            filled[group] = settings | {name: sizes[key]}
    return filled


def check_room(num_envs: int, image_size: int, folder: Path | str, world_gib: float = 0.02) -> None:
    """UserError where memory or disk clearly cannot hold a run of `num_envs` worlds in main memory (0 on a GPU).

    `world_gib`: what each needs besides its pictures."""
    needed = (BASE_MEMORY_GIB + num_envs * (world_gib + 12 * image_size**2 / GIB)) * from_launcher().local_world_size
    free = free_memory_gib()
    if free < needed:
        raise UserError(
            f"too little memory: a run of {num_envs} worlds needs about {needed:.1f} GiB, {free:.1f} are free; "
            "lower env.num_envs or close other programs"
        )
    if free_disk_gib(folder) < MIN_DISK_GIB:
        raise UserError(
            f"too little disk space: {free_disk_gib(folder):.2f} GiB are free for {folder}, a run asks for "
            f"{MIN_DISK_GIB:g}; make room or set output_dir"
        )
