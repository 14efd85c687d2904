"""Why episodes failed, forms of goals, groups of splits, numbers to compare with; whole evaluations by planners."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llarp.config import RunConfig, load
from llarp.envs.episode_source import load_assets_for, load_episodes
from llarp.envs.sampler import SceneSampler
from llarp.envs.vector import LanguageRearrangementVectorEnv
from llarp.errors import UserError
from llarp.evaluation import evaluate as module
from llarp.evaluation.agents import PlannerAgent, open_worlds
from llarp.evaluation.evaluate import evaluate, evaluate_split, run_episodes
from llarp.evaluation.failures import FAILURES, STUCK, Trace, failure, goal_form
from llarp.evaluation.gallery import WIDTH, choose, replay_ends
from llarp.evaluation.published_results import GROUPS, LLARP, NOT_UNSEEN, TESTS, read_results
from llarp.evaluation.statistics import wilson
from llarp.summary import summary_lines
from llarp.tasks import instructions
from llarp.tasks.actions import ACTION_INDEX, ACTIONS
from llarp.tasks.entities import CATEGORY_INDEX, RECEPTACLE_INDEX
from llarp.tasks.generator import SPLITS
from llarp.tasks.goals import parse
from llarp.tasks.task import StepResult

CUP, BALL, PEAR = 0, 1, 2  # slots; a second cup lies in slot 3
CATEGORY = [CATEGORY_INDEX[name] for name in ("cup", "ball", "pear", "cup")] + [-1]
START = [RECEPTACLE_INDEX[name] for name in ("sink", "sofa", "sofa", "sofa")] + [-1]
SLOT = {"cup": CUP, "ball": BALL, "pear": PEAR}


def places(quantifier: str, **targets: str) -> dict[str, Any]:
    """A goal: an object of each kind on its receptacle."""
    inputs = [{"name": f"V{i}", "expr_type": kind} for i, kind in enumerate(targets)]
    on = [f"on_top(V{i}, {receptacle})" for i, receptacle in enumerate(targets.values())]
    return {"expr_type": "AND", "quantifier": quantifier, "inputs": inputs, "sub_exprs": [*on, "not_holding()"]}


CUP_TO_TABLE = places("EXISTS", cup="black table")
TWO = places("EXISTS", cup="black table", ball="sink")
NO_CUP_IN_SINK = {"expr_type": "AND", "sub_exprs": ["not_holding()", {
    "expr_type": "NAND", "quantifier": "EXISTS", "inputs": [{"name": "X", "expr_type": "cup"}],
    "sub_exprs": ["on_top(X, sink)"]}]}  # fmt: skip
CLOSED = {"expr_type": "AND", "sub_exprs": ["closed_fridge(fridge_push_point)"]}
IF_OPEN = {"expr_type": "AND", "sub_exprs": ["opened_fridge(fridge_push_point)", CUP_TO_TABLE]}
AT_SOFA = {"expr_type": "AND", "sub_exprs": ["robot_at(sofa)"]}


def trace(*names: str) -> Trace:
    """What happened, from action names; "x" in front of one that was impossible, "lost" where the simulator failed.
    The hand holds what was picked."""
    out, held = Trace(lost=names[-1:] == ("lost",)), -1
    for name in names[:-1] if out.lost else names:
        action = ACTIONS[ACTION_INDEX[name.removeprefix("x ")]]
        if not name.startswith("x "):
            held = SLOT[action.name[5:-1]] if action.kind == "pick" else -1 if action.kind == "place" else held
        out.add(action.index, name.startswith("x "), held, 0.0)
    return out


def why(goal: dict[str, Any], *names: str) -> str:
    return failure(trace(*names), goal, CATEGORY, START)


TAKE, TO_TABLE, TO_SOFA = "pick(cup)", "place(black table)", "place(sofa)"

CASES = {
    "simulator_failed": (CUP_TO_TABLE, [TAKE, *["x place(sink)"] * STUCK, "lost"]),
    "stuck": (CUP_TO_TABLE, [TAKE, *["x place(sink)"] * STUCK]),
    "wrong_object": (CUP_TO_TABLE, ["x pick(cup)", "pick(pear)", "place(black table)"]),
    "not_tried": (CUP_TO_TABLE, ["nav(sink)", "x pick(pear)", "x place(black table)"]),
    "not_found": (CUP_TO_TABLE, ["nav(sofa)", "x pick(cup)", "nav(chair)"]),
    "undone": (CUP_TO_TABLE, [TAKE, TO_TABLE, TAKE, TO_SOFA]),
    "part_done": (TWO, [TAKE, TO_TABLE, "pick(ball)"]),
    "carrying": (TWO, [TAKE, TO_SOFA, "pick(ball)", "nav(sink)"]),
    "wrong_place": (CUP_TO_TABLE, [TAKE, TO_SOFA]),
    "not_visited": (AT_SOFA, ["nav(sink)", "open(fridge)"]),
    "not_operated": (CLOSED, ["nav(sofa)", "x close(fridge)"]),
    "other": ({"expr_type": "AND", "sub_exprs": ["not_holding()"]}, ["nav(sofa)"]),
}


@pytest.mark.parametrize("reason", FAILURES)
def test_each_reason_has_its_episode(reason: str) -> None:
    goal, names = CASES[reason]
    parse(goal)
    assert why(goal, *names) == reason


def test_reasons_at_their_borders() -> None:
    assert why(CUP_TO_TABLE, TAKE, *["x place(sink)"] * (STUCK - 1)) == "carrying"
    assert why(CUP_TO_TABLE, *["x pick(cup)"] * STUCK) == "stuck"
    assert why(CUP_TO_TABLE, "pick(pear)", "place(sofa)", TAKE, TO_SOFA) == "wrong_place"  # a wrong one first
    assert why(TWO, TAKE, TO_TABLE, TAKE, TO_TABLE) == "part_done"  # taken up, and put back where it is wanted
    assert why(CUP_TO_TABLE, TAKE, TO_TABLE) == "other"  # nothing is left to blame
    assert why(places("FORALL", cup="black table"), TAKE, TO_TABLE, "nav(sofa)") == "other"
    assert why(CUP_TO_TABLE) == "not_tried"  # nothing was done at all


def test_things_to_be_cleared_off() -> None:
    assert why(NO_CUP_IN_SINK, "nav(sink)") == "not_tried"
    assert why(NO_CUP_IN_SINK, TAKE, "place(sink)") == "wrong_place"
    assert why(NO_CUP_IN_SINK, TAKE) == "carrying"
    assert why(NO_CUP_IN_SINK, TAKE, TO_SOFA, TAKE, "place(sink)") == "undone"
    assert why(NO_CUP_IN_SINK, TAKE, TO_SOFA) == "other"  # another cup may lie there; the goal does not say


def test_furniture_that_has_to_stay_as_it_is() -> None:
    assert why(CLOSED, "close(fridge)", "open(fridge)") == "undone"
    assert why(IF_OPEN, TAKE, "close(fridge)", TO_TABLE) == "undone"
    assert why(IF_OPEN, TAKE, "close(fridge)", "open(fridge)", TO_SOFA) == "wrong_place"


def test_forms_forget_names_but_not_which_are_the_same() -> None:
    assert goal_form(CUP_TO_TABLE) == "EXISTS X: on_top(X, place 1) AND not_holding()"
    assert goal_form(places("EXISTS", pear="sofa", cup="sofa")) == goal_form(places("EXISTS", ball="sink", pear="sink"))
    assert goal_form(TWO) == "EXISTS X, Y: on_top(X, place 1) AND on_top(Y, place 2) AND not_holding()"
    assert goal_form(NO_CUP_IN_SINK) == "not_holding() AND (NAND EXISTS X: on_top(X, place 1))"
    assert goal_form(IF_OPEN) == f"opened_fridge(handle 1) AND ({goal_form(CUP_TO_TABLE)})"
    turned = CUP_TO_TABLE | {"sub_exprs": CUP_TO_TABLE["sub_exprs"][::-1]}
    assert goal_form(turned) == goal_form(CUP_TO_TABLE)
    assert goal_form({"expr_type": "NOR", "sub_exprs": ["robot_at(sofa)", "holding(obj_1)"]}) == (
        "NOR (holding(object 1), robot_at(place 1))")  # fmt: skip


# -- groups and other people's numbers --------------------------------------------------------------------------------


def test_every_evaluation_split_is_described_and_grouped_once() -> None:
    tested = [name for name in SPLITS if name != "train"]
    assert set(TESTS) == set(tested)
    grouped = [name for members in GROUPS.values() for name in members]
    assert len(grouped) == len(set(grouped)) == 9
    assert set(tested) - set(grouped) == {"train_validation", "new_scenes"}


def row(rate: float, episodes: int = 10) -> dict[str, Any]:
    return {"episodes": episodes, "success_rate": rate, "ci95": [0, 1]}


def test_a_group_is_the_mean_of_its_splits_and_the_total_counts_unseen_episodes() -> None:
    rows = {name: row(0.5, 20) for name in GROUPS["paraphrastic_robustness"]} | {"train_validation": row(1.0, 20)}
    rows["context"] = row(1.0, 20)
    groups = module._groups(rows)
    assert list(groups) == ["paraphrastic_robustness"]  # no split of the other one was evaluated
    group = groups["paraphrastic_robustness"]
    assert (group["success_rate"], group["episodes"]) == (pytest.approx((4 * 0.5 + 1) / 5), 100)
    assert group["ci95"] == wilson(60, 100)
    pooled = module._pooled([r for name, r in rows.items() if name not in NOT_UNSEEN])
    assert (pooled["episodes"], pooled["success_rate"]) == (100, pytest.approx(0.6))


def test_numbers_to_compare_with_come_from_files(tmp_path: Path) -> None:
    path = tmp_path / "paper.json"
    path.write_text(json.dumps({"name": "N", "splits": {"context": 0.25, "rephrasing": {"success_rate": 0.5}}}))
    found = read_results(path)
    assert (found.splits, found.total, found.dataset) == ({"context": 0.25, "rephrasing": 0.5}, None, "published files")
    assert found.group(["context", "rephrasing"]) == 0.375 and found.group(["context", "new_scenes"]) is None


def test_the_published_rates_fit_the_published_total() -> None:
    """The total, from the abstract, is over the tasks that are said or done otherwise than in training."""
    members = [name for group in GROUPS.values() for name in group]
    assert LLARP.group(members) == pytest.approx(LLARP.total, abs=0.01)
    assert set(LLARP.splits) == set(TESTS)


@pytest.mark.parametrize(("text", "says"), {
    "no json": ("{", "no JSON"), "a list": ("[]", '"splits"'), "no splits": ('{"splits": 3}', '"splits"'),
    "percent": ('{"splits": {"context": 42}}', "splits.context must be a rate between 0 and 1"),
    "a word": ('{"splits": {}, "total": "half"}', "total must be a rate"),
    "nothing": ('{"splits": {"context": {}}}', "splits.context"), "deep": ("[" * 100000, "no JSON"),
}.values())  # fmt: skip
def test_files_that_hold_no_numbers_are_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UserError, match="x.json") as error:
        read_results(path)
    assert says in str(error.value)


def test_a_result_in_words_says_why_episodes_failed() -> None:
    rates = row(0.5) | {"mean_progress": 0.6, "mean_steps": 9.5, "invalid_rate": 0.25}
    failures = {"stuck": 1, "wrong_place": 4}
    lines = list(summary_lines({"splits": {"context": rates | {"failures": failures}}, "total": row(0.25)}))
    success = "(95 %: 0.0% to 100.0%) in 10 episodes"
    assert lines == [
        f"context: success 50.0% {success}, progress 0.60, 9.5 steps, 25.0% invalid",
        "    failed: 4 wrong place, 1 stuck",
        f"total: success 25.0% {success}",
    ]


# -- playing ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return load("smoke", ["env.num_envs=4", "env.image_size=32", "env.render_threads=1", "task.max_steps=12"])


def test_episodes_kept_from_before_are_not_taken_for_those_of_other_words(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = replace(config.env, split="rephrasing", episodes=12)
    before = load_episodes(env, 5)
    assert list(load_episodes(env, 5).instruction) == list(before.instruction)
    other = {kind: tuple(f"Robot! {text}" for text in texts) for kind, texts in instructions.EVAL.items()}
    monkeypatch.setattr(instructions, "EVAL", other)
    assert all(text.startswith("Robot! ") for text in load_episodes(env, 5).instruction)


def test_the_record_of_an_episode_is_what_happened(config: RunConfig) -> None:
    env = replace(config.env, split="rephrasing", episodes=12)
    episodes = load_episodes(env, 5)
    summary, results = evaluate_split(PlannerAgent("random", 3), env, config.task, episodes, 5)
    category = load_assets_for(env).catalog.category
    assert results.reason is not None and results.form is not None
    for i, done in enumerate(results.traces):
        assert len(done.actions) == results.steps[i] and sum(done.invalid) == results.invalid[i]
        assert done.progress[-1] == pytest.approx(results.progress[i])
        assert (results.reason[i] == "") == bool(results.success[i])
        before = -1
        for index, invalid, held in zip(done.actions, done.invalid, done.held, strict=True):
            kind, target = ACTIONS[index].kind, ACTIONS[index].target
            if not invalid and kind == "pick":
                assert before < 0 and category[episodes.object_model[i, held].long()] == target
            elif not invalid and kind == "place":
                assert before >= 0 and held < 0
            else:
                assert held == before
            before = held
    assert sum(summary["failures"].values()) == 12 - results.success.sum()
    assert sum(part["episodes"] for part in summary["by_form"].values()) == 12
    assert summary["pick_and_place"]["episodes"] == np.isin(results.instruction_type, module.PICK_AND_PLACE).sum()


def test_replayed_episodes_end_as_they_did(config: RunConfig) -> None:
    env_config = replace(config.env, split="new_scenes", episodes=6, image_size=2 * WIDTH)
    episodes, agent = load_episodes(env_config, config.seed), PlannerAgent("oracle")
    played = {}
    for i in (0, 5):
        env = open_worlds(agent, episodes.select([i]), 1, env_config, config.task, config.seed, "cpu")
        played[i] = (run_episodes(env, agent).traces[0], env.final_observation()["rgb"][0])
    first, last, outside = replay_ends(config, episodes.select([0, 5]), [trace for trace, _ in played.values()])
    for row, (_, picture) in enumerate(played.values()):
        assert torch.equal(last[row], picture) and not torch.equal(first[row], picture)
    assert outside.shape == (2, 512, 512, 3)


def test_shown_are_successes_and_failures_of_different_kinds(config: RunConfig) -> None:
    env = replace(config.env, split="rephrasing", episodes=12)
    _, results = evaluate_split(PlannerAgent("random", 3), env, config.task, load_episodes(env, 5), 5)
    results.success[:] = [True] * 3 + [False] * 9
    results.reason = np.array([""] * 3 + ["stuck", *["carrying"] * 5, "undone", "carrying", "stuck"], dtype=object)
    assert choose(results) == [0, 1, 4, 3, 9]


def test_an_evaluation_names_rules_and_who_acts(config: RunConfig) -> None:
    result = evaluate(config, checkpoint=None, policy="oracle", split="conditional_instructions", episodes=3)
    assert result["rules"] == "clean" and result["policy"] == "oracle" and result["dataset"] == "built-in"
    assert result["splits"]["conditional_instructions"]["success_rate"] == 1.0 and "notes" not in result
    assert result["total"]["episodes"] == 3 and "report" not in result
    with pytest.raises(UserError, match="nowhere"):
        evaluate(config, checkpoint=None, policy="oracle", split="nowhere", episodes=3)


class Losing(LanguageRearrangementVectorEnv):
    """Loses the step `lose[i]` (counted from 0) of episode i, and never begins the episodes of `aside`."""

    lose: dict[int, int]

    def step(self, actions: Any) -> tuple[Any, ...]:
        playing, steps = self.world.episode.tolist(), self.world.tracker.steps.tolist()
        lost = torch.tensor([self.lose.get(e) == t for e, t in zip(playing, steps, strict=True)])
        judge, before = self.world.judge, self.world.standing()

        def fail(invalid: torch.Tensor) -> StepResult:
            seen = judge(invalid & ~lost)
            return replace(
                seen, reward=torch.where(lost, 0.0, seen.reward), terminated=seen.terminated & ~lost,
                truncated=seen.truncated | lost, success=seen.success & ~lost,
                progress=torch.where(lost, before.progress, seen.progress),
            )  # fmt: skip

        self.world.judge = fail
        out = super().step(actions)
        self.world.judge = judge
        out[-1]["dropped"] = lost
        return out


def test_a_lost_episode_has_failed_once_with_the_steps_it_had(config: RunConfig) -> None:
    env_config, agent = replace(config.env, split="new_scenes", episodes=10), PlannerAgent("oracle")
    episodes = load_episodes(env_config, 5)
    settings = {"output": "torch", "autoreset_mode": "same_step", "quota": True, "episode_set": episodes}
    whole = run_episodes(LanguageRearrangementVectorEnv(3, config=env_config, seed=5, **settings), agent)
    assert whole.success.all() and "dropped" not in whole.full_summary()
    env = Losing(3, config=env_config, seed=5, **settings)
    env.lose = {0: 0, 4: int(whole.steps[4]) - 1, 7: 1, 9: 1}
    results = run_episodes(env, agent)
    lost = np.isin(np.arange(10), list(env.lose))
    assert (results.success == ~lost).all() and [trace.lost for trace in results.traces] == lost.tolist()
    assert results.steps[lost].tolist() == [0, whole.steps[4] - 1, 1, 1]  # the last would have been a success
    assert (results.steps == whole.steps)[~lost].all() and (results.reward == whole.reward)[~lost].all()
    assert all(len(trace.actions) == steps for trace, steps in zip(results.traces, results.steps, strict=True))
    summary = results.full_summary()
    assert summary["failures"] == {"simulator_failed": 4} and summary["dropped"] == 4
    assert (summary["success_rate"], summary["episodes"]) == (pytest.approx(0.6), 10)
    shown = [results.reason[i] for i in choose(results)]
    assert shown == ["", "", "simulator_failed", "simulator_failed", "simulator_failed"]


def test_an_episode_that_was_set_aside_has_failed(config: RunConfig) -> None:
    env_config, agent = replace(config.env, split="new_scenes", episodes=9), PlannerAgent("oracle")
    episodes = load_episodes(env_config, 5)
    env = open_worlds(agent, episodes, 2, env_config, config.task, 5, "cpu")
    env.sampler = SceneSampler(episodes.scene, 2, seed=5, quota=True)
    first = int(env.sampler.upcoming(1))
    env.sampler.set_aside(first)
    env.sampler.set_aside((first + 5) % 9)
    results = run_episodes(env, agent)
    assert sorted(np.flatnonzero(~results.success)) == sorted([first, (first + 5) % 9])
    assert (results.steps > 0).sum() == 7
    assert results.full_summary()["failures"] == {"simulator_failed": 2}
