"""Does the rollout wait for the GPU? Steps a policy in its worlds under `torch.cuda.set_sync_debug_mode("error")`.

    python benchmarks/no_sync.py [steps=16] [key=value of a run ...]

Prints each place in the code where the host waited for the device (found in mode "warn"), with how often per step, then
whether the same steps pass in mode "error". Exit code 0 if they do, 1 if not, 3 where there is no CUDA device.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter

import torch
from words import one_line, read_words

from llarp.bench import _trainer
from llarp.config import load


@one_line
def main(words: list[str]) -> int:
    """Prints what it found; the exit code."""
    own = [word for word in words if word.startswith("steps=")]
    steps = read_words(own, {"steps": 16})["steps"]
    others = [word for word in words if word not in own and word.split("=")[0] != "device"]
    load("default", others)
    if not torch.cuda.is_available():
        print("no CUDA device: nothing to look at")
        return 3
    config = load("default", ["device=cuda", *others])
    collector = _trainer(config, 1).collector
    lookahead = collector.parts[0].lookahead

    def next_rollout() -> None:
        """What comes between two rollouts, in which instructions are read ahead."""
        collector.finish()
        collector.refresh()

    collector.run(config.ppo.num_steps)  # compiles, allocates
    next_rollout()
    read = lookahead.times_read if lookahead else 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        collector.run(steps)
        torch.cuda.set_sync_debug_mode("default")
    waits = Counter(f"{w.filename}:{w.lineno}" for w in caught if "synchroniz" in str(w.message))
    for place, count in waits.most_common():
        print(f"{count / steps:6.2f} waits a step at {place}")
    if lookahead:
        print(f"{lookahead.times_read - read} times instructions had to be read within {steps} steps")
    next_rollout()
    torch.cuda.set_sync_debug_mode("error")
    try:
        collector.run(steps)
    except RuntimeError as error:
        print(f"the loop waits for the device: {str(error).splitlines()[0]}")
        return 1
    finally:
        torch.cuda.set_sync_debug_mode("default")
    print(f"{steps} steps without waiting for the device")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
