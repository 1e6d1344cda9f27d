"""Classes of whole images from a folder to a prediction: the form, the check, a run that resumes, and predictions."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from densekit.cli import main
from densekit.config import load_config
from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.data import check_datasets, register_dataset
from densekit.data.image_classes import MiddleCut, RandomCut
from densekit.engine import Trainer, setup
from densekit.evaluation.image_classes import ImageClassEvaluator
from densekit.run_options import RunOptions

CONFIG = str(Path(__file__).resolve().parents[1] / "configs/quickstart/classifier_R_18_photos.yaml")
COLOURS = {"blue": (40, 40, 200), "green": (40, 180, 60), "red": (210, 50, 40)}
SMALL = ["INPUT.CUT.SIZE", "32", "SOLVER.IMS_PER_BATCH", "4", "SOLVER.WARMUP_ITERS", "0", "DATALOADER.NUM_WORKERS", "0"]
SMALL += ["MODEL.FPN.OUT_CHANNELS", "16", "SEED", "4"]


@pytest.fixture
def photos(tmp_path) -> Path:
    """Pictures of noise around a colour, in folders named after it."""
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for name, colour in COLOURS.items():
            folder = tmp_path / "photos" / split / name / "deep"
            folder.mkdir(parents=True)
            for number in range(count):
                noise = random.integers(-30, 30, (40, 36 + 8 * number, 3))
                Image.fromarray((noise + colour).clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "photos"


def options(photos, folder, *opts, **fields) -> RunOptions:
    data = {"train_data": f"form: classes, images: {photos}/train", "val_data": f"form: classes, images: {photos}/val"}
    return RunOptions(config_file=CONFIG, opts=[*SMALL, "OUTPUT_DIR", str(folder), *map(str, opts)], **data, **fields)


def train(photos, folder, *opts, **fields):
    trainer = Trainer(setup(options(photos, folder, *opts, **fields)))
    trainer.resume_or_load(resume=fields.get("resume", False))
    trainer.train()
    return trainer


def test_a_folder_is_a_class(photos):
    register_dataset("photos_here", "classes", images=str(photos / "train"))
    records = DatasetCatalog.get("photos_here")
    assert MetadataCatalog.get("photos_here").thing_classes == ["blue", "green", "red"]
    assert len(records) == 12
    for record in records:
        name = Path(record["file_name"]).relative_to(photos / "train").parts[0]
        assert ["blue", "green", "red"][record["category_id"]] == name == record["image_id"].split("/")[0]
        with Image.open(record["file_name"]) as image:
            assert image.size == (record["width"], record["height"])


def test_classes_may_be_listed_with_numbers_of_their_own(photos):
    register_dataset("photos_listed", "classes", images=str(photos / "val"), classes={7: "red", 3: "blue", 5: "green"})
    numbers = MetadataCatalog.get("photos_listed").thing_dataset_id_to_contiguous_id
    for record in DatasetCatalog.get("photos_listed"):
        word = record["image_id"].split("/")[0]
        assert record["category_id"] == numbers[{"red": 7, "blue": 3, "green": 5}[word]]


def test_pictures_of_no_class_are_named(photos):
    register_dataset("photos_two", "classes", images=str(photos / "val"), classes=["blue", "red"])
    with pytest.raises(ValueError, match="'green'"):
        DatasetCatalog.get("photos_two")
    (photos / "val" / "red" / "deep" / "0.png").rename(photos / "val" / "stray.png")
    register_dataset("photos_stray", "classes", images=str(photos / "val"))
    with pytest.raises(ValueError, match=r"stray\.png lies in no class's folder"):
        DatasetCatalog.get("photos_stray")
    with pytest.raises(ValueError, match="has no folders"):
        register_dataset("photos_flat", "classes", images=str(photos / "val" / "red" / "deep"))


def test_check_counts_the_images_of_each_class(photos, capsys):
    catalog = photos / "photos.yaml"
    catalog.write_text("checked: {form: classes, images: train, classes: [blue, green, red, violet]}\n")
    (photos / "train" / "red" / "deep" / "0.png").write_bytes(b"no picture")
    assert main(["check", "checked", "--datasets", str(catalog), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["classes"]["counts"] == {"blue": 4, "green": 4, "red": 3, "violet": 0}
    kinds = {finding["kind"] for finding in found["findings"]}
    assert {"class-unused", "file-refused"} <= kinds


def test_a_detector_says_that_there_are_no_objects(photos):
    register_dataset("photos_objects", "classes", images=str(photos / "train"))
    detector = CONFIG.replace("classifier_R_18_photos", "faster_rcnn_R_18_FPN_bccd")
    opts = ["DATASETS.TRAIN", "('photos_objects',)", "DATASETS.TEST", "()", "MODEL.ROI_HEADS.NUM_CLASSES", 3]
    with pytest.raises(ValueError, match="'photos_objects' has none"):
        check_datasets(load_config(detector, opts))


def test_cuts_stay_inside_and_keep_their_ranges():
    image = np.arange(50 * 80 * 3, dtype=np.uint8).reshape(50, 80, 3)
    for _ in range(50):
        cut, resize = RandomCut(16, (0.2, 0.6), (0.5, 2.0)).get_transform(image).transforms
        assert 0 <= cut.x0 <= 80 - cut.w and 0 <= cut.y0 <= 50 - cut.h
        assert 0.2 * 0.9 <= cut.w * cut.h / 4000 <= 0.6 * 1.1 and 0.5 * 0.9 <= cut.w / cut.h <= 2.0 * 1.1
        assert resize.apply_image(cut.apply_image(image)).shape == (16, 16, 3)
    narrow = np.zeros((4, 400, 3), dtype=np.uint8)
    cut, _ = RandomCut(8, (0.9, 1.0), (0.75, 1.25)).get_transform(narrow).transforms
    assert (cut.w, cut.h) == (5, 4) and cut.x0 == 197
    cut, _ = MiddleCut(8, 0.5).get_transform(image).transforms
    assert (cut.x0, cut.y0, cut.w, cut.h) == (27, 12, 25, 25) or (cut.x0, cut.y0) == (28, 13)


def test_accuracy_against_a_slow_reference(tmp_path):
    classes = [f"class {k}" for k in range(7)]
    random = np.random.default_rng(1)
    records = [
        {"file_name": f"{k}.png", "image_id": str(k), "category_id": int(random.integers(6)), "height": 4, "width": 4}
        for k in range(30)
    ]
    DatasetCatalog.register("accuracies", lambda: records)
    MetadataCatalog.get("accuracies").set(
        thing_classes=classes, thing_dataset_id_to_contiguous_id={10 * k + 5: k for k in range(7)}
    )
    scores = torch.rand(30, 7)
    evaluator = ImageClassEvaluator("accuracies", str(tmp_path), distributed=False)
    for k in [*range(29, -1, -1), 0]:  # in another order, and one twice, as padded samplers give it
        evaluator.process([records[k]], [{"class_scores": scores[k]}])
    found = evaluator.evaluate()["image_classes"]
    ranks = [
        sum(float(value) > float(scores[k][record["category_id"]]) for value in scores[k])
        for k, record in enumerate(records)
    ]
    assert found["top1"] == pytest.approx(100 * sum(rank == 0 for rank in ranks) / 30)
    assert found["top5"] == pytest.approx(100 * sum(rank < 5 for rank in ranks) / 30)
    own = [rank == 0 for rank, record in zip(ranks, records) if record["category_id"] == 2]
    assert found["top1-class 2"] == pytest.approx(100 * sum(own) / len(own))
    assert np.isnan(found["top1-class 6"])
    written = json.loads((tmp_path / "image_class_predictions.json").read_text())
    assert [entry["image_id"] for entry in written] == [str(k) for k in range(30)]
    best = [entry["classes"][0]["category_id"] for entry in written]
    assert best == [10 * int(row.argmax()) + 5 for row in scores]
    evaluator.reset()
    evaluator.process(records[:3], [{"class_scores": scores[k]} for k in range(3)])
    with pytest.raises(ValueError, match="27 images"):
        evaluator.evaluate()


def test_a_run_with_mixed_images_resumes_exactly_and_its_folder_predicts(photos, tmp_path):
    steps = ["SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 2, "MODEL.CLASSIFIER.MIXUP", 0.4]
    train(photos, tmp_path / "whole", *steps)
    (tmp_path / "half").mkdir()
    for name, text in (("model_0000001.pth", None), ("last_checkpoint", "model_0000001.pth")):
        content = (tmp_path / "whole" / name).read_bytes() if text is None else text.encode()
        (tmp_path / "half" / name).write_bytes(content)
    train(photos, tmp_path / "half", *steps, resume=True)
    ends = [torch.load(tmp_path / name / "model_final.pth", weights_only=True)["model"] for name in ("whole", "half")]
    assert ends[0]["classifier.weight"].shape[0] == 3
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())

    words = ["predict", str(tmp_path / "whole"), "--input", str(photos / "val"), "--output", str(tmp_path / "out")]
    assert main(words) == 0
    found = json.loads((tmp_path / "out" / "image_classes.json").read_text())
    assert len(found) == 6
    for entry in found:
        assert {one["name"] for one in entry["classes"]} == set(COLOURS)
        scores = [one["score"] for one in entry["classes"]]
        assert scores == sorted(scores, reverse=True) and sum(scores) == pytest.approx(1.0, abs=1e-5)
    evaluated = json.loads(next((tmp_path / "whole" / "inference").rglob("image_class_predictions.json")).read_text())
    by_name = {Path(entry["file_name"]).name + entry["image_id"].split("/")[0]: entry for entry in evaluated}
    for entry in found:
        same = by_name[Path(entry["file_name"]).name + Path(entry["file_name"]).parts[0]]
        assert [one["score"] for one in same["classes"]] == pytest.approx([one["score"] for one in entry["classes"]])
