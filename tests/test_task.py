"""Reward, progress and the end of episodes."""

from __future__ import annotations

import pytest
import torch

from llarp.tasks import atoms
from llarp.tasks.goals import Circuits, ground, parse
from llarp.tasks.rules import TaskError
from llarp.tasks.task import TaskConfig, TaskTracker

A, B, C, D = (atoms.robot_at(i) for i in (5, 6, 7, 8))  # chair, black table, brown table, TV stand
GOAL = {"expr_type": "AND", "sub_exprs": ["robot_at(chair)", "robot_at(black table)"]}
BOTH_AT_ONCE = ["robot_at(brown table)", "robot_at(TV stand)"]
SUBGOALS = [["robot_at(chair)"], ["robot_at(black table)"], BOTH_AT_ONCE, ["not_holding()"]]
VALID = torch.tensor([False])


def rows(*worlds: list[int]) -> torch.Tensor:
    table = torch.zeros(len(worlds), atoms.NUM_ATOMS, dtype=torch.bool)
    for i, true in enumerate(worlds):
        table[i, true] = True
    return table


def circuits(count: int = 1) -> Circuits:
    none = torch.full((56,), -1).numpy()
    return Circuits.pack([ground(parse(GOAL), SUBGOALS, none)] * count)


def started(*true: int, **config: float) -> TaskTracker:
    tracker = TaskTracker(1, TaskConfig(**config))  # type: ignore[arg-type]
    tracker.reset(torch.tensor([0]), circuits(), rows(list(true)))
    return tracker


def test_progress_is_sticky_in_any_order_and_pays_once():
    tracker = started()
    first = tracker.update(rows([C]), VALID)  # half of the third subgoal
    assert (first.reward.item(), first.progress.item(), first.subgoal.item()) == (0, 0, 0)
    assert tracker.update(rows([C, D]), VALID).reward.item() == pytest.approx(5 / 4)
    assert tracker.update(rows([]), VALID).reward.item() == 0
    again = tracker.update(rows([C, D]), VALID)
    assert (again.reward.item(), again.progress.item(), again.subgoal.item()) == (0, 0.25, 1)
    both = tracker.update(rows([A, atoms.not_holding()]), VALID)
    assert both.reward.item() == pytest.approx(2 * 5 / 4) and not both.terminated
    last = tracker.update(rows([A, B]), VALID)
    assert last.reward.item() == pytest.approx(5 / 4 + 10)
    assert last.success and last.terminated and not last.truncated and last.progress.item() == 1


def test_subgoals_true_at_reset_pay_nothing():
    tracker = started(A, atoms.not_holding())
    result = tracker.update(rows([A, atoms.not_holding()]), VALID)
    assert result.reward.item() == 0 and result.progress.item() == 0.5 and result.subgoal.item() == 2


def test_goal_true_at_reset_is_noticed_at_the_first_step():
    result = started(A, B).update(rows([A, B]), VALID)
    assert result.success and result.terminated and result.reward.item() == 10


def test_success_without_full_progress():
    result = started().update(rows([A, B]), VALID)
    assert result.success and result.progress.item() == 0.5 and result.reward.item() == pytest.approx(12.5)


def test_truncated_at_the_last_step_unless_successful():
    for final, terminated in ((rows([]), False), (rows([A, B]), True)):
        tracker = started()
        results = [tracker.update(rows([]), VALID) for _ in range(31)]
        assert not any(r.truncated or r.terminated for r in results)
        result = tracker.update(final, VALID)
        assert bool(result.terminated) == terminated and bool(result.truncated) == (not terminated)


def test_invalid_penalty_is_a_setting():
    invalid = torch.tensor([True])
    assert started().update(rows([]), invalid).reward.item() == 0
    assert started(invalid_penalty=0.05).update(rows([]), invalid).reward.item() == pytest.approx(-0.05)
    assert started(invalid_penalty=0.05).update(rows([]), VALID).reward.item() == 0
    with pytest.raises(TaskError):
        TaskConfig(max_steps=0)


def test_reset_touches_only_its_rows_and_state_is_restored():
    tracker = TaskTracker(3)
    tracker.reset(torch.arange(3), circuits(3), rows([], [], []))
    calm = torch.zeros(3, dtype=torch.bool)
    before = tracker.update(rows([A], [A], [B]), calm)
    tracker.reset(torch.tensor([1]), circuits(), rows([]))
    assert before.progress.tolist() == [0.25, 0.25, 0.25]  # the step's result is not touched by the reset
    saved = tracker.state_dict()
    following = rows([A, B], [A], [B])
    result = tracker.update(following, calm)
    assert tracker.steps.tolist() == [2, 1, 2]
    assert result.reward.tolist() == pytest.approx([11.25, 1.25, 0])
    other = TaskTracker(3)
    other.load_state_dict(saved)
    repeated = other.update(following, calm)
    for name in ("reward", "terminated", "truncated", "success", "progress", "subgoal"):
        assert torch.equal(getattr(repeated, name), getattr(result, name))
    assert saved["steps"].tolist() == [1, 0, 1]  # a copy
    with pytest.raises(TaskError):
        TaskTracker(2).load_state_dict(saved)
