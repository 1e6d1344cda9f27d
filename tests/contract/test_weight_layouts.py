"""Names of weights: a recorded list of names is of one layout at most, and the names of models here stay."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from densekit.d2.modeling import build_model
from densekit.projects import rooms
from densekit.weights.parts import find_layout, layouts_of
from tests.contract.shrinking import CONFIGS, folders, shrunken


def manifests(content: Any, where: str) -> Iterator[tuple[str, list[str]]]:
    """Every list of parameter names in a recorded file, with its place there."""
    if not isinstance(content, dict):
        return
    if content and all(isinstance(shape, (tuple, list, torch.Size)) for shape in content.values()):
        names = [str(name) for name in content]
        if "manifest" in where:
            yield where, names
        return
    for key, value in content.items():
        yield from manifests(value, f"{where}/{key}")


def recorded_files() -> list[Path]:
    return sorted((Path(__file__).resolve().parents[3] / "shared" / "reference").glob("*.pt"))


@pytest.mark.parametrize("path", recorded_files(), ids=lambda path: path.name)
def test_recorded_names_are_of_one_layout(path):
    list(rooms())
    for where, names in manifests(torch.load(path, map_location="cpu"), path.name):
        complete = [layout.name for layout in layouts_of(names) if not layout.unknown(names)]
        assert len(complete) <= 1, (where, complete)
        find_layout(names)


@pytest.mark.parametrize("folder", folders())
def test_names_of_models_here_stay(folder):
    path = next(path for path in CONFIGS if path.parent.name == folder)
    try:
        weights = build_model(shrunken(path)).state_dict()
    except ImportError as error:  # of an optional package
        pytest.skip(str(error))
    layout = find_layout(list(weights))
    converted = layout.convert(weights, weights) if layout else weights
    assert set(converted) == set(weights)
