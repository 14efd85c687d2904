"""A language model that two ranks hold together does what a whole one does, and a run with it too."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from crew import Crew
from test_checkpoint import same
from test_distributed import trained
from tiny_llm import make_tiny_llm
from transformers import GPT2Config, LlamaConfig, Qwen3Config

from llarp import cli
from llarp import train as training
from llarp.config import load
from llarp.errors import UserError
from llarp.policy.context import (
    behind,
    check_cache,
    compute_prefixes,
    decode,
    new_rows,
    pack,
    run_parallel,
    start_rows,
)
from llarp.policy.llm import FrozenLLM, load_llm
from llarp.policy.tensor_parallel import check_plan, cut
from llarp.rl import checkpoint
from llarp.rl.distributed import ALONE, Ranks
from llarp.rl.distributed import pack as to_bytes

PLACES, STEPS = 20, 3


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    crew = Crew()
    yield crew
    crew.close()


def team(ranks: Ranks) -> Ranks:
    """These ranks in teams of two, as `train` makes them."""
    ranks = dataclasses.replace(ranks)
    ranks.take_device("cpu")
    ranks.form_teams(2, "cpu")
    return ranks


# -- the model --------------------------------------------------------------------------------------------------------


def everything(llm: FrozenLLM) -> dict[str, torch.Tensor]:
    """Prefixes of three texts, two of them decoded step by step, whole segments and the gradient of what goes in."""
    ids = [llm.tokens(text) for text in ("open the fridge", "go to the sofa and come back", "pick up the ball")]
    prefixes = pack(compute_prefixes(llm, ids), [0, 1, 2])
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(3, STEPS, llm.hidden_size, generator=generator)
    state = new_rows(prefixes, 3, PLACES, STEPS)
    start_rows(state, torch.arange(3), prefixes, PLACES)
    with torch.no_grad():
        decoded = torch.stack([decode(llm, state, tokens[:, i, None], PLACES)[:, 0] for i in range(STEPS)], 1)
    tokens.requires_grad_()
    hidden, keys, values = run_parallel(llm, prefixes, tokens)
    weight = torch.randn(hidden.shape, generator=generator)
    (hidden * weight).sum().backward()
    assert tokens.grad is not None and llm.decoder is not None
    packed_tokens = tokens.detach().flatten(0, 1).requires_grad_()
    packed = llm.decoder.run(packed_tokens, behind(llm, prefixes, [STEPS] * 3)).view_as(hidden)
    (packed * weight).sum().backward()
    assert packed_tokens.grad is not None
    return {"prefix_keys": prefixes.keys, "prefix_values": prefixes.values, "cache": state["keys"], "decoded": decoded,
            "hidden": hidden.detach(), "keys": keys.detach(), "values": values.detach(), "gradient": tokens.grad,
            "packed": packed.detach(), "packed_gradient": packed_tokens.grad,
            "uncached": llm.run_uncached(tokens).detach()}  # fmt: skip


def shared(ranks: Ranks, folder: str) -> dict[str, Any]:
    ranks = team(ranks)
    assert ranks.mesh is not None
    sums, all_reduce = [0], dist.all_reduce

    def count(*args: Any, **kwargs: Any) -> Any:
        sums[0] += 1
        return all_reduce(*args, **kwargs)

    llm = load_llm(folder, "float32", mesh=ranks.mesh)
    storages = {s.data_ptr(): s.nbytes() for s in (p.untyped_storage() for p in llm.parameters())}
    tokens = torch.zeros(1, 2, llm.hidden_size, requires_grad=True)
    dist.all_reduce = count
    try:
        llm.run_uncached(tokens).sum().backward()
    finally:
        dist.all_reduce = all_reduce
    found = {name: x.numpy() for name, x in everything(llm).items()}
    return {"found": found, "bytes": sum(storages.values()), "error": check_cache(llm), "sums": sums[0]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llm(tmp_path_factory.mktemp("llm"))


def test_two_halves_of_a_model_do_what_it_does(crew: Crew, folder: Path) -> None:
    llm = load_llm(str(folder), "float32")
    whole, halves = everything(llm), crew.run(shared, str(folder))
    together = {}
    for name in whole:
        first, second = (torch.from_numpy(half["found"][name]) for half in halves)
        if "keys" not in name and "values" not in name and name != "cache":  # what every rank has whole
            assert torch.equal(first, second), name
            together[name] = first
        else:  # (L, rows, heads, ...): its own heads
            assert first.shape[2] == second.shape[2] == whole[name].shape[2] // 2 == 1
            together[name] = torch.cat([first, second], 2)
    for name, expected in whole.items():
        torch.testing.assert_close(together[name], expected, atol=3e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
    assert whole["gradient"].abs().max() > 0.1
    bytes_whole = sum(p.nbytes for p in llm.parameters())
    uncut = sum(p.nbytes for n, p in llm.named_parameters() if "norm" in n or "embed" in n)
    for half in halves:
        assert half["error"] < 1e-5
        assert half["bytes"] == uncut + (bytes_whole - uncut) / 2  # the other half is not kept behind a view
        assert half["sums"] == 2 * 2 * llm.num_layers  # attention and MLP, forward and backward


def biased(ranks: Ranks) -> dict[str, torch.Tensor]:
    """A layer that adds a bias after the sum does it once."""
    from torch import nn

    ranks = team(ranks)
    torch.manual_seed(0)
    model = nn.Module()
    model.layers = nn.ModuleList([nn.Module()])
    model.layers[0].up, model.layers[0].down = nn.Linear(3, 4), nn.Linear(4, 3)
    model.config = LlamaConfig()
    model.config.base_model_tp_plan = {"layers.*.up": "colwise", "layers.*.down": "rowwise", "norm": "whatever"}
    x = torch.randn(2, 3)
    whole = model.layers[0].down(model.layers[0].up(x))
    cut(model, ranks.mesh)
    return {"whole": whole.detach().numpy(), "cut": model.layers[0].down(model.layers[0].up(x)).detach().numpy()}


def test_a_bias_is_added_once(crew: Crew) -> None:
    for one in crew.run(biased):
        torch.testing.assert_close(torch.from_numpy(one["cut"]), torch.from_numpy(one["whole"]))


# -- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "size", "reason"),
    [
        # SmolLM2-135M's sizes: 9 heads, 3 of them key-value heads
        (LlamaConfig(hidden_size=576, num_attention_heads=9, num_key_value_heads=3, intermediate_size=1536), 3, ""),
        (LlamaConfig(hidden_size=576, num_attention_heads=9, num_key_value_heads=3, intermediate_size=1536), 2,
         "its 9 attention heads can not be divided by 2"),
        (LlamaConfig(hidden_size=96, num_attention_heads=12, num_key_value_heads=2), 4, "its 2 key-value heads"),
        (LlamaConfig(num_attention_heads=4, intermediate_size=30), 4, "its 30 units in its MLPs"),
        (Qwen3Config(num_attention_heads=4, num_key_value_heads=2), 2, ""),
        (GPT2Config(n_head=2), 2, "no plan"),
        (GPT2Config(n_head=2), 1, ""),
    ],
)  # fmt: skip
def test_models_that_cannot_be_divided_are_refused(config: Any, size: int, reason: str, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    if not reason:
        check_plan("tiny", tmp_path, size)
        return
    with pytest.raises(UserError, match=f"policy.tensor_parallel={size} does not go with policy.llm=tiny: .*{reason}"):
        check_plan("tiny", tmp_path, size)


def form(ranks: Ranks, size: int) -> None:
    dataclasses.replace(ranks).form_teams(size, "cpu")


def test_ranks_must_come_out_even(crew: Crew) -> None:
    answers = crew.answers(form, 3)
    assert answers[0][1].startswith("UserError: policy.tensor_parallel=3: the number of processes must be a multiple")
    assert answers[1][1] == "SystemExit: 2"


def test_one_process_alone_is_no_team(folder: Path, tmp_path: Path, capsys: Any) -> None:
    words = ["train", "config=smoke", "device=cpu", f"output_dir={tmp_path}", "policy.tensor_parallel=2"]
    assert cli.main([*words, f"policy.llm={folder}"]) == 2
    assert "torchrun --nproc-per-node=2" in capsys.readouterr().err
    assert cli.main([*words, f"policy.llm={folder}", "env.double_buffer=true"]) == 2
    assert "does not go with env.double_buffer=true" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# -- two teams of two -------------------------------------------------------------------------------------------------


def trained_in_teams(ranks: Ranks, *arguments: Any) -> dict[str, Any]:
    ranks = team(ranks)
    place = (ranks.team, ranks.num_teams, ranks.in_team(ranks.rank == 3), ranks.clock())
    return trained(ranks, *arguments) | {"team": place}


def test_two_teams_of_two_are_two_ranks(crew: Crew, tmp_path: Path) -> None:
    """Here nothing is cut: what counts is that each team plays, counts and learns once."""
    pairs = crew.run(trained, tmp_path / "two", 96, 3, False)
    four = Crew(4)
    try:
        found = four.run(trained_in_teams, tmp_path / "four", 96, 3, False)
        stopped = four.run(trained_in_teams, tmp_path / "four", 10**6, 9, True, 3)
    finally:
        four.close()
    assert [one["team"][:3] for one in found] == [(0, 2, False), (0, 2, False), (1, 2, True), (1, 2, True)]
    assert found[0]["team"][3] == found[1]["team"][3] and found[2]["team"][3] == found[3]["team"][3]
    for one in found:
        assert same(one["policy"], found[0]["policy"]) and one["summary"]["env_steps"] == 96
        for name, expected in pairs[0]["policy"].items():
            torch.testing.assert_close(one["policy"][name], expected, atol=1e-6, rtol=1e-5)
    assert [row["success_rate"] for row in found[0]["log"]] == [row["success_rate"] for row in pairs[0]["log"]]
    assert len(found[0]["state"]["others"]) == 1  # a checkpoint holds each team once
    played = [one["state"]["others"][0]["collector"]["parts"][0]["env"] for one in (found[0], pairs[0])]
    assert same(*played)
    # Rank 1 is asked to stop: the other of its team stops with it, the other team ends its rollout.
    assert [one["continues"] for one in stopped] == [True] * 4
    assert [one["steps"] for one in stopped] == [3, 3, 6, 6]
    assert stopped[0]["summary"]["env_steps"] == 96 + 3 * 3 + 5 * 6


# -- a run ------------------------------------------------------------------------------------------------------------


def teamed_run(ranks: Ranks, folder: Path, words: list[str], resume: str | None) -> dict[str, Any]:
    """`train` in `folder`; the result, the trainable weights at the end, and what this rank's worlds have come to."""
    os.chdir(folder)
    trainers: list[Any] = []

    class Remembered(training.Trainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            trainers.append(self)

    original, training.Trainer = training.Trainer, Remembered  # type: ignore[misc]
    film, training._film = training._film, lambda *_: []  # type: ignore[assignment]
    try:
        resumed = None if resume is None else Path(resume)
        config = load("smoke" if resumed is None else str(resumed / "config.yaml"), words)
        result = training.train(config, resume=resumed, ranks=dataclasses.replace(ranks))
    finally:
        training.Trainer, training._film = original, film  # type: ignore[misc]
    worlds = to_bytes(trainers[0].state_dict()["collector"]["parts"][0]["env"])
    return {"result": result, "weights": trainers[0].policy.trainable_state_dict(), "worlds": worlds,
            "heads": trainers[0].policy.initial_state(1)["keys"].shape[2]}  # fmt: skip


def test_a_run_of_a_team_is_that_of_one_process(crew: Crew, folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = [f"policy.llm={folder}", "policy.vision=test_vit", "policy.vision_pool=grid2", "policy.precision=float32",
            "policy.max_instruction_tokens=192", "env.image_size=32", "env.num_envs=2", "task.max_steps=6",
            "train.warm_start=bc", "bc.episodes=4", "bc.epochs=2", "train.critic_warmup_steps=16",
            "train.eval_episodes=2", "train.total_steps=32", "seed=3", "device=cpu", "bc.train_minutes=99"]  # fmt: skip
    alone = teamed_run(ALONE, tmp_path, [*tiny, "run_name=one"], None)
    first, second = crew.run(teamed_run, tmp_path, [*tiny, "run_name=two", "policy.tensor_parallel=2"], None)
    assert (alone["heads"], first["heads"], second["heads"]) == (2, 1, 1)
    assert same(first["weights"], second["weights"]) and first["worlds"] == second["worlds"] == alone["worlds"]
    for name, expected in alone["weights"].items():
        torch.testing.assert_close(first["weights"][name], expected, atol=2e-5, rtol=1e-3)
    assert first["result"]["env_steps"] == alone["result"]["env_steps"] == 32
    for when in ("before PPO", "after PPO"):
        one, other = (r["result"]["evaluations"][when] for r in (alone, first))
        assert (one["success_rate"], one["mean_steps"]) == (other["success_rate"], other["mean_steps"])
    rows = [json.loads(line) for line in (tmp_path / "runs/two/metrics.jsonl").read_text().splitlines()]
    assert [row["env_steps"] for row in rows] == [16, 32]  # 8 steps of 2 worlds, counted once
    first, second = crew.run(teamed_run, tmp_path, ["train.total_steps=48"], "runs/two")
    assert same(first["weights"], second["weights"]) and first["result"]["env_steps"] == 48
    # One process may go on alone, with the whole model.
    newest = checkpoint.latest(tmp_path / "runs/two")
    policy = training.load_policy(load(str(tmp_path / "runs/two/config.yaml")), newest)
    assert same(policy.trainable_state_dict(), first["weights"]) and policy.llm.mesh is None
