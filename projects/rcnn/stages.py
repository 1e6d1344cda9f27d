"""Stages of R-CNN (arXiv 1311.2524) after its fine-tuning: features, SVMs and corrections of boxes, in this order."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm

from densekit.d2.config import CfgNode
from densekit.d2.engine import HookBase
from densekit.d2.utils import comm
from densekit.engine.preemption import STOP
from densekit.files.atomic import atomic_write

from .box_ridge import BoxRidge
from .feature_store import FeatureStore, Regions
from .learning import add_to_ridge, feature_scale, learn_svms, objects_of_classes
from .region_svm import SVMSettings
from .training_regions import TrainingRegions

__all__ = ["RegionStages", "StageSettings"]

logger = logging.getLogger(__name__)

_SCALE_PICTURES = 200  # at most, from which the scale of the features is measured
_RESULTS = ("svm_weight", "svm_bias", "feature_scale", "ridge_weight", "ridge_bias")
_LEFT = "The stages of R-CNN stop here; a resumed run repeats the steps since its last checkpoint and goes on here."
_LONGEST = timedelta(days=100)  # that a process waits for the SVMs, which the main one learns alone


@dataclass(frozen=True)
class StageSettings:
    """Numbers of the stages.

    Attributes:
        store_gib: Room on the disk for features.
        ridge_penalty: Lambda of the corrections.
        svm: Of the machines.
    """

    store_gib: float = 20.0
    ridge_penalty: float = 1000.0
    svm: SVMSettings = field(default_factory=SVMSettings)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "StageSettings":
        """Reads ``MODEL.RCNN``.

        Raises:
            ValueError: The penalty is not positive.
        """
        keys = cfg.MODEL.RCNN
        if not keys.RIDGE_PENALTY > 0:
            raise ValueError(
                f"MODEL.RCNN.RIDGE_PENALTY is {keys.RIDGE_PENALTY}; without a penalty there may be no solution."
            )
        svm = SVMSettings(
            cost=keys.SVM.C,
            positive_weight=keys.SVM.POSITIVE_WEIGHT,
            bias_multiplier=keys.SVM.BIAS_MULTIPLIER,
            refit_after=keys.SVM.REFIT_AFTER,
        )
        return cls(store_gib=keys.STORE_GIB, ridge_penalty=keys.RIDGE_PENALTY, svm=svm)


class RegionStages(HookBase):
    """Runs the stages after the last step, before its checkpoint is written, and fills the model's buffers.

    Features lie in ``OUTPUT_DIR/region_features``, each picture's by itself, and so do the finished SVMs. A run that
    was ended repeats the steps after its last checkpoint when it is resumed, has the same weights again, and goes on
    where the stages were. Other weights do not find them. The folder is removed when the run has ended well.

    Args:
        model: An :class:`~densekit.projects.rcnn.meta_arch.RCNN`.
        settings: Of the stages.
    """

    def __init__(self, model: Any, settings: StageSettings) -> None:
        self._model, self._settings = model, settings
        self._store: FeatureStore | None = None

    def before_train(self) -> None:
        if self.trainer.iter < self.trainer.max_iter:  # weights that will change make the SVMs worthless
            self._model.has_svms.fill_(False)

    def after_step(self) -> None:
        if self.trainer.iter + 1 < self.trainer.max_iter:
            return
        was_training = self._model.training
        self._model.eval()
        try:
            with torch.no_grad():
                self._run(self.trainer.cfg)
        finally:
            self._model.train(was_training)

    def after_train(self) -> None:
        if self._store is not None and self.trainer.iter >= self.trainer.max_iter and comm.is_main_process():
            self._store.remove()

    def _run(self, cfg: CfgNode) -> None:
        pictures, processes = TrainingRegions(self._model, cfg), comm.get_world_size()
        folder, limit = Path(cfg.OUTPUT_DIR) / "region_features", int(self._settings.store_gib * 2**30)
        self._store = store = FeatureStore(folder, pictures.key(self._settings), limit, processes)
        with self._timed("features"):
            share = range(comm.get_rank(), len(pictures), processes)
            for index in tqdm(share, desc="features", unit="picture", disable=not comm.is_main_process()):
                STOP.leave_if_received(_LEFT)
                store.get(index, pictures.__getitem__)
        # Of its own, over the CPU: a group of GPUs gives up waiting after minutes.
        group: Any = dist.new_group(backend="gloo", timeout=_LONGEST) if processes > 1 else None
        if group is not None:
            _wait(dist.barrier(group, async_op=True))
        if comm.is_main_process():
            self._learn_svms(pictures, store)
            self._learn_corrections(pictures, store)
        if group is not None:
            self._share_results(group)
        self._model.has_svms.fill_(True)

    def _share_results(self, group: Any) -> None:
        for name in _RESULTS:
            buffer = getattr(self._model, name)
            value = buffer.cpu()
            _wait(dist.broadcast(value, src=0, group=group, async_op=True))
            buffer.copy_(value)

    def _learn_svms(self, pictures: TrainingRegions, store: FeatureStore) -> None:
        path = store.path("svms.npz")
        with self._timed("svms"):
            if not path.is_file():
                count = len(pictures)
                some = range(0, count, -(-count // _SCALE_PICTURES))
                scale = feature_scale(store.get(index, pictures.__getitem__) for index in some)
                positives = objects_of_classes(_pass(pictures, store, "objects"), len(self._model.svm_bias))
                weights, biases = learn_svms(_pass(pictures, store, "SVMs"), positives, scale, self._settings.svm)
                with atomic_write(path, "wb") as file:
                    np.savez(file, svm_weight=weights, svm_bias=biases, feature_scale=np.float32(scale))
            with np.load(path) as found:
                for name in found.files:
                    getattr(self._model, name).copy_(torch.from_numpy(found[name]))

    def _learn_corrections(self, pictures: TrainingRegions, store: FeatureStore) -> None:
        classes, _, size = self._model.ridge_weight.shape
        ridges = [BoxRidge(size, self._settings.ridge_penalty) for _ in range(classes)]
        with self._timed("box corrections"):
            for regions in _pass(pictures, store, "box corrections"):
                add_to_ridge(ridges, regions, float(self._model.feature_scale), self._model.corrections)
            for index, ridge in enumerate(ridges):
                weight, bias = ridge.solve()
                self._model.ridge_weight[index].copy_(weight)
                self._model.ridge_bias[index].copy_(bias)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        logger.info(f"R-CNN: {stage} took {seconds:.1f} s.")
        self.trainer.storage.put_scalar(f"seconds/{stage.replace(' ', '_')}", seconds, smoothing_hint=False)


def _pass(pictures: TrainingRegions, store: FeatureStore, what: str) -> Iterator[Regions]:
    """Goes through all pictures."""
    for index in tqdm(range(len(pictures)), desc=what, unit="picture"):
        STOP.leave_if_received(_LEFT)
        yield store.get(index, pictures.__getitem__)


def _wait(work: Any) -> None:
    """Waits for the other processes, and yet obeys a signal."""
    while not work.is_completed():
        STOP.leave_if_received(_LEFT)
        time.sleep(0.02)
    work.wait()
