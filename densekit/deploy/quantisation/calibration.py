"""Calibration: the maps of pictures, as the float graph computes them, into histograms."""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from densekit.deploy.quantisation.histograms import METHODS, Histogram
from densekit.deploy.targets import required, session_of
from densekit.files.atomic import atomic_write

__all__ = ["Calibration", "Range", "calibrate"]

Feed = Mapping[str, Tensor]  # the inputs of a graph by their names
_STEPS = {True: 127, False: 255}


@dataclass(frozen=True)
class Range:
    """The numbers that a quantised map can have: from -top, or 0 where it has no negative ones, to top.

    Attributes:
        top: the largest; above 0.
        signed: whether negative numbers are kept.
    """

    top: float
    signed: bool

    @property
    def step(self) -> float:
        """The distance of two numbers."""
        return self.top / _STEPS[self.signed]

    @property
    def zero(self) -> int:
        """The place of 0 among 0 to 255."""
        return 128 if self.signed else 0


@dataclass
class Calibration:
    """Histograms of maps, and the number of pictures that they have seen.

    Attributes:
        source: what they are of: the graph, the pictures and their order.
        pictures: so many of them have been counted.
        histograms: name of a map -> its histogram.
    """

    source: str
    pictures: int = 0
    histograms: dict[str, Histogram] = field(default_factory=dict)

    def ranges(self, method: str) -> dict[str, Range]:
        """Returns the ranges of all maps.

        Args:
            method: a key of :data:`densekit.deploy.quantisation.histograms.METHODS`.
        """
        found = {}
        for name, histogram in self.histograms.items():
            top = METHODS[method](histogram, histogram.signed) if histogram.highest else 0.0
            found[name] = Range(top or histogram.highest or 1.0, histogram.signed)
        return found

    def save(self, path: Path) -> None:
        """Writes the histograms."""
        arrays = {
            f"{number}.{key}": value
            for number, histogram in enumerate(self.histograms.values())
            for key, value in histogram.state().items()
        }
        content = io.BytesIO()
        about = {"source": self.source, "pictures": self.pictures, "maps": list(self.histograms)}
        entries: dict[str, Any] = {name: np.asarray(value) for name, value in (about | arrays).items()}
        np.savez_compressed(content, **entries)
        with atomic_write(path, "wb") as file:
            file.write(content.getvalue())

    @classmethod
    def load(cls, path: Path, source: str) -> "Calibration":
        """Returns what :meth:`save` has written, or an empty one if it is missing, unreadable or of another source."""
        try:
            with np.load(path) as arrays:
                if str(arrays["source"]) != source:
                    return cls(source)
                histograms = {
                    str(name): Histogram.restored({key: arrays[f"{number}.{key}"] for key in ("counts", "limits")})
                    for number, name in enumerate(arrays["maps"])
                }
                return cls(source, int(arrays["pictures"]), histograms)
        except (OSError, ValueError, KeyError, EOFError):
            return cls(source)


def calibrate(model: Any, names: Sequence[str], feeds: Iterable[Feed], calibration: Calibration) -> Iterable[int]:
    """Adds the maps of pictures to histograms, one picture after the other.

    Args:
        model: an ONNX model.
        names: of its maps.
        feeds: its inputs for each picture that is still to be counted.
        calibration: is changed.

    Yields:
        The number of pictures counted so far, after each.

    Raises:
        ValueError: A map has numbers that are not finite.
    """
    run = watching(model, names)
    for feed in feeds:
        for name, values in run(feed).items():
            try:
                calibration.histograms.setdefault(name, Histogram()).add(values)
            except ValueError as error:
                raise ValueError(f"Picture {calibration.pictures + 1} of the calibration: {name}: {error}.") from error
        calibration.pictures += 1
        yield calibration.pictures


def watching(model: Any, names: Sequence[str]) -> Any:
    """Returns a call that runs an ONNX model on its inputs and gives the tensors of these names, not its outputs."""
    onnx: Any = required("onnx")
    seen = onnx.ModelProto()
    seen.CopyFrom(model)
    given = {entry.name for entry in model.graph.input}
    del seen.graph.output[:]
    seen.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names if name not in given)
    session = session_of(seen.SerializeToString(), whole=False)
    inputs = {entry.name for entry in session.get_inputs()}
    outputs = [entry.name for entry in session.get_outputs()]

    def run(feed: Feed) -> dict[str, Tensor]:
        found = session.run(outputs, {name: feed[name].numpy() for name in inputs})
        own = {name: feed[name] for name in names if name in given}
        return own | {name: torch.from_numpy(np.asarray(value)) for name, value in zip(outputs, found)}

    return run
