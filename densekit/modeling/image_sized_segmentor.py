"""A semantic model whose scores are resized to the picture, as mmsegmentation, CSAIL and HRNet's authors do.

The host's model enlarges scores by their stride and cuts off what is beyond the picture. Where the stride divides the
sides of the picture nothing is cut and both are the same; elsewhere the scores of one lie beside those of the other.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from densekit.d2.config import CfgNode, configurable
from densekit.d2.modeling import META_ARCH_REGISTRY, SemanticSegmentor
from densekit.d2.structures import ImageList
from densekit.modeling.semantic_head import SemanticHead

Size = tuple[int, int]
FRAMES = ("input", "output")


def add_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.SEM_SEG_HEAD.RESIZE_TO``, which only ``ImageSizedSegmentor`` reads."""
    # Frame that the scores are resized to: "input", the picture as the model sees it and then, in a second step, the
    # frame of the result (mmsegmentation's); "output", that frame at once (CSAIL's).
    cfg.MODEL.SEM_SEG_HEAD.RESIZE_TO = "input"


@META_ARCH_REGISTRY.register()
class ImageSizedSegmentor(SemanticSegmentor):
    """A backbone and a head whose scores are resized to the picture, in the loss at every pixel as in inference.

    Args:
        resize_to: One of :data:`FRAMES`.
        kwargs: As of the host's SemanticSegmentor; the head is a
            :class:`~densekit.modeling.semantic_head.SemanticHead`, whose ``align_corners`` is followed.

    Raises:
        ValueError: An unknown frame, or another kind of head.
    """

    output_kinds = ("sem_seg",)

    @configurable
    def __init__(self, *, resize_to: str = "input", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        head = self.sem_seg_head
        if resize_to not in FRAMES:
            raise ValueError(f"MODEL.SEM_SEG_HEAD.RESIZE_TO is {resize_to!r}; it can be {' or '.join(FRAMES)}.")
        if not isinstance(head, SemanticHead):
            raise ValueError(
                f"MODEL.META_ARCHITECTURE ImageSizedSegmentor needs the scores of a head before they are enlarged, and "
                f"{type(head).__name__} does not offer them. Use SemanticSegmentor."
            )
        self.resize_to = resize_to
        for part in (head, head.auxiliary):
            if part is not None:
                part.follows_stride = False

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return super().from_config(cfg) | {"resize_to": cfg.MODEL.SEM_SEG_HEAD.RESIZE_TO}

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """As the host's model: in training the losses, else per image ``{"sem_seg": (C, height, width) scores}``."""
        if self.training:
            return super().forward(batched_inputs)
        images = self._normalized(batched_inputs)
        scores = self.sem_seg_head.layers(self.backbone(images.tensor))
        frames = [
            (item.get("height", size[0]), item.get("width", size[1]))
            for item, size in zip(batched_inputs, images.image_sizes)
        ]
        padded = (images.tensor.shape[-2], images.tensor.shape[-1])
        return [
            {"sem_seg": self._to_frame(score, padded, size, frame)}
            for score, size, frame in zip(scores, images.image_sizes, frames)
        ]

    def _normalized(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        pictures = [(item["image"].to(self.device) - self.pixel_mean) / self.pixel_std for item in batched_inputs]
        return ImageList.from_tensors(
            pictures,
            self.backbone.size_divisibility,
            padding_constraints=self.backbone.padding_constraints,
        )

    def _to_frame(
        self, scores: Tensor, padded: tuple[int, int], size: tuple[int, int], frame: tuple[int, int]
    ) -> Tensor:
        """Scores (C, H, W) of a padded picture as (C, *frame)."""
        if self.resize_to == "output" and padded == tuple(size):
            return self._resized(scores, frame)
        at_pixels = self._resized(scores, padded)[:, : size[0], : size[1]]
        return at_pixels if frame == tuple(size) else self._resized(at_pixels, frame)

    def _resized(self, scores: Tensor, size: Size) -> Tensor:
        corners = self.sem_seg_head.align_corners
        return F.interpolate(scores[None], size=tuple(size), mode="bilinear", align_corners=corners)[0]
