"""Ground truth for the region heads in an evaluation, for the upper bound that arXiv 1903.00241 discusses.

A host's detector hides the ground truth from its heads outside training, and its mapper does not read it.
"""

from typing import Any

from densekit.d2.config import CfgNode
from densekit.d2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from densekit.d2.structures import Instances
from densekit.data.mapper import MAPPERS, DatasetMapper

from .roi_heads import MaskScoringROIHeads


@META_ARCH_REGISTRY.register()
class TruthfulRCNN(GeneralizedRCNN):
    """The host's detector; in inference too, the ``instances`` of its inputs are shown to its mask-scoring heads."""

    roi_heads: MaskScoringROIHeads

    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> Any:
        """Predicts; arguments and result as of the host's.

        Raises:
            ValueError: an input has no ``instances``.
        """
        for item in batched_inputs:
            if "instances" not in item:
                raise ValueError(
                    f"{item.get('file_name', 'An input')} has no 'instances'. MODEL.MASK_SCORING.UPPER_BOUND compares "
                    "masks with the ground truth: use it to evaluate, and with INPUT.MAPPER TruthfulMapper."
                )
        self.roi_heads.show_truth([item["instances"].to(self.device) for item in batched_inputs])
        return super().inference(batched_inputs, detected_instances, do_postprocess)


@MAPPERS.register()
class TruthfulMapper(DatasetMapper):
    """The default mapper; in inference too it gives each image its ``instances``."""

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        return super().from_config(cfg, is_train) | {"is_train": True}
