"""Evaluators: what a model's outputs are worth on a registered data set, on either host."""

from densekit.evaluation.build import build_evaluator, check_evaluation
from densekit.evaluation.cityscapes import (
    CityscapesInstanceEvaluator,
    CityscapesPanopticEvaluator,
    CityscapesSemSegEvaluator,
)
from densekit.evaluation.coco_evaluator import COCOEvaluator
from densekit.evaluation.panoptic_evaluator import COCOPanopticEvaluator
from densekit.evaluation.sem_seg import SemSegEvaluator

__all__ = [
    "COCOEvaluator",
    "COCOPanopticEvaluator",
    "CityscapesInstanceEvaluator",
    "CityscapesPanopticEvaluator",
    "CityscapesSemSegEvaluator",
    "SemSegEvaluator",
    "build_evaluator",
    "check_evaluation",
]
