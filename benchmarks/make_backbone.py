"""Write a random Llama of a chosen shape, with the tokenizer of our default model: a backbone for measuring speed only.

    python benchmarks/make_backbone.py FOLDER shape=smollm2-135m|llama-7b|tiny [layers=N] [seed=0] [device=cpu]

Its weights are random, so it can learn nothing worth reporting; what it costs is what a trained one of its shape costs.
`llarp train policy.llm=FOLDER` takes it. bfloat16; a Llama of 7B shape takes 13.5 GB.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaModel
from words import one_line, read_words

from llarp.errors import UserError
from llarp.policy.llm import quiet_transformers
from llarp.policy.smollm import ensure_smollm

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 3,
             "num_key_value_heads": 1},
    "smollm2-135m": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
                     "num_key_value_heads": 3},
    "llama-7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
                 "num_key_value_heads": 32},
}  # fmt: skip
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def make_backbone(
    folder: Path, shape: str, layers: int = 0, seed: int = 0, device: str = "cpu", tokenizer: Path | None = None
) -> Path:
    """Write the model (with `layers` layers where given) and a tokenizer, by default SmolLM2's; returns the folder."""
    tokenizer = ensure_smollm() if tokenizer is None else tokenizer
    settings = dict(SHAPES[shape])
    if layers:
        settings["num_hidden_layers"] = layers
    folder.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, folder / name)
    torch.manual_seed(seed)
    config = LlamaConfig(**settings, vocab_size=49152, max_position_embeddings=2048, torch_dtype="bfloat16")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlamaModel(config)
    finally:
        torch.set_default_dtype(before)
    with quiet_transformers():
        model.save_pretrained(folder)
    (folder / "RANDOM_WEIGHTS.txt").write_text(f"Random weights of shape {shape}, seed {seed}: for speed only.\n")
    return folder


@one_line
def main(words: list[str]) -> int:
    """Writes the folder; the exit code."""
    if not words or "=" in words[0]:
        raise UserError("give a folder first: make_backbone.py FOLDER shape=...")
    options = read_words(words[1:], {"shape": "", "layers": 0, "seed": 0, "device": "cpu"})
    if options["shape"] not in SHAPES:
        raise UserError(f"shape={options['shape']}: must be one of {', '.join(SHAPES)}")
    folder = Path(words[0])
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder}: is there already; choose another, or remove it")
    make_backbone(folder, **options)
    print(f"{folder}: random weights of shape {options['shape']}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
