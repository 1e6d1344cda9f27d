"""Trains R-CNN, Fast, Faster and Mask R-CNN for the same minutes and times the stages of each, picture by picture.

All have a ResNet-18 and learn from random weights on one core. R-CNN and Fast R-CNN look at boxes of selective search,
Faster and Mask R-CNN propose their own. The fine-tuning of R-CNN has the same minutes; its SVMs and its corrections of
boxes come on top. A finished run is kept and an interrupted one goes on, so the command can be repeated. The figures go
to results/rcnn_story.json (make tables shows them), the chart to docs/rcnn_story_DATA.png. Examples::

    python benchmarks/rcnn_story.py --minutes 3 --output output/rcnn_story
    python benchmarks/rcnn_story.py --data bccd=bccd.yaml --minutes 5 --output output/rcnn_story
"""

import argparse
import datetime
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure
from measure import commit, machine, schedule
from tqdm import tqdm
from trainings import ROOT, minutes, results, train

from densekit import load_model
from densekit.config import load_config
from densekit.data.own.catalog import register_entries
from densekit.engine import Trainer
from densekit.files.atomic import atomic_write
from densekit.ops.object_search import search_objects

Json = dict[str, Any]
STAGES = ("proposals", "features", "scoring", "suppression", "masks")
_RESULTS = ROOT / "results" / "rcnn_story.json"
_SEARCH = {"method": "selective-search", "width": 500, "least": 20}  # the defaults of densekit proposals
_KEPT = 300  # boxes in the files, the best of which are used


@dataclass(frozen=True)
class System:
    """A step of the line.

    Attributes:
        name: In the table.
        config: Of its training on the street scenes.
        reads_boxes: Its proposals come from a file.
        has_masks: It is trained on data with masks only.
    """

    name: str
    config: str
    reads_boxes: bool = False
    has_masks: bool = False


SYSTEMS = {
    "rcnn": System("R-CNN", "configs/rcnn/rcnn_R_18_streets.yaml", reads_boxes=True),
    "fast": System("Fast R-CNN", "configs/rcnn/fast_rcnn_published_R_18_streets.yaml", reads_boxes=True),
    "faster": System("Faster R-CNN", "configs/rcnn/faster_rcnn_published_R_18_streets.yaml"),
    "mask": System("Mask R-CNN", "configs/rcnn/mask_rcnn_R_18_C4_streets.yaml", has_masks=True),
}


@dataclass(frozen=True)
class Data:
    """The data sets that the systems learn from and are evaluated on.

    Attributes:
        name: Of the data; "streets" or that of ``--data``.
        file: Path of the YAML of own data sets; "" for the street scenes.
    """

    name: str
    file: str = ""

    def words(self) -> list[str]:
        """Returns the options of the launcher."""
        if not self.file:
            return []
        sets = ["DATASETS.TRAIN", f"('{self.name}_train',)", "DATASETS.TEST", f"('{self.name}_test',)"]
        return ["--datasets", self.file, *sets]

    def split(self, test: bool) -> str:
        """Returns the name of a data set."""
        last = "val" if not self.file else "test"
        return f"{self.name}_{last if test else 'train'}"


def main() -> None:
    """Measures what was asked for, one system after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="*", metavar="SYSTEM", help=f"of {', '.join(SYSTEMS)} (all)")
    parser.add_argument("--minutes", type=float, default=5, help="of one core for each training (%(default)s)")
    parser.add_argument("--data", metavar="NAME=YAML", help="own boxes NAME_train and NAME_test (street scenes)")
    parser.add_argument(
        "--proposals", type=int, default=150, help=f"of selective search in a picture, up to {_KEPT} (%(default)s)"
    )
    parser.add_argument("--pictures", type=int, default=20, help="whose median the times are (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("output/rcnn_story"), help="folder of the runs")
    args = parser.parse_args()
    if not 1 <= args.proposals <= _KEPT:
        parser.error(f"--proposals {args.proposals}: from 1 to {_KEPT}")
    if unknown := set(args.systems) - set(SYSTEMS):
        parser.error(f"there is no system {', '.join(sorted(unknown))}; there are {', '.join(SYSTEMS)}")
    name, _, file = (args.data or "streets").partition("=")
    data = Data(name, str(Path(file).resolve()) if file else "")
    folder = args.output.resolve() / name
    folder.mkdir(parents=True, exist_ok=True)
    for key in (bar := tqdm(args.systems or list(SYSTEMS), desc="systems", unit="system")):
        system = SYSTEMS[key]
        if system.has_masks and data.file:
            bar.write(f"{system.name}: left, as own data is taken to have boxes alone", file=sys.stderr)
            continue
        figures = learn(system, data, folder / key, args) | time_stages(folder / key, data, args)
        record(key, data, figures, args)
        bar.write(f"{system.name}: {figures}", file=sys.stderr)
    draw(data)


def learn(system: System, data: Data, folder: Path, args: argparse.Namespace) -> Json:
    """Trains and evaluates a system, and returns its figures."""
    words = data.words()
    if system.reads_boxes:
        for split in ("TRAIN", "TEST"):
            boxes = find_boxes(data, split == "TEST", folder.parent)
            words += [f"DATASETS.PROPOSAL_FILES_{split}", f"('{boxes}',)"]
            words += [f"DATASETS.PRECOMPUTED_PROPOSAL_TOPK_{split}", str(args.proposals)]
    few = ["DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST", "5"]  # so that the stages after R-CNN's steps cost a probe little
    run = {"config": system.config, "minutes": args.minutes}
    plan = schedule(run, [*words, *few], folder)
    train(system.config, folder, [*words, *plan])
    found = results(folder)
    figures: Json = {"ap": round(found["bbox"]["AP"], 1), "ap50": round(found["bbox"]["AP50"], 1)}
    if system.has_masks:
        figures["mask"] = round(found["segm"]["AP"], 1)
    figures["steps"] = int(load_config(str(folder / "config.yaml")).SOLVER.MAX_ITER)
    return figures | {"minutes": round(minutes(folder), 1)}


def find_boxes(data: Data, test: bool, folder: Path) -> Path:
    """Returns the file of a data set's proposals, which is made unless it is there."""
    path = folder / f"{data.split(test)}_{_KEPT}.pkl"
    if not path.is_file():
        words = ["--datasets", data.file] if data.file else []
        command = [sys.executable, "-m", "densekit", "proposals", data.split(test), *words]
        command += ["--count", str(_KEPT), "--workers", "1", "--output", str(path)]
        subprocess.run(command, cwd=ROOT, check=True)
    return path


def time_stages(folder: Path, data: Data, args: argparse.Namespace) -> Json:
    """Returns the median milliseconds of one core of each stage, over pictures that were decoded beforehand."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if data.file:
        register_entries(data.file)
    cfg, model = load_config(str(folder / "config.yaml")), load_model(folder, optimized=False)
    batches = list(islice(iter(Trainer.build_test_loader(cfg, cfg.DATASETS.TEST[0])), args.pictures))
    run = rcnn_stages if hasattr(model, "propose") else shared_stages
    times: dict[str, list[float]] = {stage: [] for stage in STAGES}
    with torch.no_grad():
        for number, batch in enumerate([batches[0], *batches]):
            clock = Clock()
            run(model, batch, args.proposals, clock)
            for stage, seconds in clock.seconds.items() if number else ():  # the first one warms up
                times[stage].append(seconds)
    return {stage: round(1000 * statistics.median(found), 1) for stage, found in times.items() if found}


class Clock:
    """Adds up the processor's time of stages."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, stage: str, action: Callable[[], Any]) -> Any:
        """Runs a part of a stage and returns its result."""
        began = time.process_time()
        result = action()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.process_time() - began
        return result


def rcnn_stages(model: Any, batch: list[Json], count: int, clock: Clock) -> None:
    """R-CNN: each box is a picture for the network."""
    item = batch[0]
    boxes = clock("proposals", lambda: search(item, count))
    features = clock("features", lambda: model.features(model.normalised(item), boxes))
    scores, placed = clock("scoring", lambda: model.score(features, boxes))
    clock("suppression", lambda: model.suppress(scores, placed, tuple(item["image"].shape[-2:])))


def shared_stages(model: Any, batch: list[Json], count: int, clock: Clock) -> None:
    """Fast R-CNN and those after it: the network sees the picture once."""
    heads = model.roi_heads
    if model.proposal_generator is None:
        clock("proposals", lambda: search(batch[0], count))  # the model then reads the same boxes from the file
    images = model.preprocess_image(batch)
    features = clock("features", lambda: model.backbone(images.tensor))
    if model.proposal_generator is None:
        proposals = [item["proposals"].to(model.device) for item in batch]
    else:
        proposals = clock("proposals", lambda: model.proposal_generator(images, features, None)[0])
    maps, boxes = [features[name] for name in heads.in_features], [one.proposal_boxes for one in proposals]
    if hasattr(heads, "res5"):
        regions = clock("scoring", lambda: heads.res5(heads.pooler(maps, boxes)).mean(dim=[2, 3]))
    else:
        regions = clock("scoring", lambda: heads.box_head(heads.box_pooler(maps, boxes)))
    predictions = clock("scoring", lambda: heads.box_predictor(regions))
    found = clock("suppression", lambda: heads.box_predictor.inference(predictions, proposals)[0])
    if heads.mask_on:
        clock("masks", lambda: heads.forward_with_given_boxes(features, found))


def search(item: Json, count: int) -> torch.Tensor:
    """The boxes of selective search in the picture (C, H, W) of an input."""
    picture = item["image"].permute(1, 2, 0).numpy().astype(np.uint8)
    return torch.from_numpy(search_objects(np.ascontiguousarray(picture), count=count, **_SEARCH)[0])


def record(key: str, data: Data, figures: Json, args: argparse.Namespace) -> None:
    """Writes the row of a system into the table, in the place of the one from before."""
    file = json.loads(_RESULTS.read_text())
    system, given = SYSTEMS[key], f" --data {data.name}={data.name}.yaml" if data.file else ""
    cells = {stage: f"{{{stage}}}" if stage in figures else "-" for stage in STAGES}
    figures["all"] = round(sum(figures[stage] for stage in STAGES if stage in figures), 1)
    row = {
        "id": f"story_{data.name}_{key}",
        "system": system.name,
        "data": data.name,
        "training": "{steps} steps, {minutes} min",
        "ap": "{ap} ({ap50})",
        "mask": "{mask}" if "mask" in figures else "-",
        **cells,
        "all": "{all}",
        "configs": [system.config],
        "figures": figures,
        "command": f"python benchmarks/rcnn_story.py{given} --minutes {args.minutes:g} --proposals {args.proposals}",
        "machine": machine(),
        "software": f"Python {platform.python_version()}, torch {torch.__version__.partition('+')[0]}",
        "seeds": None,
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
    }
    ids = [one.get("id") for one in file["rows"]]
    if row["id"] in ids:
        file["rows"][ids.index(row["id"])] = row
    else:
        file["rows"].append(row)
    with atomic_write(_RESULTS) as out:
        out.write(json.dumps(file, indent=1, ensure_ascii=False) + "\n")


def draw(data: Data) -> None:
    """Draws the stages of each system, one upon the other, beside its AP."""
    known = {row["id"]: row for row in json.loads(_RESULTS.read_text())["rows"] if "figures" in row}
    rows = [known[name] for key in SYSTEMS if (name := f"story_{data.name}_{key}") in known]
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    times, quality = figure.subplots(1, 2, width_ratios=(3, 1), sharey=True)
    names = [row["system"] for row in rows]
    left = np.zeros(len(rows))
    for stage in STAGES:
        width = np.array([row["figures"].get(stage, 0.0) for row in rows])
        times.barh(names, width, left=left, label=stage)
        left += width
    for name, total in zip(names, left):
        times.text(total, name, f" {total:.0f}", va="center")
    times.set(xlabel="ms of one core for a picture", xlim=(0, 1.12 * left.max()))
    times.legend(fontsize="small")
    quality.barh(names, [row["figures"]["ap"] for row in rows], color="0.5")
    quality.set(xlabel="box AP")
    quality.invert_yaxis()
    path = ROOT / "docs" / f"rcnn_story_{data.name}.png"
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png", dpi=100)
    print(f"The chart is {path}, the table {_RESULTS}")


if __name__ == "__main__":
    main()
