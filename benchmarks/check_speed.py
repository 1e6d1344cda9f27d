"""Time of ``densekit check`` on many images.

Writes JPEGs of COCO's usual size with seven objects each (polygons and RLE in turn) into a folder, once, and times the
inspection, with the files in the page cache and with every image decoded. Example::

    python benchmarks/check_speed.py --images 5000 --workers 2 --folder /tmp/check_speed
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image
from tqdm import tqdm

from densekit.data.inspect import Options, inspect_coco

WIDTH, HEIGHT = 640, 480
OBJECTS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000, help="how many (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="threads (%(default)s)")
    parser.add_argument("--folder", type=Path, required=True, help="where the images go; those of an earlier run stay")
    args = parser.parse_args()
    json_file = write(args.folder, args.images)
    megabytes = sum(path.stat().st_size for path in (args.folder / "images").iterdir()) / 1e6
    for decode in (False, True):
        start = time.perf_counter()
        findings = inspect_coco(
            str(json_file), str(args.folder / "images"), "benchmark", Options(decode=decode, workers=args.workers)
        ).findings
        seconds = time.perf_counter() - start
        kinds = {kind.name: len(found) for kind, found in findings.items()}
        print(
            f"{args.images} images ({megabytes:.0f} MB), {findings.objects} objects, {args.workers} threads, "
            f"{'decoded' if decode else 'not decoded'}: {seconds:.1f} s; found {kinds or 'nothing'}"
        )


def write(folder: Path, count: int) -> Path:
    """Writes the data set; returns its annotation file."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    content = {"images": [], "annotations": [], "categories": [{"id": k, "name": f"class {k}"} for k in range(1, 81)]}
    for number in tqdm(range(1, count + 1), desc="writing", disable=None):
        path = folder / "images" / f"{number:06d}.jpg"
        coarse = generator.integers(0, 255, (HEIGHT // 4, WIDTH // 4, 3), dtype=np.uint8)
        if not path.is_file():
            Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR).save(path, quality=90)
        content["images"].append({"id": number, "file_name": path.name, "width": WIDTH, "height": HEIGHT})
        for k in range(OBJECTS):
            content["annotations"].append(annotation(generator, number, number * OBJECTS + k))
    json_file = folder / "annotations.json"
    json_file.write_text(json.dumps(content))
    return json_file


def annotation(generator: np.random.Generator, image: int, number: int) -> dict:
    x, y = int(generator.integers(0, WIDTH - 100)), int(generator.integers(0, HEIGHT - 100))
    w, h = (int(v) for v in generator.integers(10, 100, 2))
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    corners = np.stack([x + w / 2 * (1 + np.cos(angles)), y + h / 2 * (1 + np.sin(angles))], axis=1)
    outline = corners.ravel().tolist()
    rle = mask_util.frPyObjects([outline], HEIGHT, WIDTH)[0]
    rle["counts"] = rle["counts"].decode()
    return {
        "id": number, "image_id": image, "category_id": int(generator.integers(1, 81)), "bbox": [x, y, w, h],
        "area": float(mask_util.area(rle)), "iscrowd": 0, "segmentation": [outline] if number % 2 else rle,
    }  # fmt: skip


if __name__ == "__main__":
    main()
