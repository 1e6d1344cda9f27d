"""Whole runs of ``densekit predict``: each kind of model, what they share with evaluation, tiles, bad pictures."""

import json
import shutil

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from densekit.cli import main
from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.files.panoptic_png import rgb2id

THRESHOLD = ("--score-threshold", "0")


def predict(*words) -> None:
    assert main(["predict", *map(str, words)]) == 0


def lines(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def stopped(*words) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["predict", *map(str, words)])
    return stop.value.code


def test_a_run_folder_is_enough(make_run, photos, tmp_path):
    predict(make_run("GeneralizedRCNN"), "--input", photos, "--output", tmp_path / "out", *THRESHOLD)
    found = lines(tmp_path / "out")
    names = ["a.png", "b.jpg", "c.png", "d.jpg", "e.png", "one/same.jpg", "two/same.jpg"]
    assert [line["file_name"] for line in found] == names
    results = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert results == [result for line in found for result in line["instances"]] and len(results) > 7
    ids = set(MetadataCatalog.get("coco_2017_val").thing_dataset_id_to_contiguous_id)
    assert {result["category_id"] for result in results} <= ids
    assert any(result["category_id"] > 80 for result in results) or len(ids) == 80
    for line in found:
        with Image.open(photos / line["file_name"]) as image:
            assert image.size == (line["width"], line["height"])
        assert all(r["segmentation"]["size"] == [line["height"], line["width"]] for r in line["instances"])


def test_scores_below_the_threshold_are_left_out_and_nothing_else(make_run, photos, tmp_path):
    run = make_run("GeneralizedRCNN")
    predict(run, "--input", photos, "--output", tmp_path / "all", *THRESHOLD)
    scores = sorted(r["score"] for line in lines(tmp_path / "all") for r in line["instances"])
    middle = scores[len(scores) // 2]
    predict(run, "--input", photos, "--output", tmp_path / "some", "--score-threshold", middle)
    for every, some in zip(lines(tmp_path / "all"), lines(tmp_path / "some")):
        assert some["instances"] == [r for r in every["instances"] if r["score"] >= middle]


def test_a_data_set_gets_what_its_evaluation_writes(make_run, photos, tmp_path):
    from densekit.checkpoint import Checkpointer
    from densekit.config import load_config
    from densekit.data import register_coco_instances
    from densekit.engine import Trainer
    from densekit.evaluation import COCOEvaluator

    images = [{"id": 70 - k, "file_name": name, "width": 0, "height": 0} for k, name in enumerate(["a.png", "b.jpg"])]
    for image in images:
        image["width"], image["height"] = Image.open(photos / image["file_name"]).size
    ids = MetadataCatalog.get("coco_2017_val").thing_dataset_id_to_contiguous_id
    categories = [{"id": key, "name": str(key)} for key in ids]
    (tmp_path / "own.json").write_text(json.dumps({"images": images, "annotations": [], "categories": categories}))
    register_coco_instances("own_photos", {}, tmp_path / "own.json", photos)
    run = make_run("GeneralizedRCNN")
    predict(run, "--dataset", "own_photos", "--output", tmp_path / "out", *THRESHOLD)

    opts = ["MODEL.WEIGHTS", str(run / "model_0000009.pth"), "DATASETS.TEST", "('own_photos',)"]
    cfg = load_config(str(run / "config.yaml"), [*opts, "OUTPUT_DIR", str(tmp_path / "eval")])
    model = Trainer.build_model(cfg)
    Checkpointer(model).load(cfg.MODEL.WEIGHTS)
    Trainer.test(cfg, model, [COCOEvaluator("own_photos", output_dir=str(tmp_path / "eval"))])
    theirs = json.loads((tmp_path / "eval" / "coco_instances_results.json").read_text())
    ours = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert {r["image_id"] for r in ours} == {69, 70}
    assert sorted(ours, key=json.dumps) == sorted(theirs, key=json.dumps)


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "named"])
def test_the_data_sets_of_a_run_are_known_by_their_names(make_run, photos, tmp_path, kept, monkeypatch, capsys):
    run = tmp_path / "run"
    shutil.copytree(make_run("GeneralizedRCNN"), run)
    catalog = (run / "datasets.yaml") if kept else (tmp_path / "mine.yaml")
    catalog.write_text(f"mine: {{form: images, images: {photos}}}\naway: {{form: images, images: nowhere}}\n")
    if not kept:
        config = run / "config.yaml"
        config.write_text(config.read_text().replace("CATALOG: ''", "CATALOG: mine.yaml"))
    monkeypatch.chdir(tmp_path)
    assert stopped(run, "--input", "mina", "--output", tmp_path / "none") == 2
    assert "name of no data set" in capsys.readouterr().err
    predict(run, "--input", "mine", "--output", tmp_path / "out", *THRESHOLD)
    assert [line["image_id"] for line in lines(tmp_path / "out")][:3] == ["a", "b", "c"]  # the names of form images
    assert stopped(run, "--input", "away", "--output", tmp_path / "none") == 2
    assert "nowhere" in capsys.readouterr().err
    # A file goes before a data set of its name.
    shutil.copytree(photos / "one", tmp_path / "mine")
    predict(run, "--input", "mine", "--output", tmp_path / "files", *THRESHOLD)
    assert [line["file_name"] for line in lines(tmp_path / "files")] == ["same.jpg"]


def test_label_maps_hold_the_ids_of_the_data_set(make_run, photos, tmp_path):
    from densekit.config import load_config
    from densekit.d2.engine import DefaultPredictor

    MetadataCatalog.get("soil").set(
        stuff_classes=["sand", "clay", "loam"], stuff_dataset_id_to_contiguous_id={300: 0, 7: 1, 90: 2}
    )
    DatasetCatalog.register("soil", lambda: [])
    run = make_run("SemanticSegmentor", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3, "DATASETS.TRAIN", ("soil",))
    predict(run, "--input", photos, "--output", tmp_path / "out", "--format", "semantic", "overlay")
    weights = ["MODEL.WEIGHTS", str(run / "model_0000009.pth")]
    predictor = DefaultPredictor(load_config(str(run / "config.yaml"), weights))
    seen = set()
    for name in ("a.png", "two/same.jpg"):
        pixels = np.asarray(Image.open(photos / name).convert("RGB"))[:, :, ::-1]
        numbers = predictor(pixels)["sem_seg"].argmax(dim=0).numpy()
        stem = name.rsplit(".", 1)[0]
        found = np.asarray(Image.open(tmp_path / "out" / "semantic" / f"{stem}.png"))
        assert np.array_equal(found, np.array([300, 7, 90])[numbers])
        assert (tmp_path / "out" / "overlay" / f"{stem}.jpg").is_file()
        seen |= set(np.unique(found).tolist())
    assert len(seen) > 1
    listed = json.loads((tmp_path / "out" / "semantic.json").read_text())
    assert listed["categories"][1] == {"id": 7, "name": "clay"} and len(listed["maps"]) == 7


def test_a_palette_colours_label_maps_later_and_is_refused_early(make_run, photos, tmp_path, capsys):
    MetadataCatalog.get("soil").set(
        stuff_classes=["sand", "clay", "loam"], stuff_colors=[[9, 0, 0], [0, 9, 0], [0, 0, 9]]
    )
    DatasetCatalog.register("soil", lambda: [])
    run = make_run("SemanticSegmentor", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3, "DATASETS.TRAIN", ("soil",))
    words = [run, "--input", photos / "a.png", "--output", tmp_path / "out"]
    predict(*words, "--format", "colours")

    def colours():
        with Image.open(tmp_path / "out" / "colours" / "a.png") as image:
            return np.asarray(image), np.asarray(image.convert("RGB"))

    ids = np.asarray(Image.open(tmp_path / "out" / "semantic" / "a.png"))
    found, drawn = colours()
    assert np.array_equal(found, ids) and np.array_equal(drawn, 9 * np.eye(3, dtype=np.uint8)[ids])
    palette = tmp_path / "mine.json"
    palette.write_text('{"clay": [1, 1, 1], "sand": [2, 2, 2], "loam": [3, 3, 3]}')
    predict(*words, "--format", "colours", "--palette", palette)
    found, drawn = colours()
    assert np.array_equal(found, ids) and np.array_equal(drawn[..., 0], np.array([2, 1, 3])[ids])
    assert json.loads((tmp_path / "out" / "colours.json").read_text())["categories"][1]["color"] == [1, 1, 1]
    palette.write_text('{"clay": [1, 1, 1], "loam": [3, 3, 3]}')
    for model, message in ((run, "no colour for the class 'sand'"), (make_run("GeneralizedRCNN"), "gives instances")):
        with pytest.raises(SystemExit):
            predict(model, *words[1:3], "--output", tmp_path / "new", "--palette", palette)
        assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_windows_scales_and_flips_are_those_of_the_python_interface(make_run, photos, tmp_path):
    from densekit.inference.predictor import Predictor

    keys = ("TEST.SEMANTIC.WINDOW", (48, 64), "TEST.SEMANTIC.SCALES", (0.75, 1.0), "TEST.SEMANTIC.FLIP", True)
    run = make_run("SemanticSegmentor", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 54, *keys)
    predict(run, "--input", photos / "a.png", "--output", tmp_path / "out", "--format", "semantic")
    scores = Predictor(run)(photos / "a.png")["sem_seg"]
    torch.testing.assert_close(scores.sum(dim=0), torch.ones(scores.shape[1:]))  # averages of probabilities
    ids = sorted({entry["id"] for entry in json.loads((tmp_path / "out" / "semantic.json").read_text())["categories"]})
    found = np.asarray(Image.open(tmp_path / "out" / "semantic" / "a.png"))
    assert set(np.unique(found)) <= set(ids)
    _, ours = np.unique(scores.argmax(dim=0).numpy(), return_inverse=True)
    pairs = set(zip(ours.ravel().tolist(), found.ravel().tolist()))
    assert len(pairs) == len({number for number, _ in pairs}) == len({key for _, key in pairs}) > 1


def test_panoptic_maps_and_their_json_agree(make_run, photos, tmp_path):
    run = make_run("PanopticFPN")
    predict(run, "--input", photos, "--output", tmp_path / "out", *THRESHOLD, "--format", "panoptic", "coco", "overlay")
    content = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert [image["file_name"] for image in content["images"]][-1] == "two/same.jpg"
    known = {category["id"] for category in content["categories"]}
    assert sum(len(annotation["segments_info"]) for annotation in content["annotations"])
    for annotation in content["annotations"]:
        ids = rgb2id(np.asarray(Image.open(tmp_path / "out" / "panoptic" / annotation["file_name"])))
        areas = {info["id"]: info["area"] for info in annotation["segments_info"]}
        assert {k: v for k, v in zip(*np.unique(ids, return_counts=True)) if k} == areas
        assert {info["category_id"] for info in annotation["segments_info"]} <= known
    assert len(list((tmp_path / "out" / "overlay").rglob("*.jpg"))) == 7


def test_without_formats_the_model_decides(make_run, photos, tmp_path):
    predict(make_run("PanopticFPN"), "--input", photos / "a.png", "--output", tmp_path / "all")
    expected = {"coco_instances_results.json", "panoptic.json", "semantic.json", "panoptic", "semantic"}
    assert {p.name for p in (tmp_path / "all").iterdir()} == expected | {"predictions.jsonl", "settings.json"}
    assert (
        stopped(make_run("SemanticSegmentor"), "--input", photos, "--output", tmp_path / "x", "--format", "yolo") == 2
    )
    assert stopped(make_run("PanopticFPN"), "--input", photos, "--output", tmp_path / "y", "--tile", 40) == 2


@pytest.mark.parametrize("architecture", ["GeneralizedRCNN", "SemanticSegmentor"])
def test_a_tile_that_holds_the_picture_changes_nothing(make_run, photos, tmp_path, architecture):
    words = (make_run(architecture), "--input", photos, *THRESHOLD, "--batch-size", 3, "--output")
    predict(*words, tmp_path / "whole")
    predict(*words, tmp_path / "tiled", "--tile", 120)
    assert (tmp_path / "whole" / "predictions.jsonl").read_bytes() == (
        tmp_path / "tiled" / "predictions.jsonl"
    ).read_bytes()
    for path in (tmp_path / "whole" / "semantic").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "tiled" / path.relative_to(tmp_path / "whole")).read_bytes()


def test_tiles_cover_large_pictures(make_run, photos, tmp_path):
    words = ("--input", photos / "c.png", *THRESHOLD, "--tile", 40, "--batch-size", 2, "--output", tmp_path / "out")
    predict(make_run("GeneralizedRCNN"), *words, "--format", "coco_full", "overlay")
    full = COCO(str(tmp_path / "out" / "coco_full.json"))
    masks = [full.annToMask(annotation) for annotation in full.loadAnns(full.getAnnIds())]
    assert {mask.shape for mask in masks} == {(50, 120)}
    covered = np.any(masks, axis=0)
    assert covered[:, :40].any() and covered[:, 80:].any()


def test_bad_pictures_are_named_and_skipped(make_run, photos, tmp_path, capsys):
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "a.png").write_bytes((photos / "a.png").read_bytes())
    (bad / "broken.jpg").write_bytes((photos / "b.jpg").read_bytes()[:300])
    (bad / "empty.png").write_bytes(b"")
    words = (make_run("GeneralizedRCNN"), "--input", bad, "--output", tmp_path / "out", "--batch-size", 3)
    assert stopped(*words) == 1
    first, second = (tmp_path / "out" / "unreadable.txt").read_text().splitlines()
    assert "broken.jpg cannot be read: " in first and "empty.png cannot be read: " in second
    assert [line["file_name"] for line in lines(tmp_path / "out")] == ["a.png"]
    # The same command takes them in once they are repaired.
    for name in ("broken.jpg", "empty.png"):
        (bad / name).write_bytes((photos / "b.jpg").read_bytes())
    predict(*words)
    assert [line["file_name"] for line in lines(tmp_path / "out")] == ["a.png", "broken.jpg", "empty.png"]
    assert not (tmp_path / "out" / "unreadable.txt").exists()
    (bad / "empty.png").write_bytes(b"no picture")
    assert stopped(*words, "--strict") == 2
    assert "empty.png" in capsys.readouterr().err


def test_a_changed_picture_is_predicted_again(make_run, photos, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name, source in (("x.png", "a.png"), ("y.png", "c.png")):
        (folder / name).write_bytes((photos / source).read_bytes())
    words = (make_run("GeneralizedRCNN"), "--input", folder, *THRESHOLD, "--output")
    predict(*words, tmp_path / "out")
    (folder / "y.png").write_bytes((photos / "e.png").read_bytes())
    predict(*words, tmp_path / "out")
    predict(*words, tmp_path / "fresh")
    assert (tmp_path / "out" / "predictions.jsonl").read_bytes() == (
        tmp_path / "fresh" / "predictions.jsonl"
    ).read_bytes()


def test_other_settings_are_refused_by_name_and_replaced_on_demand(make_run, photos, tmp_path, capsys):
    run, out = make_run("GeneralizedRCNN"), tmp_path / "out"
    predict(run, "--input", photos, "--output", out, "--format", "labelme")
    (out / "notes.txt").write_text("mine")
    for words, named in (
        (("--input", photos, "--score-threshold", "0.25"), "score_threshold: 0.5 there, 0.25 now"),
        (("--input", photos, "INPUT.MIN_SIZE_TEST", "72"), "INPUT.MIN_SIZE_TEST: 64 there, 72 now"),
        (("--input", photos / "one"), "6 are gone"),
        (("--input", photos, "--weights", make_run("GeneralizedRCNN", "SEED", 1) / "config.yaml"), "config.yaml"),
    ):
        assert stopped(run, *words, "--output", out) == 2
        assert named in capsys.readouterr().err
    predict(run, "--input", photos / "one", "--output", out, "--overwrite")
    assert [line["file_name"] for line in lines(out)] == ["same.jpg"]
    assert not (out / "labelme").exists() and (out / "notes.txt").read_text() == "mine"
    assert stopped(run, "--input", photos, "--output", photos / "one") == 2
    assert "not empty" in capsys.readouterr().err


def test_a_format_that_does_not_exist_is_refused_before_anything_is_loaded(photos, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model_final.pth").write_text("nobody reads this")
    assert stopped(tmp_path / "run", "--input", photos, "--format", "coco", "lableme", "MODEL.DEVICE", "cpu") == 2
    assert "--format lableme: the formats are coco, coco_full" in capsys.readouterr().err


def test_outputs_and_scores_that_cannot_be_are_one_message(make_run, photos, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("mine")
    for words, message in (
        (("--output", tmp_path / "a.txt"), "is a file; give a folder"),
        (("--output", "/proc/none"), "/proc/none cannot be written"),
        (("--output", tmp_path / "out", "--score-threshold", "3"), "from 0 to 1"),
    ):
        assert stopped(make_run("GeneralizedRCNN"), "--input", photos, *words) == 2
        assert message in capsys.readouterr().err


def test_further_formats_come_without_the_model(make_run, photos, tmp_path, monkeypatch):
    words = (make_run("GeneralizedRCNN"), "--input", photos, "--output", tmp_path / "out", *THRESHOLD)
    predict(*words)
    before = (tmp_path / "out" / "predictions.jsonl").read_bytes()
    monkeypatch.setattr(
        "densekit.inference.prediction_run.predict_batches", lambda *_, **__: pytest.fail("the model ran")
    )
    predict(*words, "--format", "coco_full", "yolo", "labelme")
    assert (tmp_path / "out" / "predictions.jsonl").read_bytes() == before
    full = COCO(str(tmp_path / "out" / "coco_full.json"))
    found = [json.loads(line) for line in before.decode().splitlines()]
    results = [result for line in found for result in line["instances"]]
    for annotation, result in zip(full.loadAnns(full.getAnnIds()), results, strict=True):
        assert annotation["score"] == result["score"] and annotation["bbox"] == result["bbox"]
        assert annotation["area"] == mask_utils.area(result["segmentation"])
    assert (tmp_path / "out" / "yolo" / "labels" / "one" / "same.txt").is_file()
    label = json.loads((tmp_path / "out" / "labelme" / "two" / "same.json").read_text())
    assert (tmp_path / "out" / "labelme" / "two" / label["imagePath"]).resolve() == photos / "two" / "same.jpg"


def test_the_names_that_training_wrote_go_with_the_weights(make_run, photos, tmp_path):
    run = make_run("GeneralizedRCNN", "MODEL.ROI_HEADS.NUM_CLASSES", 3, "DATASETS.TRAIN", ("gone_train",))
    words = (run, "--input", photos, *THRESHOLD, "--format", "coco_full", "labelme", "--output")
    predict(*words, tmp_path / "numbered")
    classes = [{"index": k, "id": 10 * k + 5, "name": name} for k, name in enumerate(["oak", "elm", "ash"])]
    (run / "classes.json").write_text(json.dumps({"dataset": "gone_train", "thing_classes": classes}))
    predict(*words, tmp_path / "named")
    numbered, named = (json.loads((tmp_path / name / "coco_full.json").read_text()) for name in ("numbered", "named"))
    assert {c["id"]: c["name"] for c in numbered["categories"]} == {0: "class 0", 1: "class 1", 2: "class 2"}
    assert {c["id"]: c["name"] for c in named["categories"]} == {5: "oak", 15: "elm", 25: "ash"}
    found = [annotation["category_id"] for annotation in numbered["annotations"]]
    assert [10 * k + 5 for k in found] == [annotation["category_id"] for annotation in named["annotations"]]
    labels = {shape["label"] for path in (tmp_path / "named" / "labelme").rglob("*.json")
              for shape in json.loads(path.read_text())["shapes"]}  # fmt: skip
    assert labels and labels <= {"oak", "elm", "ash"}
    (run / "classes.json").write_text("{")
    assert stopped(*words, tmp_path / "damaged") == 2
    (run / "classes.json").unlink()


def test_every_shared_mapper_says_how_it_resizes():
    from densekit.config import load_config
    from densekit.data import MAPPERS
    from densekit.data.mapper import inference_augmentations

    shared = [name for name, mapper in MAPPERS if mapper.__module__.startswith("densekit.data.")]
    shared.remove("ImageClassMapper")  # cuts a square from the middle
    assert shared  # those of rooms crop or pad as their systems do
    for name in shared:
        assert "ResizeShortestEdge" in repr(inference_augmentations(load_config("", ["INPUT.MAPPER", name]))), name


def test_a_panoptic_model_follows_the_keys_of_views(make_run, photos, tmp_path):
    from densekit.inference.predictor import Predictor

    keys = ("TEST.SEMANTIC.WINDOW", (48, 48), "TEST.SEMANTIC.SCALES", (1.0, 1.5), "TEST.SEMANTIC.FLIP", True)
    run = make_run("PanopticFPN", *keys)
    predict(run, "--input", photos / "a.png", "--output", tmp_path / "out", *THRESHOLD)
    found = Predictor(run)(photos / "a.png")
    torch.testing.assert_close(found["sem_seg"].sum(dim=0), torch.ones(found["sem_seg"].shape[1:]))
    ids = rgb2id(np.asarray(Image.open(tmp_path / "out" / "panoptic" / "a.png")))
    assert np.array_equal(ids, found["panoptic_seg"][0].numpy())
    labels = np.asarray(Image.open(tmp_path / "out" / "semantic" / "a.png"))
    _, ours = np.unique(found["sem_seg"].argmax(dim=0).numpy(), return_inverse=True)
    assert len(set(zip(ours.ravel().tolist(), labels.ravel().tolist()))) == len(np.unique(labels)) > 1
    results = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert len(results) == len(found["instances"])
