"""The results table in Markdown, from files that `llarp eval split=all out=` wrote: one for each training seed.

    python benchmarks/results_table.py "ours=s1.json,s2.json,s3.json" "LSTM=l1.json,l2.json" "sweep=sweep.json"
        [against=NAME] [same_seeds=true] [out=FILE.md]

Success by split with intervals over seeds and episodes, the published numbers beside, and what `against` (default: the
first) gains on each other one over the same episodes, in success and in steps where both succeed. `same_seeds=true`:
seed k of one was trained on from seed k of the other, as PPO after cloning.
"""

from __future__ import annotations

import sys
from pathlib import Path

from llarp.errors import UserError
from llarp.evaluation.compare import markdown, read_played
from llarp.runfolder import write_atomically


def table(words: list[str]) -> tuple[str, str]:
    """The table, and the file it is to go to ("": none)."""
    named = dict(word.partition("=")[::2] for word in words)
    out, against = named.pop("out", ""), named.pop("against", "")
    same_seeds = named.pop("same_seeds", "false")
    if same_seeds not in ("true", "false"):
        raise UserError(f"same_seeds={same_seeds}: write true or false")
    if not named or not all(named.values()):
        raise UserError("name the policies: NAME=FILE.json,FILE.json ...")
    policies = [read_played(name, [Path(file) for file in files.split(",")]) for name, files in named.items()]
    reference = next((p for p in policies if p.name == against), None)
    if against and reference is None:
        raise UserError(f"against={against}: choose {', '.join(named)}")
    return markdown(policies, reference, same_seeds=same_seeds == "true"), out


def main(words: list[str]) -> int:
    """Prints or writes the table; the exit code."""
    if not words or words[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    try:
        text, out = table(words)
    except UserError as error:
        print(f"results_table: error: {error}", file=sys.stderr)
        return 2
    if out:
        write_atomically(Path(out), text)
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
