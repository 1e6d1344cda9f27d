"""The worst and the best images, what is annotated beside what was predicted."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from densekit.d2.data import Metadata
from densekit.files.panoptic_png import read_panoptic_png
from densekit.report.html import Markup, el, svg
from densekit.report.instance_page import InstanceImage, Instances
from densekit.report.maps import map_picture, shrink_map
from densekit.report.panoptic_page import Panoptic, PanopticImage, image_quality
from densekit.report.semantic_page import Semantic, SemanticImage
from densekit.report.shapes import object_shapes
from densekit.report.thumbnails import Thumbnail, thumbnail

__all__ = ["instance_gallery", "panoptic_gallery", "semantic_gallery"]

_LONGEST = 640  # pixels of a picture
Item = TypeVar("Item")
Panels = Mapping[str, Markup | None]  # what a panel is called -> what lies over the picture


def instance_gallery(instances: Instances, metadata: Metadata, count: int) -> Markup | None:
    """Ranks by the F1 of objects at an IoU of 0.5 and the best score; of equals, the more mistakes are worse."""
    numbers = {key: number for number, key in enumerate(instances.classes)}
    names = list(metadata.get("keypoint_names") or ())
    rules = metadata.get("keypoint_connection_rules") or ()
    limbs = [(names.index(rule[0]), names.index(rule[1])) for rule in rules]

    def rank(image: InstanceImage) -> tuple[float, float]:
        true, false, missed = image.matches.counts(instances.best_threshold)
        total = 2 * true + false + missed
        return (2 * true / total if total else math.nan), (true if not false + missed else -(false + missed))

    def panels(image: InstanceImage, picture: Thumbnail) -> Panels:
        shapes = object_shapes(image, numbers, instances.classes, limbs)
        truth, found = (svg(picture.width, picture.height, part, aria_hidden="true") for part in shapes)
        return {"annotated": truth, "predicted": found}

    def classes(image: InstanceImage) -> Iterable[int]:
        return {numbers[entry["category_id"]] for entry in (*image.truth, *image.found)}

    return _gallery("instances", instances.images, rank, lambda image: image.path, panels, classes, count, "F1")


def semantic_gallery(semantic: Semantic, count: int) -> Markup | None:
    """Ranks by the mean IoU of the classes annotated in an image; the picture itself stands beside its two maps."""
    colours = dict(enumerate(semantic.colours))
    names = [*semantic.classes, "no class"]

    def rank(image: SemanticImage) -> tuple[float, float]:
        return image.scores.mean_iou, image.scores.pixel_accuracy

    def panels(image: SemanticImage, _: Thumbnail) -> Panels:
        truth, found = (_laid_over(shrink_map(ids, _LONGEST), colours) for ids in semantic.maps(image))
        return {"picture": None, "annotated": truth, "predicted": found}

    def classes(image: SemanticImage) -> Iterable[int]:
        return image.scores.classes

    def path(image: SemanticImage) -> str:
        return str(image.record["file_name"])

    def note(image: SemanticImage) -> str:
        scores = image.scores
        parts = [] if math.isnan(scores.boundary_f) else [f"boundary F1 {100 * scores.boundary_f:.1f}"]
        if scores.lost is not None:
            true, found = scores.lost
            parts.append(f"{100 * scores.lost_share:.1f} % {names[true]} taken for {names[found]}")
        return ", ".join(parts)

    return _gallery("semantic", semantic.images, rank, path, panels, classes, count, "mIoU", note)


def panoptic_gallery(panoptic: Panoptic, count: int) -> Markup | None:
    """Ranks by the panoptic quality over all segments of an image."""
    numbers = {key: number for number, key in enumerate(panoptic.classes)}

    def rank(image: PanopticImage) -> tuple[float, float]:
        return image_quality(image.matching), -len(image.matching.spurious)

    def panels(image: PanopticImage, _: Thumbnail) -> Panels:
        maps = panoptic.truth.ids(image.image_id), read_panoptic_png(image.prediction)
        truth, found = (
            _laid_over(shrink_map(ids, _LONGEST), colours) for ids, colours in zip(maps, panoptic.colours(image))
        )
        return {"annotated": truth, "predicted": found}

    def classes(image: PanopticImage) -> Iterable[int]:
        annotated = panoptic.truth.segments(image.image_id).values()
        return {numbers[key] for key in (*(s.category for s in annotated), *image.segments.values())}

    def note(image: PanopticImage) -> str:
        found = image.matching
        return f"{len(found.matched)} right, {len(found.spurious)} wrong, {len(found.missed)} missed"

    return _gallery("panoptic", panoptic.images, rank, lambda image: image.path, panels, classes, count, "PQ", note)


def _laid_over(ids: np.ndarray, colours: dict[int, tuple[int, int, int]]) -> Markup:
    return el("img", src=map_picture(ids, colours), alt="", class_="labels")


def _gallery(
    kind: str,
    images: Sequence[Item],
    rank: Callable[[Item], tuple[float, float]],
    path: Callable[[Item], str],
    panels: Callable[[Item, Thumbnail], Panels],
    classes: Callable[[Item], Iterable[int]],
    count: int,
    metric: str,
    note: Callable[[Item], str] = lambda _: "",
) -> Markup | None:
    """Builds the cards of the ``count`` worst and the ``count`` best images; None where no image can be judged."""
    judged = [(rank(image), number) for number, image in enumerate(images)]
    order = [number for _, number in sorted(entry for entry in judged if not math.isnan(entry[0][0]))]
    if not order:
        return None
    share = len(order) if len(order) <= count else min(count, math.ceil(len(order) / 2))
    groups = {"worst": order[:share], "best": order[::-1][:share]}
    shown = sorted(set(groups["worst"]) | set(groups["best"]))
    with ThreadPoolExecutor() as pool:
        pictures = dict(zip(shown, pool.map(lambda n: thumbnail(path(images[n]), _LONGEST), shown)))

    def card(number: int) -> Markup:
        image, picture = images[number], pictures[number]
        value = judged[number][0][0]
        caption = el(
            "figcaption",
            el("b", Path(path(image)).name), " ",
            el("span", f"{metric} {100 * value:.1f}", class_="quiet"), " ",
            el("span", note(image), class_="tally"),
        )  # fmt: skip
        attributes: dict[str, Any] = {"class_": "pair", "data_classes": " ".join(map(str, sorted(classes(image))))}
        attributes |= {"data_worst": groups["worst"].index(number) if number in groups["worst"] else None}
        attributes |= {"data_best": groups["best"].index(number) if number in groups["best"] else None}
        if picture is None:
            return el("figure", el("div", "the image cannot be read", class_="shot none"), caption, **attributes)
        sides = [
            el(
                "span",
                el("span", side, class_="side"),
                content,
                class_="panel",
                style=f"aspect-ratio:{picture.width}/{picture.height}",
            )
            for side, content in panels(image, picture).items()
        ]
        words = "panels" if len(sides) == 2 else "panels three"
        button = el("button", sides, type="button", class_=words, aria_label=f"Enlarge {Path(path(image)).name}")
        return el("figure", button, caption, style=f"--shot:url({picture.uri})", **attributes)

    cards = [card(number) for number in shown]
    return el("div", cards, class_="gallery", data_kind=kind)
