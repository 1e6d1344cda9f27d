"""Which evaluator a data set gets: its ``evaluator_type`` decides, by one table."""

import os
from collections.abc import Callable

from densekit.d2.config import CfgNode
from densekit.d2.data import MetadataCatalog
from densekit.d2.evaluation import DatasetEvaluator
from densekit.evaluation.cityscapes import CityscapesInstanceEvaluator, CityscapesSemSegEvaluator
from densekit.evaluation.coco import COCOEvaluator


def _coco(cfg: CfgNode, dataset_name: str, output_folder: str) -> DatasetEvaluator:
    return COCOEvaluator(dataset_name, output_dir=output_folder, kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS)


BUILDERS: dict[str, Callable[[CfgNode, str, str], DatasetEvaluator]] = {
    "coco": _coco,
    "cityscapes_instance": lambda cfg, name, folder: CityscapesInstanceEvaluator(name, folder),
    "cityscapes_sem_seg": lambda cfg, name, folder: CityscapesSemSegEvaluator(name, folder),
}


def build_evaluator(cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> DatasetEvaluator:
    """Returns the evaluator for a registered data set.

    Args:
        cfg: The config.
        dataset_name: One of ``DATASETS.TEST``.
        output_folder: Where its files go; by default ``OUTPUT_DIR/inference/<dataset_name>``, a folder per data set so
            that no test set overwrites another's predictions.

    Raises:
        ValueError: The data set has no ``evaluator_type``, or one that is not in the table.
    """
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if kind not in BUILDERS:
        raise ValueError(
            f"Data set '{dataset_name}' has the evaluator_type {kind!r}; known are {', '.join(sorted(BUILDERS))}. "
            f"Set it with MetadataCatalog.get('{dataset_name}').evaluator_type = 'coco'."
        )
    folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
    return BUILDERS[kind](cfg, dataset_name, folder)
