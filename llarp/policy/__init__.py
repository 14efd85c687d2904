"""Policies: the interface (`base`), and the LLaRP policy on a frozen language model and a frozen vision model."""

import os

# torch on a CPU compiles its products for every shape and keeps the last 1,024, up to a megabyte each, in either of
# two places. The shapes of an update hardly ever come again: a run would take a few MB with each. Read at first use.
for _name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_name, "128")
