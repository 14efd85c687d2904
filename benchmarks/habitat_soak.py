"""Minutes of PPO in Habitat: does memory grow, and does a killed simulator cost anything but its episode?

    python benchmarks/habitat_soak.py [--minutes 10] [--kill] [key=value ...]

Runs `llarp train config=habitat train.max_minutes=MINUTES key=value ...` and looks at its processes every 10 seconds.
With --kill, one simulator gets SIGKILL half-way. Printed: memory of the trainer and of its simulators (their own, MB),
a line fitted to it over the second half, before and after a kill, and what the run itself says it lost.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from words import one_line

from llarp.errors import UserError
from llarp.habitat import check_installed


def children(parent: int) -> list[int]:
    """The simulators of a trainer."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                above = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            if above == parent and b"llarp.habitat.worker" in words:
                found.append(int(entry.name))
    return sorted(found)


def own_mb(pid: int) -> float:
    """Memory that is a process's own, MB."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


@one_line
def main(words: list[str]) -> int:
    """Runs and prints; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0), parser.add_argument("--kill", action="store_true")
    given, settings = parser.parse_known_args(words)
    check_installed()
    folder = tempfile.mkdtemp(prefix="llarp-soak-")
    command = [sys.executable, "-m", "llarp", "train", "config=habitat", f"output_dir={folder}", "run_name=soak",
             f"train.max_minutes={given.minutes}", "train.total_steps=100000000", "train.eval_episodes=0",
             *settings]  # fmt: skip
    run = subprocess.Popen(command)
    metrics = Path(folder) / "soak" / "metrics.jsonl"
    seen: list[tuple[float, float, float, int]] = []  # minutes, MB of trainer and simulators, their number
    begun, killed = None, False
    while run.poll() is None:
        time.sleep(10)
        if begun is None and metrics.is_file() and metrics.stat().st_size:
            begun = time.monotonic()
        if begun is None:
            continue
        minutes, workers = (time.monotonic() - begun) / 60, children(run.pid)
        if workers:
            seen.append((minutes, own_mb(run.pid), sum(map(own_mb, workers)), len(workers)))
        if given.kill and not killed and workers and minutes > given.minutes / 2:
            os.kill(workers[0], signal.SIGKILL)
            killed = True
    if not seen:
        raise UserError(f"the run ended with exit code {run.returncode} before its first update; what it said is above")
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    table = np.array([row for row in seen if row[0] <= lines[-1]["wall_s"] / 60])
    late = table[table[:, 0] >= table[-1, 0] / 2]
    slope = {name: float(np.polyfit(late[:, 0], late[:, i], 1)[0]) for i, name in ((1, "trainer"), (2, "simulators"))}
    result = {
        "minutes": round(float(table[-1, 0]), 2),
        "updates": len(lines),
        "env_steps": lines[-1]["env_steps"],
        "steps_per_s": round(lines[-1]["steps_per_s"], 2),
        "episodes": lines[-1]["episodes"],
        "dropped": lines[-1].get("dropped", 0),
        "killed": killed,
        "simulators": int(table[-1, 3]),
        "trainer_mb": [round(float(np.median(part[:, 1]))) for part in np.array_split(table, 4) if len(part)],
        "simulators_mb": [round(float(np.median(part[:, 2]))) for part in np.array_split(table, 4) if len(part)],
        "mb_a_minute_in_the_second_half": {name: round(value, 2) for name, value in slope.items()},
        "exit_code": run.returncode,
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
