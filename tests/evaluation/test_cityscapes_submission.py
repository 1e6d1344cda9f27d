"""``densekit submit``: what goes into the zip file, and what is refused."""

import json
import zipfile

import cv2
import numpy as np
import pytest

from densekit.cli import main
from densekit.d2.data import DatasetCatalog, MetadataCatalog
from tests import cityscapes_scenes as scenes


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return scenes.make_tree(tmp_path_factory.mktemp("tree"), frames=4)


def predict(root, folder, *kinds):
    for kind in kinds:
        make, output = scenes.EVALUATORS[kind]
        evaluator = make(root, folder)
        for item in scenes.images(root):
            evaluator.process([item], [{scenes.OUTPUTS[kind]: output(item)}])
        evaluator.evaluate()


def submit(*arguments):
    return main(["submit", *map(str, arguments)])


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        submit(*arguments)
    assert stop.value.code == 2
    assert not arguments[arguments.index("--output") + 1].exists()
    return capsys.readouterr().err


def test_the_zip_holds_the_predictions_of_every_frame_as_they_are(root, tmp_path, capsys):
    run = tmp_path / "run"
    predict(root, run / "inference" / "city", *scenes.EVALUATORS)
    folder, images = run / "inference/city", root / "leftImg8bit/val"
    frames = {item["image_id"] for item in scenes.images(root)}
    expected = {
        "semantic": {f"{frame}_pred.png" for frame in frames},
        "instances": {f"{frame}_pred.txt" for frame in frames}
        | {path.relative_to(folder / "instances").as_posix() for path in (folder / "instances").rglob("*.png")},
        "panoptic": {"cityscapes_panoptic_val.json"}
        | {f"cityscapes_panoptic_val/{frame}_gtFine_panoptic.png" for frame in frames},
    }
    for kind, names in expected.items():
        target = tmp_path / f"{kind}.zip"
        assert submit(run, "--kind", kind, "--images", images, "--output", target) == 0
        assert "4 frames" in capsys.readouterr().out
        with zipfile.ZipFile(target) as archive:
            assert set(archive.namelist()) == names
            assert all(archive.read(name) == (folder / kind / name).read_bytes() for name in names)
    # A set of predictions that is not named, and a zip file that is there already.
    message = refused(capsys, run, "--images", images, "--output", tmp_path / "any.zip")
    assert all(f"city/{kind}" in message for kind in expected)
    with pytest.raises(SystemExit):
        submit(folder / "semantic", "--images", images, "--output", target)
    assert "--overwrite" in capsys.readouterr().err
    assert submit(folder / "semantic", "--images", images, "--output", target, "--overwrite") == 0


def test_the_scripts_score_what_was_packed(root, tmp_path):
    predict(root, tmp_path / "city", "semantic")
    submit(tmp_path, "--images", root / "leftImg8bit/val", "--output", tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        archive.extractall(tmp_path / "server")
    text = scenes.run_script("evalPixelLevelSemanticLabeling", tmp_path / "cli", root, tmp_path / "server")
    assert "Evaluating 4 pairs" in text and "Score Average" in text


def test_the_images_are_those_of_the_data_set_that_the_folder_is_named_after(root, tmp_path, capsys):
    run = tmp_path / "inference" / "city_named"
    predict(root, run, "semantic")
    assert "--images" in refused(capsys, run, "--output", tmp_path / "a.zip")
    DatasetCatalog.register("city_named", list)
    MetadataCatalog.get("city_named").image_dir = str(root / "leftImg8bit/val")
    assert submit(run, "--output", tmp_path / "a.zip") == 0


def test_own_trees_are_those_that_the_run_has_kept(root, tmp_path, capsys):
    folder = tmp_path / "run" / "inference" / "mine"
    predict(root, folder, "semantic")
    entry = f"mine: {{form: cityscapes, root: {root}, split: val, task: sem_seg}}\n"
    (tmp_path / "mine.yaml").write_text(entry)
    assert submit(tmp_path / "run", "--datasets", tmp_path / "mine.yaml", "--output", tmp_path / "a.zip") == 0
    DatasetCatalog.remove("mine")
    (tmp_path / "run" / "config.yaml").write_text("MODEL: {}\n")
    assert "--images" in refused(capsys, tmp_path / "run", "--output", tmp_path / "b.zip")
    (tmp_path / "run" / "datasets.yaml").write_text(entry + "away: {form: images, images: nowhere}\n")
    assert submit(folder, "--output", tmp_path / "b.zip") == 0


def test_missing_frames_are_counted_and_named(root, tmp_path, capsys):
    predict(root, tmp_path / "city", *scenes.EVALUATORS)
    lost = scenes.images(root)[1]["image_id"]
    for kind in scenes.EVALUATORS:
        path = next(path for path in sorted((tmp_path / "city" / kind).rglob(f"{lost}_*")) if path.is_file())
        path.unlink()
        options = (tmp_path, "--kind", kind, "--images", root / "leftImg8bit/val", "--output", tmp_path / "a.zip")
        message = refused(capsys, *options)
        assert "1 of 4 frames" in message and str(path) in message
    document = tmp_path / "city/panoptic/cityscapes_panoptic_val.json"
    content = json.loads(document.read_text())
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] != lost]
    document.write_text(json.dumps(content))
    assert f"no annotation with the image_id '{lost}'" in refused(capsys, *options)


def change(path, edit):
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(path), edit(image))


def spoil_semantic_value(folder, frame):
    change(folder / f"semantic/{frame}_pred.png", lambda image: image + 200)


def spoil_semantic_size(folder, frame):
    change(folder / f"semantic/{frame}_pred.png", lambda image: image[1:])


def spoil_semantic_channels(folder, frame):
    change(folder / f"semantic/{frame}_pred.png", lambda image: np.stack([image] * 3, axis=-1))


def spoil_semantic_file(folder, frame):
    path = folder / f"semantic/{frame}_pred.png"
    path.write_bytes(path.read_bytes()[:60])


def spoil_instances_line(folder, frame):
    path = folder / f"instances/{frame}_pred.txt"
    path.write_text(path.read_text() + "a mask with spaces.png 24 0.5\n")


def spoil_instances_label(folder, frame):
    (folder / f"instances/{frame}_pred.txt").write_text(f"{frame}/000.png 7 0.5\n")


def spoil_instances_path(folder, frame):
    (folder / f"instances/{frame}_pred.txt").write_text("../semantic/a.png 24 0.5\n")


def spoil_instances_mask(folder, frame):
    change(folder / f"instances/{frame}/000.png", lambda image: image // 2 + 1)


def spoil_instances_missing_mask(folder, frame):
    (folder / f"instances/{frame}/000.png").unlink()


def spoil_panoptic_segments(folder, frame):
    change(folder / f"panoptic/cityscapes_panoptic_val/{frame}_gtFine_panoptic.png", lambda image: image * 0 + 9)


def spoil_panoptic_category(folder, frame):
    path = folder / "panoptic/cityscapes_panoptic_val.json"
    path.write_text(path.read_text().replace('"category_id": 7,', '"category_id": 9,'))


def spoil_panoptic_document(folder, frame):
    (folder / "panoptic/cityscapes_panoptic_val.json").rename(folder / "panoptic/other.json")


SPOILERS = {
    spoil_semantic_value: "no label ids",
    spoil_semantic_size: "127 pixels, but its image",
    spoil_semantic_channels: "3 channels",
    spoil_semantic_file: "cannot be read: image file is truncated",
    spoil_instances_line: "is not 'mask labelID score'",
    spoil_instances_label: "label 7",
    spoil_instances_path: "has to be a relative path",
    spoil_instances_mask: "0 and 255",
    spoil_instances_missing_mask: "000.png is missing",
    spoil_panoptic_segments: "does not have the segments",
    spoil_panoptic_category: "not evaluated",
    spoil_panoptic_document: "one JSON file",
}


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda spoil: spoil.__name__)
def test_what_the_benchmark_could_not_use_is_refused(root, tmp_path, capsys, spoil):
    kind = spoil.__name__.split("_")[1]
    predict(root, tmp_path / "city", kind)
    frame = max(scenes.images(root), key=lambda item: len(scenes.instances(item)))["image_id"]
    spoil(tmp_path / "city", frame)
    message = refused(capsys, tmp_path, "--images", root / "leftImg8bit/val", "--output", tmp_path / "a.zip")
    assert SPOILERS[spoil] in message
    assert list(tmp_path.glob(".a.zip*")) == []
