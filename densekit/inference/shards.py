"""Predictions in shards: files of so many pictures in a row, each written once and in full.

``shards/000012.jsonl`` (or ``.parquet``) has a line for each picture that could be read, in the order of the input and
as ``predictions.jsonl`` has it. ``manifest/000012.json``, written after it, says that the shard is finished, names the
pictures that could not be read, and has a digest of the files' sizes and times, so that a shard of which a picture has
changed since is predicted again. One process writes, so two never write the same shard.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densekit.files.atomic import atomic_write
from densekit.inference.inputs import Picture
from densekit.inference.journal import JOINED
from densekit.inference.reading import stamp
from densekit.inference.settings import MANIFEST, SHARDS
from densekit.inference.store import Store

Line = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """The result for one picture.

    Attributes:
        index: of the picture.
        stamp: of its file when it was read; "" for a URL and for a file that is missing.
        line: what the model finds; None where the picture could not be read.
        problem: why not.
    """

    index: int
    stamp: str
    line: Line | None
    problem: str = ""


def present_stamp(path: str) -> str:
    """Returns the stamp of a file, "" where there is none."""
    try:
        return stamp(path)
    except OSError:
        return ""


class Shards:
    """Shards of one run: which pictures each has, which are finished, their content.

    Args:
        store: of the output.
        pictures: the whole input.
        batch_size: of the model; a shard holds whole batches.
        size: pictures of a shard, rounded up to whole batches.
        kind: "jsonl" or "parquet".
    """

    def __init__(self, store: Store, pictures: Sequence[Picture], batch_size: int, size: int, kind: str) -> None:
        self._store, self._pictures, self._kind = store, pictures, kind
        self.batch_size, self.size = batch_size, -(-size // batch_size) * batch_size
        self.count = -(-len(pictures) // self.size)
        self._numbered = all(isinstance(picture.image_id, int) for picture in pictures)

    def members(self, number: int) -> range:
        """Returns the indices of a shard's pictures."""
        return range(number * self.size, min((number + 1) * self.size, len(self._pictures)))

    def unfinished(self) -> list[int]:
        """Returns the numbers of the shards that have to be predicted."""
        written, marked = self._store.names(SHARDS), self._store.names(MANIFEST)
        both = [k for k in range(self.count) if self._name(k) in written and f"{k:06d}.json" in marked]
        finished = {number for number in both if self._holds(number)}
        return [number for number in range(self.count) if number not in finished]

    def write(self, number: int, answers: Sequence[Answer]) -> None:
        """Writes a shard and marks it as finished.

        Args:
            number: its.
            answers: one for each of its pictures, in any order.

        Raises:
            ValueError: Answers are missing, or are there twice.
        """
        ordered = sorted(answers, key=lambda answer: answer.index)
        if [answer.index for answer in ordered] != list(self.members(number)):
            raise ValueError(f"Shard {number} has {len(answers)} answers for {len(self.members(number))} pictures.")
        lines = [answer.line for answer in ordered if answer.line is not None]
        content = _jsonl(lines) if self._kind == "jsonl" else _parquet(lines, self._numbered)
        self._store.write(f"{SHARDS}/{self._name(number)}", content)
        mark = {
            "pictures": len(ordered),
            "files": _digest(answer.stamp for answer in ordered),
            "unreadable": {str(answer.index): answer.problem for answer in ordered if answer.line is None},
        }
        self._store.write(f"{MANIFEST}/{number:06d}.json", json.dumps(mark, indent=1).encode())

    def lines(self, number: int) -> list[Line]:
        """Returns the lines of a finished shard."""
        content = self._store.read(f"{SHARDS}/{self._name(number)}")
        return [json.loads(raw) for raw in content.splitlines()] if self._kind == "jsonl" else _lines_of(content)

    def problems(self) -> dict[int, str]:
        """Returns the reasons of all pictures that could not be read, by their indices; all shards are finished."""
        marks = (self._mark(number) for number in range(self.count))
        return {int(index): reason for mark in marks for index, reason in mark["unreadable"].items()}

    def _name(self, number: int) -> str:
        return f"{number:06d}.{self._kind}"

    def _mark(self, number: int) -> dict[str, Any]:
        return json.loads(self._store.read(f"{MANIFEST}/{number:06d}.json"))

    def _holds(self, number: int) -> bool:
        """Tells whether the files are those that the shard was made from."""
        return self._mark(number)["files"] == _digest(
            present_stamp(self._pictures[index].path) for index in self.members(number)
        )


class JoinedShards:
    """Finished shards in the place of a journal, for the formats that are written of whole outputs.

    Args:
        shards: all finished.
        folder: of the output.
    """

    def __init__(self, shards: Shards, folder: Path) -> None:
        self._shards, self._folder = shards, folder

    def join(self) -> Path:
        """Makes one file of JSON Lines of all shards."""
        target = self._folder / JOINED
        with atomic_write(target, "wb") as file:
            for number in range(self._shards.count):
                file.write(_jsonl(self._shards.lines(number)))
        return target


def remove_litter(folder: Path) -> None:
    """Removes what atomic writes that a kill has cut off have left in the folders of the shards."""
    for name in (SHARDS, MANIFEST):
        for litter in (folder / name).glob(".*.part"):
            litter.unlink()


def digest_of(pictures: Sequence[Picture]) -> str:
    """Returns a sum of which pictures an input names, in which order and under which ids."""
    return _digest(json.dumps([picture.path, picture.image_id]) for picture in pictures)


def _digest(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()


def _jsonl(lines: Sequence[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps(line, allow_nan=False, separators=(",", ":")).encode() + b"\n" for line in lines)


def _parquet(lines: Sequence[Line], numbered: bool) -> bytes:
    """A Parquet file; every shard has the same columns, whatever its pictures show."""
    import pyarrow as pa
    from pyarrow import parquet

    image_id = pa.int64() if numbered else pa.string()
    mask = pa.struct([("size", pa.list_(pa.int64())), ("counts", pa.string())])
    instance = pa.struct(
        [
            ("image_id", image_id),
            ("category_id", pa.int64()),
            ("bbox", pa.list_(pa.float64())),
            ("score", pa.float64()),
            ("segmentation", mask),
            ("keypoints", pa.list_(pa.float64())),
        ]
    )
    segment = pa.struct(
        [
            *((name, pa.int64()) for name in ("id", "category_id", "area", "iscrowd")),
            ("isthing", pa.bool_()),
            ("score", pa.float64()),
        ]
    )
    schema = pa.schema(
        [
            ("index", pa.int64()),
            ("image_id", image_id),
            ("file_name", pa.string()),
            ("stem", pa.string()),
            ("height", pa.int64()),
            ("width", pa.int64()),
            ("instances", pa.list_(instance)),
            ("highest_score", pa.float64()),
            ("segments_info", pa.list_(segment)),
            ("stamp", pa.string()),
        ]
    )
    if unknown := {key for line in lines for key in line} - set(schema.names):
        raise ValueError(f"Parquet shards have no column for {', '.join(sorted(unknown))}; take --shard-format jsonl.")
    if not numbered:
        lines = [_with_text_ids(line) for line in lines]
    buffer = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(list(lines), schema=schema), buffer, compression="zstd")
    return buffer.getvalue()


def _with_text_ids(line: Line) -> Line:
    changed = {**line, "image_id": str(line["image_id"])}
    if "instances" in line:
        changed["instances"] = [{**one, "image_id": str(one["image_id"])} for one in line["instances"]]
    return changed


def _lines_of(content: bytes) -> list[Line]:
    from pyarrow import parquet

    return [_without_none(row) for row in parquet.read_table(io.BytesIO(content)).to_pylist()]


def _without_none(value: Any) -> Any:
    """The same without the keys that a picture does not have."""
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value
