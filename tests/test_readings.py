"""Readings of instructions in files: read once for all runs, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_baselines import build, config  # noqa: F401 (a fixture)

from llarp.errors import UserError
from llarp.policy import readings
from llarp.policy.encoder_decoder import EncoderDecoderPolicy

TEXTS = [f"Put the {name} on the {place}." for name in ("apple", "bowl", "can", "cup") for place in ("sofa", "table")]


@pytest.fixture
def policy(config) -> EncoderDecoderPolicy:  # noqa: F811
    return build(config, "encoder_decoder_skill_names")


@pytest.fixture
def small(monkeypatch) -> None:
    """Two texts are read at a time, and three or more make a file."""
    monkeypatch.setattr(readings, "PREFIX_BATCH", 1)
    monkeypatch.setattr(readings, "SHARD", 3)


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def refuse(ids: list[list[int]]) -> None:
    raise AssertionError("read again")


def same(policy: EncoderDecoderPolicy, other: EncoderDecoderPolicy) -> None:
    prompts = [policy._prompt(text) for text in TEXTS[::-1]]
    for one, two in zip(policy.instructions.get(prompts), other.instructions.get(prompts), strict=True):
        assert torch.equal(one, two)


def test_what_one_run_has_read_another_need_not(config, policy, small, tmp_path, monkeypatch):  # noqa: F811
    assert list(policy.read_into(tmp_path, TEXTS + TEXTS)) == [8, 6, 4, 2]
    assert len(files(tmp_path)) == 2
    again = build(config, "encoder_decoder_skill_names")
    monkeypatch.setattr(again.instructions, "read", refuse)
    assert list(again.read_into(tmp_path, TEXTS)) == []
    same(again, policy)
    same(again, build(config, "encoder_decoder_skill_names"))  # which reads them itself
    with pytest.raises(AssertionError, match="read again"):
        again.prepare_instructions(["Find a lemon."])


def test_files_take_nothing_of_the_memory_that_readings_may_take(policy, small, tmp_path):
    policy.instructions.max_bytes = 0
    list(policy.read_into(tmp_path, TEXTS))
    assert sum(len(list(readings._read(path))) for path in files(tmp_path)) == len(TEXTS)
    policy.prepare_instructions(TEXTS)
    assert not policy.instructions._kept and policy.instructions._bytes == 0
    policy.prepare_instructions(["Find a lemon."])
    assert len(policy.instructions._kept) == 1


def test_who_stops_keeps_what_was_read(config, policy, small, tmp_path):  # noqa: F811
    for left in policy.read_into(tmp_path, TEXTS):
        if left == 4:
            break
    again = build(config, "encoder_decoder_skill_names")
    assert list(again.read_into(tmp_path, TEXTS)) == [4, 2]
    same(again, policy)


def test_other_readings_lie_elsewhere(config, policy, small, tmp_path):  # noqa: F811
    list(policy.read_into(tmp_path, TEXTS))
    other = build(config, "lstm")
    assert list(other.read_into(tmp_path, TEXTS)) == [8, 6, 4, 2]
    assert len({path.parent for path in files(tmp_path)}) == 2
    before = files(tmp_path)
    policy.instructions.llm._fingerprint = "another model"
    policy.instructions._filed.clear()
    assert list(policy.read_into(tmp_path, TEXTS)) == [8, 6, 4, 2]
    assert len(files(tmp_path)) > len(before)


@pytest.mark.parametrize("harm", ["cut", "foreign", "shapes"])
def test_a_damaged_file_is_named(config, policy, small, tmp_path, harm):  # noqa: F811
    list(policy.read_into(tmp_path, TEXTS))
    path = files(tmp_path)[0]
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif harm == "foreign":
        save_file({"weight": torch.zeros(3)}, path)
    else:
        tensors = load_file(path)
        tensors["shape0"] += 1
        save_file(tensors, path, {"texts": "[]"})
    with pytest.raises(UserError, match=rf"{path.name}: holds no readings of instructions, or is damaged .*delete it"):
        list(build(config, "encoder_decoder_skill_names").read_into(tmp_path, TEXTS))


def test_a_full_disk_leaves_nothing_half_written(policy, small, tmp_path, monkeypatch):
    def full(path, content):
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\); make room"):
        list(policy.read_into(tmp_path, TEXTS))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
