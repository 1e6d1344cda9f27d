"""Public semantic data sets from tiny trees that look like their downloads."""

import json

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from densekit.cli import main
from densekit.data.citypersons import CLASSES, citypersons_entries
from densekit.data.labels import load_sem_seg
from densekit.data.registry import register
from densekit.data.semantic_classes import ADE20K, PASCAL_CONTEXT, PASCAL_CONTEXT_IDS, coco_stuff_classes
from densekit.data.semantic_sets import semantic_set_entries

SIZE = (4, 6)


def picture(path, value=90):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*SIZE, 3), value, np.uint8)).save(path)


def columns(values, dtype):
    """A label map that has these values in columns, repeated."""
    return np.broadcast_to(np.resize(np.array(values, dtype), SIZE[1]), SIZE).copy()


def label_file(path, *values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(columns(values, np.uint8)).save(path)


def text(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def mat(path, **content):
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, content)


def entry(root, name):
    return next(entry for entry in semantic_set_entries(str(root)) if entry.name == name)


def read(root, name):
    """The records of a data set and the first row of each label map, with the names of its classes."""
    made = entry(root, name)
    names = [*made.metadata["stuff_classes"], *[None] * 256]
    return {r["image_id"]: [names[v] for v in load_sem_seg(r)[0].tolist()] for r in made.load()}


def test_numbers_of_classes():
    counts = {e.name.rsplit("_sem_seg_", 1)[0]: len(e.metadata["stuff_classes"]) for e in semantic_set_entries("x")}
    assert counts == {"ade20k": 150, "voc_2012": 21, "voc_2012_aug": 21, "pascal_context_59": 59, "camvid": 11,
                      "pascal_context_60": 60, "coco_stuff_164k": 171, "coco_stuff_10k": 171}  # fmt: skip
    assert all(len({*e.metadata["stuff_classes"]}) == len(e.metadata["stuff_classes"]) or e.name.startswith("ade20k")
               for e in semantic_set_entries("x"))  # fmt: skip
    stuff = coco_stuff_classes()  # numbers that the lists of the authors have
    assert (stuff[1], stuff[13], stuff[90], stuff[92], stuff[182]) == (
        "person", "stop sign", "toothbrush", "banner", "wood")  # fmt: skip


def test_ade20k_from_the_download_and_as_detectron2_has_it(tmp_path):
    tree = tmp_path / "ADEChallengeData2016"
    picture(tree / "images/training/ADE_train_00000001.jpg")
    label_file(tree / "annotations/training/ADE_train_00000001.png", 0, 1, 150)
    expected = {"ADE_train_00000001": [None, "wall", "flag"] * 2}
    assert read(tmp_path, "ade20k_sem_seg_train") == expected
    (tree / "annotations/validation").mkdir()
    assert main(["prepare", "ade20k", "--root", str(tmp_path), "--quiet"]) == 0
    made = np.asarray(Image.open(tree / "annotations_detectron2/training/ADE_train_00000001.png"))
    assert made[0, :3].tolist() == [255, 0, 149]
    (tree / "annotations/training/ADE_train_00000001.png").unlink()
    assert read(tmp_path, "ade20k_sem_seg_train") == expected
    assert ADE20K[8] == "window "


def test_check_reads_what_training_reads(tmp_path, capsys):
    tree = tmp_path / "ADEChallengeData2016"
    picture(tree / "images/training/a.jpg")
    label_file(tree / "annotations/training/a.png", 0, 1, 150)
    made = entry(tmp_path, "ade20k_sem_seg_train")
    register(made._replace(name=f"{tmp_path.name}_ade20k"))
    assert main(["check", f"{tmp_path.name}_ade20k"]) == 0
    label_file(tree / "annotations/training/a.png", 0, 1, 151)
    assert main(["check", f"{tmp_path.name}_ade20k"]) == 1
    assert "151" in capsys.readouterr().out


def test_pascal_context(tmp_path, capsys):
    tree = tmp_path / "VOC2010"
    for name in ("2008_000001", "2008_000002", "2008_000003"):
        picture(tree / f"JPEGImages/{name}.jpg")
    for name in ("2008_000001", "2008_000002"):
        ids = np.array([0, 2, 1, 458, 397, 459], np.uint16)
        mat(tree / f"trainval/{name}.mat", LabelMap=np.broadcast_to(ids, SIZE))
    text(tree / "ImageSets/Main/train.txt", "2008_000001", "2008_000003")
    text(tree / "ImageSets/Main/val.txt", "2008_000002")
    assert main(["prepare", "pascal_context", "--root", str(tmp_path), "--quiet"]) == 0
    assert "2 pictures" in capsys.readouterr().out
    row = ["aeroplane", None, "wood", "table", None]
    assert read(tmp_path, "pascal_context_59_sem_seg_train") == {"2008_000001": [None, *row]}
    background = ["background" if name is None else name for name in [None, *row]]
    assert read(tmp_path, "pascal_context_60_sem_seg_val") == {"2008_000002": background}
    assert sorted(PASCAL_CONTEXT_IDS) == PASCAL_CONTEXT_IDS and sorted(PASCAL_CONTEXT) == PASCAL_CONTEXT
    (tree / "SegmentationClassContext/2008_000002.png").write_bytes(b"\x89PNG")  # as a run that was stopped leaves it
    assert main(["prepare", "pascal_context", "--root", str(tmp_path), "--quiet"]) == 0
    assert "1 pictures" in capsys.readouterr().out
    assert read(tmp_path, "pascal_context_60_sem_seg_val") == {"2008_000002": background}


def test_voc_with_sbd(tmp_path):
    tree = tmp_path / "VOC2012"
    for name in ("a", "b", "c"):
        picture(tree / f"JPEGImages/{name}.jpg")
    for name, values in (("a", (0, 15, 255)), ("b", (1, 1, 255))):
        label_file(tree / f"SegmentationClass/{name}.png", *values)
    text(tree / "ImageSets/Segmentation/train.txt", "a")
    text(tree / "ImageSets/Segmentation/val.txt", "b")
    for name in ("a", "b", "c"):
        mat(tmp_path / f"sbd/cls/{name}.mat", GTcls={"Segmentation": columns((0, 20), np.uint8), "Boundaries": 1})
    text(tmp_path / "sbd/train.txt", "a", "b")
    text(tmp_path / "sbd/val.txt", "c")
    assert read(tmp_path, "voc_2012_sem_seg_val") == {"b": ["aeroplane", "aeroplane", None] * 2}
    assert main(["prepare", "voc_2012_aug", "--root", str(tmp_path), "--quiet"]) == 0
    assert read(tmp_path, "voc_2012_aug_sem_seg_train") == {
        "a": ["background", "person", None] * 2,  # VOC's own labels go before SBD's
        "c": ["background", "tvmonitor"] * 3,
    }


def test_coco_stuff(tmp_path):
    picture(tmp_path / "coco/val2017/000000000139.jpg")
    label_file(tmp_path / "coco/stuffthingmaps/val2017/000000000139.png", 0, 91, 181, 255)
    row = ["person", "banner", "wood", None, "person", "banner"]
    assert read(tmp_path, "coco_stuff_164k_sem_seg_val") == {"000000000139": row}
    tree, name = tmp_path / "coco_stuff_10k", "COCO_train2014_000000000077"
    picture(tree / f"images/{name}.jpg")
    mat(tree / f"annotations/{name}.mat", S=columns((1, 92, 182, 0), np.uint16))
    text(tree / "imageLists/train.txt", name)
    assert main(["prepare", "coco_stuff_10k", "--root", str(tmp_path), "--quiet"]) == 0
    assert read(tmp_path, "coco_stuff_10k_sem_seg_train") == {name: row}


def test_camvid(tmp_path):
    picture(tmp_path / "CamVid/test/0001TP_008550.png")
    label_file(tmp_path / "CamVid/testannot/0001TP_008550.png", 0, 10, 11)
    assert read(tmp_path, "camvid_sem_seg_test") == {"0001TP_008550": ["Sky", "Bicyclist", None] * 2}


@pytest.mark.parametrize("made", list(semantic_set_entries("missing")), ids=lambda made: made.name)
def test_what_is_missing_is_named_with_the_tree(made):
    with pytest.raises(FileNotFoundError, match=r"missing/.* does not exist\. The tree is \w+"):
        made.load()


def test_prepare_names_what_is_missing_or_damaged(tmp_path, capsys):
    def refused(word):
        with pytest.raises(SystemExit):
            main(["prepare", "pascal_context", "--root", str(tmp_path), "--quiet"])
        assert word in capsys.readouterr().err

    refused("trainval")
    mat(tmp_path / "VOC2010/trainval/x.mat", Other=np.zeros((2, 2)))
    refused("LabelMap")
    (tmp_path / "VOC2010/trainval/x.mat").write_bytes(b"no file of MATLAB")
    refused("x.mat")


def test_citypersons(tmp_path):
    image = tmp_path / "leftImg8bit/val/ulm/ulm_000000_000019_leftImg8bit.png"
    picture(image)
    boxes = tmp_path / "gtBboxCityPersons/val/ulm/ulm_000000_000019_gtBboxCityPersons.json"
    boxes.parent.mkdir(parents=True)
    items = [("rider", [1, 2, 3, 1]), ("person group", [0, 0, 4, 4]), ("ignore", [2, 0, 1, 1])]
    objects = [{"instanceId": 24000, "label": label, "bbox": box, "bboxVis": box} for label, box in items]
    boxes.write_text(json.dumps({"imgHeight": SIZE[0], "imgWidth": SIZE[1], "objects": objects}))
    made = {entry.name: entry for entry in citypersons_entries("persons", str(tmp_path))}
    (record,) = made["persons_val"].load()
    assert (record["file_name"], record["height"], record["width"]) == (str(image), *SIZE)
    found = [(CLASSES[a["category_id"]], a["bbox"], a["iscrowd"]) for a in record["annotations"]]
    assert found[0] == ("rider", [1, 2, 3, 1], 0)
    assert found[1:] == [(name, box, 1) for _, box in items[1:] for name in CLASSES]
    with pytest.raises(FileNotFoundError, match="gtBboxCityPersons/train"):
        made["persons_train"].load()
    boxes.write_text(json.dumps({"objects": [{"label": "car", "bbox": [0, 0, 1, 1]}]}))
    with pytest.raises(ValueError, match="'car'"):
        made["persons_val"].load()
    boxes.write_text(json.dumps([]))
    with pytest.raises(ValueError, match="no file of CityPersons"):
        made["persons_val"].load()
