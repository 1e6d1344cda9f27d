"""Predict on a picture and draw the boxes.

It takes the run of ``train_on_own_data.py``; any other folder of a run does as well, such as ``output/demo`` that
``make demo`` leaves.
"""

# %% Load the model: the folder of a run, with its last weights
from pathlib import Path

from PIL import Image, ImageDraw

import densekit

RUN, PICTURE = Path("output/shapes"), Path("shapes/val/0.png")
THRESHOLD = 0.5

predictor = densekit.Predictor(RUN)

# %% Predict. A path, a Pillow image or an array; boxes are in the picture's own pixels.
found = predictor(PICTURE)["instances"]
sure = found[found.scores >= THRESHOLD]
print(f"{len(found)} boxes, {len(sure)} with a score of {THRESHOLD} and more")

# %% Draw
picture = Image.open(PICTURE).convert("RGB")
draw = ImageDraw.Draw(picture)
for box, label, score in zip(sure.pred_boxes, sure.pred_classes, sure.scores):
    draw.rectangle(box.tolist(), outline="red")
    draw.text(tuple(box[:2].tolist()), f"{predictor.class_names[label]} {score:.2f}", fill="white")
picture.save(RUN / "predicted.png")
print(f"written: {RUN / 'predicted.png'}")

# %% Many pictures: an iterator holds one batch at a time
folder = sorted(PICTURE.parent.glob("*.png"))
counts = [int((output["instances"].scores >= THRESHOLD).sum()) for output in predictor(iter(folder))]
print(f"{sum(counts)} boxes in {len(counts)} pictures")
