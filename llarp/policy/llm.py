"""The frozen language model: found by name, loaded without its output layer, checked, hashed."""

from __future__ import annotations

import hashlib
import inspect
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from llarp.errors import UserError

from . import attention, smollm
from .llama import LlamaDecoder, as_first_has_it, fits

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

KNOWN = (smollm.NAME,)
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.15, torch.float16: 0.05}
"""Largest relative error (rms) of cached decoding against a full forward; a model that ignores our mask is near 1."""


class FrozenLLM(nn.Module):
    """A frozen decoder-only transformer; texts and embeddings in, last hidden states out.

    With a `mesh` of several ranks each holds a part (`tensor_parallel`), and all make the same calls.
    """

    def __init__(self, backbone: nn.Module, tokenizer, name: str, folder: Path, mesh: DeviceMesh | None = None):
        super().__init__()
        self.mesh = mesh
        self.backbone = backbone.eval()
        self.tokenizer, self.name, self.folder = tokenizer, name, folder
        self._fingerprint = ""
        self.cache_argument = cache_argument(type(backbone))
        table = self.embedding_table().detach()
        self.hidden_size: int = table.shape[1]
        self.num_layers: int = backbone.config.num_hidden_layers
        self.token_norm = float(table.float().norm(dim=-1).mean())
        """Mean length of a token's embedding."""
        self.grouped_attention = self.device.type == "cpu"
        """Whether `run` replaces the model's own attention by `attention.grouped_attention`."""
        self.decoder = LlamaDecoder(backbone, mesh) if fits(backbone) else None
        """Computes in place of transformers' modules; None: a model of another type, or to be trained."""

    @property
    def dtype(self) -> torch.dtype:
        """Numbers the model computes with."""
        return self.embedding_table().dtype

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.embedding_table().device

    def embedding_table(self) -> Tensor:
        """The frozen token embeddings, (vocabulary, hidden)."""
        return self.backbone.get_input_embeddings().weight

    def train(self, mode: bool = True) -> FrozenLLM:
        """Stays in evaluation mode: frozen."""
        return super().train(False)

    def _apply(self, fn, recurse: bool = True) -> FrozenLLM:
        super()._apply(fn, recurse)
        if self.decoder is not None and self.decoder.blocks[0].gate_up.weight.device != self.device:
            self.decoder = LlamaDecoder(self.backbone, self.mesh)
        return self

    def tokens(self, text: str) -> list[int]:
        """Token ids of a text, the begin token first where the model has one."""
        begin = self.tokenizer.bos_token_id
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = ids if begin is None else [begin, *ids]
        if not ids:
            raise UserError("the instruction is empty, and this language model has no begin token: write a word")
        return ids

    def embed(self, ids: Tensor) -> Tensor:
        """Embeddings (..., hidden) of token ids, as the model's own input layer makes them."""
        return self.backbone.get_input_embeddings()(ids)

    @torch.no_grad()
    def word_embeddings(self, texts: list[str]) -> Tensor:
        """Mean embedding of each text's tokens (begin token left out), float32 (len(texts), hidden)."""
        ids = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        return torch.stack([self.embed(torch.tensor(i, device=self.device)).float().mean(0) for i in ids])

    def run(self, embeds: Tensor, positions: Tensor, mask: Tensor, cache) -> Tensor:
        """Last hidden states (B, Q, hidden) of new tokens, given what `cache` holds.

        `embeds` (B, Q, hidden), `positions` (B, Q) int64, `mask` additive (B, 1, Q, slots).
        """
        if self.mesh is not None and not torch.is_grad_enabled():  # ranks that would act apart would wait for ever
            embeds = as_first_has_it(embeds, self.mesh)
        config = self.backbone.config
        own = config._attn_implementation
        if self.grouped_attention:
            config._attn_implementation = attention.NAME
        try:
            output = self.call_backbone(
                inputs_embeds=embeds.to(self.dtype),
                position_ids=positions,
                attention_mask=mask,
                use_cache=True,
                **{self.cache_argument: cache},
            )
        finally:
            config._attn_implementation = own
        return output.last_hidden_state

    def call_backbone(self, **inputs: Any) -> Any:
        """transformers' own forward."""
        return self.backbone(**inputs)

    def run_uncached(self, embeds: Tensor) -> Tensor:
        """Last hidden states of whole sequences (B, S, hidden), by the model's own forward with nothing of ours."""
        return self.call_backbone(inputs_embeds=embeds.to(self.dtype), use_cache=False).last_hidden_state

    def describe(self) -> str:
        """The model and what it computes in."""
        return f"{self.name} ({str(self.dtype).removeprefix('torch.')})"

    def fingerprint(self) -> str:
        """sha256 of the weight files, as they lay on the disk when first asked."""
        if not self._fingerprint:  # every checkpoint asks, and the files are large
            files = sorted(self.folder.glob("*.safetensors")) or sorted(self.folder.glob("*.bin"))
            digests = [smollm.sha256_of(file) for file in files]
            one = len(digests) == 1
            self._fingerprint = digests[0] if one else hashlib.sha256("".join(digests).encode()).hexdigest()
        return self._fingerprint


def cache_argument(model: type[nn.Module]) -> str:
    """What a transformers model calls its key-value cache: `cache`, in older versions `past_key_values`."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of the frozen parts; "auto": bfloat16 on a CPU with bfloat16 products and on a GPU that has them."""
    if precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return torch.float32
    return torch.bfloat16 if "avx512_bf16" in flags or "amx_bf16" in flags else torch.float32


def load_llm(
    name: str, precision: str = "auto", device: torch.device | str = "cpu", mesh: DeviceMesh | None = None
) -> FrozenLLM:
    """Load, freeze and check a language model by known name, hub id or folder; of a `mesh` all ranks load it together.

    Raises UserError for names that lead nowhere, and for models that are not decoder-only or do not work with our
    cache: cached decoding must equal the model's own full forward.
    """
    device = torch.device(device)
    folder = find_model(name)
    backbone, tokenizer = read_model(name, folder, choose_dtype(precision, device), device, mesh)
    return checked(FrozenLLM(backbone, tokenizer, name, folder, mesh))


def checked(llm: FrozenLLM) -> Any:
    """The model, set to compute in the fastest way in which its results are right; UserError where there is none."""
    why = _failure(llm)
    if why and llm.decoder is not None:
        llm.decoder = None
        why = _failure(llm)
    if why and llm.grouped_attention:
        llm.grouped_attention = False  # its own attention does more than ours
        why = _failure(llm)
    if why:
        raise UserError(_refusal(llm.name, why))
    return llm


def _failure(llm: FrozenLLM) -> str:
    """What is wrong with this model and our cache; empty if nothing."""
    from .context import check_cache

    try:
        error = check_cache(llm)
    except (TypeError, ValueError, AttributeError, IndexError, KeyError, RuntimeError, AssertionError) as problem:
        reason = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
        return f"it does not run with our key-value cache ({reason})"
    if error <= TOLERANCE[llm.dtype]:
        return ""
    return f"cached decoding differs from its own full forward (relative error {error:.2g})"


def _refusal(name: str, why: str) -> str:
    return (
        f"policy.llm={name}: {why}; use a decoder-only model that takes inputs_embeds, position_ids, a 4-D mask "
        f"and a cache, for example {KNOWN[0]}"
    )


def find_model(name: str) -> Path:
    """The folder of a model given by known name, hub id or folder. UserError for names that lead nowhere."""
    if name == smollm.NAME:
        return smollm.ensure_smollm()
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"policy.llm={name}: the folder holds no config.json; give a Hugging Face model folder")
        return path
    missing = UserError(
        f"policy.llm={name}: neither a folder nor a model that the Hugging Face hub gives us; "
        f"known: {', '.join(KNOWN)}, hub ids (with internet, or downloaded before), folders"
    )
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise missing
    from huggingface_hub import snapshot_download

    try:
        patterns = ["*.json", "*.safetensors", "*.model", "*.txt"]
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # the hub's client raises a dozen unrelated classes
        raise missing from error


def read_model(
    name: str,
    folder: Path,
    dtype: torch.dtype,
    device: torch.device,
    mesh: DeviceMesh | None = None,
    draw: bool = False,
) -> tuple[Any, Any]:
    """A frozen model without its output layer, and its tokenizer; to `draw` its weights: anew, from torch's generator.

    UserError for what cannot be loaded.
    """
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            if config.is_encoder_decoder:
                raise UserError(_refusal(name, "it is an encoder-decoder model"))
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            if draw:
                model = AutoModel.from_config(config, dtype=dtype)
            else:
                model = AutoModel.from_pretrained(folder, dtype=dtype, local_files_only=True)  # without output layer
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"policy.llm={name}: {folder} can not be loaded ({reason})") from error
    if mesh is not None:
        from .tensor_parallel import cut

        cut(model, mesh)
    return model.requires_grad_(False).to(device), tokenizer


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no load report (the missing output layer is intended)."""
    from transformers.utils import logging as hf_logging

    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity(logging.ERROR)
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()
