"""Draws what CARAFE reassembles a pixel from, as in Figure 5 of arXiv 1905.02188.

A pixel of the pyramid's finest map is followed upwards. Its kernel says how much each pixel of the next coarser map
gave, those pixels' kernels say the same of the map above, and so on. Red dots are these pixels, sized by their share::

  python -m densekit.projects.carafe.draw_kernels --config-file configs/carafe/mask_rcnn_R_18_FPN_carafe_streets.yaml \
      --weights output/mask_rcnn_R_18_FPN_carafe_streets/model_final.pth --image street.png --pixels 120,80 300,140 \
      --output kernels.png

Pixels are columns and rows of the image file.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from densekit.config import load_config
from densekit.d2.data.detection_utils import read_image
from densekit.d2.data.transforms import AugInput
from densekit.data.mapper import inference_augmentations
from densekit.engine.errors import user_errors
from densekit.engine.loading import build_with_weights
from densekit.files.atomic import atomic_write
from densekit.layers import CARAFE
from densekit.modeling.fpn import UpsamplerFPN
from densekit.ops.carafe import carafe

_DOT_AREA = 700.0  # points squared, of a pixel that gives everything
_LEAST_SHARE = 0.002  # that is drawn


@dataclass(frozen=True)
class Step:
    """Shares of the traced pixel that come from the pixels of one coarser map.

    Attributes:
        name: of the map, such as ``"p3"``.
        stride: of the map, in pixels of the network's input.
        shares: (h, w); they sum to 1, less what fell on the padding.
    """

    name: str
    stride: int
    shares: np.ndarray


def predict_kernels(model: nn.Module, record: dict) -> list[tuple[int, CARAFE, Tensor]]:
    """Runs a model on one image and keeps what its pyramid reassembles with.

    Args:
        model: with an :class:`UpsamplerFPN` as ``backbone``, in evaluation mode.
        record: the image as the model takes it.

    Returns:
        For each step of the top-down path, finest first: the level that is enlarged, the layer, and its kernels
        (1, G * k * k, 2h, 2w).

    Raises:
        ValueError: the pyramid does not upsample with CARAFE.
    """
    pyramid = model.backbone
    names = sorted(pyramid.output_shape()) if isinstance(pyramid, UpsamplerFPN) else []
    layers = {int(name.removeprefix("p")): getattr(pyramid, f"fpn_upsample{name[1:]}", None) for name in names}
    chosen = {level: layer for level, layer in layers.items() if isinstance(layer, CARAFE)}
    if not chosen:
        raise ValueError("Only a pyramid with MODEL.FPN.UPSAMPLER carafe has kernels; choose a config that has one.")
    inputs: dict[int, Tensor] = {}
    handles = [
        layer.register_forward_pre_hook(lambda _, args, level=level: inputs.__setitem__(level, args[0]))
        for level, layer in chosen.items()
    ]
    try:
        with torch.no_grad():
            model([record])
            return [(level, layer, layer.kernels(inputs[level])) for level, layer in chosen.items()]
    finally:
        for handle in handles:
            handle.remove()


def trace(kernels: Sequence[tuple[int, CARAFE, Tensor]], row: int, column: int) -> list[Step]:
    """Follows a pixel of the finest map upwards; with several groups of channels, their mean.

    Args:
        kernels: of :func:`predict_kernels`, as many steps as are wanted.
        row: of the pixel, in the finest map.
        column: of the pixel, in the finest map.
    """
    steps: list[Step] = []
    shares: Tensor | None = None
    for level, layer, weights in kernels:
        height, width = weights.shape[2:]
        given = weights.new_zeros((1, layer.up_group, height, width))
        if shares is None:
            given[:, :, row, column] = 1
        else:  # the finer map may have been cropped
            given[:, :, : shares.shape[2], : shares.shape[3]] = shares
        source = given.new_zeros((1, layer.up_group, height // 2, width // 2)).requires_grad_()
        # The reassembly is linear in its source, so its gradient is how much of each source pixel is in what was given.
        enlarged = carafe(source, weights, layer.up_kernel, layer.up_group, 2)
        (shares,) = torch.autograd.grad(enlarged, source, given)
        steps.append(Step(f"p{level}", 2**level, shares.mean(dim=1)[0].numpy()))
    return steps


def draw(image: np.ndarray, traced: Sequence[tuple[tuple[int, int], list[Step]]], scale: tuple[float, float]) -> Figure:
    """A row for each pixel and a column for each coarser map.

    Args:
        image: (H, W, 3) uint8, RGB.
        traced: (column, row) in the image, and the steps of that pixel.
        scale: network's input size over the image's, of the width and of the height.
    """
    columns = len(traced[0][1])
    figure = Figure(figsize=(5 * columns, 5 * len(traced)), layout="constrained")
    axes = figure.subplots(len(traced), columns, squeeze=False)
    for row, ((x, y), steps) in zip(axes, traced):
        reach = max(_reach(step, x, y, scale) for step in steps)
        for ax, step in zip(row, steps):
            ax.imshow(image)
            rows, cols = np.nonzero(step.shares > _LEAST_SHARE)
            shares = step.shares[rows, cols]
            # Pixel centres are at .5; imshow counts from the centre of the first pixel.
            xs, ys = ((place + 0.5) * step.stride / s - 0.5 for place, s in zip((cols, rows), scale))
            ax.scatter(xs, ys, s=_DOT_AREA * shares, c="red", alpha=0.75, linewidths=0)
            ax.scatter([x], [y], s=60, c="lime", marker="+", linewidths=2)
            ax.set_xlim(max(x - reach, -0.5), min(x + reach, image.shape[1] - 0.5))
            ax.set_ylim(min(y + reach, image.shape[0] - 0.5), max(y - reach, -0.5))
            ax.set_title(f"({x}, {y}) in {step.name}, pixels: {len(shares)}")
            ax.set_axis_off()
    return figure


def _reach(step: Step, x: int, y: int, scale: tuple[float, float]) -> float:
    """Returns the distance from (x, y) that a picture must cover to show every share, in image pixels."""
    rows, cols = np.nonzero(step.shares > _LEAST_SHARE)
    across = np.abs((cols + 0.5) * step.stride / scale[0] - x).max(initial=0)
    down = np.abs((rows + 0.5) * step.stride / scale[1] - y).max(initial=0)
    return float(max(across, down)) + 0.75 * step.stride / min(scale)


def draw_kernels(
    config_file: str, weights: str, image_file: str, pixels: Sequence[tuple[int, int]], output: str, *, steps: int = 2
) -> None:
    """Runs the model of a config and writes the picture.

    Args:
        config_file: a model with CARAFE in its pyramid.
        weights: a weight file of the model.
        image_file: any image.
        pixels: (column, row) in the image.
        output: the PNG to write.
        steps: how many coarser maps to follow a pixel into.

    Raises:
        ValueError: a pixel lies outside of the image, or the model has no CARAFE.
    """
    cfg = load_config(config_file, ["MODEL.WEIGHTS", weights, "MODEL.DEVICE", "cpu"])
    image = read_image(image_file, format=cfg.INPUT.FORMAT)
    height, width = image.shape[:2]
    outside = [(x, y) for x, y in pixels if not (0 <= x < width and 0 <= y < height)]
    if outside:
        raise ValueError(f"{image_file} is {width} x {height}; there are no pixels {outside}.")
    model = build_with_weights(cfg)
    resized = AugInput(image)
    inference_augmentations(cfg)(resized)
    scale = resized.image.shape[1] / width, resized.image.shape[0] / height
    tensor = torch.as_tensor(np.ascontiguousarray(resized.image.transpose(2, 0, 1)))
    kernels = predict_kernels(model, {"image": tensor, "height": height, "width": width})[:steps]
    finest = 2 ** (kernels[0][0] - 1)
    places = [(int((y + 0.5) * scale[1] / finest), int((x + 0.5) * scale[0] / finest)) for x, y in pixels]
    traced = [(pixel, trace(kernels, *place)) for pixel, place in zip(pixels, places)]
    rgb = image[:, :, ::-1] if cfg.INPUT.FORMAT == "BGR" else image
    with atomic_write(Path(output), "wb") as file:
        draw(rgb, traced, scale).savefig(file, format="png", dpi=80)


def _pixel(text: str) -> tuple[int, int]:
    column, row = text.split(",")
    return int(column), int(row)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, help="a model with CARAFE in its pyramid")
    parser.add_argument("--weights", required=True, help="its weights")
    parser.add_argument("--image", required=True, help="the image to look at")
    parser.add_argument("--pixels", required=True, nargs="+", type=_pixel, metavar="X,Y", help="columns and rows in it")
    parser.add_argument("--steps", type=int, default=2, help="how many coarser maps to follow a pixel into (default 2)")
    parser.add_argument("--output", required=True, help="the PNG to write")
    args = parser.parse_args(argv)

    with user_errors():
        draw_kernels(args.config_file, args.weights, args.image, args.pixels, args.output, steps=args.steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())
