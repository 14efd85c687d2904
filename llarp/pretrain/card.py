"""The pretrained weights as a file, and the card that says where they come from and what they are worth."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import nn

from llarp import __version__
from llarp.config import RunConfig
from llarp.errors import UserError
from llarp.policy.vision import fingerprint_of
from llarp.provenance import commit
from llarp.runfolder import to_json, write_atomically
from llarp.sim.world import load_assets

from .pictures import kept_layouts

WEIGHTS = "vision.safetensors"
EXACT = "stored as float16; loading gives exactly these numbers, and the probe was made with the loaded file"


def write_weights(folder: Path, backbone: nn.Module) -> Path:
    """`vision.safetensors`: the backbone alone, float16, in one go; UserError for weights that float16 cannot hold."""
    tensors = {name: t.detach().cpu().half().contiguous() for name, t in backbone.state_dict().items()}
    if not all(t.isfinite().all() for t in tensors.values()):
        raise UserError("the weights are not finite: lower pretrain.lr")
    path = folder / WEIGHTS
    write_atomically(path, save(tensors, metadata={"format": "pt"}))
    return path


def write_card(
    weights: Path, config: RunConfig, summary: str, result: dict[str, Any], report: dict[str, Any] | None
) -> None:
    """`card.json` and `card.md` beside the weights."""
    tensors = {name: t.float() if t.is_floating_point() else t for name, t in load_file(weights).items()}
    scenes = load_assets().scenes
    kept = kept_layouts(scenes, config.pretrain.validation_layouts)
    train = [i for i, split in enumerate(scenes.splits) if split == "train" and i not in kept]
    first, last = scenes.names[train[0]], scenes.names[train[-1]]
    card: dict[str, Any] = {
        "vision": config.policy.vision,
        "image_size": config.env.image_size,
        "weights": weights.name,
        "bytes": weights.stat().st_size,
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "fingerprint": fingerprint_of(tensors),
        "parameters": sum(t.numel() for t in tensors.values()),
        "numbers": EXACT,
        "method": config.pretrain.method,
        "how": summary,
        "supervised": config.pretrain.method == "labels",
        "init": config.pretrain.init,
        "pictures": result["pictures"],
        "minutes": result["wall_s"] / 60,
        "final_loss": result["loss"],
        "data": f"drawn by the embedded simulator in {len(train)} of its training apartments ({first} to {last}), "
        f"{result['arrangements']} arrangements of training object models; no evaluation split (manifest.json)",
        "layouts_left_out": [scenes.names[i] for i in kept],
        "seed": config.seed,
        "commit": commit(),
        "llarp": __version__,
        "torch": torch.__version__,
        "licence": "Apache-2.0",
        "probe": {},
    }
    _write(weights.parent, card, report)


def add_probe(weights: Path, report: dict[str, Any]) -> None:
    """Enter a probe in the card beside the weights; UserError where there is none, or it is of other weights."""
    card = read_card(weights)
    if card.get("sha256") != hashlib.sha256(weights.read_bytes()).hexdigest():
        raise UserError(f"{weights.parent / 'card.json'} is the card of other weights")
    _write(weights.parent, card, report)


def read_card(weights: Path) -> dict[str, Any]:
    """The card beside a file of weights."""
    path = weights.parent / "card.json"
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise UserError(f"{path}: no card that can be read (llarp pretrain probe: leave out card=true)") from None
    if not isinstance(card, dict) or not isinstance(card.get("probe"), dict):
        raise UserError(f"{path} is no card of llarp pretrain vision")
    return card


def _write(folder: Path, card: dict[str, Any], report: dict[str, Any] | None) -> None:
    if report is not None:
        card = card | {"probe": card["probe"] | {report["split"]: report}}
    write_atomically(folder / "card.json", to_json(card, indent=2) + "\n")
    write_atomically(folder / "card.md", _markdown(card))


def _markdown(card: dict[str, Any]) -> str:
    kind = "supervised by simulator labels" if card["supervised"] else "self-supervised"
    lines = [
        f"# {card['vision']}, pretrained on rendered apartments",
        "",
        f"- Method: {card['how']} ({kind}); {card['pictures']:,} pictures in {card['minutes']:.0f} minutes, "
        f"seed {card['seed']}" + (f", begun from `{card['init']}`." if card.get("init") else "."),
        f"- Data: {card['data']}.",
        f"- Weights: `{card['weights']}`, {card['parameters']:,} parameters, {card['bytes'] / 1e6:.1f} MB, "
        f"{card['numbers']}. Pictures of {card['image_size']} x {card['image_size']} pixels.",
        f"- Use: `policy.vision={card['vision']} policy.vision_weights={card['weights']}`.",
        f"- Made by llarp {card['llarp']}, commit {card['commit']}, torch {card['torch']}. Licence: {card['licence']}.",
        f"- sha256: `{card['sha256']}`",
    ]
    for split, report in card["probe"].items():
        lines += ["", f"## Linear probe: {split}", "", f"{report['pictures']} pictures of {report['layouts']} layouts "
                  f"({report['objects']} cells with an object), fitted on {report['fit_pictures']} pictures of "
                  f"{report['fit_layouts']} training layouts; intervals (95 %) over layouts.", "",
                  "| features | category | categories in view (mAP) | position, error in m |",
                  "| --- | --- | --- | --- |"]  # fmt: skip
        for who in ("pretrained", "random", "guessing"):
            if who in report:
                lines.append(_row(who, report[who]))
        if "times_random" in report:
            times = report["times_random"]
            lines += ["", f"Category: {times['category']:.2f} times as accurate as with random weights "
                      f"({times['ci95'][0]:.2f} to {times['ci95'][1]:.2f})."]  # fmt: skip
    return "\n".join(lines) + "\n"


def _row(who: str, row: dict[str, Any]) -> str:
    def cell(value: float, interval: list[float] | None) -> str:
        return f"{value:.3f}" + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else "")

    parts = (("category_accuracy", "category_ci95"), ("in_view_map", "in_view_ci95"),
             ("position_error_m", "position_ci95"))  # fmt: skip
    return f"| {who} | " + " | ".join(cell(row[name], row.get(interval)) for name, interval in parts) + " |"
