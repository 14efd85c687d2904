"""Rollouts on film, for the benchmark's episodes or for an instruction in free words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from llarp.envs.config import EnvConfig
from llarp.envs.episode_source import load_episodes
from llarp.envs.vector import LanguageRearrangementVectorEnv
from llarp.errors import UserError
from llarp.tasks.episodes import EpisodeSet
from llarp.tasks.task import TaskConfig

from .agents import Agent, make_agent, open_worlds
from .video import Picture, VideoWriter, draw_frame

if TYPE_CHECKING:
    from llarp.config import RunConfig

SECONDS_A_STEP, SECONDS_AT_THE_END = 0.8, 2.5


def record(
    config: RunConfig,
    target: Path,
    *,
    checkpoint: Path | None,
    policy: str | None,
    split: str,
    episode: int,
    instruction: str | None,
    sample: bool = True,
    calibrated: bool = False,
) -> dict[str, Any]:
    """What `llarp video` does: one episode of a split to `target`, or its room with an instruction in free words."""
    if instruction is not None and policy not in (None, "random", "zero_shot"):
        needed = "checkpoint=PATH, policy=zero_shot or policy=random"
        raise UserError(f"policy={policy} plans for a known goal: instruction= needs {needed}")
    count = max(100, episode + 1)
    episodes = load_episodes(replace(config.env, split=split, episodes=count), config.seed)
    if episode >= len(episodes):
        raise UserError(f"episode={episode}: the split has episodes 0 to {len(episodes) - 1}")
    chosen = episodes.select([episode])
    if instruction is not None:
        chosen = _with_instruction(chosen, instruction)
    agent = make_agent(config, checkpoint, policy, sample, calibrated)
    shown = film(target, agent, config.env, config.task, chosen, config.seed, config.device, judged=instruction is None)
    return {"video": str(target), **shown[0]}


def _with_instruction(episodes: EpisodeSet, instruction: str) -> EpisodeSet:
    """The same room with other words and a goal that never comes true, so that the film runs to the last step."""
    from llarp.tasks.goals import Circuits, ground, parse

    goal = {"expr_type": "AND", "sub_exprs": [f"{state}_fridge(fridge_push_point)" for state in ("opened", "closed")]}
    circuit = ground(parse(goal), [], np.zeros(0, dtype=np.int64))
    return replace(
        episodes,
        instruction=[instruction],
        instruction_type=["free"],
        goal=[json.dumps(goal)],
        subgoals=["[]"],
        circuits=Circuits.pack([circuit]),
    )


@torch.no_grad()
def film(
    path: Path | str,
    agent: Agent,
    config: EnvConfig,
    task: TaskConfig,
    episode_set: EpisodeSet,
    seed: int = 0,
    device: torch.device | str = "cpu",
    judged: bool = True,
) -> list[dict[str, Any]]:
    """Play the episodes one after another into one mp4; returns instruction, steps and, if judged, success of each.

    `judged=False` is for an instruction in free words: no goal is known, so no reward, progress or outcome is drawn.
    """
    env = open_worlds(agent, episode_set, 1, config, task, seed, device, "disabled")
    shown = []
    with VideoWriter(path) as video, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for number in range(len(episode_set)):
            observation, info = env.reset()
            if number == 0:
                agent.start(env)
            instruction = env.instruction_text(int(observation["instruction_id"][0]))
            start, done, step = torch.ones(1, dtype=torch.bool, device=env.device), False, 0
            frame = _frame(env, observation, instruction, 0, "", info, 0.0, None, judged, task)
            video.add(frame, SECONDS_AT_THE_END)
            while not done:
                action = agent.act(observation, start)
                observation, reward, terminated, truncated, info = env.step(action)
                start, step, done = torch.zeros_like(start), step + 1, bool((terminated | truncated)[0])
                name = info["action_name"][0]
                outcome = bool(terminated[0]) if done and judged else None
                frame = _frame(env, observation, instruction, step, name, info, float(reward[0]), outcome, judged, task)
                video.add(frame, SECONDS_AT_THE_END if done else SECONDS_A_STEP)
            outcome_known = {"success": bool(info["success"][0])} if judged else {}
            shown.append({"instruction": instruction, **outcome_known, "steps": step})
    env.close()
    return shown


def _frame(
    env: LanguageRearrangementVectorEnv,
    observation: dict[str, Any],
    instruction: str,
    step: int,
    action_name: str,
    info: dict[str, Any],
    reward: float,
    outcome: bool | None,
    judged: bool,
    task: TaskConfig,
) -> Picture:
    return draw_frame(
        observation["rgb"][0].cpu().numpy(),
        env.world.render_outside()[0].cpu().numpy(),
        instruction,
        step,
        action_name,
        invalid=bool(info["invalid_action"][0]) and step > 0,
        reward=reward if judged else None,
        progress=float(info["progress"][0]) if judged else None,
        outcome=outcome,
        max_steps=task.max_steps,
    )
