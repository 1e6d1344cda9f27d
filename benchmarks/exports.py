"""Exports one small model of each kind to every target, and writes the worst differences into results/export.json.

Models are those of shipped configurations, narrow, with random weights, and see noise at two sizes besides the one that
is traced. A row of results/export.json with the key ``export`` says which. Then ``make tables`` writes docs/export.md.
Example::

    python benchmarks/exports.py --targets onnx program export_mask_rcnn
"""

import argparse
import datetime
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from measure import ROOT, commit
from tqdm import tqdm

sys.path.insert(0, str(ROOT))

from densekit.deploy.targets import SUFFIXES
from densekit.files.atomic import atomic_write
from densekit.inference.export import export
from densekit.ops.packages import MissingPackageError
from tests.deploy.forms import config, spread_weights, trained_like

_RESULTS = ROOT / "results" / "export.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ids", nargs="*", metavar="ID", help="rows to measure (all that have the key export)")
    parser.add_argument("--targets", nargs="+", choices=tuple(SUFFIXES), default=list(SUFFIXES))
    args = parser.parse_args()
    rows = {row["id"]: row["export"] for row in json.loads(_RESULTS.read_text())["rows"] if "export" in row}
    if unknown := set(args.ids) - set(rows):
        parser.error(f"no row of {_RESULTS.name} has the key export and the id {', '.join(sorted(unknown))}")
    for name in (bar := tqdm([name for name in rows if name in (args.ids or rows)], desc="models", unit="model")):
        for target in args.targets:
            began = time.perf_counter()
            try:
                found = f"{worst_difference(rows[name], target):.1e}"
            except MissingPackageError as error:
                bar.write(f"{name}, {target}: left, {error}", file=sys.stderr)
                continue
            except ValueError as error:
                found = "refused"
                bar.write(f"{name}, {target}: {error}", file=sys.stderr)
            bar.write(f"{name}, {target}: {found}, {time.perf_counter() - began:.0f} s", file=sys.stderr)
            record(name, target, found)


def worst_difference(row: dict[str, Any], target: str) -> float:
    """Exports the model of a row and returns the worst difference of a score on noise.

    Raises:
        ValueError: It cannot be exported, or the file differs.
    """
    cfg = config(row["config"])
    cfg.merge_from_list([word for pair in row.get("opts", {}).items() for word in pair])
    with tempfile.TemporaryDirectory() as folder:
        cfg.MODEL.WEIGHTS = str(Path(folder) / "weights.pth")
        model = trained_like(cfg)
        spread_weights(model, tuple(row.get("spread", ())))
        torch.save({"model": model.state_dict()}, cfg.MODEL.WEIGHTS)
        noise = np.random.default_rng(0).integers(0, 256, (270, 355, 3), dtype=np.uint8)
        picture = Path(folder) / "noise.png"
        cv2.imwrite(str(picture), noise)
        cfg.INPUT.MIN_SIZE_TEST = cfg.INPUT.MAX_SIZE_TEST = 256
        checked = export(cfg, target, Path(folder) / f"model{SUFFIXES[target]}", pictures=[str(picture)])
    return max(one.worst for one in checked)


def record(name: str, target: str, figure: str) -> None:
    """Writes a difference into a row, with the command, the date and the commit."""
    file = json.loads(_RESULTS.read_text())
    row = next(row for row in file["rows"] if row.get("id") == name)
    row.setdefault("figures", {})[target] = figure
    row |= {
        target: f"{{{target}}}",
        "command": f"python benchmarks/exports.py {name}",
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
    }
    with atomic_write(_RESULTS) as out:
        out.write(json.dumps(file, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
