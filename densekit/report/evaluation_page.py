"""The page of ``densekit report``: an evaluation in numbers, curves and pictures."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import densekit.data.builtin  # noqa: F401 - registers the standard names, which are looked up here
from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.data.registry import check_registered
from densekit.evaluation.predictions import read_results
from densekit.report.cityscapes_instances import read_cityscapes_instances
from densekit.report.class_table import class_table, number_of, split_metrics, swatch
from densekit.report.gallery import instance_gallery, panoptic_gallery, semantic_gallery
from densekit.report.hint import hint_near_zero
from densekit.report.html import Markup, el, page, table
from densekit.report.instance_page import Instances, instances_data, read_instances
from densekit.report.learning import learning_groups
from densekit.report.losses import highest_score
from densekit.report.painted import painted_section
from densekit.report.panoptic_page import Panoptic, panoptic_data, read_panoptic
from densekit.report.run_files import RunFiles
from densekit.report.semantic_page import Semantic, boundary_results, read_semantic, semantic_data

__all__ = ["evaluation_page"]

Results = Mapping[str, Mapping[str, float | None]]

_TASKS = {
    "bbox": "boxes", "segm": "masks", "boundary": "mask boundaries", "keypoints": "keypoints", "sem_seg": "semantic",
    "panoptic_seg": "panoptic", "box_proposals": "proposals", "inpainting": "inpainting",
}  # fmt: skip
_MOST_COLOURS = 40  # in a legend that is not folded
_MAIN = ("AP", "mIoU", "IoU", "PQ", "PSNR")  # the number of a task that is shown large, the first that it has
_SETTINGS = (
    "MODEL.META_ARCHITECTURE", "MODEL.WEIGHTS", "MODEL.BACKBONE.NAME", "MODEL.RESNETS.DEPTH", "DATASETS.TRAIN",
    "DATASETS.TEST", "SOLVER.OPTIMIZER", "SOLVER.BASE_LR", "SOLVER.IMS_PER_BATCH", "SOLVER.MAX_ITER",
    "SOLVER.LR_SCHEDULER_NAME", "INPUT.MIN_SIZE_TRAIN", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST", "SEED",
)  # fmt: skip


@dataclass(frozen=True)
class _Parts:
    """Parts of an evaluation that are there to be shown."""

    instances: Instances | None
    semantic: Semantic | None
    panoptic: Panoptic | None

    def classes(self) -> dict[str, list[str]]:
        """Kind -> the names of its classes."""
        names = {}
        if self.instances is not None:
            names["instances"] = list(self.instances.classes.values())
        if self.semantic is not None:
            names["semantic"] = self.semantic.classes
        if self.panoptic is not None:
            names["panoptic"] = list(self.panoptic.classes.values())
        return names


def evaluation_page(run: RunFiles, images: int) -> str:
    """Builds the page.

    Args:
        run: the run.
        images: how many of the worst and how many of the best images to show.

    Raises:
        ValueError: The data set is not registered, or the files do not fit it.
        FileNotFoundError: Files of the data set or kept predictions are missing.
    """
    check_registered(run.dataset, "Name the file that describes it with --datasets FILE.")
    records = DatasetCatalog.get(run.dataset)
    parts = _Parts(_instances(run, records), read_semantic(run, records), read_panoptic(run, records))
    results = _results(run, parts)
    metadata = MetadataCatalog.get(run.dataset)
    data = {"classes": parts.classes(), "learning": learning_groups(run.curves)}
    galleries = []
    if parts.instances is not None:
        data["instances"] = instances_data(parts.instances)
        galleries.append(instance_gallery(parts.instances, metadata, images))
    if parts.semantic is not None:
        data["semantic"] = semantic_data(parts.semantic)
        galleries.append(semantic_gallery(parts.semantic, images))
    if parts.panoptic is not None:
        data["panoptic"] = panoptic_data(parts.panoptic)
        galleries.append(panoptic_gallery(parts.panoptic, images))
    body = [
        _header(run, results),
        _changed(run.results, results),
        _toolbar(parts) if parts.classes() else None,
        _hint(run, results, parts),
        _overall(results),
        _lost() if parts.instances is not None else None,
        _per_class(results, parts),
        [
            _gallery_section(gallery, kind, parts)
            for gallery, kind in zip(galleries, parts.classes())
            if gallery is not None
        ],
        painted_section(run, images),
        _curves(parts.instances) if parts.instances is not None else None,
        [_confusion(kind) for kind in ("instances", "semantic", "panoptic") if kind in data],
        _learning() if data["learning"] else None,
        _settings(run),
        _dialog(),
    ]
    title = f"{run.dataset}, {run.folder.resolve().name}: densekit report"
    return page(title, body, script="report.js", data=data)


def _instances(run: RunFiles, records: list[dict[str, Any]]) -> Instances | None:
    path = run.inference / "coco_instances_results.json"
    if not path.is_file():
        return read_cityscapes_instances(run, records)
    return read_instances(run, records, read_results(path))


def _results(run: RunFiles, parts: _Parts) -> dict[str, dict[str, float | None]]:
    """The evaluator's numbers; those of instances from the files at hand, so that curves and tables agree.

    Boundary F1 of pixels is computed here, whether the evaluator was asked for it or not.
    """
    results = {task: dict(metrics) for task, metrics in run.results.items()}
    computed = {} if parts.instances is None else {t: s.metrics for t, s in parts.instances.scores.items()}
    for task, metrics in computed.items():
        results[task] = {name: None if math.isnan(value) else value for name, value in metrics.items()}
    if parts.semantic is not None:
        boundary = boundary_results(parts.semantic).items()
        results["sem_seg"] = results.get("sem_seg", {}) | {k: None if math.isnan(v) else v for k, v in boundary}
    return results


def _changed(kept: Results, computed: Results) -> Markup | None:
    """Says so where the data set is no longer the one that was evaluated."""
    for task, metrics in kept.items():
        for name, value in metrics.items():
            now = computed.get(task, {}).get(name)
            if value is not None and (now is None or abs(now - value) > 1e-6 * max(1.0, abs(value))):
                shown = "undefined" if now is None else f"{now:.3f}"
                return el(
                    "p",
                    f"The evaluation of this run found {task} {name} {value:.3f}; its predictions and the data set as "
                    f"they are now give {shown}. One of the two was changed, and this page shows the present.",
                    class_="alert",
                )
    return None


def _hint(run: RunFiles, results: Results, parts: _Parts) -> Markup | None:
    if parts.instances is None:
        return None
    computed = {task: results[task] for task in parts.instances.scores}
    text = hint_near_zero(run, computed, highest_score([image.matches for image in parts.instances.images]))
    return el("p", text, class_="alert") if text else None


def _lost() -> Markup:
    return el(
        "section",
        el("h2", "What is lost"),
        el("div", id="losses"),
        el(
            "p",
            "At the score and of the class chosen above, at an IoU of 0.5. Class: found as another class. Place: found "
            "with an IoU of 0.1 to 0.5. Missed: not found. Background: detections where nothing is annotated.",
            class_="quiet",
        ),
    )


def _header(run: RunFiles, results: Results) -> Markup:
    tiles = []
    for task, metrics in results.items():
        name = next((name for name in _MAIN if name in metrics), None)
        if name is not None:
            value = metrics[name]
            shown = "n/a" if value is None else f"{value:.1f}"
            tiles.append(el("div", el("dt", f"{_TASKS.get(task, task)} {name}"), el("dd", shown)))
    return el(
        "header",
        el("p", "densekit report", class_="eyebrow"),
        el("h1", run.dataset),
        el(
            "p",
            f"{run.folder.resolve().name} · {run.header}" if run.header else run.folder.resolve().name,
            class_="quiet",
        ),
        el("dl", tiles, class_="tiles") if tiles else None,
    )


def _toolbar(parts: _Parts) -> Markup:
    names = list(dict.fromkeys(name for listed in parts.classes().values() for name in listed))
    options = [el("option", "all classes", value="")] + [el("option", name, value=name) for name in names]
    controls = [el("label", "class ", el("select", options, id="class"))]
    if parts.instances is not None:
        first = parts.instances.best_threshold
        slider = el("input", type="range", id="score", min="0.05", max="0.95", step="0.05", value=f"{first:g}")
        shown = el("output", f"{first:.2f}", for_="score", id="score-value")
        scores = el("span", _scores(parts.instances), class_="quiet")
        controls.append(el("label", "score at least ", slider, shown, scores))
        layers = ["box", "mask"] if parts.instances.matched_by == "segm" else ["box"]
        layers += ["pose"] if "keypoints" in parts.instances.scores else []
        for layer in layers:
            box = el("input", type="checkbox", id=f"show-{layer}", checked=True)
            controls.append(el("label", box, {"box": " boxes", "mask": " masks", "pose": " keypoints"}[layer]))
    return el("form", controls, class_="toolbar", aria_label="filter")


def _scores(instances: Instances) -> str:
    highest = highest_score([image.matches for image in instances.images])
    if highest is None:
        return " there are no detections"
    return f" best F1 at {instances.best_threshold:.2f}, highest score {highest:.2f}"


def _overall(results: Results) -> Markup:
    """A row for each task; tasks share a table where the metrics of one are among those of the other."""
    found: dict[tuple[str, ...], list[tuple[str, dict[str, float | None]]]] = {}
    for task, metrics in results.items():
        means = split_metrics(metrics)[0]
        names = next((known for known in found if means.keys() <= set(known)), tuple(means))
        found.setdefault(names, []).append((_TASKS.get(task, task), means))
    tables = [
        table(
            ("", *names),
            [[task, *(number_of(means[name]) if name in means else "" for name in names)] for task, means in lines],
            label="results",
            class_="results",
        )
        for names, lines in found.items()
    ]
    return el("section", el("h2", "Results"), tables or el("p", "No numbers were kept.", class_="quiet"))


def _per_class(results: Results, parts: _Parts) -> Markup | None:
    """One table for each kind of classes, the best class first; a click on a head sorts by it."""
    tables = []
    kinds = (("bbox", "segm", "boundary", "keypoints"), ("sem_seg",), ("panoptic_seg",))
    for tasks in kinds:
        columns = {
            (f"{_TASKS[task]} {kind}" if len(tasks) > 1 else kind): values
            for task in tasks
            for kind, values in split_metrics(results.get(task, {}))[1].items()
        }
        if columns:
            tables.append(class_table(columns, _support(tasks[0], parts), _colours(tasks[0], parts)))
    if not tables:
        return None
    return el("section", el("h2", "Classes"), tables)


def _support(task: str, parts: _Parts) -> dict[str, dict[str, int | float]]:
    """Column -> class -> how much of it is annotated; nothing where it is not counted."""
    if task == "sem_seg" and parts.semantic is not None:
        tally, names = parts.semantic.tally, parts.semantic.classes
        shares = 100 * tally.pixels / max(1, tally.pixels.sum())
        return {"images": dict(zip(names, tally.images.tolist())), "% of pixels": dict(zip(names, shares.tolist()))}
    if task != "bbox" or parts.instances is None:
        return {}
    names = list(parts.instances.classes.values())
    counts: dict[str, int | float] = dict.fromkeys(names, 0)
    for image in parts.instances.images:
        for number in image.matches.true_classes[~image.matches.ignored].tolist():
            counts[names[number]] += 1
    return {"objects": counts}


def _colours(task: str, parts: _Parts) -> dict[str, tuple[int, int, int]]:
    """Class -> its colour in the pictures, where classes have some."""
    if task == "sem_seg" and parts.semantic is not None:
        return dict(zip(parts.semantic.classes, parts.semantic.colours))
    if task == "panoptic_seg" and parts.panoptic is not None:
        return dict(zip(parts.panoptic.classes.values(), parts.panoptic.class_colours().values()))
    return {}


def _legend(kind: str, parts: _Parts) -> Markup | None:
    """Returns the legend of the colours, folded where there are many."""
    if kind == "instances":
        keys = (
            ("object", "found"),
            ("missed", "missed"),
            ("true", "right"),
            ("false", "wrong"),
            ("crowd", "not counted"),
        )
        return el("ul", [el("li", el("i", class_=f"key {key}"), text) for key, text in keys], class_="legend")
    colours: list[tuple[str, tuple[int, int, int]]] = []
    if kind == "semantic" and parts.semantic is not None:
        colours = list(zip(parts.semantic.classes, parts.semantic.colours))
    elif kind == "panoptic" and parts.panoptic is not None:
        colours = list(zip(parts.panoptic.classes.values(), parts.panoptic.class_colours().values()))
    legend = el("ul", [el("li", swatch(colour), name) for name, colour in colours], class_="legend")
    if len(colours) <= _MOST_COLOURS:
        return legend
    return el("details", el("summary", f"Colours of the {len(colours)} classes"), legend)


def _gallery_section(gallery: Markup, kind: str, parts: _Parts) -> Markup:
    titles = {"instances": "Images: objects", "semantic": "Images: classes", "panoptic": "Images: panoptic segments"}
    ranked = {
        "instances": "Ranked by F1 at an IoU of 0.5 and the score at which the page begins.",
        "semantic": "Ranked by the mean IoU of the classes annotated in the image. Beside it the largest confusion, "
        "as a share of the image's pixels.",
        "panoptic": "Ranked by the panoptic quality of the image, its segments of all classes taken together. Segments "
        "of one class differ in shade.",
    }
    choice = [
        el("label", el("input", type="radio", name=f"order-{kind}", value=name, checked=name == "worst"), f" {name}")
        for name in ("worst", "best")
    ]
    return el(
        "section",
        el("h2", titles[kind]),
        el("p", ranked[kind], class_="quiet"),
        el("fieldset", el("legend", "show the"), choice, class_="choice", data_kind=kind),
        _legend(kind, parts),
        gallery,
        el("p", "No image shows this class.", class_="quiet none-left", hidden=True),
    )


def _curves(instances: Instances) -> Markup:
    recall = _recall(instances) if instances.scores else None
    return el("div", recall, _calibration(instances), class_="two")


def _recall(instances: Instances) -> Markup:
    choice = [
        el("label", el("input", type="radio", name="recall-task", value=task, checked=number == 0), f" {_TASKS[task]}")
        for number, task in enumerate(instances.scores)
    ]
    return el(
        "section",
        el("h2", "Precision and recall"),
        el("fieldset", el("legend", "of"), choice, class_="choice") if len(choice) > 1 else None,
        el("div", class_="chart", id="recall"),
        el("p", instances.curve_note, class_="quiet"),
    )


def _confusion(kind: str) -> Markup:
    text = {
        "instances": "Rows are annotated, columns predicted classes, at the score chosen above. Objects and detections "
        "are matched at an IoU of 0.5, first within a class, then across classes.",
        "semantic": "Rows are annotated, columns predicted classes; the share of the row's pixels in percent. Choose a "
        "class above to see it beside those that it is confused with most.",
        "panoptic": "Rows are annotated, columns predicted classes; the numbers are segments. Segments are matched at "
        "an IoU above 0.5, whatever their classes; crowds, and what lies on them or on void, do not count.",
    }[kind]
    title = {"instances": "", "semantic": " (pixels)", "panoptic": " (segments)"}[kind]
    return el(
        "section",
        el("h2", f"What is taken for what{title}"),
        el("p", text, class_="quiet"),
        el("div", class_="confusion", data_kind=kind),
    )


def _calibration(instances: Instances) -> Markup:
    return el(
        "section",
        el("h2", "Are scores probabilities?"),
        el("div", class_="chart", id="calibration"),
        el("p", id="calibration-error"),
        el(
            "p",
            f"Share of right detections ({_TASKS[instances.matched_by]}, IoU 0.5) by score. Bars on the line are "
            "calibrated; below it the model is too sure of itself.",
            class_="quiet",
        ),
    )


def _learning() -> Markup:
    return el("section", el("h2", "Training"), el("div", id="learning", class_="two"))


def _settings(run: RunFiles) -> Markup | None:
    rows = []
    for key in _SETTINGS:
        value: Any = run.config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            # A path tells strangers more about a machine than about a run.
            rows.append((key, Path(shown).name if key == "MODEL.WEIGHTS" else shown))
    if not rows:
        return None
    return el("section", el("details", el("summary", "Settings"), table(("key", "value"), rows, label="settings")))


def _dialog() -> Markup:
    close = el("button", "Close", type="button", class_="close")
    steps = [el("button", text, type="button", class_=text.lower()) for text in ("Previous", "Next")]
    return el(
        "dialog",
        el("div", el("b", class_="title"), steps, close, class_="bar-top"),
        el("div", class_="view"),
        id="zoom",
    )
