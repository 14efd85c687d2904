"""What a frozen language model itself expects to be named, of a thing that is named or only described.

    python benchmarks/named_next.py [llm=smollm2-135m] [prompt="{instruction}\\nThe robot picks up the"]

Descriptions are this file's own: none of them stands in `tasks/`, which has the splits' words. Scores are those of
`policy.word_prior`.
"""

from __future__ import annotations

import sys

import torch

from llarp.errors import UserError
from llarp.policy.config import PolicyConfig
from llarp.policy.context import compute_prefixes
from llarp.policy.llm import load_llm
from llarp.policy.word_prior import NAMES, PLAIN, WordPrior, first_words

DESCRIBED = {
    "ball": ("the round bouncy toy", "what children kick around"),
    "clamp": ("the thing that holds two boards together", "the tool for squeezing parts together"),
    "hammer": ("what you hit nails with", "the tool for pounding"),
    "screwdriver": ("what turns screws", "the tool to tighten a screw"),
    "padlock": ("what locks a gate", "the thing you open with a key"),
    "scissors": ("what you cut paper with", "the tool with two blades for cutting"),
    "block": ("the cube for building towers",),
    "drill": ("the power tool that makes holes", "what you make holes in a wall with"),
    "spatula": ("what you flip pancakes with", "the flat kitchen turner"),
    "knife": ("what slices bread", "the sharp blade for chopping"),
    "spoon": ("what you eat soup with", "the thing to stir coffee"),
    "plate": ("the round flat dish", "what dinner is served on"),
    "sponge": ("the soft thing for washing dishes", "what soaks up spills"),
    "cleanser": ("the bottle of cleaning product", "what you scrub the bathtub with"),
    "plum": ("the purple fruit", "the small dark fruit with a stone"),
    "pear": ("the green fruit with a narrow top",),
    "peach": ("the fuzzy fruit", "the soft orange-pink fruit"),
    "apple": ("the red crunchy fruit", "the fruit that keeps the doctor away"),
    "lemon": ("the sour yellow fruit", "the citrus for lemonade"),
    "can": ("the tin of soup", "the metal container of food"),
    "box": ("the square carton",),
    "banana": ("the long yellow fruit", "what monkeys like to eat"),
    "strawberry": ("the small red berry", "the red fruit with seeds on its skin"),
    "lego": ("the plastic building brick", "the toy brick that snaps together"),
    "rubriks cube": ("the colorful puzzle", "the twisty puzzle toy"),
    "book": ("what you read", "the thing with pages"),
    "bowl": ("what cereal goes in", "the round deep dish"),
    "cup": ("what you drink tea from", "the small drinking vessel"),
    "mug": ("the thing for hot coffee",),
    "orange": ("what you squeeze for juice in the morning",),
    "lid": ("what covers a pot",),
    "toy airplane": ("the little plane",),
    "wrench": ("the tool for turning bolts",),
}
SENTENCES = ("Put {} on the sofa.", "Move {} to the left counter.", "I need {} on the TV stand.")


@torch.no_grad()
def main(llm_name: str, prompt: str) -> None:
    """Print how often the right one of 33 categories is the first, among the first three and five, and its -log p."""
    llm = load_llm(llm_name, "float32")

    def last(texts: list[str]) -> torch.Tensor:
        found = compute_prefixes(llm, [llm.tokens(prompt.replace("{instruction}", text)) for text in texts])
        return torch.stack([entry.last for entry in found])

    prior = WordPrior(llm.hidden_size, first_words(llm), last(list(PLAIN)))
    described = [(words, name) for name, all_words in DESCRIBED.items() for words in all_words]
    named = [(f"the {name}", name) for name in NAMES]
    print(f"{llm.describe()}, prompt {prompt!r}\n| | instructions | first | of 3 | of 5 | -log p |")
    for kind, things in (("named", named), ("described", described)):
        texts = [SENTENCES[i % 3].format(words) for i, (words, _) in enumerate(things)]
        log_probs = prior.log_ratios(last(texts)).log_softmax(-1)
        right = torch.tensor([NAMES.index(name) for _, name in things])[:, None]
        rank = (log_probs > log_probs.gather(1, right)).sum(1)
        shares = " | ".join(f"{float((rank < k).float().mean()):.2f}" for k in (1, 3, 5))
        print(f"| {kind} | {len(things)} | {shares} | {-float(log_probs.gather(1, right).mean()):.2f} |")


if __name__ == "__main__":
    given = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    try:
        if set(given) - {"llm", "prompt"} or len(given) < len(sys.argv) - 1:
            raise UserError("give llm=NAME and prompt=TEXT, or neither")
        main(given.get("llm", "smollm2-135m"), given.get("prompt", PolicyConfig.prompt))
    except UserError as error:
        print(f"llarp: {error}", file=sys.stderr)
        sys.exit(2)
