"""What an episode pays and when it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .goals import MAX_SUBGOALS, Circuits, evaluate
from .rules import TaskError


@dataclass(frozen=True)
class TaskConfig:
    """Reward and length of an episode (arXiv 2310.17722, app. B)."""

    max_steps: int = 32
    success_reward: float = 10.0
    progress_reward: float = 5.0  # times the rise of the share of subgoals reached
    invalid_penalty: float = 0.0  # taken off for an action whose precondition fails; the paper names 0.05

    def __post_init__(self) -> None:
        if self.max_steps < 1:
            raise TaskError(f"max_steps must be at least 1, not {self.max_steps}")


@dataclass(frozen=True)
class StepResult:
    """What one step gave, each (N,)."""

    reward: Tensor  # float32
    terminated: Tensor  # bool: success
    truncated: Tensor  # bool: the last step has passed without success
    success: Tensor  # bool
    progress: Tensor  # float32: share of the subgoals ever fully true
    subgoal: Tensor  # int64: number of the subgoals ever fully true


class TaskTracker:
    """Goals, progress and step counts of N running episodes.

    A subgoal counts from the first time all its predicates hold, in any order. Those true at reset count as reached but
    pay nothing. A goal true at reset is noticed at the first step."""

    def __init__(self, num_worlds: int, config: TaskConfig | None = None, device: torch.device | str = "cpu"):
        self.config = config or TaskConfig()
        self.circuits = Circuits.none(num_worlds).to(device)
        self.reached = torch.zeros(num_worlds, MAX_SUBGOALS, dtype=torch.bool, device=device)
        self.steps = torch.zeros(num_worlds, dtype=torch.int64, device=device)
        self.progress = torch.zeros(num_worlds, device=device)

    def reset(self, rows: Tensor, circuits: Circuits, atoms: Tensor, only: Tensor | None = None) -> None:
        """Starts episodes in worlds `rows` (R,): `circuits` of R episodes, `atoms` (R, NUM_ATOMS) at their start.

        With `only` bool (R,), the worlds that it does not name go on; their circuits must be those they have."""
        self.circuits.assign(rows, circuits)
        _, subgoal, number = evaluate(self.circuits.rows(rows), atoms)
        steps, share = torch.zeros_like(rows), _share(subgoal, number)
        if only is not None:
            subgoal = torch.where(only[:, None], subgoal, self.reached[rows])
            steps, share = torch.where(only, steps, self.steps[rows]), torch.where(only, share, self.progress[rows])
        self.reached[rows] = subgoal
        self.steps[rows] = steps
        # not in place: step results hold this tensor, and the results of a step outlive the reset that follows it
        self.progress = self.progress.index_copy(0, rows, share)

    def update(self, atoms: Tensor, invalid: Tensor) -> StepResult:
        """Counts a step, after which `atoms` (N, NUM_ATOMS) hold; `invalid` bool (N,): the action was invalid."""
        success, subgoal, number = evaluate(self.circuits, atoms)
        self.reached |= subgoal
        self.steps += 1
        progress = _share(self.reached, number)
        cfg = self.config
        reward = cfg.progress_reward * (progress - self.progress) + cfg.success_reward * success
        if cfg.invalid_penalty:
            reward = reward - cfg.invalid_penalty * invalid
        self.progress = progress
        return StepResult(
            reward=reward,
            terminated=success,
            truncated=~success & (self.steps >= cfg.max_steps),
            success=success,
            progress=progress,
            subgoal=self.reached.sum(1),
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Everything needed to continue, as copies; `load_state_dict` takes it."""
        own = {"reached": self.reached, "steps": self.steps, "progress": self.progress}
        circuits = {f"circuits.{k}": v for k, v in self.circuits.tensors().items()}
        return {k: v.clone() for k, v in (own | circuits).items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continues from what `state_dict` gave, for the same number of worlds. Raises TaskError otherwise."""
        if state["steps"].shape != self.steps.shape:
            raise TaskError(f"the state is of {len(state['steps'])} worlds, not {len(self.steps)}")
        moved = {k: v.to(self.steps.device).clone() for k, v in state.items()}
        self.reached, self.steps, self.progress = moved["reached"], moved["steps"], moved["progress"]
        self.circuits = Circuits.from_tensors({k: moved[f"circuits.{k}"] for k in self.circuits.tensors()})


def _share(reached: Tensor, number: Tensor) -> Tensor:
    return reached.sum(1).float() / number.clamp(min=1)
