"""A language model alone as the policy: its scores against the plain way to work them out, its prompts, its runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imageio_ffmpeg
import pytest
import torch
from tiny_llm import make_tiny_llm
from torch import Tensor

from llarp import cli
from llarp.config import load
from llarp.errors import UserError
from llarp.evaluation.evaluate import evaluate
from llarp.evaluation.skill_scores import PhraseScorer, PhraseTree, load_causal
from llarp.evaluation.zero_shot import BEGINNING, ZeroShotAgent, step_text, task_text
from llarp.tasks.actions import ACTION_INDEX, ACTIONS, NUM_ACTIONS
from llarp.tasks.entities import CATEGORIES, RECEPTACLES

PHRASES = [f" {action.words}" for action in ACTIONS]


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The folder of a tiny language model."""
    yield str(make_tiny_llm(tmp_path_factory.mktemp("llm") / "tiny"))


@pytest.fixture(scope="module")
def model(llm: str) -> tuple[Any, Any]:
    return load_causal(llm, "float32")


def test_phrases_that_begin_alike_share_tokens() -> None:
    tree = PhraseTree.of([[5, 6, 7], [5, 6, 8], [5], [9, 6]])
    assert tree.token == (5, 6, 9) and tree.parent == (-1, 0, -1) and tree.depth() == [0, 1, 0]
    assert tree.path == (((-1, 5), (0, 6), (1, 7)), ((-1, 5), (0, 6), (1, 8)), ((-1, 5),), ((-1, 9), (2, 6)))
    assert tree.sees().int().tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]


@torch.no_grad()
def plainly(model: Any, ids: list[int], phrase: list[int]) -> Tensor:
    """Log-probability of a phrase after a text, one forward pass over both."""
    logp = model(torch.tensor([ids + phrase])).logits[0].float().log_softmax(-1)
    return torch.stack([logp[len(ids) - 1 + i, token] for i, token in enumerate(phrase)]).sum()


def test_scores_are_those_of_the_model_itself(model: tuple[Any, Any]) -> None:
    scorer = PhraseScorer(*model, "Say what to do.\n", PHRASES)
    pieces = [["a", "bring the cup", "x"], [" go to the sink.", " no", " twice as long as the others"]]
    scorer.start(3)
    texts = [list(scorer.beginning) for _ in range(3)]
    for step, piece in enumerate(pieces):
        if step == 1:  # the middle row begins anew
            scorer.restart(torch.tensor([False, True, False]))
            texts[1] = list(scorer.beginning)
        scores = scorer.extend(piece)
        for row, text in enumerate(piece):
            texts[row] += scorer.ids(text)
            for phrase in (0, 17, 40, 52, 69):
                expected = plainly(model[0], texts[row], scorer.ids(PHRASES[phrase]))
                assert scores[row, phrase] == pytest.approx(float(expected), abs=2e-4)


def test_rows_that_restart_free_their_memory(model: tuple[Any, Any]) -> None:
    scorer = PhraseScorer(*model, "Begin.", PHRASES)
    scorer.start(2)
    everyone = torch.tensor([True, True])
    first = scorer.extend(["one more", "two"])
    for _ in range(3):
        scorer.extend([" and another step"] * 2)
    scorer.restart(everyone)
    assert scorer._cache.get_seq_length() == len(scorer.beginning)
    assert torch.allclose(scorer.extend(["one more", "two"]), first, atol=1e-4)


def test_the_prompt_names_every_skill_by_its_parts() -> None:
    for name in (*(r.name for r in RECEPTACLES), *CATEGORIES, "drawer 4", "drawer 7"):
        assert name in BEGINNING
    assert task_text(" Do it. ") == "Task: Do it.\nSteps:\n1."
    assert step_text("go to the sink", True, 2) == " go to the sink\n2."
    assert step_text("pick up the cup", False, 3) == " pick up the cup (not possible)\n3."


class FakeScorer:
    """Remembers what it was told; the likeliest phrase is given."""

    device, length = torch.device("cpu"), torch.tensor([len(words.split()) for words in PHRASES])

    def __init__(self, *best: str):
        self.best, self.told, self.restarted = [ACTION_INDEX[name] for name in best], [], []

    def start(self, num_rows: int) -> None:
        self.rows = num_rows

    def restart(self, rows: Tensor) -> None:
        self.restarted.append(rows.tolist())

    def extend(self, texts: list[str]) -> Tensor:
        self.told.append(texts)
        scores = torch.full((len(texts), NUM_ACTIONS), -40.0)
        for row, best in zip(scores, self.best, strict=False):
            row[best] = -1.0
        return scores


def fake_env(valid: list[bool]) -> Any:
    """Two worlds in which an action is possible or not, whatever it is."""
    return SimpleNamespace(num_envs=2, device="cpu", instruction_text=["Fetch.", "Carry."].__getitem__,
                           valid_actions=lambda: torch.tensor(valid)[:, None].expand(2, NUM_ACTIONS))  # fmt: skip


def test_the_agent_tells_the_model_what_it_did_and_whether_it_could() -> None:
    agent = ZeroShotAgent.__new__(ZeroShotAgent)
    agent.scorer, agent.calibrated = FakeScorer("nav(sink)", "pick(cup)"), False  # type: ignore[assignment]
    agent.start(fake_env([True, False]))
    seen = {"instruction_id": torch.tensor([0, 1])}
    begin, going = torch.tensor([True, True]), torch.tensor([False, False])
    assert agent.act(seen, begin).tolist() == [ACTION_INDEX["nav(sink)"], ACTION_INDEX["pick(cup)"]]
    agent.act(seen, going)
    agent.act({"instruction_id": torch.tensor([1, 1])}, torch.tensor([True, False]))
    told = agent.scorer.told  # type: ignore[attr-defined]
    assert told[0] == [task_text("Fetch."), task_text("Carry.")]
    assert told[1] == [" go to the sink\n2.", " pick up the cup (not possible)\n2."]
    assert told[2] == [task_text("Carry."), " pick up the cup (not possible)\n3."]
    assert agent.scorer.restarted == [[True, True], [True, False]]  # type: ignore[attr-defined]


def test_long_names_do_not_lose_and_calibration_takes_off_what_is_always_likely() -> None:
    agent = ZeroShotAgent.__new__(ZeroShotAgent)
    agent.scorer, agent.calibrated = FakeScorer(), False  # type: ignore[assignment]
    scores = torch.full((1, NUM_ACTIONS), -50.0)
    short, long = ACTION_INDEX["open(fridge)"], ACTION_INDEX["place(left drawer)"]  # 3 and 6 words
    scores[0, short], scores[0, long] = -6.0, -9.0
    assert int(agent._normalised(scores).argmax()) == long
    agent.calibrated = True
    agent.scorer.extend = lambda texts: scores.expand(len(texts), -1)  # type: ignore[method-assign]
    agent.start(fake_env([True, True]))
    agent.scorer.extend = lambda texts: scores + 3 * (torch.arange(NUM_ACTIONS) == 20)  # type: ignore[method-assign]
    assert agent.act({"instruction_id": torch.tensor([0, 1])}, torch.tensor([True, True])).tolist() == [20]


def test_an_evaluation_is_the_same_however_many_worlds_share_it(llm: str) -> None:
    results = []
    for worlds in (1, 3):
        settings = [f"policy.llm={llm}", "policy.precision=float32", "task.max_steps=4", f"env.num_envs={worlds}"]
        config = load("smoke", [*settings, "env.render_threads=1"])
        results.append(evaluate(config, checkpoint=None, policy="zero_shot", split="train_validation", episodes=5))
    assert results[0]["splits"] == results[1]["splits"] and results[0]["policy"] == "zero_shot"
    assert results[0]["splits"]["train_validation"]["episodes"] == 5


def test_films_follow_free_words(llm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["video", "policy=zero_shot", "config=smoke", f"policy.llm={llm}", "instruction=Tidy up.", "out=a.mp4",
             "task.max_steps=2", "calibrated=true"]  # fmt: skip
    assert cli.main(words) == 0
    assert next(imageio_ffmpeg.read_frames("a.mp4"))["codec"] == "h264"


def test_models_without_an_output_layer_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(UserError, match="is no causal language model"):
        load_causal(str(tmp_path))
    with pytest.raises(UserError, match="neither a folder nor"):
        load_causal("no such model")
