"""Pictures of what a trained DETR attends to, drawn as in arXiv 2005.12872.

``python -m densekit.projects.detr.draw queries --config-file FILE --image FILE --output FILE MODEL.WEIGHTS FILE``

- ``queries``: the attention of each detection's query over the image (figure 6).
- ``encoder``: the encoder's self-attention at points of the image (figure 3); ``--point X Y`` in pixels, several times.
- ``slots``: where and how large each query's boxes are over a data set (figure 7).
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from densekit.config import load_config
from densekit.d2.config import CfgNode
from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.d2.data.detection_utils import read_image
from densekit.d2.utils.logger import setup_logger
from densekit.data.mapper import build_mapper
from densekit.engine.errors import user_errors
from densekit.engine.loading import build_with_weights
from densekit.files.atomic import atomic_write

from .attention_maps import attention_of, boxes_of_slots
from .meta_arch import DetrDetector

_COLUMNS = 4
_PANEL = (3.2, 2.0)  # inches
_LARGE = 0.1  # share of the image from which a box counts as large

logger = logging.getLogger(__name__)


def draw_queries(picture: np.ndarray, maps: Tensor, boxes: Tensor, titles: Sequence[str]) -> Figure:
    """One panel for each detection: the image where its query looks at it, and its box.

    Args:
        picture: (H, W, 3) RGB, 0 to 255.
        maps: (N, h, w) attention.
        boxes: (N, 4) cxcywh relative to the image.
        titles: N.
    """
    height, width = picture.shape[:2]
    figure, axes = _panels(len(maps), picture)
    for axis, attention, box, title in zip(axes, maps, boxes, titles):
        axis.imshow(_lit(picture, attention))
        axis.autoscale(False)
        cx, cy, w, h = (box * box.new_tensor([width, height, width, height])).tolist()
        axis.plot(
            [cx - w / 2, cx + w / 2, cx + w / 2, cx - w / 2, cx - w / 2],
            [cy - h / 2, cy - h / 2, cy + h / 2, cy + h / 2, cy - h / 2],
            color="red",
            linewidth=1,
        )
        axis.set_title(title, fontsize=7)
    return figure


def draw_encoder(picture: np.ndarray, cells: Tensor, points: Sequence[tuple[float, float]]) -> Figure:
    """One panel for each point: the image where the encoder's cell below the point looks at it.

    Args:
        picture: (H, W, 3) RGB, 0 to 255.
        cells: (h, w, h, w) attention of each cell.
        points: (x, y) in pixels of the picture.
    """
    height, width = picture.shape[:2]
    figure, axes = _panels(len(points), picture)
    for axis, (x, y) in zip(axes, points):
        row, column = int(y / height * cells.shape[0]), int(x / width * cells.shape[1])
        axis.imshow(_lit(picture, cells[row, column]))
        axis.plot(x, y, "o", color="red", markersize=4)
        axis.set_title(f"({x:.0f}, {y:.0f})", fontsize=7)
    return figure


def draw_slots(boxes: Tensor) -> Figure:
    """One panel for each query: the centres of its boxes in the unit square.

    Green points are small boxes, red ones large and wide, blue ones large and tall.

    Args:
        boxes: (images, Q, 4) cxcywh relative to the image.
    """
    count = boxes.shape[1]
    columns = min(count, 10)
    rows = -(-count // columns)
    figure = Figure(figsize=(1.1 * columns, 1.15 * rows))
    for slot in range(count):
        axis = figure.add_subplot(rows, columns, slot + 1)
        cx, cy, w, h = boxes[:, slot].unbind(dim=1)
        large = w * h > _LARGE
        for chosen, colour in ((~large, "green"), (large & (w >= h), "red"), (large & (w < h), "blue")):
            axis.scatter(cx[chosen], cy[chosen], s=2, color=colour)
        axis.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[], aspect="equal")
        axis.set_title(str(slot), fontsize=6, pad=2)
    figure.tight_layout(pad=0.3)
    return figure


def _panels(count: int, picture: np.ndarray) -> tuple[Figure, list[Any]]:
    columns = min(count, _COLUMNS)
    rows = -(-count // columns)
    shape = picture.shape[0] / picture.shape[1]
    figure = Figure(figsize=(columns * _PANEL[0], rows * (_PANEL[0] * shape + 0.3)))
    axes = [figure.add_subplot(rows, columns, index + 1) for index in range(count)]
    for axis in axes:
        axis.set_axis_off()
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.92, wspace=0.03, hspace=0.15)
    return figure, axes


def _lit(picture: np.ndarray, attention: Tensor) -> np.ndarray:
    """The picture, dark except where the attention (h, w) is."""
    height, width = picture.shape[:2]
    light = F.interpolate((attention / attention.max())[None, None], size=(height, width), mode="bilinear")[0, 0]
    shade = 0.2 + 0.8 * light.clamp(0, 1).sqrt().cpu().numpy()[..., None]
    return (picture * shade).astype(np.uint8)


def _attention_figure(
    cfg: CfgNode,
    model: DetrDetector,
    what: str,
    image: str,
    *,
    score: float,
    count: int,
    points: Sequence[tuple[float, float]],
) -> Figure:
    picture = read_image(image, "RGB")
    height, width = picture.shape[:2]
    seen = attention_of(model, build_mapper(cfg, is_train=False)({"file_name": image}))
    scores, classes = seen.probability[:, :-1].max(dim=1)
    order = scores.argsort(descending=True)
    chosen = order[scores[order] >= score][:count]
    if not len(chosen) and (what == "queries" or not points):
        raise ValueError(
            f"{image}: no query has a score of {score}; the best has {scores.max():.2f}. "
            "Lower --score, or choose other weights."
        )
    if what == "queries":
        names = MetadataCatalog.get(cfg.DATASETS.TEST[0]).get("thing_classes", []) if cfg.DATASETS.TEST else []
        labels = {q: names[c] if c < len(names) else f"class {c}" for q, c in enumerate(classes.tolist())}
        titles = [f"{labels[q]} {scores[q]:.2f}, query {q}" for q in chosen.tolist()]
        return draw_queries(picture, seen.queries[chosen], seen.boxes[chosen], titles)
    if any(not (0 <= x < width and 0 <= y < height) for x, y in points):
        raise ValueError(f"--point must lie in the image, which is {width} x {height} pixels.")
    centres = seen.boxes[chosen, :2].cpu() * torch.tensor([width - 1, height - 1])
    return draw_encoder(picture, seen.cells, points or [(x, y) for x, y in centres.tolist()])


def _slots_figure(cfg: CfgNode, model: DetrDetector, dataset: str, count: int) -> Figure:
    records = DatasetCatalog.get(dataset or cfg.DATASETS.TEST[0])
    items = map(build_mapper(cfg, is_train=False), records)
    return draw_slots(boxes_of_slots(model, islice(items, count)))


def parse(argv: Sequence[str]) -> Any:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("queries", "encoder", "slots"))
    parser.add_argument("--config-file", required=True, help="the config that the weights were trained with")
    parser.add_argument("--image", help="picture to look at (queries, encoder)")
    parser.add_argument("--output", type=Path, required=True, help="the PNG file to write")
    parser.add_argument("--score", type=float, default=0.5, help="least score of a detection that is drawn")
    parser.add_argument("--count", type=int, default=8, help="how many detections are drawn, the best first")
    parser.add_argument(
        "--point", type=float, nargs=2, action="append", default=[], metavar=("X", "Y"), help="in pixels (encoder)"
    )
    parser.add_argument("--dataset", help="registered data set (slots); by default the first of DATASETS.TEST")
    parser.add_argument("--images", type=int, default=5000, help="how many of its images (slots)")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="such as MODEL.WEIGHTS FILE")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.what != "slots" and not arguments.image:
        parser.error(f"{arguments.what} needs --image")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Draws what the command line asks for.

    Raises:
        ValueError: the config is not of a DETR, or nothing reaches the wanted score.
    """
    arguments = parse(sys.argv[1:] if argv is None else argv)
    cfg = load_config(arguments.config_file, arguments.opts)
    model = build_with_weights(cfg)
    if not isinstance(model, DetrDetector):
        raise ValueError(
            f"{arguments.config_file}: MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE}, not DetrDetector."
        )
    if arguments.what == "slots":
        figure = _slots_figure(cfg, model, arguments.dataset, arguments.images)
    else:
        wanted = {"score": arguments.score, "count": arguments.count, "points": arguments.point}
        figure = _attention_figure(cfg, model, arguments.what, arguments.image, **wanted)
    with atomic_write(arguments.output, "wb") as file:
        figure.savefig(file, format="png", dpi=110)
    logger.info(f"Drawn: {arguments.output}")


if __name__ == "__main__":
    setup_logger(name="densekit")
    with user_errors():
        main()
