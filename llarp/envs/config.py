"""Settings of the environment."""

from __future__ import annotations

from dataclasses import dataclass

from llarp.errors import UserError
from llarp.tasks.rules import RULES


@dataclass(frozen=True)
class EnvConfig:
    """Which worlds, how many, and how they are seen."""

    num_envs: int = 16  # worlds that step together
    image_size: int = 128  # pixels, width and height of the head camera
    split: str = "train"  # split whose episodes are drawn
    episodes: int = 12_000  # episodes generated for training (made once, then cached on disk)
    dataset: str = ""  # episode file; empty: the built-in generator
    scenes: str = ""  # folder of ReplicaCAD scenes (not read by this version); empty: the built-in apartments
    rules: str = "clean"  # rule set that decides what counts as true
    render_threads: int = 0  # CPU threads of the renderer; 0: as many as there are cores

    def __post_init__(self) -> None:
        for name, low in (("num_envs", 1), ("image_size", 16), ("episodes", 1), ("render_threads", 0)):
            if getattr(self, name) < low:
                raise UserError(f"env.{name}={getattr(self, name)} is out of range: it must be at least {low}")
        if self.scenes:
            raise UserError(f"scenes={self.scenes}: ReplicaCAD is not read by this version; leave scenes= out")
        if self.dataset.endswith((".pickle", ".pkl")):
            raise UserError(f"dataset={self.dataset}: pickles are not read by this version; make a file with "
                            "llarp data generate")  # fmt: skip
        if self.rules not in RULES:
            raise UserError(f"rules={self.rules} is not part of this version: use rules={RULES[0]}")
