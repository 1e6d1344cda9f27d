"""The model that paints: a generator, and in training a discriminator.

"CARAFE: Content-Aware ReAssembly of FEatures" (arXiv 1905.02188), section 4.3.

Holes are 1 (or True) in the hole, everywhere but inside partial convolutions, which are fed with their complement.

N: images, H, W: size of the batch.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from densekit.checkpoint.sources import local_weights
from densekit.d2.config import CfgNode, configurable
from densekit.d2.modeling import META_ARCH_REGISTRY
from densekit.d2.structures import ImageList
from densekit.data.progress import Progress
from densekit.modeling.phases import Phase
from densekit.weights.formats import read_checkpoint

from .discriminators import Scores
from .distances import check_distances
from .losses import (
    ADVERSARIAL,
    composite,
    discriminator_loss,
    generator_loss,
    perceptual_loss,
    pixel_losses,
    style_loss,
    total_variation,
)
from .slots import DISCRIMINATORS, GENERATORS
from .vgg import VGGFeatures

GENERATOR, DISCRIMINATOR = "generator", "discriminator"  # the phases of a training step
_PIXEL_TERMS = ("l1", "hole", "valid", "mse")


@dataclass(frozen=True)
class Batch:
    """A batch on the model's device.

    Attributes:
        truth: (N, 3, H, W), normalised; padding is 0.
        hole: (N, 1, H, W), 1 in holes and in the padding.
        sizes: (height, width) of each image without its padding.
    """

    truth: Tensor
    hole: Tensor
    sizes: list[tuple[int, int]]


@META_ARCH_REGISTRY.register()
class Inpainter(nn.Module):
    """Paints the holes of pictures.

    Args:
        generator: as :mod:`.generators` describes it.
        discriminator: from normalised images and holes to :class:`~.discriminators.Scores`; None for none.
        pixel_mean, pixel_std: of the normalisation.
        hole_value: what the generator sees in holes, in pixel values.
        weights: term -> factor; terms are those of :func:`~.losses.pixel_losses`, ``perceptual``, ``style``, ``tv`` and
            ``adversarial``.
        adversarial: a name of :data:`~.losses.ADVERSARIAL`.
        adversary_after: iterations without the discriminator.
        joint: whether both networks learn from the weights that a step begins with; else one after the other.
        vgg: features for ``perceptual`` and ``style``.
        is_bgr: whether the channels are blue, green, red.
    """

    evaluator_type = "inpainting"  # whatever the data set
    output_kinds = ("inpainted",)

    pixel_mean: Tensor
    pixel_std: Tensor
    hole_value: Tensor

    @configurable
    def __init__(
        self,
        *,
        generator: nn.Module,
        discriminator: nn.Module | None,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        hole_value: Sequence[float],
        weights: Mapping[str, float],
        adversarial: str = "hinge",
        adversary_after: int = 0,
        joint: bool = False,
        vgg: VGGFeatures | None = None,
        is_bgr: bool = False,
    ) -> None:
        super().__init__()
        self.generator: Any = generator
        self.discriminator = discriminator
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std), ("hole_value", hole_value)):
            if len(values) != 3:
                raise ValueError(f"{name} has {len(values)} values; inpainting works on pictures of 3 channels.")
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(3, 1, 1), persistent=False)
        self.weights = {name: factor for name, factor in weights.items() if factor}
        self.adversarial, self.adversary_after, self.is_bgr = adversarial, adversary_after, is_bgr
        self.joint, self._has_adversary = joint, not adversary_after
        self.vgg = vgg

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        node = cfg.MODEL.INPAINTING
        loss = node.LOSS
        if loss.ADVERSARIAL_KIND not in ADVERSARIAL:
            raise ValueError(
                f"MODEL.INPAINTING.LOSS.ADVERSARIAL_KIND is {loss.ADVERSARIAL_KIND!r}; it can be "
                f"{' or '.join(ADVERSARIAL)}."
            )
        if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
            raise ValueError(f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r}; inpainting works on RGB or BGR.")
        if node.TRAINING not in ("joint", "alternating"):
            raise ValueError(f"MODEL.INPAINTING.TRAINING is {node.TRAINING!r}; it can be joint or alternating.")
        check_distances(node.DISTANCES)
        terms = (*_PIXEL_TERMS, "perceptual", "style", "tv", "adversarial")
        weights = {name: float(loss[name.upper()]) for name in terms}
        vgg = _vgg(loss.VGG_WEIGHTS, weights)
        adversary = node.DISCRIMINATOR.NAME if weights["adversarial"] else ""
        return {
            "generator": GENERATORS.get(node.GENERATOR.NAME)(cfg),
            "discriminator": DISCRIMINATORS.get(adversary)(cfg) if adversary else None,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "hole_value": node.HOLE_VALUE or cfg.MODEL.PIXEL_MEAN,
            "weights": weights,
            "adversarial": loss.ADVERSARIAL_KIND,
            "adversary_after": node.ADVERSARY_AFTER,
            "joint": node.TRAINING == "joint",
            "vgg": vgg,
            "is_bgr": cfg.INPUT.FORMAT == "BGR",
        }

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]], phase: str = "") -> Any:
        """Trains or paints.

        Args:
            batched_inputs: per image a dict with ``image`` (3, H, W), whose pixels in the hole are looked at in
                training only, and ``hole`` (H, W), True or 1 in the hole; maybe ``height`` and ``width``, the size of
                the result.
            phase: in training one of :meth:`training_phases`, whose losses are wanted; "" for all.

        Returns:
            In training the losses by name. Else per image ``{"inpainted": (3, height, width) uint8}``, which outside
            the hole is the image to the last bit unless it has another size.

        Raises:
            ValueError: An image has no hole beside it, one of another size, or in training the sizes differ.
        """
        batch = self.preprocess(batched_inputs)
        if self.training:
            return self.losses(batch, phase)
        painted = self.paint(batch.truth, batch.hole)
        return [
            {"inpainted": self._finished(one[:, :height, :width], item)}
            for one, (height, width), item in zip(painted, batch.sizes, batched_inputs)
        ]

    def preprocess(self, batched_inputs: list[dict[str, Any]]) -> Batch:
        """Normalises, pads and batches images and holes."""
        holes = [_hole_of(item).to(self.device) for item in batched_inputs]
        images = [(item["image"].to(self.device) - self.pixel_mean) / self.pixel_std for item in batched_inputs]
        divisor = self.generator.size_divisibility
        batch = ImageList.from_tensors(images, divisor)
        padded = ImageList.from_tensors([hole[None].float() for hole in holes], divisor, 1.0)
        return Batch(batch.tensor, padded.tensor, [(int(h), int(w)) for h, w in batch.image_sizes])

    def paint(self, image: Tensor, hole: Tensor) -> Tensor:
        """The generator's whole pictures for normalised images (N, 3, H, W) and holes (N, 1, H, W)."""
        value = (self.hole_value - self.pixel_mean) / self.pixel_std
        return self.generator(composite(image, value.expand_as(image).to(image.dtype), hole), hole)

    def training_phases(self) -> Sequence[Phase]:
        """The generator learns, then the discriminator, each with an optimizer of its own.

        Alternating, the discriminator judges what the generator paints after its update; joint, both see the weights
        that the step began with.
        """
        generator = Phase(GENERATOR, [self.generator], joint=self.joint)
        if self.discriminator is None:
            return [generator]
        return [generator, Phase(DISCRIMINATOR, [self.discriminator], joint=self.joint, averaged=False)]

    def begin_iteration(self, progress: Progress) -> None:
        """Notes whether the discriminator takes part yet."""
        self._has_adversary = progress.iteration >= self.adversary_after

    def losses(self, batch: Batch, phase: str = "") -> dict[str, Tensor]:
        """The losses of a phase, or with "" of both by one pass; the discriminator's is ``loss_discriminator``."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and phase != DISCRIMINATOR):
            painted, batch = self._painted_for_training(batch)
            fake = composite(batch.truth, painted.to(batch.truth.dtype), batch.hole)
        losses: dict[str, Tensor] = {}
        if phase != DISCRIMINATOR:
            losses = self.reconstruction_losses(painted, batch)
            if self.discriminator is not None:
                losses["loss_adversarial"] = self.weights["adversarial"] * self._fooling(fake, batch.hole)
        if phase != GENERATOR and self.discriminator is not None:
            losses["loss_discriminator"] = self._telling(fake.detach(), batch)
        return losses

    def reconstruction_losses(self, painted: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The terms that compare with the true picture, weighted."""
        whole = composite(batch.truth, painted.to(batch.truth.dtype), batch.hole)
        terms = pixel_losses(painted, batch.truth, batch.hole)
        if "tv" in self.weights:
            terms["tv"] = total_variation(whole)
        if self.vgg is not None:
            mine, of_whole, truth = (self.vgg(self._as_rgb(x)) for x in (painted, whole, batch.truth))
            terms["perceptual"] = perceptual_loss(mine, truth) + perceptual_loss(of_whole, truth)
            terms["style"] = style_loss(mine, truth) + style_loss(of_whole, truth)
        return {f"loss_{name}": factor * terms[name] for name, factor in self.weights.items() if name in terms}

    def _painted_for_training(self, batch: Batch) -> tuple[Tensor, Batch]:
        """The generator's pictures and the batch, both without padding, which is no part of any loss."""
        if len(set(batch.sizes)) > 1:
            raise ValueError(
                f"Training pictures of a batch have the sizes {sorted(set(batch.sizes))}; crops of one size are "
                "needed: INPUT.MAPPER InpaintingMapper with INPUT.CROP."
            )
        height, width = batch.sizes[0]
        painted = self.paint(batch.truth, batch.hole)[:, :, :height, :width]
        return painted, Batch(batch.truth[:, :, :height, :width], batch.hole[:, :, :height, :width], batch.sizes)

    def _fooling(self, fake: Tensor, hole: Tensor) -> Tensor:
        """The generator's adversarial loss, which moves the generator alone."""
        if self.discriminator is None or not self._has_adversary:
            return fake.sum() * 0
        fixed = {name: value.detach() for name, value in self.discriminator.named_parameters()}
        scores: Scores = functional_call(self.discriminator, fixed, (fake, hole))
        return generator_loss(self.adversarial, scores)

    def _telling(self, fake: Tensor, batch: Batch) -> Tensor:
        """The discriminator's loss for true pictures and composites."""
        assert self.discriminator is not None
        if not self._has_adversary:  # gradients of 0 keep it as it is
            return torch.stack([value.sum() * 0 for value in self.discriminator.parameters()]).sum()
        real, made = self.discriminator(batch.truth, batch.hole), self.discriminator(fake, batch.hole)
        return discriminator_loss(self.adversarial, real, made)

    def _as_rgb(self, x: Tensor) -> Tensor:
        """Normalised pictures as RGB in 0..1."""
        pixels = (x * self.pixel_std + self.pixel_mean) / 255
        return pixels.flip(1) if self.is_bgr else pixels

    def _finished(self, painted: Tensor, item: Mapping[str, Any]) -> Tensor:
        """The uint8 result of one image."""
        image, hole = item["image"].to(self.device), _hole_of(item).to(self.device)
        pixels = (painted.float() * self.pixel_std + self.pixel_mean).round().clamp(0, 255).to(torch.uint8)
        result = composite(image.to(torch.uint8), pixels, hole)
        size = (item.get("height", result.shape[1]), item.get("width", result.shape[2]))
        if size == tuple(result.shape[1:]):
            return result
        resized = F.interpolate(result[None].float(), size, mode="bilinear", antialias=True)[0]
        return resized.round().clamp(0, 255).to(torch.uint8)


def _hole_of(item: Mapping[str, Any]) -> Tensor:
    hole = item.get("hole")
    if hole is None:
        raise ValueError(
            f"Picture {item.get('file_name', '')} comes without a 'hole': inpainting needs INPUT.MAPPER "
            "InpaintingMapper, and in predictions a mask for each picture (--mask)."
        )
    if tuple(hole.shape) != tuple(item["image"].shape[1:]):
        raise ValueError(
            f"The hole of picture {item.get('file_name', '')} is {tuple(hole.shape)} (height, width), the picture "
            f"{tuple(item['image'].shape[1:])}."
        )
    return hole


def _vgg(name: str, weights: Mapping[str, float]) -> VGGFeatures | None:
    """The features of perceptual and style losses, where they are wanted and their weights are given."""
    wanted = [term for term in ("perceptual", "style") if weights[term]]
    if not wanted:
        return None
    if not name:
        logging.getLogger(__name__).warning(
            f"Without MODEL.INPAINTING.LOSS.VGG_WEIGHTS the {' and '.join(wanted)} loss is left out; it takes the "
            "weights of torchvision's vgg16."
        )
        return None
    try:
        return VGGFeatures(read_checkpoint(local_weights(name))["model"])
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"MODEL.INPAINTING.LOSS.VGG_WEIGHTS {name}: {error}") from error
