"""Sample-efficiency curves as SVG, from the metrics.jsonl of runs: a thin line for each run, a thick one for the mean.

    python benchmarks/curves.py out=curves.svg "ours=runs/a,runs/b" "LSTM=runs/c,runs/d" [x=env_steps|wall_s]
        [y=success_rate] [smooth=5]

`y` may be any metric; lines of metrics.jsonl without it are left out. `smooth`: each point is the mean of so many.
"""

from __future__ import annotations

import sys
from pathlib import Path

from llarp.errors import UserError
from llarp.evaluation.curves import Curve, read_curve, svg
from llarp.runfolder import write_atomically


def draw(words: list[str]) -> tuple[str, Path]:
    """The picture, and where it is to go."""
    named = dict(word.partition("=")[::2] for word in words)
    out, x, y = named.pop("out", ""), named.pop("x", "env_steps"), named.pop("y", "success_rate")
    smooth = named.pop("smooth", "1")
    if not out.endswith(".svg"):
        raise UserError(f"out={out}: name a file that ends in .svg")
    if not smooth.isdigit() or int(smooth) < 1:
        raise UserError(f"smooth={smooth}: must be a whole number, at least 1")
    if not named or not all(named.values()):
        raise UserError("name the runs: NAME=runs/A,runs/B ...")
    groups: dict[str, list[Curve]] = {
        name: [read_curve(Path(run), x, y, int(smooth)) for run in runs.split(",")] for name, runs in named.items()
    }
    return svg(groups, x, y), Path(out)


def main(words: list[str]) -> int:
    """Writes the picture; the exit code."""
    if not words or words[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    try:
        text, out = draw(words)
    except UserError as error:
        print(f"curves: error: {error}", file=sys.stderr)
        return 2
    write_atomically(out, text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
