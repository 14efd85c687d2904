"""How far two replays of the same sequences agree, step by step.

    python benchmarks/compare_replays.py ONE.jsonl OTHER.jsonl [--bar 0.97] [--list]

Both files are what `llarp replay` wrote. Prints the share of steps with the same invalid flag, progress and success,
with all three, with the same set of valid actions before the step, and with the robot within 5 cm and 5 degrees after
it, and of sequences that agree throughout; exit code 1 where all three together are below the bar.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

NEAR_M, NEAR_RAD = 0.05, math.radians(5)
COLUMNS = ("invalid", "progress", "success", "all", "valid_set", "pose")


def agreement(one: dict[str, Any], other: dict[str, Any]) -> list[dict[str, bool]]:
    """What agrees at each step of a sequence; a step that only one of the replays has agrees in nothing."""
    steps = []
    for i in range(max(len(one["actions"]), len(other["actions"]))):
        if i >= min(len(one["actions"]), len(other["actions"])):
            steps.append(dict.fromkeys(COLUMNS, False))
            continue
        same = {name: one[name][i] == other[name][i] for name in ("invalid", "success")}
        same["progress"] = abs(one["progress"][i] - other["progress"][i]) < 1e-3
        same["all"] = all(same.values())
        same["valid_set"] = one["valid_before"][i] == other["valid_before"][i]
        same["pose"] = near(one["poses"][i], other["poses"][i])
        steps.append(same)
    return steps


def near(a: list[float], b: list[float]) -> bool:
    """Whether two poses [x, y, z, yaw] are within 5 cm and 5 degrees."""
    turn = abs((a[3] - b[3] + math.pi) % (2 * math.pi) - math.pi)
    return math.dist(a[:3], b[:3]) <= NEAR_M and turn <= NEAR_RAD


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("files", nargs=2, type=Path)
    options.add_argument("--bar", type=float, default=0.0)
    options.add_argument("--list", action="store_true", help="also list every step that differs")
    chosen = options.parse_args()
    one, other = ([json.loads(line) for line in file.read_text().splitlines()] for file in chosen.files)
    if [r["episode_id"] for r in one] != [r["episode_id"] for r in other]:
        print("the files hold other episodes", file=sys.stderr)
        return 2
    compared = [agreement(a, b) for a, b in zip(one, other, strict=True)]
    steps = [step for sequence in compared for step in sequence]
    shares = {name: sum(step[name] for step in steps) / max(1, len(steps)) for name in COLUMNS}
    whole = sum(all(all(step.values()) for step in sequence) for sequence in compared) / max(1, len(compared))
    print("sequences steps", *COLUMNS, "whole_sequences")
    print(len(compared), len(steps), *(f"{share:.4f}" for share in shares.values()), f"{whole:.4f}")
    if chosen.list:
        for a, b, sequence in zip(one, other, compared, strict=True):
            for i, step in enumerate(sequence):
                if not all(step.values()):
                    name = (a if i < len(a["actions"]) else b)["action_names"][i]
                    print(f"episode {a['episode_id']}, step {i}, {name}: other", *(k for k, v in step.items() if not v))
    return 0 if steps and shares["all"] >= chosen.bar else 1


if __name__ == "__main__":
    sys.exit(main())
