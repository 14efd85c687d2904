"""The object models: 33 categories, six models each; the last two of a category are kept for held-out scenes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from llarp.tasks import extensions
from llarp.tasks.entities import CATEGORIES
from llarp.tasks.state import ObjectCatalog

from . import object_shapes as things
from . import tool_shapes as tools
from .assets import Material, Mesh
from .meshes import centered
from .object_palette import object_material

TRAIN_MODELS = 4
"""Models of a category, counted from the first, that training scenes use; the others are for held-out scenes."""

_Model = dict[str, Any]  # arguments of the shape

_MODELS: dict[str, tuple[Callable[..., Mesh], list[_Model]]] = {
    "ball": (things.ball, [
        dict(colors=["white", "black"], pattern="patches", radius=0.095),
        dict(colors=["red", "white", "blue"], pattern="panels", radius=0.10),
        dict(colors=["tennis", "white"], pattern="band", radius=0.08),
        dict(colors=["yellow", "blue", "green"], pattern="panels", radius=0.09),
        dict(colors=["white", "navy"], pattern="patches", radius=0.10),
        dict(colors=["red", "yellow", "blue"], pattern="panels", radius=0.095),
    ]),
    "clamp": (tools.clamp, [
        dict(frame="orange"),
        dict(frame="tangerine", width=0.15, depth=0.17),
        dict(frame="blue", width=0.18),
        dict(frame="orange", screw="charcoal", width=0.19, depth=0.13),
        dict(frame="amber", width=0.16, depth=0.16),
        dict(frame="blue", screw="steel", depth=0.17, bar=0.03),
    ]),
    "hammer": (tools.hammer, [
        dict(handle="wood", head="grey"),
        dict(handle="brown", head="charcoal", width=0.15),
        dict(handle="wood", head="steel", length=0.28, grip="red"),
        dict(handle="pale wood", head="charcoal", length=0.31),
        dict(handle="wood", head="charcoal", width=0.13, length=0.29),
        dict(handle="brown", head="grey", grip="crimson"),
    ]),
    "screwdriver": (tools.screwdriver, [
        dict(handle="red", ring="black"),
        dict(handle="yellow", ring="black", girth=0.037),
        dict(handle="amber", ring="red", length=0.29),
        dict(handle="red", ring="yellow", length=0.315, girth=0.032),
        dict(handle="yellow", ring="red", length=0.30),
        dict(handle="scarlet", ring="black", girth=0.038),
    ]),
    "padlock": (tools.padlock, [
        dict(body="brass", shackle="silver"),
        dict(body="gold", shackle="steel", width=0.115, height=0.075),
        dict(body="brass", shackle="white", width=0.10, height=0.09),
        dict(body="bronze", shackle="silver", width=0.11),
        dict(body="gold", shackle="silver", width=0.10, height=0.085),
        dict(body="brass", shackle="steel", width=0.118, height=0.085),
    ]),
    "scissors": (tools.scissors, [
        dict(handle="red"),
        dict(handle="orange", opening=0.27),
        dict(handle="scarlet", blade="steel", length=0.30),
        dict(handle="magenta", opening=0.36, loop=0.046),
        dict(handle="red", opening=0.38, length=0.26),
        dict(handle="orange", blade="steel", loop=0.047),
    ]),
    "block": (things.block, [
        dict(wood="pale wood", ink="red", sign="cross"),
        dict(wood="wood", ink="blue", sign="H"),
        dict(wood="tan", ink="green", sign="T"),
        dict(wood="pale wood", ink="navy", sign="L", size=0.125),
        dict(wood="wood", ink="crimson", sign="H", size=0.12),
        dict(wood="tan", ink="blue", sign="cross", size=0.105),
    ]),
    "drill": (tools.drill, [
        dict(body="yellow", trim="black"),
        dict(body="teal", trim="charcoal"),
        dict(body="lime", trim="black", length=0.18),
        dict(body="red", trim="black", height=0.21),
        dict(body="yellow", trim="charcoal", length=0.18, height=0.19),
        dict(body="teal", trim="black", battery="black", height=0.22),
    ]),
    "spatula": (tools.spatula, [
        dict(handle="black", blade="black"),
        dict(handle="teal", blade="teal", slots=2),
        dict(handle="black", blade="charcoal", width=0.11, slots=4),
        dict(handle="charcoal", blade="teal", width=0.095),
        dict(handle="charcoal", blade="black", width=0.105, slots=2),
        dict(handle="black", blade="teal", slots=4, length=0.30),
    ]),
    "knife": (tools.knife, [
        dict(handle="black"),
        dict(handle="dark brown", width=0.062),
        dict(handle="charcoal", blade="white", length=0.30),
        dict(handle="brown", bolster="silver"),
        dict(handle="black", blade="white", width=0.064, length=0.31),
        dict(handle="dark brown", blade="silver", length=0.30, width=0.052),
    ]),
    "spoon": (tools.spoon, [
        dict(color="silver", hollow="grey"),
        dict(color="white", hollow="steel", width=0.10),
        dict(color="silver", hollow="steel", length=0.27),
        dict(color="white", hollow="grey", width=0.102, length=0.30),
        dict(color="silver", hollow="grey", width=0.105, length=0.28),
        dict(color="white", hollow="steel", length=0.30, width=0.095),
    ]),
    "plate": (things.plate, [
        dict(rim="white", middle="white", band="blue"),
        dict(rim="blue", middle="white", band="white", radius=0.13),
        dict(rim="white", middle="cream", band="red", radius=0.14),
        dict(rim="sky", middle="sky", band="white", height=0.028),
        dict(rim="white", middle="white", band="navy", radius=0.145),
        dict(rim="blue", middle="sky", band="white", radius=0.13),
    ]),
    "sponge": (things.sponge, [
        dict(top="yellow", bottom="green", pore="gold"),
        dict(top="lemon", bottom="dark green", pore="amber", size=(0.165, 0.095, 0.065)),
        dict(top="amber", bottom="green", pore="tangerine"),
        dict(top="yellow", bottom="teal", pore="brass", size=(0.145, 0.11, 0.06)),
        dict(top="yellow", bottom="leaf", pore="brass", size=(0.16, 0.105, 0.07)),
        dict(top="lemon", bottom="teal", pore="gold", size=(0.15, 0.09, 0.065)),
    ]),
    "cleanser": (things.cleanser, [
        dict(bottle="white", label="blue", cap="blue"),
        dict(bottle="sky", label="white", cap="white", height=0.26),
        dict(bottle="white", label="cyan", cap="blue", trigger=False, width=0.13),
        dict(bottle="cyan", label="white", cap="red", height=0.24),
        dict(bottle="white", label="blue", cap="cyan", trigger=False, width=0.125, height=0.26),
        dict(bottle="sky", label="yellow", cap="blue", width=0.12),
    ]),
    "plum": (things.stone_fruit, [
        dict(skin="plum", cheek="aubergine", crease="aubergine", width=0.112, height=0.12, leaf=False),
        dict(skin="aubergine", cheek="plum", crease="black", width=0.115, height=0.115, leaf=False),
        dict(skin="plum", cheek="violet", crease="aubergine", width=0.11, height=0.118, leaf=True),
        dict(skin="plum", cheek="plum", crease="black", width=0.12, height=0.125, leaf=False),
        dict(skin="aubergine", cheek="violet", crease="black", width=0.112, height=0.125, leaf=False),
        dict(skin="plum", cheek="aubergine", crease="violet", width=0.118, height=0.115, leaf=True),
    ]),
    "pear": (things.pear, [
        dict(skin="pear", cheek="lime"),
        dict(skin="lime", cheek="pear", height=0.185),
        dict(skin="pear", cheek="gold", width=0.12),
        dict(skin="olive", cheek="pear", height=0.17),
        dict(skin="pear", cheek="olive", width=0.11, height=0.185),
        dict(skin="lime", cheek="lime", width=0.125),
    ]),
    "peach": (things.stone_fruit, [
        dict(skin="peach", cheek="blush", crease="crimson", width=0.125, height=0.118, leaf=True),
        dict(skin="salmon", cheek="blush", crease="red", width=0.13, height=0.12, leaf=False),
        dict(skin="peach", cheek="pink", crease="blush", width=0.12, height=0.115, leaf=True),
        dict(skin="salmon", cheek="pink", crease="crimson", width=0.125, height=0.122, leaf=True),
        dict(skin="salmon", cheek="blush", crease="crimson", width=0.12, height=0.12, leaf=True),
        dict(skin="peach", cheek="blush", crease="red", width=0.132, height=0.12, leaf=True),
    ]),
    "apple": (things.apple, [
        dict(skin="red", cheek="crimson"),
        dict(skin="green", cheek="lime"),
        dict(skin="red", cheek="yellow", width=0.13),
        dict(skin="green", cheek="lime", height=0.105, leaf=False),
        dict(skin="red", cheek="scarlet", width=0.12, height=0.12),
        dict(skin="green", cheek="green", width=0.13, leaf=False),
    ]),
    "lemon": (things.citrus_lemon, [
        dict(skin="lemon", tip="lime"),
        dict(skin="yellow", tip="lemon", length=0.155),
        dict(skin="lemon", tip="gold", width=0.12),
        dict(skin="yellow", tip="lime", length=0.17),
        dict(skin="lemon", tip="yellow", length=0.17, width=0.106),
        dict(skin="yellow", tip="gold", width=0.118),
    ]),
    "can": (things.can, [
        dict(label="red", band="white"),
        dict(label="green", band="yellow", height=0.13),
        dict(label="blue", band="silver", radius=0.055),
        dict(label="white", band="red", radius=0.05, height=0.145),
        dict(label="red", band="yellow", radius=0.054, height=0.15),
        dict(label="green", band="white", radius=0.056, height=0.13),
    ]),
    "box": (things.box, [
        dict(front="red", side="crimson", badge="yellow"),
        dict(front="yellow", side="gold", badge="red", size=(0.17, 0.08, 0.26)),
        dict(front="blue", side="navy", badge="amber"),
        dict(front="orange", side="tangerine", badge="blue", size=(0.19, 0.07, 0.24)),
        dict(front="yellow", side="amber", badge="blue", size=(0.18, 0.085, 0.24)),
        dict(front="red", side="red", badge="white", size=(0.17, 0.07, 0.26)),
    ]),
    "banana": (things.banana, [
        dict(skin="yellow", tip="brown"),
        dict(skin="lemon", tip="lime", arc=2.2, radius=0.12),
        dict(skin="yellow", tip="dark brown", thickness=0.036, arc=1.8),
        dict(skin="yellow", tip="olive", radius=0.14, arc=1.8),
        dict(skin="lemon", tip="dark brown", thickness=0.035),
        dict(skin="yellow", tip="lime", radius=0.12, arc=2.3),
    ]),
    "strawberry": (things.strawberry, [
        dict(skin="red", seed="yellow"),
        dict(skin="scarlet", seed="lemon", length=0.135),
        dict(skin="red", seed="amber", width=0.12, leaves=6),
        dict(skin="crimson", seed="yellow", length=0.125),
        dict(skin="scarlet", seed="yellow", width=0.122, leaves=6),
        dict(skin="red", seed="lemon", length=0.14, width=0.108),
    ]),
    "lego": (things.lego, [
        dict(color="red"),
        dict(color="blue", columns=2, rows=2, stud=0.06),
        dict(color="yellow", columns=4, rows=2, stud=0.042),
        dict(color="green"),
        dict(color="blue", columns=4, rows=2, stud=0.044),
        dict(color="red", columns=2, rows=2, stud=0.062, height=0.07),
    ]),
    "rubriks cube": (things.rubiks_cube, [
        dict(frame="black", order=0),
        dict(frame="black", order=1, size=0.13),
        dict(frame="charcoal", order=2),
        dict(frame="black", order=3, gap=0.14),
        dict(frame="black", order=4, size=0.12),
        dict(frame="charcoal", order=5, size=0.13),
    ]),
    "book": (things.book, [
        dict(cover="navy", title="cream", stripe="gold"),
        dict(cover="crimson", title="gold", stripe="cream", size=(0.26, 0.18, 0.06)),
        dict(cover="dark green", title="cream", stripe="gold"),
        dict(cover="violet", title="white", stripe="lilac", size=(0.24, 0.17, 0.055)),
        dict(cover="dark green", title="gold", stripe="cream", size=(0.25, 0.185, 0.06)),
        dict(cover="navy", title="white", stripe="crimson", size=(0.24, 0.18, 0.05)),
    ]),
    "bowl": (things.bowl, [
        dict(outside="white", inside="sky", stripe="blue"),
        dict(outside="red", inside="white", stripe="red", radius=0.12),
        dict(outside="teal", inside="cream", stripe="white", height=0.1),
        dict(outside="green", inside="mint", stripe="white"),
        dict(outside="teal", inside="white", stripe="teal", radius=0.12, height=0.095),
        dict(outside="red", inside="cream", stripe="red", radius=0.11),
    ]),
    "cup": (things.cup, [
        dict(outside="pink", inside="white", stripe="magenta"),
        dict(outside="lilac", inside="violet", stripe="white"),
        dict(outside="magenta", inside="pink", stripe="pink", top=0.064),
        dict(outside="violet", inside="lilac", stripe="lilac", height=0.16),
        dict(outside="pink", inside="magenta", stripe="white", top=0.064, height=0.145),
        dict(outside="lilac", inside="violet", stripe="violet", top=0.058, height=0.155),
    ]),
    "mug": (things.mug, [
        dict(outside="white", inside="white"),
        dict(outside="navy", inside="white"),
        dict(outside="terracotta", inside="cream", radius=0.062),
        dict(outside="cream", inside="brown", handle="brown", height=0.12),
        dict(outside="white", inside="cream", radius=0.062, height=0.105),
        dict(outside="navy", inside="cream", height=0.12),
    ]),
    "orange": (things.orange, [
        dict(skin="orange", speck="amber"),
        dict(skin="orange", speck="tangerine", width=0.135),
        dict(skin="amber", speck="orange", width=0.125),
        dict(skin="orange", speck="amber", width=0.14, leaf=True),
        dict(skin="orange", speck="tangerine", width=0.128, leaf=True),
        dict(skin="orange", speck="amber", width=0.137),
    ]),
    "lid": (things.lid, [
        dict(dome="silver", rim="steel", knob="black"),
        dict(dome="steel", rim="silver", knob="black", radius=0.13),
        dict(dome="steel", rim="charcoal", knob="black", height=0.06),
        dict(dome="silver", rim="grey", knob="charcoal", radius=0.12),
        dict(dome="steel", rim="grey", knob="black", radius=0.135, height=0.045),
        dict(dome="silver", rim="charcoal", knob="black", radius=0.118),
    ]),
    "toy airplane": (things.toy_airplane, [
        dict(body="red", wing="white", nose="yellow"),
        dict(body="yellow", wing="red", nose="red"),
        dict(body="blue", wing="yellow", nose="red", chord=0.085),
        dict(body="white", wing="red", nose="blue", span=0.30),
        dict(body="yellow", wing="blue", nose="red", chord=0.082),
        dict(body="red", wing="yellow", nose="white", length=0.29),
    ]),
    "wrench": (tools.wrench, [
        dict(color="steel"),
        dict(color="grey", ring_end=True),
        dict(color="steel", head=0.105, ring_end=True, inset="black"),
        dict(color="grey", head=0.11, length=0.31, inset="black"),
        dict(color="grey", head=0.105, length=0.29, inset="black"),
        dict(color="steel", head=0.10, length=0.31, ring_end=True),
    ]),
}  # fmt: skip


def build_objects() -> tuple[ObjectCatalog, list[Mesh], Material]:
    """All object models: catalogue, meshes in its order (origin: the centre of the bounding box), and their palette.

    Models of a category follow each other in the order of CATEGORIES: "ball_0" ... "ball_5", "clamp_0", ...
    """
    meshes, splits, categories = [], [], []
    own = {kind.name: (kind.shape, kind.models) for kind in extensions.OBJECTS}
    for index, category in enumerate(CATEGORIES):
        shape, models = (_MODELS | own)[category]
        for number, arguments in enumerate(models):
            mesh = centered(shape(**arguments))
            mesh.name = f"{category.replace(' ', '_')}_{number}"
            meshes.append(mesh)
            splits.append("train" if number < min(TRAIN_MODELS, max(1, len(models) - 2)) else "heldout")
            categories.append(index)
    half = np.stack([np.abs(mesh.vertices).max(0) for mesh in meshes])
    catalog = ObjectCatalog(
        names=[mesh.name for mesh in meshes],
        splits=splits,
        category=torch.tensor(categories, dtype=torch.int64),
        half_size=torch.from_numpy(half.astype(np.float32)),
    )
    return catalog, meshes, object_material()
