"""The mask head of Mask R-CNN (arXiv 1703.06870) with any upsampling layer, as in CARAFE (arXiv 1905.02188)."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from densekit.d2.config import CfgNode, configurable
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling import ROI_MASK_HEAD_REGISTRY
from densekit.d2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from densekit.modeling.upsampling import upsampler_from_config


def add_config(cfg: CfgNode) -> None:
    """Adds the keys of ``MODEL.ROI_MASK_HEAD`` that heads of several systems read beside the host's."""
    cfg.MODEL.ROI_MASK_HEAD.UPSAMPLER = "deconv"  # a name of densekit.layers.UPSAMPLERS; this one is the host's layer
    cfg.MODEL.ROI_MASK_HEAD.FC_DIM = 1024  # width of linear layers, in heads that have them
    cfg.MODEL.ROI_MASK_HEAD.NUM_FC = 2  # hidden ones


@ROI_MASK_HEAD_REGISTRY.register()
class UpsamplerMaskHead(MaskRCNNConvUpsampleHead):
    """The host's mask head; unless ``upsampler`` is None, a layer ``upsample`` replaces its deconvolution and the ReLU.

    No activation follows the upsampling layer, as in the authors' code. The other parameters keep the host's names.

    Args:
        input_shape: shape of a pooled region.
        num_classes: mask channels; 1 for class-agnostic masks.
        conv_dims: channels of each convolution, then of the upsampled map.
        upsampler: makes a layer that doubles the size, from the number of channels; None for the host's deconvolution.
        **kwargs: the host's other arguments.

    Raises:
        ValueError: the layer would have to change the number of channels.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_classes: int,
        conv_dims: Sequence[int],
        upsampler: Callable[[int], nn.Module] | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(input_shape, num_classes=num_classes, conv_dims=conv_dims, **kwargs)
        if upsampler is None:
            return
        channels = [input_shape.channels, *conv_dims][-2]
        if channels != conv_dims[-1]:
            raise ValueError(
                f"The mask head's upsampling layer gets {channels} channels and should give {conv_dims[-1]}: set "
                "MODEL.ROI_MASK_HEAD.CONV_DIM to the former, or NUM_CONV above 0."
            )
        # The layers run in the order in which they are set.
        predictor = self.predictor
        del self.deconv, self.deconv_relu, self.predictor
        self.upsample = upsampler(channels)
        self.predictor = predictor

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Reads ``MODEL.ROI_MASK_HEAD``; its ``UPSAMPLER`` "deconv" is the host's own layer."""
        own = cfg.MODEL.ROI_MASK_HEAD.UPSAMPLER != "deconv"
        upsampler = upsampler_from_config(cfg, "MODEL.ROI_MASK_HEAD.UPSAMPLER") if own else None
        return {**super().from_config(cfg, input_shape), "upsampler": upsampler}
