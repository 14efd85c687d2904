"""How our cost per step grows: with worlds, the length of episodes, the backbone, the number of episodes.

    python benchmarks/scaling.py [axis=worlds|context|backbone|episodes|all] [steps=8] [repeats=2] [worlds=1,2,4,8,16]
        [context=8,16,32,64] [layers=1,5,15,30] [episodes=100,1000,12000] [out=FILE] [key=value of a run ...]

Each line is real training (rollout and update as in `llarp bench train`, no warm start) with one setting changed:
`worlds` 1, 2, 4, ...; `context`: episodes that last so many steps, and as long rollouts (else one step in 24 ends its
episode); `backbone`: random Llamas of SmolLM2's width with 1 to 30 layers, and a tiny one; `episodes`: how many there
are in the data set (a missing one is made first). `steps`: of each world, a rollout. Prints one table: steps a second,
milliseconds a step in all, in the rollout and in the update, operations a step by the cost model, and memory: the
process's most so far, so that it says something where it grows.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from make_backbone import make_backbone
from words import one_line, read_words

from llarp import bench
from llarp.config import load
from llarp.errors import UserError

ENDING, NEVER = bench.STEPS_TO_SUCCESS, 10**9
AXES = ("worlds", "context", "backbone", "episodes")
DEFAULTS = {"axis": "all", "steps": 8, "repeats": 2, "out": "", "worlds": [1, 2, 4, 8, 16], "context": [8, 16, 32, 64],
            "layers": [1, 5, 15, 30], "episodes": [100, 1000, 12000]}  # fmt: skip


def points(axis: str, values: list[int], folder: Path) -> Iterator[tuple[str, list[str]]]:
    """What a line is called, and the settings it changes."""
    if axis == "worlds":
        for n in values:
            yield f"{n} worlds", [f"env.num_envs={n}"]
    elif axis == "context":
        for n in values:
            yield f"episodes of {n} steps", [f"task.max_steps={n}", f"ppo.num_steps={n}"]
    elif axis == "backbone":
        tiny = make_backbone(folder / "tiny", "tiny")
        yield "tiny Llama, 4 layers of 192", [f"policy.llm={tiny}"]
        for n in values:
            made = make_backbone(folder / f"layers{n}", "smollm2-135m", layers=n)
            yield f"SmolLM2's width, {n} layers", [f"policy.llm={made}"]
    else:
        for n in values:
            yield f"{n:,} episodes", [f"env.episodes={n}"]


def row(name: str, words: list[str], repeats: int) -> dict[str, Any]:
    """One line: a short real training."""
    torch.manual_seed(0)
    config = load("default", words)
    result, _ = bench.time_training(config, repeats)
    steps = result["steps_a_repeat"]
    cost = result["cost_a_step"]
    parts = ("vision", "decode", "prefix", "update_recompute", "update_forward", "update_backward", "heads")
    return {
        "name": name,
        "settings": words,
        "steps_per_s": result["steps_per_s"],
        "ms_a_step": 1000 / result["steps_per_s"],
        "rollout_ms": 1000 * result["rollout_s"] / steps,
        "update_ms": 1000 * result["update_s"] / steps,
        "gflop_a_step": sum(cost[part] for part in parts) / 1e9 if cost else float("nan"),
        "memory_mb": bench.memory(config.device)["memory_mb"],
    }


@one_line
def main(words: list[str]) -> int:
    """Prints the table; the exit code."""
    own = [word for word in words if word.split("=")[0] in DEFAULTS]
    overrides = [word for word in words if word not in own]
    options = read_words(own, DEFAULTS)
    axes = AXES if options["axis"] == "all" else (options["axis"],)
    if set(axes) - set(AXES):
        raise UserError(f"axis={options['axis']}: choose one of {', '.join(AXES)} or all")
    load("default", overrides)
    rows: dict[str, list[dict[str, Any]]] = {}
    print("| | steps/s | ms a step | rollout | update | GFLOP a step | MB |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for axis in axes:
            rows[axis] = []
            values = options["layers" if axis == "backbone" else axis]
            bench.STEPS_TO_SUCCESS = NEVER if axis == "context" else ENDING
            for name, changed in points(axis, values, Path(folder)):
                base = [f"ppo.num_steps={options['steps']}", "ppo.num_minibatches=4", *overrides]
                found = row(name, [*base, *changed], options["repeats"])
                rows[axis].append(found)
                print("| {name} | {steps_per_s:.1f} | {ms_a_step:.1f} | {rollout_ms:.1f} | {update_ms:.1f} | "
                      "{gflop_a_step:.2f} | {memory_mb:.0f} |".format(**found), flush=True)  # fmt: skip
    if options["out"]:
        Path(options["out"]).write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
