"""Train a detector on data of your own: pictures in a folder, boxes in COCO's JSON.

Run it as it is, or cell by cell (``# %%``) in an editor or a notebook. It paints a few pictures of discs and squares,
so that it needs no data; with your own, start at "Name the data". A few minutes on one core.
"""

# %% Paint pictures and write their boxes
import json
import random
from pathlib import Path

from PIL import Image, ImageDraw

import densekit

STEPS = 300
SHAPES = {1: "disc", 2: "square"}
DATA, RUN = Path("shapes"), Path("output/shapes")


def paint(split: str, count: int, seed: int) -> None:
    """Writes ``count`` pictures and their annotations."""
    choose = random.Random(seed)
    images, annotations = [], []
    (DATA / split).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture = Image.new("RGB", (160, 120), tuple(choose.randrange(60) for _ in range(3)))
        draw = ImageDraw.Draw(picture)
        for _ in range(choose.randint(1, 4)):
            side, category = choose.randint(16, 40), choose.choice(list(SHAPES))
            x, y = choose.randint(0, 160 - side), choose.randint(0, 120 - side)
            shape = draw.ellipse if category == 1 else draw.rectangle
            shape((x, y, x + side - 1, y + side - 1), fill=tuple(choose.randrange(120, 256) for _ in range(3)))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category,
                    "bbox": [x, y, side, side],  # left, top, width, height in pixels
                    "area": side * side,
                    "iscrowd": 0,
                }
            )
        picture.save(DATA / split / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 160, "height": 120})
    categories = [{"id": key, "name": name} for key, name in SHAPES.items()]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (DATA / f"{split}.json").write_text(json.dumps(document))


paint("train", 60, seed=1)
paint("val", 20, seed=2)

# %% Name the data. Other forms (Pascal VOC, YOLO, label maps ...) have other keys: docs/own_data.md
train_data = {"form": "coco", "json": DATA / "train.json", "images": DATA / "train"}
val_data = {"form": "coco", "json": DATA / "val.json", "images": DATA / "val"}

# %% Train, and evaluate at the end. The number of classes is that of the data.
results = densekit.train(
    "quickstart/faster_rcnn_R_18_FPN_bccd.yaml",
    {
        "SOLVER.MAX_ITER": STEPS,
        "SOLVER.IMS_PER_BATCH": 2,
        "INPUT.MIN_SIZE_TRAIN": (120,),
        "INPUT.MIN_SIZE_TEST": 120,
    },
    train_data=train_data,
    val_data=val_data,
    output_dir=RUN,
)

# %% Read the figures: AP of COCO, in percent
print(f"AP {results['bbox']['AP']:.1f}, AP50 {results['bbox']['AP50']:.1f}")
for name in SHAPES.values():
    print(f"AP of {name}: {results['bbox'][f'AP-{name}']:.1f}")
