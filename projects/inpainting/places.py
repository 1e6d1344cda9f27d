"""Places by name: the pictures of Places365 (Zhou et al., TPAMI 2018) as its archives unpack, without annotations."""

import functools
import os

from densekit.data.builtin import datasets_root
from densekit.data.own.images import load_images
from densekit.data.registry import Entry, register

# Split -> folder below ``places365``: those of the small pictures' archives.
_FOLDERS = {"train": "data_256", "val": "val_256", "test": "test_256"}


def register_places() -> None:
    """Registers ``places_train``, ``places_val`` and ``places_test``; files are read when one is used."""
    for split, folder in _FOLDERS.items():
        images = os.path.join(datasets_root(), "places365", folder)
        register(Entry(f"places_{split}", functools.partial(load_images, images), {"image_root": images}))
