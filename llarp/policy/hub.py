"""A policy as a folder that can be given away: safetensors and JSON only, so that no code can hide in it.

`policy.safetensors` (trainable parts; a random initialisation of frozen ones), `vision.safetensors` (the ViT, where its
weights came from a file), `config.json` (settings of policy, task and pictures), `manifest.json` (what training was
shown), `card.md`, and `card.json`, which names the sha256 of the other files and of the frozen models.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import llarp
from llarp.errors import UserError
from llarp.runfolder import to_json, write_atomically
from llarp.tasks.actions import ACTION_NAMES, NUM_STANDARD

from .base import grown

if TYPE_CHECKING:
    from .base import Policy

FORMAT = "llarp policy 1"
CARD, CONFIG, WEIGHTS, VISION, MANIFEST = (
    "card.json", "config.json", "policy.safetensors", "vision.safetensors", "manifest.json"
)  # fmt: skip
README = "card.md"
FILES = (CARD, CONFIG, WEIGHTS, VISION, MANIFEST, README)
MAX_BYTES = {CARD: 16 << 20, CONFIG: 1 << 20, MANIFEST: 256 << 20, WEIGHTS: 4 << 30, VISION: 4 << 30}
"""Larger files are refused before they are read."""
SETTINGS = {"env": ("image_size",), "task": None, "policy": None}
"""What config.json may set; None: every setting of that group."""
HERE = {"tensor_parallel": 1, "instruction_cache_mb": 0}
"""Settings of a machine, which do not go with a policy."""
SHIPPED = Path(llarp.__file__).parent / "pretrained"
"""Package data: a folder for each policy, and `vision-NAME` for each vision model."""
OWN_SKILLS = ACTION_NAMES[NUM_STANDARD:]
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SMALL = 1 << 16  # tensors of fewer numbers stay as they are: scales and biases


@dataclass(frozen=True)
class PolicyFolder:
    """A policy folder whose files are whole."""

    path: Path
    card: dict[str, Any]
    settings: dict[str, Any]

    def overrides(self) -> tuple[str, ...]:
        """Settings that depend on where the folder lies, as key=value."""
        weights = self.settings["policy"].get("vision_weights")
        return (f"policy.vision_weights={self.path.absolute() / VISION}",) if weights == VISION else ()


# -- writing ----------------------------------------------------------------------------------------------------------


def write(
    folder: Path,
    policy: Policy,
    *,
    task: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
    manifest: str = "",
    half: bool = False,
) -> dict[str, Any]:
    """Write a policy that was built from a PolicyConfig, without words for people; the card, which `about` joins.

    `task`: settings of the task; `manifest`: text of manifest.json; `half`: matrices as float16, which rounds them
    (without, loading gives exactly what was saved)."""
    from safetensors.torch import save

    config: Any = policy.config
    policy_settings = asdict(config) | HERE
    vision = _vision_from_file(config)
    if vision:
        policy_settings["vision_weights"] = VISION
    settings = {
        "env": {"image_size": config.image_size},
        "task": {"max_steps": config.max_steps} | dict(task or {}),
        "policy": policy_settings,
    }
    trained = {name: t.detach().cpu() for name, t in policy.trainable_state_dict().items()}
    if half:
        trained = {n: t.half() if t.is_floating_point() and t.numel() >= _SMALL else t for n, t in trained.items()}
    if not all(bool(t.isfinite().all()) for t in trained.values()):
        raise UserError("the policy's weights are not finite, or too large for float16")
    tensors = {f"trainable.{name}": t for name, t in trained.items()}
    tensors |= {f"frozen.{name}": exact(t) for name, t in policy.unfetchable_weights().items()}
    make_folder(folder)
    # not as ASCII: what JSON then makes of an emoji is nothing that YAML can read
    said = json.dumps(settings, indent=1, ensure_ascii=False) + "\n"
    data = {CONFIG: said.encode(), WEIGHTS: _packed(save, tensors)}
    if vision:
        data[VISION] = _packed(save, {name: exact(t) for name, t in vision.items()})
    if manifest:
        data[MANIFEST] = manifest.encode()
    for name, content in data.items():
        write_bytes(folder / name, content)
    card = {
        "format": FORMAT,
        **(about or {}),
        "policy_class": type(policy).__name__,
        "llm": config.llm,
        "vision": config.vision,
        "own_skills": list(OWN_SKILLS),
        "frozen": policy.frozen_fingerprint(),
        "weights_sha256": weights_digest(trained),
        "trainable_parameters": policy.count_parameters()[0],
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in data.items()},
        "llarp": llarp.__version__,
        "torch": torch.__version__,
    }
    write_card(folder, card)
    return card


def write_card(folder: Path, card: Mapping[str, Any], readme: str = "") -> None:
    """`card.json`, and `card.md` where there are words for it."""
    if readme:
        write_bytes(folder / README, readme.encode())
    write_bytes(folder / CARD, (to_json(card, indent=1) + "\n").encode())


def make_folder(folder: Path) -> None:
    """The folder, if there is none; UserError where there can be none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made: {error.strerror}") from None


def write_bytes(path: Path, content: bytes) -> None:
    """A file in one go; UserError where the disk refuses."""
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None


def exact(tensor: Tensor) -> Tensor:
    """The same numbers in half the bytes where that is possible (float16, else bfloat16), else as they are."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.float32:
        for dtype in (torch.float16, torch.bfloat16):
            if torch.equal(tensor.to(dtype).float(), tensor):
                return tensor.to(dtype)
    return tensor


def weights_digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 of trainable parts as the policy computes with them (float32): what results are known by."""
    from .vision import fingerprint_of

    return fingerprint_of({name: t.float() if t.is_floating_point() else t for name, t in tensors.items()})


def digest_of(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _packed(save: Any, tensors: Mapping[str, Tensor]) -> bytes:
    data: bytes = save({name: t.contiguous().clone() for name, t in tensors.items()}, metadata={"format": "pt"})
    return data


def _vision_from_file(config: Any) -> dict[str, Tensor]:
    """The vision model's weights where a file of the user's holds them; else empty."""
    weights = config.vision_weights
    if weights in ("random", "hub") or weights in vision_names():
        return {}
    from .vision import build_backbone

    return dict(build_backbone(config.vision, weights, config.image_size).state_dict())


# -- reading ----------------------------------------------------------------------------------------------------------


def read(path: Path) -> PolicyFolder:
    """Check a policy folder; UserError, one line, for files that are missing, damaged, too large, or were changed."""
    card = read_json(path / CARD)
    if card.get("format") != FORMAT:
        raise UserError(f"{path}: not a policy folder of this version of llarp (format {card.get('format')!r})")
    files, frozen = card.get("files"), card.get("frozen")
    if not isinstance(files, dict) or not isinstance(frozen, dict) or not {CONFIG, WEIGHTS} <= files.keys():
        raise UserError(f"{path / CARD} does not name the files and frozen models of a policy")
    for name, digest in files.items():
        if name not in MAX_BYTES or name == CARD:
            raise UserError(f"{path / CARD} names {name!r}, which is no file of a policy")
        file = path / name
        if not file.is_file():
            raise UserError(f"{path}: not a policy folder that is whole: {name} is missing; fetch it again")
        if file.stat().st_size > MAX_BYTES[name]:
            raise UserError(f"{file} is larger than a policy's can be ({MAX_BYTES[name] >> 20} MB)")
        if digest_of(file) != digest:
            raise UserError(f"{file} is damaged or was changed: its sha256 is not that of the card; fetch it again")
    return PolicyFolder(path, card, _settings(path / CONFIG))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; UserError for anything else."""
    if not path.is_file():
        raise UserError(f"{path.parent}: not a policy folder: {path.name} is missing")
    if path.stat().st_size > MAX_BYTES.get(path.name, 1 << 20):
        raise UserError(f"{path} is larger than a policy's can be")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a policy folder that can be read ({str(error)[:80]})") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: not a policy folder that can be read (no JSON object)")
    return found


def _settings(path: Path) -> dict[str, Any]:
    """What config.json sets, nothing but what it may set."""
    settings = read_json(path)
    if "${" in to_json(settings):
        raise UserError(f"{path}: ${{...}} reads other settings, or this machine's: it is nothing that a policy sets")
    for group, values in settings.items():
        if group not in SETTINGS or not isinstance(values, dict):
            raise UserError(f"{path}: {group!r} is nothing that a policy sets")
        allowed = SETTINGS[group]
        if allowed is not None and (other := sorted(values.keys() - set(allowed))):
            raise UserError(f"{path}: {group}.{other[0]} is nothing that a policy sets")
    weights = settings.get("policy", {}).get("vision_weights", "random")
    if weights not in ("random", "hub", VISION) and not re.fullmatch(r"[\w.-]+", str(weights)):
        raise UserError(f"{path}: policy.vision_weights={weights} lies outside the folder")
    if weights == VISION and not (path.parent / VISION).is_file():
        raise UserError(f"{path.parent}: not a policy folder that is whole: {VISION} is missing; fetch it again")
    return {"env": {}, "task": {}, "policy": {}} | settings


def config_of(folder: PolicyFolder) -> Any:
    """The PolicyConfig of a folder; UserError for settings of another version."""
    from llarp.config import RunConfig, build, follow

    settings = json.loads(json.dumps(folder.settings))
    for override in folder.overrides():
        settings["policy"]["vision_weights"] = override.partition("=")[2]
    try:
        return build(RunConfig, follow(settings)).policy
    except UserError as error:
        raise UserError(f"{folder.path / CONFIG}: {error}") from None


def fill(policy: Policy, folder: PolicyFolder, grow: bool = False) -> None:
    """Put a folder's weights into a policy of its settings; UserError where its frozen models are others. `grow`: the
    policy may have more trained parts, which stay as they are."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder.path / WEIGHTS, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{folder.path / WEIGHTS}: not weights that can be read ({str(error)[:80]})") from None
    if (own := folder.card.get("own_skills", [])) != list(OWN_SKILLS):
        raise UserError(f"{folder.path}: knows the own skills {own}, here are {list(OWN_SKILLS)}: see LLARP_EXTENSIONS")
    parts: dict[str, dict[str, Tensor]] = {"trainable": {}, "frozen": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        if part not in parts:
            raise UserError(f"{folder.path / WEIGHTS}: {name!r} belongs to no part of a policy")
        parts[part][rest] = tensor.float() if tensor.is_floating_point() else tensor
    try:
        if parts["frozen"]:
            policy.load_unfetchable_weights(parts["frozen"])
        policy.load_trainable_state_dict(grown(policy, parts["trainable"]) if grow else parts["trainable"])
    except (UserError, RuntimeError) as error:  # torch's own, of tensors that do not fit
        raise UserError(f"{folder.path}: {str(error).splitlines()[0]}") from None
    check_frozen(policy.frozen_fingerprint(), folder)


def check_frozen(own: Mapping[str, str], folder: PolicyFolder) -> None:
    """UserError unless the frozen models are, bit for bit, those the policy was trained with."""
    then = folder.card["frozen"]
    for part in sorted(own.keys() | then.keys()):
        if own.get(part) != then.get(part):
            told = f"sha256 {str(own.get(part))[:12]}... here, {str(then.get(part))[:12]}... then"
            raise UserError(f"{folder.path}: trained with other weights of the frozen {part} model ({told})")


# -- by name ----------------------------------------------------------------------------------------------------------


def names() -> list[str]:
    """Policies that this installation carries."""
    return sorted(p.parent.name for p in SHIPPED.glob(f"*/{CARD}") if not p.parent.name.startswith("vision-"))


def vision_names() -> list[str]:
    """Vision models that this installation carries: values for policy.vision_weights."""
    return sorted(p.parent.name.removeprefix("vision-") for p in SHIPPED.glob(f"vision-*/{VISION}"))


def listed(found: Iterable[str]) -> str:
    """Names for a message."""
    return ", ".join(found) or "none in this version"


def vision_file(weights: str) -> Path:
    """The file of a vision model's weights, given by a name that this installation carries or by its path."""
    return SHIPPED / f"vision-{weights}" / VISION if weights in vision_names() else Path(weights).expanduser()


def at_hand(name: str | Path) -> Path | None:
    """The policy folder that a path or a name that llarp ships stands for, None where it is neither."""
    path = Path(name).expanduser()
    if path.exists():
        return path if (path / CARD).is_file() else None
    return SHIPPED / str(name) if str(name) in names() else None


def find(name: str | Path) -> Path:
    """The folder of a policy given by its folder, by a name that llarp ships, or by a hub id (user/name, fetched).

    UserError for anything else, which says what there is."""
    if (here := at_hand(name)) is not None:
        return here
    path = Path(name).expanduser()
    if path.exists():
        raise UserError(f"{name}: not a policy folder: {CARD} is missing")
    known = f"shipped with llarp: {listed(names())}"
    ways = "a run folder, a checkpoint file, a folder that llarp ship wrote, or a hub id (user/name)"
    text = str(name)
    if not _HUB_ID.fullmatch(text) or text.startswith(("runs/", "./", "../")) or path.parent.exists():
        raise UserError(f"{name}: there is no such run or checkpoint, nor a policy of that name ({known}); give {ways}")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(text, allow_patterns=list(FILES)))
    except Exception as error:  # the hub's client raises a dozen unrelated classes
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise UserError(f"{name}: the hub does not give us such a policy ({reason}); {known}; or give {ways}") from None


def push(folder: Path, repo_id: str, private: bool = False) -> str:
    """Upload a policy folder to the Hugging Face hub, its card as README.md; the address. Needs `hf auth login`."""
    found = read(folder)
    if not _HUB_ID.fullmatch(repo_id):
        raise UserError(f"hub={repo_id}: write it as user/name")
    from huggingface_hub import HfApi

    words = (folder / README).read_text(encoding="utf-8") if (folder / README).is_file() else f"# {repo_id}\n"
    licence = str(found.card.get("licence", "apache-2.0")).lower()
    head = f"---\nlicense: {licence}\nlibrary_name: llarp\ntags:\n- robotics\n- reinforcement-learning\n---\n\n"
    api = HfApi()
    try:
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder, allow_patterns=list(FILES),
                          commit_message="llarp policy")  # fmt: skip
        api.upload_file(repo_id=repo_id, path_or_fileobj=(head + words).encode(), path_in_repo="README.md")
    except Exception as error:  # the hub's client raises a dozen unrelated classes
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise UserError(f"hub={repo_id}: could not be uploaded ({reason}); log in with: hf auth login") from None
    return str(address)
