"""Tables of docs/performance.md from the files that `benchmarks/all.sh` or `benchmarks/gpu.sh` left in a folder.

python benchmarks/tables.py FOLDER
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from words import one_line

from llarp.errors import UserError

PARTS = (
    ("render", "render"), ("vision", "ViT"), ("llm prefix", "LLM, instructions"), ("llm decode", "LLM, decode"),
    ("llm recompute", "LLM, old log-probabilities"), ("llm forward", "LLM, forward"), ("llm backward", "LLM, backward"),
    ("update, of a large product", "LLM in the whole update, of a large product"),
)  # fmt: skip


def rates(results: dict[str, Any]) -> Iterator[str]:
    """Steps a second of each `llarp bench`."""
    yield "| `llarp bench` | steps/s | repeats, s | memory, MB |\n|---|---|---|---|"
    for name, result in results.items():
        if result.get("what") in ("sim", "policy", "update", "train"):
            seconds = " ".join(f"{s:.2f}" for s in result["repeat_s"])
            yield f"| {name} | {result['steps_per_s']:.0f} | {seconds} | {result['memory_mb']:.0f} |"
            if "rollout_steps_per_s" in result:
                yield f"| {name}: rollout alone | {result['rollout_steps_per_s']:.0f} | {result['rollout_s']:.2f} | |"
                yield f"| {name}: update alone | {result['update_steps_per_s']:.0f} | {result['update_s']:.2f} | |"


def achieved(result: dict[str, Any]) -> Iterator[str]:
    """What each part of one run achieved of what the machine can do."""
    yield ("| part | seconds | real of computed tokens | achieved | possible | share | with context |\n"
           "|---|---|---|---|---|---|---|")  # fmt: skip
    for key, name in PARTS:
        part = result["parts"].get(key)
        if part is None:
            continue
        if key == "render":
            unit, did, can = "Mpixel/s", part["mpixels_per_s"], part["possible_mpixels_per_s"]
        else:
            unit, did, can = "GFLOP/s", part["gflop_per_s"], part["possible_gflop_per_s"]
        context = f"{part['computed_over_possible']:.0%}" if "computed_over_possible" in part else ""
        real = f"{part['real_share']:.0%}" if "real_share" in part else ""
        yield (f"| {name} | {part['seconds']:.2f} | {real} | {did:.3g} {unit} | {can:.3g} | "
               f"{part['achieved_over_possible']:.0%} | {context} |")  # fmt: skip
    decode = result["parts"].get("llm decode")
    if decode:
        yield (f"| LLM, decode, of bandwidth | | | {decode['gbytes_per_s']:.3g} GB/s | "
               f"{decode['bandwidth_gbytes_per_s']:.3g} | {decode['achieved_over_bandwidth']:.0%} | |")  # fmt: skip


def where(result: dict[str, Any]) -> Iterator[str]:
    """Shares of the time of one run, largest first."""
    yield "| part | share |\n|---|---|"
    yield from (f"| {name} | {share:.1%} |" for name, share in result["where"].items() if share >= 0.001)


def compared(results: dict[str, Any]) -> Iterator[str]:
    """The plain update against ours."""
    for result in results.values():
        if "ours_over_float32" not in result:
            continue
        s = result["settings"]
        yield (f"\n{s['rollout']} rollout, {s['episodes']} episodes, {s['minibatches']} mini-batches "
               f"({s['mean_instruction_tokens']:.1f} tokens an instruction):\n")  # fmt: skip
        yield "| update | median, s | times ours |\n|---|---|---|"
        for name, median in result["median_s"].items():
            yield f"| {name} | {median:.2f} | {median / result['median_s']['ours']:.2f} |"
        apart = {name: f"{value:.1e}" for name, value in result["apart"].items()}
        yield f"\nIn float32, one gradient step: {', '.join(f'{k} {v}' for k, v in apart.items())}."


def scaling(results: dict[str, Any]) -> Iterator[str]:
    """How cost grows, axis by axis."""
    yield "| | steps/s | ms a step | rollout | update | GFLOP a step | MB |\n|---|---|---|---|---|---|---|"
    for result in results.values():
        for rows in result.values() if "what" not in result and "settings" not in result else ():
            for row in rows:
                yield ("| {name} | {steps_per_s:.1f} | {ms_a_step:.1f} | {rollout_ms:.1f} | {update_ms:.1f} | "
                       "{gflop_a_step:.2f} | {memory_mb:.0f} |".format(**row))  # fmt: skip


def read(path: Path) -> dict[str, Any]:
    """One result; UserError where the file is none."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is no result of a benchmark ({error}); move it away") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: is no result of a benchmark; move it away")
    return found


@one_line
def main(words: list[str]) -> int:
    """Prints the tables; the exit code."""
    folder = Path(words[0]) if len(words) == 1 else None
    if folder is None or not folder.is_dir():
        raise UserError("give the folder that all.sh or gpu.sh wrote: tables.py FOLDER")
    results = {path.stem: read(path) for path in sorted(folder.glob("*.json"))}
    if not results:
        raise UserError(f"{folder}: has no results (*.json); benchmarks/all.sh {folder} measures them")
    machine = folder / "machine.txt"
    if machine.is_file():
        print(machine.read_text())
    for result in results.values():
        if "versions" in result.get("settings", {}):
            s = result["settings"]
            print(f"{s['cores']} cores, {s['torch_threads']} torch threads, GPU: {s['gpu'] or 'none'}; "
                  + ", ".join(f"{k} {v}" for k, v in s["versions"].items()))  # fmt: skip
            break
    print("\n".join(rates(results)))
    for name, result in results.items():
        if "parts" in result:
            print(f"\n`{name}`: achieved over possible\n\n" + "\n".join(achieved(result)))
            print(f"\n`{name}`: where the time goes\n\n" + "\n".join(where(result)))
    print("\n".join(compared(results)))
    print("\n" + "\n".join(scaling(results)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
