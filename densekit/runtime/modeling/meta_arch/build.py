"""The registry of whole models, and the part that all of them share: a backbone behind normalized, padded images."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from densekit.runtime.config import CfgNode
from densekit.runtime.config.foreign import check_foreign_keys
from densekit.runtime.modeling.backbone import Backbone, build_backbone
from densekit.runtime.structures import ImageList, Instances
from densekit.runtime.utils.registry import Registry

META_ARCH_REGISTRY = Registry("META_ARCH")
META_ARCH_REGISTRY.__doc__ = """Called as ``obj(cfg)``; returns the model as a module."""


def build_model(cfg: CfgNode) -> nn.Module:
    """Builds ``cfg.MODEL.META_ARCHITECTURE`` on ``cfg.MODEL.DEVICE``; loads no weights.

    Raises:
        ValueError: The config asks for a part of Detectron2 that the runtime does not have.
    """
    check_foreign_keys(cfg)
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    return model.to(torch.device(cfg.MODEL.DEVICE))


class ImageModel(nn.Module):
    """A model that starts with a backbone on a batch of images.

    Args:
        backbone: The backbone.
        pixel_mean: Mean of each image channel, in the units of the input.
        pixel_std: Standard deviation of each channel.

    Raises:
        ValueError: The two lists are not of the same length.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, backbone: Backbone, pixel_mean: Sequence[float], pixel_std: Sequence[float]) -> None:
        super().__init__()
        if len(pixel_mean) != len(pixel_std):
            raise ValueError(f"PIXEL_MEAN={list(pixel_mean)} and PIXEL_STD={list(pixel_std)} differ in length.")
        self.backbone = backbone
        # Part of the config, so not of the checkpoint.
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {
            "backbone": build_backbone(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.pixel_mean.device

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Moves, normalizes, pads and batches the ``image`` (C, H, W) of each input."""
        images = [(item["image"].to(self.device) - self.pixel_mean) / self.pixel_std for item in batched_inputs]
        return ImageList.from_tensors(
            images, self.backbone.size_divisibility, padding_constraints=self.backbone.padding_constraints
        )

    def _gt_instances(self, batched_inputs: list[dict[str, Any]]) -> list[Instances] | None:
        """The ground truth of each input on the model's device; None if the inputs bring none."""
        if "instances" not in batched_inputs[0]:
            return None
        return [item["instances"].to(self.device) for item in batched_inputs]

    def _batch_sem_seg(self, batched_inputs: list[dict[str, Any]], ignore_value: int) -> Tensor:
        """Pads and batches the ``sem_seg`` labels (H, W) of each input as the images: (N, H, W)."""
        labels = [item["sem_seg"].to(self.device) for item in batched_inputs]
        backbone = self.backbone
        return ImageList.from_tensors(
            labels, backbone.size_divisibility, ignore_value, backbone.padding_constraints
        ).tensor


def output_size(item: dict[str, Any], image_size: tuple[int, int]) -> tuple[int, int]:
    """Height and width that an input asks its results in; those of the network input by default."""
    return item.get("height", image_size[0]), item.get("width", image_size[1])
