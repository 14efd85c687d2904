"""Whether a run's memory stayed flat, and how fast it trained, from its metrics.jsonl.

    llarp train run_name=NAME train.max_minutes=60 train.total_steps=1000000
    python benchmarks/memory.py runs/NAME

Prints the mean of `memory_mb` in each quarter of PPO's time, MB a minute over its second half (least squares), and
`env_steps / wall_s`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from words import one_line

from llarp.errors import UserError
from llarp.runfolder import RunFolder


@one_line
def main(words: list[str]) -> int:
    """Prints the lines; the exit code."""
    if len(words) != 1:
        raise UserError("give the folder of one run: python benchmarks/memory.py runs/NAME")
    rows = [row for row in RunFolder.existing(Path(words[0])).metrics() if "memory_mb" in row]
    if len(rows) < 8:
        raise UserError(f"{words[0]}: has {len(rows)} updates that tell their memory; eight are needed")
    seconds, memory = (np.array([row[key] for row in rows], dtype=float) for key in ("wall_s", "memory_mb"))
    quarter = np.minimum(4 * seconds / seconds[-1], 3.999).astype(int)
    means = [f"{memory[quarter == i].mean():.0f}" if (quarter == i).any() else "none" for i in range(4)]
    late = seconds > seconds[-1] / 2
    slope = np.polyfit(seconds[late] / 60, memory[late], 1)[0]
    print(f"{seconds[-1] / 60:.1f} minutes of PPO, {len(rows)} updates: {', '.join(means)} MB by quarter, "
          f"{slope:+.2f} MB a minute over the second half")  # fmt: skip
    print(f"{rows[-1]['env_steps']} steps: {rows[-1]['env_steps'] / seconds[-1]:.1f} a second")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
