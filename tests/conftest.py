"""Fixtures shared by all tests; every test leaves the process as it found it."""

import json
import logging
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

# Tiny tensors gain nothing from more threads, and tests of several processes would fight over the cores.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start


@pytest.fixture
def in_processes(monkeypatch) -> Callable[..., None]:
    """Runs a function of a module's top level in so many processes on the CPU; it gets the facts in an object."""
    from densekit.engine import launch

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # as launch does, for good

    def start(main: Callable[[Any], None], count: int, **facts: Any) -> None:
        meeting = {"num_gpus": count, "num_machines": 1, "machine_rank": 0, "dist_url": "auto"}
        launch(main, SimpleNamespace(**meeting, **facts), "cpu")

    return start


@pytest.fixture(autouse=True)
def restore_process_state():
    """Seeds the test and gives back environment, threads, default dtype, grad mode and the process group."""
    environment = dict(os.environ)
    dtype, threads, grad = torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield
    if os.environ != environment:
        os.environ.clear()
        os.environ.update(environment)
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)
    torch.set_grad_enabled(grad)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.fixture(autouse=True)
def fresh_logs():
    """Closes the log of each run; the next one has another folder and another captured screen."""
    yield
    for name in ("densekit", "detectron2", "fvcore"):
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()


@pytest.fixture
def coco_cells(tmp_path) -> Path:
    """A folder with ``train.json`` in the form of COCO: one cell on one image, which is not there."""
    (tmp_path / "images").mkdir()
    content = {
        "images": [{"id": 3, "file_name": "a.png", "height": 20, "width": 30}],
        "categories": [{"id": 7, "name": "cell"}],
        "annotations": [{"id": 1, "image_id": 3, "category_id": 7, "bbox": [1, 2, 10, 11], "area": 110, "iscrowd": 0}],
    }
    (tmp_path / "train.json").write_text(json.dumps(content))
    return tmp_path


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> Iterator[None]:
    """Hears Ctrl-C, as the processes that tests start do, although a shell starts what runs behind it deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def registered() -> None:
    """Everything that modules register when they are first imported, which no test may take for its own."""
    import densekit.data.builtin  # noqa: F401
    from densekit.projects import PROJECTS

    for name in PROJECTS:
        import_module(f"densekit.projects.{name}")


@contextmanager
def _catalogs_kept() -> Iterator[None]:
    """Puts back what the block changes in the data set catalogues."""
    from densekit.d2.data import DatasetCatalog, MetadataCatalog

    before = [(catalog, dict(catalog)) for catalog in (DatasetCatalog, MetadataCatalog)]
    metadata = {name: dict(vars(entry)) for name, entry in MetadataCatalog.items()}
    yield
    for catalog, entries in before:
        catalog.clear()
        catalog.update(entries)
    for name, values in metadata.items():
        vars(MetadataCatalog[name]).clear()
        vars(MetadataCatalog[name]).update(values)


@pytest.fixture(scope="module", autouse=True)
def restore_catalogs_of_module(registered):
    """Gives the catalogues back that the fixtures of a module change."""
    with _catalogs_kept():
        yield


@pytest.fixture(autouse=True)
def restore_catalogs(restore_catalogs_of_module):
    """Gives the catalogues back that a test changes."""
    with _catalogs_kept():
        yield


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory) -> Iterator[None]:
    """Keeps the caches of the tests, and of the processes that they start, away from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DENSEKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def _shared(part: str) -> Path:
    folder = Path(__file__).resolve().parents[2] / "shared" / part
    if not folder.is_dir():
        pytest.skip(f"needs the recorded material in ../shared/{part}")
    return folder


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """The recorded outputs of the authors' code; the test is skipped where they are missing."""
    return _shared("reference")


@pytest.fixture(scope="session")
def shared_data_dir() -> Path:
    """The real images; the test is skipped where they are missing."""
    return _shared("data")
