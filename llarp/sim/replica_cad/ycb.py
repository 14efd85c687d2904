"""The YCB objects a published episode can name: their category, and a stand-in for users who do not have the models.

Sizes are those of the YCB object set (Calli et al. 2015, arXiv 1502.03143), metres, of the object as it rests, along
the axes of our own shape of that category: length along x, width along y, height along z. Objects rest as YCB's models
do in their own frames.
"""

from __future__ import annotations

from dataclasses import dataclass

CATEGORY_LESS = ""


@dataclass(frozen=True)
class Standin:
    """An object model by its looks."""

    category: str  # one of CATEGORIES; "": clutter that no skill picks, drawn as a box
    size: tuple[float, float, float]
    variant: int = 0  # which of our models of the category lends its shape and colours
    on_side: bool = False  # our shape stands up, YCB's model lies: turned about x, `size` is meant after that


_FRUIT = {
    "011_banana": Standin("banana", (0.190, 0.080, 0.036)),
    "012_strawberry": Standin("strawberry", (0.044, 0.044, 0.055)),
    "013_apple": Standin("apple", (0.075, 0.075, 0.075)),
    "014_lemon": Standin("lemon", (0.068, 0.054, 0.054)),
    "015_peach": Standin("peach", (0.059, 0.059, 0.059)),
    "016_pear": Standin("pear", (0.066, 0.100, 0.066), on_side=True),
    "017_orange": Standin("orange", (0.073, 0.073, 0.073)),
    "018_plum": Standin("plum", (0.052, 0.052, 0.052)),
}
_KITCHEN = {
    "001_chips_can": Standin("can", (0.075, 0.075, 0.250)),
    "002_master_chef_can": Standin("can", (0.102, 0.102, 0.140), 2),
    "003_cracker_box": Standin("box", (0.158, 0.060, 0.210)),
    "004_sugar_box": Standin("box", (0.089, 0.038, 0.175), 1),
    "005_tomato_soup_can": Standin("can", (0.066, 0.066, 0.101)),
    "006_mustard_bottle": Standin(CATEGORY_LESS, (0.095, 0.058, 0.190)),
    "007_tuna_fish_can": Standin("can", (0.085, 0.085, 0.033), 3),
    "008_pudding_box": Standin("box", (0.110, 0.089, 0.035), 3),
    "009_gelatin_box": Standin("box", (0.085, 0.073, 0.028), 5),
    "010_potted_meat_can": Standin("can", (0.097, 0.050, 0.082), 4),
    "019_pitcher_base": Standin(CATEGORY_LESS, (0.108, 0.108, 0.235)),
    "021_bleach_cleanser": Standin("cleanser", (0.098, 0.065, 0.250), 2),
    "022_windex_bottle": Standin(CATEGORY_LESS, (0.105, 0.080, 0.270)),
    "023_wine_glass": Standin(CATEGORY_LESS, (0.089, 0.089, 0.137)),
    "024_bowl": Standin("bowl", (0.159, 0.159, 0.053)),
    "025_mug": Standin("mug", (0.117, 0.093, 0.081)),
    "026_sponge": Standin("sponge", (0.114, 0.072, 0.014)),
    "027_skillet": Standin(CATEGORY_LESS, (0.430, 0.270, 0.055)),
    "028_skillet_lid": Standin("lid", (0.270, 0.270, 0.075)),
    "029_plate": Standin("plate", (0.258, 0.258, 0.024)),
    "030_fork": Standin(CATEGORY_LESS, (0.198, 0.020, 0.014)),
    "031_spoon": Standin("spoon", (0.195, 0.040, 0.018)),
    "032_knife": Standin("knife", (0.215, 0.020, 0.014)),
    "033_spatula": Standin("spatula", (0.350, 0.083, 0.035)),
}
_TOOLS = {
    "035_power_drill": Standin("drill", (0.187, 0.184, 0.057), on_side=True),
    "036_wood_block": Standin("block", (0.085, 0.085, 0.200)),
    "037_scissors": Standin("scissors", (0.200, 0.087, 0.014)),
    "038_padlock": Standin("padlock", (0.065, 0.047, 0.027)),
    "040_large_marker": Standin(CATEGORY_LESS, (0.121, 0.018, 0.018)),
    "041_small_marker": Standin(CATEGORY_LESS, (0.135, 0.010, 0.010)),
    "042_adjustable_wrench": Standin("wrench", (0.205, 0.055, 0.015)),
    "043_phillips_screwdriver": Standin("screwdriver", (0.215, 0.031, 0.031)),
    "044_flat_screwdriver": Standin("screwdriver", (0.215, 0.031, 0.031), 1),
    "046_plastic_bolt": Standin(CATEGORY_LESS, (0.043, 0.015, 0.015)),
    "047_plastic_nut": Standin(CATEGORY_LESS, (0.025, 0.025, 0.012)),
    "048_hammer": Standin("hammer", (0.330, 0.135, 0.032)),
    "049_small_clamp": Standin("clamp", (0.085, 0.065, 0.010)),
    "050_medium_clamp": Standin("clamp", (0.115, 0.090, 0.027), 1),
    "051_large_clamp": Standin("clamp", (0.165, 0.125, 0.032)),
    "052_extra_large_clamp": Standin("clamp", (0.213, 0.165, 0.037), 3),
}
_TOYS = {
    "053_mini_soccer_ball": Standin("ball", (0.140, 0.140, 0.140)),
    "054_softball": Standin("ball", (0.096, 0.096, 0.096), 2),
    "055_baseball": Standin("ball", (0.075, 0.075, 0.075), 1),
    "056_tennis_ball": Standin("ball", (0.065, 0.065, 0.065), 2),
    "057_racquetball": Standin("ball", (0.055, 0.055, 0.055), 4),
    "058_golf_ball": Standin("ball", (0.043, 0.043, 0.043)),
    "059_chain": Standin(CATEGORY_LESS, (0.100, 0.080, 0.020)),
    "061_foam_brick": Standin(CATEGORY_LESS, (0.075, 0.050, 0.050)),
    "062_dice": Standin(CATEGORY_LESS, (0.016, 0.016, 0.016)),
    "063-a_marbles": Standin(CATEGORY_LESS, (0.045, 0.045, 0.035)),
    "063-b_marbles": Standin(CATEGORY_LESS, (0.045, 0.045, 0.035)),
    "070-a_colored_wood_blocks": Standin("block", (0.060, 0.060, 0.170), 1),
    "070-b_colored_wood_blocks": Standin("block", (0.050, 0.050, 0.030), 2),
    "071_nine_hole_peg_test": Standin(CATEGORY_LESS, (0.115, 0.115, 0.030)),
    "076_timer": Standin(CATEGORY_LESS, (0.085, 0.080, 0.040)),
    "077_rubiks_cube": Standin("rubriks cube", (0.057, 0.057, 0.057)),
}
_CUPS = {  # ten that fit into each other
    f"065-{letter}_cups": Standin("cup", (0.055 + 0.005 * i, 0.055 + 0.005 * i, 0.060 + 0.002 * i), i % 6)
    for i, letter in enumerate("abcdefghij")
}
_AIRPLANE = {f"072-{c}_toy_airplane": Standin("toy airplane", (0.140, 0.110, 0.070), i) for i, c in enumerate("abcde")}
_AIRPLANE["072-a_toy_airplane"] = Standin("toy airplane", (0.266, 0.260, 0.171))
_LEGO = {f"073-{c}_lego_duplo": Standin("lego", (0.064, 0.045, 0.050), i % 6) for i, c in enumerate("abcdefghijklm")}

YCB: dict[str, Standin] = _FRUIT | _KITCHEN | _TOOLS | _TOYS | _CUPS | _AIRPLANE | _LEGO
"""By model name, as in Habitat's `data/objects/ycb/configs/NAME.object_config.json`."""
