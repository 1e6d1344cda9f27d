"""The classes of a model in the words of the data it was trained on: the data set's ids, names and colours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from densekit.d2.data import Metadata
from densekit.data.identity import class_ids, shares_numbers
from densekit.evaluation.cityscapes.frames import label_ids

_LOOKS = ("thing_colors", "stuff_colors", "keypoint_names", "keypoint_connection_rules", "label_divisor")
_ALL_THINGS = (0, "things")


@dataclass(frozen=True)
class Classes:
    """Categories by the model's class number.

    Attributes:
        things: (id, name) of each class of objects.
        labels: (id, name) of each class of a semantic map; those of stuff where a model gives panoptic maps.
        looks: colours and skeleton for drawing, under the names of the data set's metadata.
        stuff_ids: ids among those of ``things`` that are stuff, of data whose things and stuff share their numbers.
    """

    things: Sequence[tuple[int, str]] = ()
    labels: Sequence[tuple[int, str]] = ()
    looks: Mapping[str, Any] = field(default_factory=dict)
    stuff_ids: frozenset[int] = frozenset()

    @staticmethod
    def of(metadata: Metadata) -> "Classes":
        """Takes what a registered data set says about itself; parts that it does not name are empty."""
        looks = {key: metadata.get(key) for key in _LOOKS if metadata.get(key)}
        return Classes(
            things=_cityscapes(metadata, "thing") or _pairs(metadata, "thing"),
            labels=_cityscapes(metadata, "stuff") or _pairs(metadata, "stuff"),
            looks=looks,
            stuff_ids=frozenset(metadata.get("stuff_dataset_id_to_contiguous_id") or ())
            if shares_numbers(metadata)
            else frozenset(),
        )

    @staticmethod
    def of_description(content: Mapping[str, Any]) -> "Classes":
        """Takes what :func:`densekit.data.identity.describe_classes` wrote when the model was trained."""
        things, labels = (
            [(int(entry["id"]), str(entry["name"])) for entry in content.get(key, ())]
            for key in ("thing_classes", "stuff_classes")
        )
        points = content.get("keypoint_names")
        looks: dict[str, Any] = {"keypoint_names": points, "keypoint_connection_rules": []} if points else {}
        looks |= {key: content[key] for key in ("thing_colors", "stuff_colors") if content.get(key)}
        return Classes(things, labels, looks, frozenset(content.get("stuff_ids", ())))

    def objects(self) -> list[tuple[int, str]]:
        """(id, name) of the classes of objects that are things."""
        return [(key, name) for key, name in self.things if key not in self.stuff_ids]

    def segments(self) -> list[tuple[int, str, bool]]:
        """(id, name, whether it is a thing) of the classes of panoptic segments.

        A semantic head may have one class for all things together, which no segment is of.
        """
        things = self.objects()
        labels = [pair for pair in self.labels if not (things and pair == _ALL_THINGS)]
        thing_ids = {key for key, _ in things}
        return [(key, name, key in thing_ids) for key, name in dict((*labels, *things)).items()]

    def names(self) -> tuple[list[str], list[str]]:
        """The names of the objects' and of the semantic classes."""
        return [name for _, name in self.things], [name for _, name in self.labels]

    def or_numbers(self, things: int, labels: int) -> "Classes":
        """The same, with so many numbers from 0 in place of what is missing."""
        return Classes(
            self.things or [(k, f"class {k}") for k in range(things)],
            self.labels or [(k, f"class {k}") for k in range(labels)],
            self.looks,
            self.stuff_ids,
        )

    def thing_id(self, number: int) -> int:
        """The data set's id of a class of objects."""
        return _category(self.things, number, "objects")[0]

    def label_id(self, number: int) -> int:
        """The data set's id of a semantic class."""
        return _category(self.labels, number, "pixels")[0]

    def with_looks(self, **looks: Any) -> "Classes":
        """The same with other colours."""
        return replace(self, looks={**self.looks, **looks})

    def metadata(self) -> Metadata:
        """The same for the host's Visualizer."""
        things, labels = self.names()
        numbers = {key: number for number, (key, _) in enumerate(self.things)}
        return Metadata().set(
            thing_classes=things, stuff_classes=labels, thing_dataset_id_to_contiguous_id=numbers, **self.looks
        )


def _category(table: Sequence[tuple[int, str]], number: int, what: str) -> tuple[int, str]:
    if not 0 <= number < len(table):
        raise ValueError(
            f"The model predicts class {number} for {what}, and its data set has the classes 0 .. {len(table) - 1}. "
            "Were the weights trained on other data than the configuration names?"
        )
    return table[number]


def _pairs(metadata: Metadata, kind: str) -> list[tuple[int, str]]:
    """(id, name) for each class number."""
    names = metadata.get(f"{kind}_classes") or ()
    return [(key, str(name)) for key, name in zip(class_ids(metadata, kind), names)]


def _cityscapes(metadata: Metadata, kind: str) -> list[tuple[int, str]]:
    """Cityscapes' label ids, which its metadata does not have: its models predict numbers of their own."""
    if metadata.get("evaluator_type") != f"cityscapes_{'instance' if kind == 'thing' else 'sem_seg'}":
        return []
    names = metadata.get(f"{kind}_classes") or ()
    return list(zip(label_ids(names, metadata.name), names))
