"""Read a run: its curve, its figures, its report page, and the pictures that it is worst at.

It takes the run of ``train_on_own_data.py``. On the command line: ``densekit report output/shapes``.
"""

# %% The loss while it learned: one JSON object a line
import json
import subprocess
import sys
from pathlib import Path

RUN = Path("output/shapes")

lines = [json.loads(line) for line in (RUN / "metrics.json").read_text().splitlines()]
for entry in lines:
    if "total_loss" in entry:
        print(f"step {entry['iteration']:5}: loss {entry['total_loss']:.2f}, rate {entry['lr']:.5f}")

# %% The figures of its last evaluation
for data, tasks in json.loads((RUN / "inference" / "results.json").read_text()).items():
    for task, metrics in tasks.items():
        shown = ", ".join(f"{name} {value:.1f}" for name, value in metrics.items() if value is not None)
        print(f"{data}, {task}: {shown}")

# %% The report: one HTML page that loads nothing. Confusions, calibration, curves, the worst and the best pictures.
subprocess.run([sys.executable, "-m", "densekit", "report", str(RUN)], check=True)
for page in RUN.glob("inference/*/report.html"):
    print(f"open {page.resolve().as_uri()}")

# %% The predictions are COCO's results JSON, so every tool for that reads them
predictions = json.loads(next(RUN.glob("inference/*/coco_instances_results.json")).read_text())
by_picture: dict[int, list[float]] = {}
for one in predictions:
    by_picture.setdefault(one["image_id"], []).append(one["score"])
for number, scores in sorted(by_picture.items(), key=lambda item: max(item[1]))[:3]:
    print(f"picture {number}: the best of {len(scores)} scores is {max(scores):.2f}; look at it first")
