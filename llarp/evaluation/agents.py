"""Who acts in an evaluation or a video: a trained policy, the language model alone, or a planner; one interface."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor

from llarp.envs.config import EnvConfig
from llarp.envs.vector import LanguageRearrangementVectorEnv
from llarp.errors import UserError
from llarp.rl.unknown import Heard
from llarp.runfolder import find_run
from llarp.tasks.episodes import EpisodeSet
from llarp.tasks.planners import PLANNERS, make_planner
from llarp.tasks.task import TaskConfig

if TYPE_CHECKING:
    from llarp.config import RunConfig


Hears = Literal["named", "unknown", "described"]


class Agent(Protocol):
    """Chooses actions for the N worlds of a vector environment with torch output."""

    needs_visibility: bool
    needs_pictures: bool

    def start(self, env: Any) -> None:
        """Get ready for the worlds of `env`, before its first step."""

    def act(self, observation: dict[str, Tensor], episode_start: Tensor) -> Tensor:
        """Actions int64 (N,); `episode_start` bool (N,) marks first steps."""


class PolicyAgent:
    """A policy; `sample=False` takes the most probable action instead of sampling, as the original does not."""

    needs_visibility, needs_pictures = False, True
    hears: Hears = "named"
    """What instructions name is known ("named"), or as if its looks were unknown, or as if it was described only."""

    def __init__(self, policy: Any, sample: bool = True):
        self.policy, self.sample = policy, sample

    def start(self, env: Any) -> None:
        self.policy.bind_instructions(env.instruction_text)
        if self.hears != "named":
            shares = float(self.hears == "unknown"), float(self.hears == "described")
            self.policy.bind_instructions(Heard(env.instruction_text, *shares, seed=0))
        elif upcoming := env.upcoming_instructions(1000):
            self.policy.prepare_instructions(upcoming)
        self.state = self.policy.initial_state(env.num_envs)

    @torch.no_grad()
    def act(self, observation: dict[str, Tensor], episode_start: Tensor) -> Tensor:
        acted = self.policy.act(observation, self.state, episode_start, deterministic=not self.sample)
        self.state = acted[3]
        return acted[0]


class PlannerAgent:
    """One planner a world."""

    def __init__(self, name: str, seed: int = 0):
        if name not in PLANNERS:
            raise UserError(f"policy={name} is not available: choose {', '.join(PLANNERS)} or give checkpoint=PATH")
        self.name, self.seed = name, seed
        self.needs_visibility = self.needs_pictures = name == "explorer"

    def start(self, env: Any) -> None:
        self.env = env
        self.planners = [make_planner(self.name, self.seed) for _ in range(env.num_envs)]

    def act(self, observation: dict[str, Tensor], episode_start: Tensor) -> Tensor:
        actions = []
        for planner, view, start in zip(self.planners, self.env.planner_views(), episode_start.tolist(), strict=True):
            if start:
                planner.reset(view)
            actions.append(planner.act(view))
        return torch.tensor(actions, device=self.env.device)


def make_agent(
    config: RunConfig, checkpoint: Path | None, policy: str | None, sample: bool = True, calibrated: bool = False
) -> Agent:
    """The policy of a checkpoint, of a run's newest one or of a policy folder, the language model alone, or the planner
    named `policy`.

    `sample` is for checkpoints, `calibrated` for zero_shot."""
    if policy == "zero_shot":
        from .zero_shot import ZeroShotAgent

        return ZeroShotAgent.load(config.policy.llm, config.policy.precision, config.device, calibrated)
    if checkpoint is None:
        return PlannerAgent(policy or "", config.seed)
    from llarp.policy import hub
    from llarp.train import build_policy, load_policy

    if (checkpoint / hub.CARD).is_file():
        folder = hub.read(checkpoint)
        shipped = build_policy(config)
        hub.fill(shipped, folder)
        return PolicyAgent(shipped, sample)
    return PolicyAgent(load_policy(config, find_run(checkpoint) if checkpoint.is_dir() else checkpoint), sample)


def open_worlds(
    agent: Agent,
    episode_set: EpisodeSet,
    num_envs: int,
    config: EnvConfig,
    task: TaskConfig,
    seed: int,
    device: torch.device | str,
    autoreset_mode: str = "same_step",
) -> LanguageRearrangementVectorEnv:
    """Worlds in which `agent` plays every episode of the set exactly once."""
    return LanguageRearrangementVectorEnv(
        num_envs,
        output="torch",
        autoreset_mode=autoreset_mode,
        config=config,
        task=task,
        seed=seed,
        device=device,
        episode_set=episode_set,
        quota=True,
        visibility=agent.needs_visibility,
    )
