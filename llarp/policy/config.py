"""Settings of the policy; imports neither torch nor transformers, so that reading a configuration stays quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llarp.errors import UserError

PRECISIONS = ("auto", "float32", "bfloat16")
CHOICES = {
    "kind": ("llarp", "encoder_decoder", "lstm"),
    "head": ("mlp", "skill_names"),
    "llm_weights": ("pretrained", "random"),
    "resampler": ("mlp", "cells", "perceiver"),
    "pictures": ("camera", "blank"),
    "precision": PRECISIONS,
}
LARGEST = 1 << 16
"""No size of a policy is more: larger ones are slips, or somebody else's config.json that means harm."""
BLANK = 128
"""Grey of every pixel of a blank picture, of 255."""
Variant = Literal["frozen", "trained", "encoder_decoder", "trained_encoder_decoder", "lstm"]


@dataclass(frozen=True)
class PolicyConfig:
    """What `LLaRPPolicy` is built from. A checkpoint can be loaded only into a policy of the same configuration."""

    kind: str = "llarp"
    """"llarp": the language model reads instruction, pictures and actions; "encoder_decoder": it reads the instruction
    only, and a small trained transformer attends to its words, the pictures and what was done; "lstm" (a baseline): the
    same with an LSTM and one vector of the instruction."""
    llm: str = "smollm2-135m"
    """Frozen language model: "smollm2-135m" (fetched from the package index), a Hugging Face hub id, or a folder."""
    prompt: str = "{instruction}\nThe robot picks up the"
    """What the language model reads before the first step; {instruction} stands for the episode's. Words that make it
    think of what comes next help: after these, SmolLM2 expects the object to fetch in 76 % of pick-and-place tasks."""
    llm_weights: str = "pretrained"
    """"pretrained", or "random" (a baseline): same shape and words, but all weights drawn anew and trained."""
    lora_rank: int = 0
    """Train low-rank additions of this rank to the language model's query and value maps (LoRA); 0: nothing in it."""
    vision: str = "vit_tiny_patch16_224"
    """Frozen vision model: any timm model that gives patch tokens or a feature map."""
    vision_weights: str = "random"
    """"random" (untrained, fixed seed), "hub" (timm's own, needs internet), a .safetensors / .pth file, or the name
    of one that llarp ships."""
    vision_pool: str = "grid4"
    """What of the picture is kept: "cls", "mean" (of the patches), or "gridG": G x G mean-pooled patches."""
    pictures: str = "camera"
    """"camera", or "blank" (a baseline): one grey picture in place of every other, in training and ever after."""
    image_size: int = 128
    """Height and width of the camera pictures, pixels; follows env.image_size."""
    projector_hidden: int = 512
    """Hidden units of the MLP from a picture's features to visual tokens, or width of the Perceiver resampler."""
    resampler: str = "mlp"
    """What makes visual tokens of features: "mlp" (of all cells together), "cells" (one MLP for every cell, of whose
    units each keeps its strongest answer: what it learns in one cell it knows in all), or "perceiver": learned queries
    that attend to a gridG's cells."""
    num_visual_tokens: int = 1
    """Tokens the language model is shown a step."""
    observe_previous_action: bool = True
    """Add a trainable embedding of the previous action to the visual tokens."""
    head: str = "mlp"
    """What makes logits of the last hidden state: "mlp" (the action MLP), or "skill_names": a trained projection of it
    against the frozen embeddings of the skills' words."""
    temperature: float = 1.0
    """Logits are divided by it. A clone's skills are surer than its probabilities: below 1 it succeeds more often when
    its actions are sampled."""
    action_hidden: int = 512
    """Hidden units of each layer of the action MLP (paper: 512)."""
    action_layers: int = 2
    """Layers of the action MLP (paper: 2)."""
    instruction_skip: bool = False
    """Let the heads look up words of the instruction themselves, by attention to what the language model keeps of them:
    where its last hidden state says too little of the place a thing is to go to."""
    visual_skip: bool = False
    """Add to the skills' logits what the picture alone says, past the language model: a linear map of the projector's
    output, or with head=skill_names its score against the skills' words."""
    word_prior: bool = False
    """Add to the picks' logits what the language model itself expects to be named after the prompt, which it also says
    of categories and descriptions that training never shows; what is never shown is then told as what is."""
    decoder_width: int = 384
    """Width of the decoder of kind=encoder_decoder, a multiple of 8."""
    decoder_layers: int = 3
    """Layers of that decoder."""
    word_layers: int = 0
    """Trained recurrent layers (GRU, both ways) over the instruction's words before that decoder looks them up: which
    object goes with which place. An experiment: what that gains is lost where words are new (docs/log.md)."""
    dropout: float = 0.0
    """Dropout within that decoder, while cloning."""
    lstm_hidden: int = 512
    """Units of each layer of the LSTM."""
    lstm_layers: int = 1
    """Layers of the LSTM."""
    precision: str = "auto"
    """Numbers of the frozen parts: "float32", "bfloat16", or "auto": bfloat16 where the hardware is faster with it."""
    max_instruction_tokens: int = 64
    """Longest instruction, in tokens of the language model, its begin token included."""
    max_steps: int = 32
    """Longest episode, steps; follows task.max_steps."""
    tensor_parallel: int = 1
    """How many processes hold the language model together, each some heads of its attention (llarp train, with
    torchrun): for one too large for a device. They play the same worlds and count as one."""
    cuda_graph: bool = False
    """On a GPU, record the launches of a step of the language model once and repeat them (never tried on one yet)."""
    instruction_cache_mb: int = 0
    """Memory for the keys and values of instructions seen lately, MB (SmolLM2: about 0.7 MB an instruction); 0: 1500,
    on a GPU a sixteenth of its memory. Cloning reads each instruction in every epoch."""

    @property
    def variant(self) -> Variant:
        """Which class of policy it takes (`build.py`)."""
        if self.kind == "lstm":
            return "lstm"
        trained = self.llm_weights == "random" or self.lora_rank > 0
        if self.kind == "encoder_decoder":
            return "trained_encoder_decoder" if trained else "encoder_decoder"
        return "trained" if trained else "frozen"

    def validate(self) -> None:
        """Raise UserError for settings that can not work."""
        sizes = ("image_size", "projector_hidden", "num_visual_tokens", "action_hidden", "action_layers",
                 "decoder_width", "decoder_layers", "lstm_hidden", "lstm_layers", "max_instruction_tokens",
                 "max_steps", "tensor_parallel")  # fmt: skip
        for name in sizes:
            if not 1 <= getattr(self, name) <= LARGEST:
                raise UserError(f"policy.{name}={getattr(self, name)}: must be at least 1 and at most {LARGEST}")
        if not 0 <= self.word_layers <= LARGEST:
            raise UserError(f"policy.word_layers={self.word_layers}: must be at least 0 and at most {LARGEST}")
        if self.instruction_cache_mb < 0:
            raise UserError(f"policy.instruction_cache_mb={self.instruction_cache_mb}: must be at least 0")
        if not 0.01 <= self.temperature <= 100:
            raise UserError(f"policy.temperature={self.temperature}: must be at least 0.01 and at most 100")
        if not 0 <= self.dropout <= 0.9:
            raise UserError(f"policy.dropout={self.dropout}: must be at least 0 and at most 0.9")
        if not 0 <= self.lora_rank <= LARGEST:
            raise UserError(f"policy.lora_rank={self.lora_rank}: must be at least 0 and at most {LARGEST}")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UserError(f"policy.{name}={getattr(self, name)}: choose {' or '.join(choices)}")
        if "{instruction}" not in self.prompt:
            raise UserError(f"policy.prompt={self.prompt!r}: must contain {{instruction}}")
        pool = self.vision_pool
        if pool not in ("cls", "mean") and not (pool.startswith("grid") and pool[4:].isdigit() and int(pool[4:]) > 0):
            raise UserError(f"policy.vision_pool={pool}: choose cls, mean or gridG, for example grid4")
        self._validate_together()

    def _validate_together(self) -> None:
        """UserError for settings that do not go together."""
        scratch, lstm = self.llm_weights == "random", self.kind == "lstm"
        decoder = self.kind == "encoder_decoder"
        one_vector = self.resampler != "perceiver" and self.num_visual_tokens == 1
        refused = {
            "policy.lora_rank adds to pretrained weights: leave out policy.llm_weights=random":
                scratch and self.lora_rank,
            "policy.head=skill_names needs words with a meaning: leave out policy.llm_weights=random":
                scratch and self.head == "skill_names",
            "policy.kind=lstm reads frozen text features: leave out policy.llm_weights and policy.lora_rank":
                lstm and (scratch or self.lora_rank),
            "policy.kind=lstm reads one vector: leave out policy.resampler=perceiver and policy.num_visual_tokens":
                lstm and not one_vector,
            "policy.kind=lstm reads and sees itself: leave out policy.visual_skip, instruction_skip and word_prior":
                lstm and (self.visual_skip or self.instruction_skip or self.word_prior),
            "policy.kind=encoder_decoder sees and reads itself: leave out policy.resampler, num_visual_tokens, "
            "visual_skip, instruction_skip and word_prior":
                decoder and (self.resampler != "mlp" or self.num_visual_tokens > 1 or self.visual_skip
                             or self.instruction_skip or self.word_prior),
            "policy.kind=encoder_decoder has 8 heads: policy.decoder_width must be a multiple of 8":
                decoder and self.decoder_width % 8,
            "policy.word_prior is what a model has learned of words: leave out policy.llm_weights=random":
                scratch and self.word_prior,
            "policy.instruction_skip reads what one device holds: leave out policy.tensor_parallel":
                self.instruction_skip and self.tensor_parallel > 1,
            "policy.tensor_parallel shares a frozen language model: leave out policy.kind, llm_weights and lora_rank":
                self.variant != "frozen" and self.tensor_parallel > 1,
            "policy.resampler=perceiver chooses among a picture's tokens: set policy.vision_pool=gridG, such as grid8":
                self.resampler == "perceiver" and not self.vision_pool.startswith("grid"),
            "policy.resampler=perceiver has 8 heads: policy.projector_hidden must be a multiple of 8":
                self.resampler == "perceiver" and self.projector_hidden % 8,
        }  # fmt: skip
        for why, wrong in refused.items():
            if wrong:
                raise UserError(why)
