"""Settings of the environment."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from llarp.errors import UserError
from llarp.tasks import extensions
from llarp.tasks.rules import RULES


@dataclass(frozen=True)
class EnvConfig:
    """Which worlds, how many, and how they are seen."""

    backend: Literal["mujoco", "habitat"] = "mujoco"  # simulator: the embedded one, or Habitat where installed
    num_envs: int = 16  # worlds that step together; with Habitat, each is a process
    image_size: int = 128  # pixels, width and height of the head camera
    split: str = "train"  # split whose episodes are drawn
    episodes: int = 12_000  # episodes generated for training (made once, then cached on disk)
    dataset: str = ""  # episode file, ours or a published .pickle; empty: the built-in generator
    scenes: str = ""  # folder of a ReplicaCAD download, whose apartments to play in; empty: the built-in ones
    objects: str = ""  # folder of YCB models, to go with scenes; empty: stand-in shapes
    robot: str = ""  # folder or URDF of Habitat's Fetch, for backend=habitat; empty: the data folder's, or a stand-in
    rules: str = ""  # what counts as true: clean or published; empty: published for published files, else clean
    render_threads: int = 0  # CPU threads of the renderer (Habitat: of each process); 0: all cores, shared by processes
    environment_light: bool = True  # Habitat: light ReplicaCAD by an environment map too, as Habitat does; without,
    # simulators start 10 s sooner and draw a third faster, and shadows are black
    double_buffer: bool = False  # train with two halves of the worlds: the policy acts in one, the other is simulated
    worker_timeout_s: float = 300.0  # Habitat: a process that gives no answer for so long is replaced

    def __post_init__(self) -> None:
        for name, low in (("num_envs", 1), ("image_size", 16), ("episodes", 1), ("render_threads", 0)):
            if getattr(self, name) < low:
                raise UserError(f"env.{name}={getattr(self, name)} is out of range: it must be at least {low}")
        if self.published and not self.scenes:
            raise UserError(f"dataset={self.dataset} is furnished with ReplicaCAD: add scenes=FOLDER, where "
                            "replicaCAD.scene_dataset_config.json lies")  # fmt: skip
        if self.objects and not self.scenes:
            raise UserError(f"objects={self.objects} goes with ReplicaCAD: add scenes=FOLDER, or leave it out")
        if self.scenes and not self.published:
            if not Path(self.scenes).expanduser().is_dir():
                raise UserError(f"scenes={self.scenes}: no such folder: give a ReplicaCAD download's, or scenes=")
            if self.backend == "habitat":
                raise UserError(f"scenes={self.scenes} goes with a published file where backend=habitat: add "
                                "dataset=FILE.pickle, or leave it out")  # fmt: skip
        if not self.worker_timeout_s > 0:
            raise UserError(f"env.worker_timeout_s={self.worker_timeout_s} is out of range: it must be more than 0")
        if self.robot and self.backend != "habitat":
            raise UserError(f"robot={self.robot} goes with backend=habitat: the embedded simulator has its own robot")
        if self.backend == "habitat" and (extensions.OBJECTS or extensions.SKILLS or extensions.PREDICATES):
            raise UserError(f"backend=habitat has the 70 skills alone: leave out {extensions.VARIABLE}")
        if self.rules and self.rules not in RULES:
            raise UserError(f"rules={self.rules} is unknown: choose {' or '.join(RULES)}")

    @property
    def published(self) -> bool:
        """True where the episodes are a published file's."""
        return self.dataset.endswith((".pickle", ".pkl"))

    @property
    def source(self) -> str:
        """Where the episodes come from, for reports: the dataset file, or which apartments they are generated in."""
        return self.dataset or ("generated in ReplicaCAD" if self.scenes else "built-in")

    @property
    def rule_set(self) -> str:
        """The rules in force: those chosen, else published for published files and clean for ours."""
        return self.rules or ("published" if self.published else "clean")

    def built_in(self, **changes: Any) -> EnvConfig:
        """The same settings for built-in episodes in built-in apartments, with other `changes`."""
        return replace(self, dataset="", scenes="", objects="", **changes)
