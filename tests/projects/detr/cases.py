"""Small models for the tests of DETR, among them those whose outputs were recorded."""

import torch
from torch import nn

from densekit.d2.layers import FrozenBatchNorm2d
from densekit.d2.modeling import ResNet
from densekit.d2.modeling.backbone.resnet import BasicStem, BottleneckBlock
from densekit.layers.position_encoding import LearnedPositionEncoding, SinePositionEncoding
from densekit.layers.transformer import Transformer
from densekit.projects.detr.backbone import MaskedBackbone
from densekit.projects.detr.detr import DETR
from densekit.projects.detr.segmentation import SegmentingDETR
from densekit.weights import adapt_names


def tiny_resnet(stem: int = 8) -> ResNet:
    """One block a stage, of 4, 8, 16 and 32 times the stem's channels."""
    stages, channels = [], stem
    for index in range(4):
        width = stem * 2**index
        stride = 1 if index == 0 else 2
        block = BottleneckBlock(channels, 4 * width, bottleneck_channels=width, stride=stride, norm=FrozenBatchNorm2d)
        stages.append([block])
        channels = 4 * width
    return ResNet(
        BasicStem(3, stem, FrozenBatchNorm2d), stages, out_features=["res2", "res3", "res4", "res5"], freeze_at=2
    )


def tiny_detr(
    hidden: int = 64,
    heads: int = 4,
    dec: int = 3,
    q: int = 12,
    *,
    masks: bool = False,
    classes: int = 7,
    pre_norm: bool = False,
    learned: bool = False,
    padding_mask: str = "nearest",
    dropout: float = 0.0,
    enc: int = 2,
    ffn: int = 128,
    width: int = 8,
) -> DETR | SegmentingDETR:
    """A model like the recorded ones; ``width`` is of the backbone's stem."""
    resnet = tiny_resnet(width)
    detr = DETR(
        backbone=MaskedBackbone(resnet, stride=32, padding_mask=padding_mask),
        position_encoding=(LearnedPositionEncoding if learned else SinePositionEncoding)(hidden),
        transformer=Transformer(
            embed_dim=hidden,
            num_heads=heads,
            num_encoder_layers=enc,
            num_decoder_layers=dec,
            ffn_dim=ffn,
            dropout=dropout,
            pre_norm=pre_norm,
        ),
        in_channels=32 * width,
        num_classes=classes,
        num_queries=q,
        aux_loss=True,
    )
    return SegmentingDETR(detr, channels=[width * 2**k for k in range(2, 6)], frozen=False) if masks else detr


def load(model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Fills a detector from the authors' names; nothing may be left over on either side."""
    wanted = {f"detr.{name}": value for name, value in model.state_dict().items()}
    renamed = adapt_names({"model": {name: value.float() for name, value in weights.items()}}, wanted)
    model.load_state_dict({name.removeprefix("detr."): value for name, value in renamed.items()})


def padded(images: list[torch.Tensor]) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    """A batch of (3, H, W) images and their sizes."""
    sizes = [tuple(image.shape[1:]) for image in images]
    batch = images[0].new_zeros(len(images), 3, max(h for h, _ in sizes), max(w for _, w in sizes))
    for slot, image in zip(batch, images):
        slot[:, : image.shape[1], : image.shape[2]] = image
    return batch, sizes
