"""Findings of an inspection, collected by kind."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from densekit.data.inspect.kinds import ERROR, KINDS, SEVERITIES, Kind
from densekit.files.atomic import strict

__all__ = ["Finding", "Findings", "Histogram"]


@dataclass(frozen=True)
class Finding:
    """One fault.

    Attributes:
        kind: name of its kind.
        where: the entry or file, for a person: ``annotation 12 of image 5 (a.jpg)``.
        detail: what is wrong with it, with the value.
        image: file that shows it, if any.
        image_id: of the data set, if any.
        annotation_id: of the data set, if any.
        box: xyxy in pixels, to be drawn on the image.
        mask_box: the rectangle around the mask that contradicts it.
    """

    kind: str
    where: str
    detail: str = ""
    image: str | None = None
    image_id: Any = None
    annotation_id: Any = None
    box: tuple[float, float, float, float] | None = None
    mask_box: tuple[float, float, float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the fields that are set, in types of JSON."""
        values = {"where": self.where, "detail": self.detail, "image": self.image, "image_id": self.image_id,
                  "annotation_id": self.annotation_id, "box": self.box, "mask_box": self.mask_box}  # fmt: skip
        return {key: value for key, value in values.items() if value not in (None, "")}


@dataclass
class Histogram:
    """Counts of the classes.

    Attributes:
        unit: ``objects``, ``segments`` or ``pixels``.
        counts: class name -> how many of the unit.
        images: class name -> in how many images.
    """

    unit: str
    counts: dict[str, int]
    images: dict[str, int]


@dataclass
class Findings:
    """All findings on one data set.

    Attributes:
        name: of the data set.
        images: how many images it lists.
        objects: how many annotations.
        histogram: its classes, None where nothing could be read.
        by_kind: kind name -> findings, in the order in which they were found.
    """

    name: str
    images: int = 0
    objects: int = 0
    histogram: Histogram | None = None
    by_kind: dict[str, list[Finding]] = field(default_factory=dict)

    def add(self, kind: str, where: str, detail: str = "", **fields: Any) -> None:
        """Records one finding; ``fields`` are the further ones of :class:`Finding`."""
        if kind not in KINDS:
            raise KeyError(f"{kind!r} is not a kind of finding.")
        self.by_kind.setdefault(kind, []).append(Finding(kind, where, detail, **fields))

    def items(self) -> Iterator[tuple[Kind, list[Finding]]]:
        """Goes through the kinds that occur, the worst first, then by how often."""
        order = sorted(
            self.by_kind, key=lambda name: (SEVERITIES.index(KINDS[name].severity), -len(self.by_kind[name]), name)
        )
        return ((KINDS[name], self.by_kind[name]) for name in order)

    def count(self, severity: str) -> int:
        """Returns how many findings have this severity."""
        return sum(len(found) for kind, found in self.items() if kind.severity == severity)

    @property
    def clean(self) -> bool:
        """Tells whether nothing of severity error was found."""
        return self.count(ERROR) == 0

    def to_json(self) -> dict[str, Any]:
        """Returns everything in types of JSON."""
        histogram = self.histogram and vars(self.histogram)
        return strict(
            {
                "data_set": self.name,
                "images": self.images,
                "objects": self.objects,
                **{severity: self.count(severity) for severity in SEVERITIES},
                "classes": histogram,
                "findings": [
                    {"kind": kind.name, "severity": kind.severity, "title": kind.title, "count": len(found),
                     "remedy": kind.remedy, "examples": [finding.to_json() for finding in found]}
                    for kind, found in self.items()
                ],
            }
        )  # fmt: skip
