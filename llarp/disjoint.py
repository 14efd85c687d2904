"""`manifest.json` of a run, and `llarp data check`: nothing of an evaluation split was used in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .envs.episode_source import load_assets_for, load_episodes
from .errors import UserError
from .policy import hub
from .runfolder import find_run, write_atomically
from .tasks.episodes import EpisodeSet
from .tasks.exposure import Exposure, expose
from .tasks.manifest import DISJOINT, Manifest, ManifestError, check, required

if TYPE_CHECKING:
    from .config import RunConfig
    from .envs.config import EnvConfig

MANIFEST = "manifest.json"
TEST_EPISODES = 100
"""Episodes of an evaluation split that are checked: as many as are published."""


def record(folder: Path, stage: str, episodes: EpisodeSet, env: EnvConfig, resumed: bool = False) -> None:
    """Enter in a run folder's manifest what a training stage is about to be shown.

    A resumed run that has no manifest is left without: nobody knows what its earlier part was shown."""
    path = folder / MANIFEST
    if resumed and not path.exists():
        return
    manifest = read(path) if path.exists() else Manifest()
    manifest.add(stage, _exposure(episodes, env))
    write_atomically(path, manifest.to_json())


def inherit(folder: Path, source: str) -> bool:
    """Begin a run folder's manifest with that of the run whose weights it starts from (`source`: the run, a checkpoint
    of it, or a policy folder). False where that has none: nobody knows what it was shown, so the new run has none."""
    try:
        return _begin_with(folder, hub.at_hand(source) or find_run(Path(source).expanduser()))
    except UserError:  # a checkpoint outside a run folder
        return False


def inherit_vision(folder: Path, weights: str) -> bool:
    """The same for a vision model's weights (a file, or a name that llarp ships), whose manifest lies beside them."""
    file = hub.vision_file(weights)
    return file.is_file() and _begin_with(folder, file.parent)


def _begin_with(folder: Path, source: Path) -> bool:
    earlier = source / MANIFEST
    if not earlier.is_file():
        return False
    write_atomically(folder / MANIFEST, read(earlier).to_json())
    return True


def read(path: Path) -> Manifest:
    """A manifest, or that of a run folder; UserError for what is none."""
    file = path / MANIFEST if path.is_dir() else path
    if not file.is_file():
        made = "a run made by an earlier version has none" if path.is_dir() else "give a run folder or its manifest"
        raise UserError(f"manifest={path}: there is no {file.name} ({made})")
    try:
        return Manifest.from_json(file.read_text(encoding="utf-8"))
    except (ManifestError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{file}: {error}") from None


def merge(paths: Sequence[Path]) -> Manifest:
    """The stages of several manifests (files or run folders), one after the other."""
    merged = Manifest()
    for path in paths:
        manifest = read(path)
        for stage, index in manifest.stages:
            merged.add(stage, manifest.shown[index])
    return merged


def check_splits(config: RunConfig, manifest_path: str | None, split: str | None, episodes: int) -> dict[str, Any]:
    """What `llarp data check` reports: the leaks of `episodes` (0: 100) episodes of an evaluation split, of all splits
    (None or "all"), or of the dataset file that `config` names, whose split is `split` or that of its own name."""
    if manifest_path is None:
        raise UserError("manifest=PATH is missing: the run folder, or its manifest.json, to check")
    if split is not None and split != "all" and split not in DISJOINT:
        raise UserError(f"split={split} is no evaluation split: choose {', '.join(DISJOINT)} or all")
    if episodes < 0:
        raise UserError(f"episodes={episodes} is out of range: it must be at least 1")
    manifest = read(Path(manifest_path))
    rows: dict[str, Any] = {}
    for name in DISJOINT if split in (None, "all") else (split,):
        env = config.env
        if not env.dataset:
            env = replace(env, split=name, episodes=episodes or TEST_EPISODES)
        shown = _exposure(load_episodes(env, config.seed), env)
        if env.dataset and split in (None, "all"):
            name = shown.split
        try:
            leaks = check(manifest, shown, str(name))
            checked = required(str(name), shown.published)
        except ManifestError as error:
            raise UserError(f"{env.dataset}: {error}; say which with split=") from None
        rows[str(name)] = {"episodes": shown.episodes, "disjoint_in": list(checked), "leaks": [str(x) for x in leaks]}
        if env.dataset:
            break
    return {
        "manifest": manifest_path,
        "stages": [_stage(stage, manifest.shown[i]) for stage, i in manifest.stages],
        "disjoint": rows,
        "leaks": [leak for row in rows.values() for leak in row["leaks"]],
    }


def _stage(stage: str, shown: Exposure) -> str:
    return f"{stage}: {shown.episodes} episodes of {shown.split or shown.source}"


def _exposure(episodes: EpisodeSet, env: EnvConfig) -> Exposure:
    assets = load_assets_for(env)
    return expose(episodes, assets.scenes, assets.catalog, env.source, env.published)
