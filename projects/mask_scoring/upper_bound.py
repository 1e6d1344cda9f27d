"""The upper bound that arXiv 1903.00241 discusses: masks ranked by their true overlaps.

The host's mapper does not read the ground truth outside training; the one here does.
"""

from typing import Any

from densekit.d2.config import CfgNode
from densekit.d2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from densekit.d2.structures import Instances
from densekit.data.mapper import MAPPERS, DatasetMapper

from .roi_heads import set_mask_scores
from .targets import best_overlaps


@META_ARCH_REGISTRY.register()
class TruthfulRCNN(GeneralizedRCNN):
    """The host's detector; masks are scored by their true overlap with the ``instances`` of its inputs."""

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
        found = super().inference(batched_inputs, detected_instances, do_postprocess=False)
        truths = [item["instances"].to(self.device) for item in batched_inputs]
        set_mask_scores([best_overlaps(x.pred_masks[:, 0] > 0.5, x, truth) for x, truth in zip(found, truths)], found)
        return self._postprocess(found, batched_inputs, [x.image_size for x in found]) if do_postprocess else found


@MAPPERS.register()
class TruthfulMapper(DatasetMapper):
    """The default mapper; in inference too it gives each image its ``instances``."""

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        return super().from_config(cfg, is_train) | {"is_train": True}
