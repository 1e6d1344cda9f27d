"""One run of ``densekit export``: a file that does what the model does, or no file."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import densekit
import densekit.data.builtin
from densekit.d2.config import CfgNode
from densekit.data.mapper import build_mapper
from densekit.data.own.runs import register_for_run, run_of
from densekit.deploy import optimize
from densekit.deploy.exported import ExportedModel
from densekit.deploy.graphs import LEAST_SIDE, Placement, graph_of
from densekit.deploy.parity import difference
from densekit.deploy.targets import SUFFIXES, Content, made, opened, write
from densekit.engine.loading import build_with_weights
from densekit.engine.setup import read_config
from densekit.engine.sources import ModelSource, with_model
from densekit.inference.class_names import find_classes
from densekit.inference.inputs import pictures_of_dataset, pictures_of_words
from densekit.inference.predictor import check_predicts
from densekit.modeling.semantic_inference import asks_for_views
from densekit.run_options import RunOptions

__all__ = ["Checked", "export"]

logger = logging.getLogger(__name__)

_PICTURES = 3  # of those given or of the data set, so many are compared on
_SMALLER = 0.7  # each is seen at this scale, too


@dataclass(frozen=True)
class Checked:
    """An image on which the file and the model were compared.

    Attributes:
        picture: its name.
        size: height and width, in pixels of the model's input.
        worst: difference; of maps relative to the largest score, of detections in scores.
        found: detections, or classes.
    """

    picture: str
    size: tuple[int, int]
    worst: float
    found: int


def export(
    source: ModelSource,
    target: str,
    output: str | Path,
    *,
    weights: str | None = None,
    pictures: Sequence[str] = (),
    opts: Sequence[Any] = (),
) -> list[Checked]:
    """Writes a model as a file that takes pictures of any size, once it has proved equal to the model.

    Args:
        source: The folder of a run, a checkpoint in it, a configuration or its name.
        target: "onnx", "openvino" or "program".
        output: The file.
        weights: A weight file instead of the source's.
        pictures: Files, folders and patterns to compare on; by default those of the first data set of DATASETS.TEST.
        opts: KEY VALUE pairs of the configuration.

    Returns:
        The comparisons; none of their sizes was traced.

    Raises:
        FileNotFoundError: The model, its weights or a picture is missing.
        MissingPackageError: A package is missing.
        ValueError: The model cannot be exported, or the file differs from it; there is no file then.
    """
    output = Path(output)
    _check_output(output, target)
    cfg = read_config(with_model(RunOptions(opts=[*opts]), source, weights, "cpu"))[0]
    check_predicts(cfg)
    if asks_for_views(cfg):
        raise ValueError("TEST.SEMANTIC asks for windows, scales or mirror images, which a file does not have.")
    cfg.freeze()
    run = None if isinstance(source, CfgNode) else run_of(Path(source))
    if run is not None and not pictures:
        register_for_run(run, None, cfg.DATASETS.TEST[:1])
    images = _images(cfg, pictures, output)
    model = build_with_weights(cfg)
    graph = graph_of(optimize(model, channels_last=False))
    about = _about(cfg, graph)
    images = _large_enough(cast(Placement, graph.placement), images, about["input"]["least_side"])
    noise, size = _noise(cast(Placement, graph.placement), images)
    logger.info(f"Tracing {type(model).__name__} at {noise.shape[1]} x {noise.shape[2]}; this can take minutes")
    content = made(graph, target, noise, size, about)
    checked = _compare(content, target, model, images)
    write(output, content)
    return checked


def _large_enough(placement: Placement, images: Sequence[tuple[str, Tensor]], least: int) -> list[tuple[str, Tensor]]:
    """Returns the images that a file takes.

    Raises:
        ValueError: There is none, which is better known before a model is traced.
    """
    taken = [(name, image) for name, image in images if min(placement.place(image)[0].shape[-2:]) >= least]
    if not taken:
        raise ValueError(
            f"Exported models take images of {least} x {least} and more, and the pictures to compare on are smaller as "
            "the model sees them. Give larger --pictures, or a larger INPUT.MIN_SIZE_TEST or INPUT.CUT.SIZE."
        )
    return taken


def _noise(placement: Placement, images: Sequence[tuple[str, Tensor]]) -> tuple[Tensor, tuple[int, int]]:
    """The image that is traced, of another size than all that are compared on, and the size of the picture in it."""
    seen = {tuple(placement.place(image)[0].shape) for _, image in images}
    generator = torch.Generator().manual_seed(0)
    for factor in count(4):
        sides = (2 * factor + 1) * 32, (2 * factor + 3) * 32
        noise, _ = placement.place(torch.rand(len(placement.value), *sides, generator=generator) * 255)
        if tuple(noise.shape) not in seen and noise.shape[1] != noise.shape[2]:
            return noise, sides
    raise RuntimeError("no size is left")


def _check_output(output: Path, target: str) -> None:
    if target not in SUFFIXES:
        raise ValueError(f"Target {target!r}: it can be {' or '.join(SUFFIXES)}.")
    if output.suffix != SUFFIXES[target]:
        raise ValueError(f"--output {output}: the name of such a file ends in {SUFFIXES[target]}.")
    if not output.absolute().parent.is_dir():
        raise FileNotFoundError(f"The folder of {output} does not exist.")


def _about(cfg: CfgNode, graph: Any) -> dict[str, Any]:
    """The content of the file's metadata, for readers that know nothing of densekit."""
    classes = find_classes(cfg, "")
    return {
        "made_by": f"densekit {densekit.__version__}, torch {torch.__version__}",
        "kind": graph.kind,
        "inputs": list(graph.inputs),
        "outputs": list(graph.outputs),
        "settings": graph.settings,
        "classes": [{"id": number, "name": name} for number, name in classes.things],
        "labels": [{"id": number, "name": name} for number, name in classes.labels],
        "input": {
            "name": "image",
            "layout": "channels, height, width",
            "type": "float32",
            "range": [0, 255],
            "channels": cfg.INPUT.FORMAT,
            **_resizing(cfg, graph.kind),
            "least_side": getattr(graph, "least_side", LEAST_SIDE),
            "placement": asdict(graph.placement),
        },
        "config": cfg.dump(),
    }


def _resizing(cfg: CfgNode, kind: str) -> dict[str, Any]:
    """The size of the pictures as an evaluation sees them."""
    if kind != "classes":
        return {"shorter_side": cfg.INPUT.MIN_SIZE_TEST, "longer_side_at_most": cfg.INPUT.MAX_SIZE_TEST}
    cut = cfg.INPUT.CUT
    return {"shorter_side": round(cut.SIZE / cut.TEST_SHARE), "square_of_its_middle": cut.SIZE}


def _images(cfg: CfgNode, words: Sequence[str], output: Path) -> list[tuple[str, Tensor]]:
    """Pictures as the model's input (C, H, W) uint8, with their names: as an evaluation sees them, and smaller."""
    if not words and not cfg.DATASETS.TEST:
        raise ValueError("Which pictures is the file compared on? Give --pictures PATH ..., or DATASETS.TEST.")
    try:
        found = pictures_of_words(words, output) if words else pictures_of_dataset(cfg.DATASETS.TEST[0])
    except FileNotFoundError as error:
        raise FileNotFoundError(f"No pictures to compare on: {error} Give --pictures PATH ...") from error
    mapper = build_mapper(cfg, is_train=False)
    images = []
    for picture in [picture for picture in found if picture.frame is None][:_PICTURES]:
        image = mapper({"file_name": picture.path})["image"]
        smaller = F.interpolate(image[None].float(), scale_factor=_SMALLER, mode="bilinear")[0].round().to(image.dtype)
        images += [(picture.path, image), (picture.path, smaller)]
    if not images:
        raise ValueError("Videos are no pictures to compare on; give --pictures PATH ... of images.")
    return images


def _compare(content: Content, target: str, model: nn.Module, images: Sequence[tuple[str, Tensor]]) -> list[Checked]:
    """Runs the file and the model itself, not its graph, on each image.

    Raises:
        ValueError: They differ, or nothing was found on any image, which proves nothing.
    """
    exported, checked = ExportedModel(*opened(content, target)), []
    for name, image in images:
        size = (image.shape[-2], image.shape[-1])
        with torch.no_grad():
            (expected,) = model([{"image": image}])
        try:
            worst = difference(exported([{"image": image}])[0], expected)
        except Exception as error:
            raise ValueError(
                f"The {target} file was not written. On {name} at {size[0]} x {size[1]}: {error}"
            ) from error
        checked.append(Checked(name, size, worst, _found(expected)))
    _run_on_nothing(exported, target, images[0][1])
    if not any(one.found for one in checked):
        raise ValueError(
            f"The {target} file was not written: the model finds nothing in the pictures to compare on, which proves "
            "nothing. Give --pictures PATH ... with objects in them, or a lower threshold of scores."
        )
    return checked


def _run_on_nothing(exported: ExportedModel, target: str, image: Tensor) -> None:
    """Runs the file on a plain picture. On one without objects a trace can break that all others pass.

    Raises:
        ValueError: It does not run. Results are not compared, as scores of equal places may come in any order.
    """
    try:
        exported([{"image": torch.full_like(image, 128)}])
    except Exception as error:
        raise ValueError(f"The {target} file was not written. On a picture of one colour: {error}") from error


def _found(output: dict[str, Any]) -> int:
    return len(next(output[key] for key in ("instances", "sem_seg", "class_scores") if key in output))
