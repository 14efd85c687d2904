"""`llarp ship`: a run becomes a folder that can be given away, with a card: what it is, what it is worth."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .disjoint import MANIFEST, merge
from .errors import UserError
from .policy import hub
from .rl import checkpoint as checkpoint_file
from .runfolder import RunFolder, find_run

if TYPE_CHECKING:
    from .config import RunConfig
    from .policy.policy import LLaRPPolicy

_RATES = ("episodes", "success_rate", "ci95")
_RESULT = ("sample", "dataset", "rules", "backend", "seed", "seed_from")


def ship(
    config: RunConfig,
    checkpoint: Path,
    out: Path,
    *,
    name: str,
    stages: Sequence[str] = (),
    average: Sequence[str] = (),
    results: Sequence[str] = (),
    selected_on: str = "",
    licence: str = "Apache-2.0",
) -> dict[str, Any]:
    """Turn a run (or one of its checkpoints) into the policy folder `out`; what `llarp ship` reports.

    `stages`: earlier runs whose weights this one began with, in order (default: those that `train.init` names); what
    they were shown joins the manifest, as does what the vision model's pretraining was shown. UserError where that is
    not known. `average`: other runs, of whose weights and the checkpoint's the mean is shipped (see `averaged`)."""
    from .train import load_policy

    _check_place(name, out)
    run = find_run(checkpoint)
    others = [find_run(other) for other in average]
    lines = [earlier(other) + [other] for other in others]
    folders = [find_run(stage) for stage in stages] or earlier(run)
    folders = [f for f in dict.fromkeys(chain(*lines, folders)) if f != run]
    before = _stages_before((*folders, run)[0])  # with these the run's manifest began
    manifests = [*([] if before else _vision_manifest(config)), *(folder / MANIFEST for folder in (*folders, run))]
    manifest = merge(manifests)
    policy = load_policy(config, run if checkpoint.is_dir() else checkpoint)
    if others:
        averaged(policy, others)
    unrounded = hub.weights_digest(policy.trainable_state_dict())
    about: dict[str, Any] = {
        "name": name,
        "what": policy.describe(),
        "licence": licence,
        "stages": [*before, *map(history, (*folders, run))],
        "vision_training": _vision_card(config),
        "averaged": [folder.name for folder in (*others, run)] if others else [],
        "selected_on": selected_on,
        "shown": [stage for stage, _ in manifest.stages],
        "unrounded_sha256": unrounded,
        "results": [],
    }
    card = hub.write(out, policy, task=asdict(config.task), about=about, manifest=manifest.to_json(), half=True)
    hub.write_card(out, card, markdown(card))
    try:
        card = add_results(out, results)
    except UserError:
        shutil.rmtree(out)  # nothing else lay there
        raise
    size = sum((out / file).stat().st_size for file in card["files"])
    return {"folder": str(out), "name": name, "bytes": size, "weights_sha256": card["weights_sha256"],
            "stages": len(card["shown"]), "results": len(card["results"])}  # fmt: skip


def averaged(policy: LLaRPPolicy, runs: Sequence[Path]) -> None:
    """Give a policy the mean of its own trained weights and those of runs: of a clone and of what it was trained on to,
    say, which keeps much of what the one knows of new things and the other of old ones (Wortsman et al. 2022, arXiv
    2109.01903 and 2203.05482). UserError for runs of another configuration."""
    weights = [policy.trainable_state_dict()]
    for run in runs:
        checkpoint_file.load(checkpoint_file.latest(run), policy)
        weights.append(policy.trainable_state_dict())
    mean = {name: torch.stack([own[name].double() for own in weights]).mean(0) for name in weights[0]}
    policy.load_trainable_state_dict({name: mean[name].to(own.dtype) for name, own in weights[0].items()})


def _check_place(name: str, out: Path) -> None:
    if not re.fullmatch(r"\w[\w.-]*", name) or name.startswith("vision-"):
        raise UserError(f"name={name}: must be a plain name, and not begin with vision-")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"out={out} exists already: choose another folder")


def earlier(run: Path) -> list[Path]:
    """The runs that a run began with, the first of all first, as far as they are still where `train.init` says."""
    found: list[Path] = []
    while init := (_yaml(run).get("train") or {}).get("init"):
        try:
            run = find_run(Path(str(init)).expanduser())
        except UserError:
            break
        if run in found:
            break
        found.insert(0, run)
    return found


def _stages_before(run: Path) -> list[dict[str, Any]]:
    """The history of the policy folder that a run began with, if it did with one that is still at hand."""
    folder = hub.at_hand(init) if (init := str((_yaml(run).get("train") or {}).get("init") or "")) else None
    return [] if folder is None else list(hub.read(folder).card.get("stages", []))


def add_results(folder: Path, results: Sequence[str]) -> dict[str, Any]:
    """Enter what `llarp eval out=` wrote in the card of a policy folder; the card. UserError for other weights'."""
    card = hub.read(folder).card
    if "stages" not in card:
        raise UserError(f"{folder}: was saved without a history: give one that llarp ship checkpoint=RUN wrote")
    for path in results:
        card["results"] = [*card["results"], _result(Path(path), card)]
    hub.write_card(folder, card, markdown(card))
    return card


def _result(path: Path, card: dict[str, Any]) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rows = {split: {k: row[k] for k in _RATES} for split, row in found["splits"].items()}
        total = {k: found["total"][k] for k in _RATES}
        for row in (total, *rows.values()):
            _row("", row)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"results={path}: no result file of llarp eval that can be read") from None
    measured = {card.get("unrounded_sha256"): "before rounding to float16", card["weights_sha256"]: "these weights"}
    which = measured.get(str(found.get("weights_sha256")))
    if which is None:
        raise UserError(f"results={path}: was measured with other weights than this policy's")
    if found.get("pictures", "camera") != "camera":
        raise UserError(f"results={path}: was measured with pictures={found['pictures']}, not the camera's")
    if found.get("hears", "named") != "named":
        raise UserError(f"results={path}: was measured with hears={found['hears']}, not with what was said")
    return {k: found[k] for k in _RESULT if k in found} | {"weights": which, "total": total, "splits": rows}


def history(folder: Path) -> dict[str, Any]:
    """What a run folder tells of how it came about; what it does not tell is left out."""
    run = RunFolder(folder)
    report, rows, starts = run.report(), run.metrics(), run.starts()
    config = _yaml(folder)
    seconds = report.get("total_s") or report.get("wall_s") or (rows[-1].get("wall_s") if rows else None)
    told = {
        "run": folder.name,
        "commands": [start["command"] for start in starts if "command" in start],
        "commits": sorted({start["commit"] for start in starts if "commit" in start}),
        "seed": config.get("seed"),
        "minutes": None if seconds is None else round(seconds / 60, 1),
        "env_steps": report.get("env_steps") or (rows[-1].get("env_steps") if rows else None),
    }
    return {k: v for k, v in told.items() if v not in (None, [])}


def _yaml(folder: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf

    from .config import read_yaml

    found: Any = OmegaConf.to_container(read_yaml(folder / "config.yaml"))
    return dict(found)


# -- the vision model -------------------------------------------------------------------------------------------------


def ship_vision(weights: Path, out: Path, name: str) -> dict[str, Any]:
    """Copy weights that `llarp pretrain vision` made, with card and manifest, to the folder `out`."""
    from .pretrain.card import read_card

    if not weights.is_file() or weights.name != hub.VISION:
        raise UserError(f"vision_weights={weights}: give the {hub.VISION} of a run of llarp pretrain vision")
    if name in ("random", "hub"):
        raise UserError(f"name={name}: policy.vision_weights={name} means something else already")
    card = read_card(weights)
    if card.get("sha256") != hub.digest_of(weights):
        raise UserError(f"{weights}: is not what the card.json beside it describes")
    merge([weights.parent / MANIFEST])
    _check_place(name, out)
    hub.make_folder(out)
    for file in (hub.VISION, MANIFEST, hub.README, hub.CARD):
        if (weights.parent / file).is_file():
            hub.write_bytes(out / file, (weights.parent / file).read_bytes())
    note = "" if out.name == f"vision-{name}" else f"; to ship it, it must be called vision-{name}"
    return {"folder": str(out), "bytes": (out / hub.VISION).stat().st_size,
            "use": f"policy.vision_weights={name}{note}"}  # fmt: skip


def _vision_weights(config: RunConfig) -> Path | None:
    """The file that the vision model's weights are from, None where it is random or a hub's."""
    weights = config.policy.vision_weights
    if weights in ("random", "hub"):
        return None
    return hub.vision_file(weights)


def _vision_manifest(config: RunConfig) -> list[Path]:
    weights = _vision_weights(config)
    if weights is None:
        return []
    if not (weights.parent / MANIFEST).is_file():
        raise UserError(f"{weights}: there is no {MANIFEST} beside it: that of its pretraining says what it was "
                        "shown")  # fmt: skip
    return [weights.parent / MANIFEST]


def _vision_card(config: RunConfig) -> dict[str, Any] | str:
    weights = _vision_weights(config)
    if weights is None:
        return {"random": "untrained", "hub": "timm's own pretrained weights"}[config.policy.vision_weights]
    try:
        card = json.loads((weights.parent / hub.CARD).read_text(encoding="utf-8"))
        kept = ("how", "supervised", "pictures", "minutes", "seed", "commit", "sha256")
        return {k: card[k] for k in kept if k in card}
    except (OSError, ValueError, TypeError):
        return f"weights of {weights.name}, of which no card is at hand"


# -- words ------------------------------------------------------------------------------------------------------------


def markdown(card: dict[str, Any]) -> str:
    """The card for people."""
    size = card["trainable_parameters"]
    made = f"A trained policy for Language Rearrangement, made by llarp {card['llarp']}."
    runs = card.get("averaged")  # older cards have none
    mean = [f"- Weights: the mean of those of the runs {', '.join(runs)}."] if runs else []
    lines = [f"# {card['name']}", "", made, "",
             f"- Policy: {card['what']}.",
             f"- Trained: {size:,} parameters; matrices are stored as float16.",
             *mean,
             f"- Vision model: {_vision_words(card['vision_training'])}.",
             f"- Checkpoint and settings were chosen on: {card['selected_on'] or 'not recorded'}.",
             f"- Licence: {card['licence']}. The language model is fetched by llarp under its own licence.",
             f"- Use: `llarp eval checkpoint=FOLDER_OR_NAME split=all`, or "
             f'`llarp.LLaRPPolicy.from_pretrained("{card["name"]}")`.', "",
             "## How it was trained", ""]  # fmt: skip
    for number, stage in enumerate(card["stages"], 1):
        seed, minutes, steps = (stage.get(k, "not recorded") for k in ("seed", "minutes", "env_steps"))
        lines.append(f"{number}. run {stage['run']}: seed {seed}, {minutes} minutes, {steps} environment steps, commit "
                     f"{', '.join(stage.get('commits', [])) or 'not recorded'}")  # fmt: skip
        lines += [f"   - `{command}`" for command in stage.get("commands", [])]
    lines += ["", f"Everything training was shown is in `{MANIFEST}` ({', '.join(card['shown'])}); "
              "`llarp data check manifest=FOLDER` compares it with the test splits.", "", "## Results", ""]  # fmt: skip
    if not card["results"]:
        lines.append("None entered yet.")
    for result in card["results"]:
        seed = f"seed {result.get('seed')}" + (f" ({result['seed_from']})" if "seed_from" in result else "")
        lines += [f"{result.get('dataset')}, rules {result.get('rules')}, simulator {result.get('backend')}, {seed}, "
                  f"measured with {result['weights']}; 95 % intervals (Wilson).", "",
                  "| split | success | 95 % interval | episodes |", "| --- | --- | --- | --- |"]  # fmt: skip
        lines += [_row(split, row) for split, row in [*result["splits"].items(), ("**total**", result["total"])]]
        lines.append("")
    lines += ["", "## Exactly these weights", "", "| part | sha256 |", "| --- | --- |"]
    lines += [f"| frozen {part} model | `{digest}` |" for part, digest in card["frozen"].items()]
    lines += [f"| {file} | `{digest}` |" for file, digest in card["files"].items()]
    return "\n".join(lines) + "\n"


def _vision_words(training: dict[str, Any] | str) -> str:
    if isinstance(training, str):
        return training
    kind = "supervised by simulator labels" if training.get("supervised") else "self-supervised"
    return f"{training.get('how', 'pretrained')} ({kind}; {training.get('pictures', 0):,} pictures)"


def _row(split: str, row: dict[str, Any]) -> str:
    low, high = row["ci95"]
    return f"| {split} | {row['success_rate']:.1%} | {low:.1%} to {high:.1%} | {row['episodes']} |"
