"""Random panoptic scenes, and what cityscapesscripts, whose core is COCO's official one, says about them."""

import contextlib
import io

import numpy as np
from cityscapesscripts.evaluation import evalPanopticSemanticLabeling as script

from densekit.files.panoptic_png import write_panoptic_png
from densekit.metrics.panoptic_quality import TrueSegment

CATEGORIES = {7: 0, 11: 0, 21: 0, 24: 1, 26: 1, 33: 1}  # id -> whether it is a thing


def random_image(rng, shape=(30, 40), crowds=1):
    """Annotated rectangles over void, and a prediction that moves, drops, merges, invents and relabels them."""
    true_ids, predicted_ids = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    truth, predicted = {}, {}
    crowd_left = dict.fromkeys(CATEGORIES, crowds)
    for key in rng.permutation(2000)[: rng.integers(0, 9)].tolist():
        y, x, h, w = rng.integers(0, 20), rng.integers(0, 30), rng.integers(1, 20), rng.integers(1, 20)
        category = int(rng.choice(list(CATEGORIES)))
        crowd = CATEGORIES[category] == 1 and rng.random() < 0.3 and crowd_left[category] > 0
        crowd_left[category] -= int(crowd)
        true_ids[y : y + h, x : x + w] = key + 1
        truth[key + 1] = TrueSegment(category, bool(crowd))
        dy, dx = rng.integers(-2, 3, 2)
        if rng.random() < 0.8:
            other = int(rng.integers(1, 6)) * 65536 + key
            predicted_ids[max(y + dy, 0) : y + dy + h, max(x + dx, 0) : x + dx + w] = other
            predicted[other] = category if rng.random() < 0.8 else int(rng.choice(list(CATEGORIES)))
    visible = set(np.unique(true_ids).tolist())
    truth = {key: segment for key, segment in truth.items() if key in visible}
    visible = set(np.unique(predicted_ids).tolist())
    return true_ids, truth, predicted_ids, {k: c for k, c in predicted.items() if k in visible}


def annotation(number, ids, truth):
    """The entry of COCO's panoptic JSON."""
    segments = [
        {
            "id": key,
            "category_id": segment.category,
            "iscrowd": int(segment.is_crowd),
            "area": int((ids == key).sum()),
        }
        for key, segment in truth.items()
    ]
    return {"image_id": number, "file_name": f"{number}.png", "segments_info": segments}


def cityscapes_script(folder, images, categories):
    """The numbers of all classes together and of each, for the images of :func:`random_image` as files."""
    pairs = []
    for number, (true_ids, truth, predicted_ids, predicted) in enumerate(images):
        for part, ids in (("truth", true_ids), ("predicted", predicted_ids)):
            (folder / part).mkdir(exist_ok=True)
            write_panoptic_png(folder / part / f"{number}.png", ids)
        segments = [{"id": key, "category_id": value} for key, value in predicted.items()]
        entry = {"image_id": number, "file_name": f"{number}.png", "segments_info": segments}
        pairs.append((annotation(number, true_ids, truth), entry))
    return official_quality(pairs, folder / "truth", folder / "predicted", categories)


def official_quality(pairs, true_folder, predicted_folder, categories, isthing=None):
    table = {key: {"isthing": thing} for key, thing in categories.items()}
    with contextlib.redirect_stdout(io.StringIO()):
        counts = script.pq_compute_single_core(0, pairs, str(true_folder), str(predicted_folder), table)
        return counts.pq_average(table, isthing=isthing)
