"""Settings of the predictions in a folder, so that a rerun goes on with the same or names the difference."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from densekit.checkpoint.sources import local_weights
from densekit.d2.config import CfgNode
from densekit.files.atomic import atomic_write
from densekit.formats.formats import FORMATS
from densekit.inference.inputs import Picture
from densekit.inference.journal import JOINED, PARTS

SHARDS, MANIFEST = SHARD_FOLDERS = "shards", "manifest"
SETTINGS, UNREADABLE = "settings.json", "unreadable.txt"
_OF_THE_MODEL = ("MODEL", "INPUT", "TEST")  # the parts of a configuration that predictions depend on
_SHOWN = 5


def describe(
    cfg: CfgNode,
    pictures: Sequence[Picture],
    *,
    products: Sequence[str],
    score_threshold: float,
    batch_size: int,
    tile: int | None,
    overlap: float | None,
    masks: Sequence[str] = (),
) -> dict[str, Any]:
    """Returns the settings of a run; equal settings give equal predictions.

    The size of a batch is one of them, because it decides how pictures are padded.
    """
    config = {key: json.loads(json.dumps(cfg[key])) for key in _OF_THE_MODEL}
    config["MODEL"].pop("WEIGHTS")
    return {
        "weights": _digest(cfg.MODEL.WEIGHTS),
        "products": list(products),
        "score_threshold": score_threshold,
        "batch_size": batch_size,
        "tile": tile,
        "overlap": overlap,
        "masks": list(masks),
        "config": config,
        "input": [[p.path, p.image_id] if p.frame is None else [p.path, p.image_id, p.frame] for p in pictures],
    }


def claim(folder: Path, settings: Mapping[str, Any], *, overwrite: bool) -> None:
    """Makes an output folder, or makes sure that what it holds was made with the same settings.

    Raises:
        ValueError: It holds other predictions, or other files, or cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output {folder} is a file; give a folder.")
    path = folder / SETTINGS
    if overwrite and path.exists():
        _clear(folder)
    if path.exists():
        check_same(str(folder), path.read_bytes(), settings)
        return
    if not overwrite and folder.exists() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise ValueError(f"--output {folder} is not empty and holds no predictions; give a new or an empty folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            json.dump(settings, file)
    except OSError as error:
        raise ValueError(f"--output {folder} cannot be written ({error.strerror}). Choose another folder.") from error


def check_same(folder: str, earlier: bytes, settings: Mapping[str, Any]) -> None:
    """Makes sure that predictions were made with the same settings.

    Args:
        folder: of the predictions, for messages.
        earlier: the content of its settings file.
        settings: of this run.

    Raises:
        ValueError: The settings differ, or the file is damaged.
    """
    try:
        before = json.loads(earlier)
    except ValueError as error:
        raise ValueError(f"{folder}/{SETTINGS} is not JSON: {error}. Add --overwrite to make it anew.") from error
    if differences := list(_differences(before, settings)):
        raise ValueError(
            f"{folder} holds predictions that were made otherwise:\n  "
            + "\n  ".join(differences[:_SHOWN])
            + (f"\n  and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else "")
            + "\nChoose another --output, or add --overwrite to replace what is there."
        )


def _clear(folder: Path) -> None:
    """Removes what predictions consist of, the settings last, and nothing else that may lie there."""
    made = (name for entry in FORMATS.values() for name in entry.files)
    for name in (JOINED, PARTS, *SHARD_FOLDERS, UNREADABLE, *made, SETTINGS):
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _digest(weights: str) -> str:
    with open(local_weights(weights), "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    before, after = dict(_flat(earlier)), dict(_flat(now))
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        if key == "input":
            yield _input_difference(old or [], new or [])
        elif key == "weights":
            yield "weights: another file's content"
        else:
            yield f"{key.removeprefix('config.')}: {old} there, {new} now"


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _input_difference(old: list[Any], new: list[Any]) -> str:
    before, after = (dict.fromkeys((entry[0], *entry[2:]) for entry in entries) for entries in (old, new))
    added, gone = [one for one in after if one not in before], [one for one in before if one not in after]
    if not added and not gone:
        return "input: the same pictures, in another order or under other ids"
    return f"input: {len(added)} pictures are new and {len(gone)} are gone, {(added or gone)[0][0]} among them"
