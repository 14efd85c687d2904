"""Memory of a long run: neither compiled products nor instructions pile up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tiny_llm import make_tiny_llm

from llarp.policy.instruction_cache import InstructionCache, pages_of
from llarp.policy.llm import load_llm

PRODUCTS = """
import llarp.policy, torch

def own_mb():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) / 1024

weight = torch.randn(64, 64).bfloat16()
for rows in range(1, 601):
    torch.randn(rows, 64).bfloat16() @ weight
    if rows == 200:
        before = own_mb()
print(own_mb() - before)
"""


def test_products_of_ever_new_shapes_do_not_pile_up() -> None:
    """Where a CPU has bfloat16 products, 400 shapes leave some 250 MB with torch's own settings."""
    out = subprocess.run([sys.executable, "-c", PRODUCTS], capture_output=True, text=True, check=True).stdout
    assert float(out) < 50


def test_instruction_cache_takes_no_more_than_it_is_limited_to(tmp_path: Path) -> None:
    llm = load_llm(str(make_tiny_llm(tmp_path)), "float32")
    cache = InstructionCache(llm, 24, 1 << 24)
    texts = [f"bring the apple to table number {i}" for i in range(60)]
    longest = pages_of(24)
    cache.prepare(texts[:20])
    cache.limit(4)  # what is there stays there
    assert cache.num_computed == 20
    cache.get(texts[:20])
    assert cache.num_computed == 20
    room = len(cache._pages)
    assert room == sum(len(cache._entries[text][0]) for text in texts[:20])
    for text in texts:
        cache.get([text])
    assert len(cache._pages) == room and texts[0] not in cache._entries and texts[-1] in cache._entries

    early = InstructionCache(llm, 24, 1 << 24)
    early.limit(4)  # before there is anything
    for text in texts:
        early.get([text])
    assert len(early._pages) == 4 * longest
