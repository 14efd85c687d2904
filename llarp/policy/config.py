"""Settings of the policy; imports neither torch nor transformers, so that reading a configuration stays quick."""

from __future__ import annotations

from dataclasses import dataclass

from llarp.errors import UserError

PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class PolicyConfig:
    """What `LLaRPPolicy` is built from. A checkpoint can be loaded only into a policy of the same configuration."""

    llm: str = "smollm2-135m"
    """Frozen language model: "smollm2-135m" (fetched from the package index), a Hugging Face hub id, or a folder."""
    prompt: str = "{instruction}\nThe robot picks up the"
    """What the language model reads before the first step; {instruction} stands for the episode's. Words that make it
    think of what comes next help: after these, SmolLM2 expects the object to fetch in 76 % of pick-and-place tasks."""
    vision: str = "vit_tiny_patch16_224"
    """Frozen vision model: any timm model that gives patch tokens or a feature map."""
    vision_weights: str = "random"
    """"random" (untrained, fixed seed), "hub" (timm's own, needs internet), or a .safetensors / .pth file."""
    vision_pool: str = "grid4"
    """What of the picture is kept: "cls", "mean" (of the patches), or "gridG": G x G mean-pooled patches."""
    image_size: int = 128
    """Height and width of the camera pictures, pixels; follows env.image_size."""
    projector_hidden: int = 512
    """Hidden units of the MLP from a picture's features to visual tokens."""
    num_visual_tokens: int = 1
    """Tokens the language model is shown a step."""
    observe_previous_action: bool = True
    """Add a trainable embedding of the previous action to the visual tokens."""
    action_hidden: int = 512
    """Hidden units of each layer of the action MLP (paper: 512)."""
    action_layers: int = 2
    """Layers of the action MLP (paper: 2)."""
    precision: str = "auto"
    """Numbers of the frozen parts: "float32", "bfloat16", or "auto": bfloat16 where the hardware is faster with it."""
    max_instruction_tokens: int = 64
    """Longest instruction, in tokens of the language model, its begin token included."""
    max_steps: int = 32
    """Longest episode, steps; follows task.max_steps."""
    tensor_parallel: int = 1
    """How many processes hold the language model together, each some heads of its attention (llarp train, with
    torchrun): for one too large for a device. They play the same worlds and count as one."""
    instruction_cache_mb: int = 0
    """Memory for the keys and values of instructions seen lately, MB (SmolLM2: about 0.7 MB an instruction); 0: 1500,
    on a GPU a sixteenth of its memory. Cloning reads each instruction in every epoch."""

    def validate(self) -> None:
        """Raise UserError for settings that can not work."""
        sizes = ("image_size", "projector_hidden", "num_visual_tokens", "action_hidden", "action_layers",
                 "max_instruction_tokens", "max_steps", "tensor_parallel")  # fmt: skip
        for name in sizes:
            if getattr(self, name) < 1:
                raise UserError(f"policy.{name}={getattr(self, name)}: must be at least 1")
        if self.instruction_cache_mb < 0:
            raise UserError(f"policy.instruction_cache_mb={self.instruction_cache_mb}: must be at least 0")
        if "{instruction}" not in self.prompt:
            raise UserError(f"policy.prompt={self.prompt!r}: must contain {{instruction}}")
        if self.precision not in PRECISIONS:
            raise UserError(f"policy.precision={self.precision}: choose one of {', '.join(PRECISIONS)}")
        pool = self.vision_pool
        if pool not in ("cls", "mean") and not (pool.startswith("grid") and pool[4:].isdigit() and int(pool[4:]) > 0):
            raise UserError(f"policy.vision_pool={pool}: choose cls, mean or gridG, for example grid4")
