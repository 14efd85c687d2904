"""Settings of the environment."""

from __future__ import annotations

from dataclasses import dataclass

from llarp.errors import UserError


@dataclass(frozen=True)
class EnvConfig:
    """Which worlds, how many, and how they are seen."""

    num_envs: int = 16  # worlds that step together
    image_size: int = 128  # pixels, width and height of the head camera
    split: str = "train"  # split whose episodes are drawn
    episodes: int = 12_000  # episodes generated for training (made once, then cached on disk)
    dataset: str = ""  # episode file; empty: the built-in generator
    rules: str = "clean"  # rule set that decides what counts as true
    render_threads: int = 0  # CPU threads of the renderer; 0: as many as there are cores

    def __post_init__(self) -> None:
        for name, low in (("num_envs", 1), ("image_size", 16), ("episodes", 1), ("render_threads", 0)):
            if getattr(self, name) < low:
                raise UserError(f"env.{name}={getattr(self, name)} is out of range: it must be at least {low}")
