"""Settings of the environment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class EnvConfig:
    """Which worlds, how many, and how they are seen."""

    num_envs: int = 16  # worlds that step together
    image_size: int = 128  # pixels, width and height of the head camera
    split: str = "train"  # split whose episodes are drawn
    episodes: int = 12000  # episodes generated for training (made once, then cached on disk)
    dataset: str = ""  # episode file; empty: the built-in generator
    rules: str = "clean"  # rule set that decides what counts as true
    max_steps: int = 32  # steps an episode may take (Language Rearrangement: 32)
    success_reward: float = 10.0
    progress_reward: float = 5.0  # times the rise of the share of subgoals reached
    invalid_penalty: float = 0.0  # subtracted for an invalid action (paper: 0.05, but it never acts in the original)
    render_threads: int = 0  # CPU threads of the renderer; 0: as many as there are cores
