"""All settings of a run: dataclasses that stand beside what they configure, composed here.

A preset (YAML) and `key=value` overrides are merged with OmegaConf, then turned into the dataclasses by `build`, which
checks every key and type; ranges are checked by the dataclasses themselves. `auto` is allowed where
`machine.size_run` knows an answer. Nothing edits a config later.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from .envs.config import EnvConfig
from .errors import UserError
from .policy.config import PolicyConfig
from .pretrain.config import PretrainConfig
from .rl.config import BCConfig, PPOConfig, TrainConfig
from .tasks.task import TaskConfig

T = TypeVar("T")


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run."""

    seed: int = 1
    device: str = "auto"  # auto, cpu, cuda or cuda:N
    run_name: str = ""  # folder under output_dir; empty: made from the time
    output_dir: str = "runs"
    env: EnvConfig = field(default_factory=EnvConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    bc: BCConfig = field(default_factory=BCConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UserError(f"seed={self.seed}: must not be negative")
        if self.ppo.pretends and self.policy.kind != "encoder_decoder":
            raise UserError("ppo.unknown_share and ppo.described_share are for policy.kind=encoder_decoder: set that, "
                            "or leave them out")  # fmt: skip

    @property
    def data_seed(self) -> int:
        """The seed of training episodes and demonstrations."""
        return self.seed if self.train.data_seed is None else self.train.data_seed


# -- loading ----------------------------------------------------------------------------------------------------------


def load(preset: str | None = None, overrides: Iterable[str] = ()) -> RunConfig:
    """The checked settings of preset `NAME` (or of a YAML file) with `key=value` overrides, sized to this machine.

    Raises UserError for an unknown preset or key (naming the nearest), a wrong type, or a size that cannot be.
    """
    path = preset_path(preset or "default")
    merged = read_yaml(path)
    known = leaves(RunConfig)
    for override in overrides:
        key, value = split_override(override)
        key = "env.backend" if key == "backend" else key
        if key not in known:
            raise unknown_key(key, known)
        OmegaConf.update(merged, key, parse_value(key, value, known[key]))
    try:
        tree = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{path.name}: {_first_line(error)}") from None
    from .machine import fill_in_auto

    return build(RunConfig, follow(fill_in_auto(_with_backend(_nested(tree, path.name)))))


def _with_backend(tree: dict[str, Any]) -> dict[str, Any]:
    """`backend: NAME` may stand at the top of a file, as on the command line; it belongs to `env`."""
    if "backend" not in tree:
        return tree
    env = _nested(tree.get("env", {}), "env")
    return {k: v for k, v in tree.items() if k != "backend"} | {"env": {"backend": tree["backend"]} | env}


FOLLOWS = {"policy.image_size": "env.image_size", "policy.max_steps": "task.max_steps"}
"""Settings of one part that must equal those of another."""


def follow(tree: dict[str, Any]) -> dict[str, Any]:
    """A settings tree in which the keys of FOLLOWS have the value of the key they follow; UserError if set apart."""
    for key, leader in FOLLOWS.items():
        (group, name), (leader_group, leader_name) = key.split("."), leader.split(".")
        value = _nested(tree.get(leader_group, {}), leader_group).get(leader_name, _default(leader))
        settings = _nested(tree.get(group, {}), group)
        if settings.get(name, value) != value:
            raise UserError(f"{key}={_show(settings[name])} differs from {leader}={_show(value)}: set only {leader}")
        tree = tree | {group: settings | {name: value}}
    return tree


def _default(key: str) -> Any:
    group, name = key.split(".")
    return getattr(getattr(RunConfig(), group), name)


def load_file(path: Path) -> RunConfig:
    """The settings written by `save`, unchanged."""
    return load(str(path))


def to_yaml(config: Any) -> str:
    """A config as YAML, every key written out."""
    return OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config)))


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Full key -> value of a tree of settings."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= flat(value, f"{prefix}{name}.") if hasattr(value, "items") else {prefix + name: value}
    return found


def preset_names() -> list[str]:
    """The presets in `habitat_configs/`."""
    folder = resources.files("llarp.habitat_configs")
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml"))


def preset_path(name: str) -> Path:
    """The YAML file behind `config=NAME`, which may also be a path."""
    if "/" in name or name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise UserError(f"config={name}: there is no such file")
        return Path(name)
    if name not in preset_names():
        known = preset_names()
        raise UserError(f"config={name} is unknown{nearest(name, known)}: choose {', '.join(known)} or give a path")
    return Path(str(resources.files("llarp.habitat_configs") / f"{name}.yaml"))


def read_yaml(path: Path) -> DictConfig:
    """A YAML file that holds a mapping."""
    try:
        loaded = OmegaConf.load(path)
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: cannot be read as YAML: {_first_line(error)}") from None
    if not isinstance(loaded, DictConfig):
        raise UserError(f"{path}: must hold `key: value` pairs")
    return loaded


def split_override(text: str) -> tuple[str, str]:
    """`key=value` taken apart."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"{text!r} is not of the form key=value")
    return key, value


def parse_value(key: str, text: str, kind: Any) -> Any:
    """An override's value: text as it stands for settings that are text, else read as YAML (1e-4, [1, 2], null)."""
    if kind is str or text == "auto" or (kind == str | None and text != "null"):
        return text
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]  # type: ignore[call-overload,index]
    except (YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{key}={text}: {_first_line(error)}") from None


# -- checking ---------------------------------------------------------------------------------------------------------


def build(cls: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """An instance of dataclass `cls` from a nested mapping, every key and type checked. `prefix` is for messages."""
    hints = typing.get_type_hints(cls)
    made: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if name not in hints:
            raise unknown_key(key, leaves(RunConfig) if cls is RunConfig or prefix else leaves(cls))
        if dataclasses.is_dataclass(hints[name]):
            made[name] = build(hints[name], _nested(value, key), f"{key}.")  # type: ignore[arg-type]
        else:
            made[name] = convert(key, value, hints[name])
    try:
        config = cls(**made)
        if hasattr(config, "validate"):
            config.validate()
        return config
    except ValueError as error:
        raise UserError(f"{prefix.rstrip('.') or 'settings'}: {_first_line(error)}") from None


def convert(key: str, value: Any, kind: Any) -> Any:
    """`value` as type `kind`; UserError where it is none."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if value in arguments and not isinstance(value, bool):
            return value
        choices = [str(a) for a in arguments]
        raise UserError(f"{key}={_show(value)} is unknown{nearest(str(value), choices)}: choose {', '.join(choices)}")
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        if len(real := [a for a in arguments if a is not type(None)]) == 1:
            return convert(key, value, real[0])
        for argument in real:
            try:
                return convert(key, value, argument)
            except UserError:
                continue
    elif origin in (tuple, list) and isinstance(value, (list, tuple)):
        variadic = origin is list or arguments[-1] is Ellipsis
        if variadic or len(value) == len(arguments):
            inner = [arguments[0]] * len(value) if variadic else arguments
            return origin(convert(f"{key}[{i}]", v, k) for i, (v, k) in enumerate(zip(value, inner, strict=True)))
    elif kind is bool and isinstance(value, bool):
        return value
    elif kind is int and isinstance(value, (int, float)) and not isinstance(value, bool) and _whole(value):
        return int(value)  # 1e6 is a float to YAML
    elif kind is float and isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    elif kind is str and isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    raise UserError(f"{key}={_show(value)}: expected {_describe(kind)}")


def leaves(cls: Any, prefix: str = "") -> dict[str, Any]:
    """Full key -> type of every setting under a dataclass."""
    found: dict[str, Any] = {}
    for name, kind in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(kind):
            found |= leaves(kind, f"{prefix}{name}.")
        else:
            found[prefix + name] = kind
    return found


def unknown_key(key: str, known: Iterable[str]) -> UserError:
    """The error for a key that no setting has."""
    names = list(known)
    if group := [n for n in names if n.startswith(f"{key}.")]:
        return UserError(f"{key} is a group of settings: write for example {group[0]}=VALUE")
    return UserError(f"unknown key {key!r}{nearest(key, names)}")


def nearest(word: str, names: Iterable[str]) -> str:
    """`: did you mean X?`-style ending, or nothing when nothing is near; a full key is also found by its last part."""
    options = list(names)
    by_tail = {n.rpartition(".")[2]: n for n in options}
    tail = word.rpartition(".")[2]
    close = (
        difflib.get_close_matches(word, options, 1, 0.75)
        or [by_tail[t] for t in difflib.get_close_matches(tail, by_tail, 1, 0.6)]
        or difflib.get_close_matches(word, options, 1, 0.4)
    )
    return f" (did you mean {close[0]!r}?)" if close else ""


def _nested(value: Any, key: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(k, str) for k in value):
        raise UserError(f"{key}={_show(value)}: expected a group of `key: value` settings")
    return value


def _whole(value: float) -> bool:
    return math.isfinite(value) and float(value).is_integer()


def _show(value: Any) -> str:
    return str(value) if isinstance(value, (str, int, float)) else repr(value)


def _describe(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    if kind in names:
        return names[kind]
    arguments = [a for a in typing.get_args(kind) if a is not Ellipsis]
    if typing.get_origin(kind) in (tuple, list):
        return f"a list like [{', '.join('…' for _ in arguments)}] of {_describe(arguments[0])}"
    return " or ".join(_describe(a) for a in arguments)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
