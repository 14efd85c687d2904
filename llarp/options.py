"""What each command takes besides settings (`key=value` of the config): small dataclasses, checked like the config."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

Planner = Literal["random", "oracle", "explorer", "sweep", "zero_shot"]

ALIASES = {"backend": "env.backend", "dataset": "env.dataset", "scenes": "env.scenes", "rules": "env.rules",
           "objects": "env.objects", "robot": "env.robot", "algorithm": "train.algorithm"}
"""Short names of settings that every command takes."""


def option(default: Any, help: str) -> Any:
    """A dataclass field with a line of help."""
    return dataclasses.field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class TrainOptions:
    resume: str | None = option(None, "run folder to continue; auto: the run called run_name= where it has a "
                                      "checkpoint, else begin it (for jobs that are started again)")  # fmt: skip
    out: str | None = option(None, "file for the JSON result")


@dataclass(frozen=True)
class _Actor:
    checkpoint: str | None = option(None, "whose policy acts: run folder, checkpoint, a policy folder, the name of one "
                                          "that llarp ships, or a hub id (user/name)")  # fmt: skip
    policy: Planner | None = option(None, "who acts instead: random, oracle, explorer, sweep or zero_shot")
    split: str = option("new_scenes", "split the episodes come from, or all")
    sample: bool = option(True, "sample actions (as the original evaluates) instead of taking the most probable")
    calibrated: bool = option(False, "zero_shot: weigh words against how likely they are without a task")


@dataclass(frozen=True)
class EvalOptions(_Actor):
    episodes: int = option(100, "episodes a split, at most")
    pictures: Literal["camera", "shuffled", "blank"] = option(
        "camera", "what a checkpoint's policy is shown: camera, shuffled (another world's) or blank: does it look?"
    )
    hears: Literal["named", "unknown", "described"] = option(
        "named", "what the instruction names is to a policy.kind=encoder_decoder: known, or as if its looks were "
                 "unknown, or as if it was described only"
    )  # fmt: skip
    report: str | None = option(None, "page (.html) with plots, tables, failures and pictures, in one file")
    compare: str | None = option(None, "JSON file with the numbers to stand beside ours on the page: what `out=` of "
                                       "an earlier eval wrote, or a paper's; default: the published total")  # fmt: skip
    out: str | None = option(None, "file for the JSON result")


@dataclass(frozen=True)
class VideoOptions(_Actor):
    instruction: str | None = option(None, "free text to follow instead of an episode's own instruction")
    episode: int = option(0, "which episode of the split")
    out: str = option("rollout.mp4", "the film")


@dataclass(frozen=True)
class ReplayOptions:
    actions: str | None = option(None, "JSON or JSON-lines file with the actions")
    episode: str | None = option(None, "episode id, where the file names none")
    out: str | None = option(None, "file for the JSON result (JSON lines if `actions` is)")


@dataclass(frozen=True)
class BenchOptions:
    repeats: int = option(3, "timed repeats, of which the median counts")
    out: str | None = option(None, "file for the JSON result")


@dataclass(frozen=True)
class DataOptions:
    split: str | None = option(None, "generate: split to make (default: train), or all (then dataset= is a folder); "
                                     "check: evaluation split (default: all)")  # fmt: skip
    episodes: int = option(0, "generate, check: how many; 0: as many as are published, 150000 in train, 100 in others")
    manifest: str | None = option(None, "check: run folder, or its manifest.json, that training wrote")
    processes: int = option(0, "generate, validate: processes that share the work; 0: as many as there are cores")
    render: int = option(0, "validate: how many random episodes to play in the rendering environment as well")
    rows: int = option(10, "inspect: how many episodes to list")
    episode: int = option(-1, "inspect: id of the episode to draw; -1: the first")
    picture: str | None = option(None, "inspect: PNG for the start of an episode (default: beside out=)")
    out: str | None = option(None, "file for the JSON result")


@dataclass(frozen=True)
class AssetsOptions:
    scenes: str | None = option(None, "check: folder of ReplicaCAD (default: where LLARP_DATA says, else data/)")
    objects: str | None = option(None, "check: folder of YCB's models")
    robot: str | None = option(None, "check: folder or URDF of Fetch")
    out: str | None = option(None, "check: file for the JSON result; stand-ins: folder to write, also as its own word")


@dataclass(frozen=True)
class PretrainOptions:
    resume: str | None = option(None, "vision: run folder to continue; auto: the run called run_name= where it has a "
                                      "checkpoint, else begin it")  # fmt: skip
    vision_weights: str | None = option(None, "probe: file of weights, hub or random (default: policy.vision_weights)")
    split: str = option("validation", "probe: what it is tested on: validation (training apartments that pretraining "
                                      "left out), or a split in held-out apartments such as new_scenes")  # fmt: skip
    card: bool = option(False, "probe: enter the result in the card beside the weights")
    out: str | None = option(None, "file for the JSON result")


@dataclass(frozen=True)
class ShipOptions:
    checkpoint: str | None = option(None, "run folder or checkpoint to ship, or a policy folder to add results to, or "
                                          "to upload")  # fmt: skip
    vision_weights: str | None = option(None, "a vision model instead: vision.safetensors of llarp pretrain vision")
    name: str = option("", "what it is to be called")
    out: str | None = option(None, "folder to write")
    stages: str = option("", "earlier runs whose weights this one began with, in order: runs/A,runs/B (default: those "
                             "that train.init names)")  # fmt: skip
    average: str = option("", "other runs: what is shipped is the mean of their weights and the checkpoint's")
    results: str = option("", "files that llarp eval out= wrote, for the card: a.json,b.json")
    selected_on: str = option("", "for the card: the split that checkpoint and settings were chosen on")
    licence: str = option("Apache-2.0", "for the card")
    hub: str | None = option(None, "also upload to the Hugging Face hub, as user/name")
    private: bool = option(False, "hub: not for everybody")


@dataclass(frozen=True)
class DoctorOptions:
    out: str | None = option(None, "file for the JSON result")
