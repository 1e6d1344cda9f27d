"""What ``densekit check`` finds in data sets of label maps, panoptic PNGs, Cityscapes trees and XML."""

import json

import numpy as np
import pytest
from PIL import Image

from densekit.cli import main
from densekit.data import register_from_yaml
from densekit.data.inspect import Options, content_hashes, fix_coco, inspect_dataset
from densekit.files.panoptic_png import write_panoptic_png

W, H = 64, 48
QUIET = Options(workers=2, progress=False)


def kinds(name, **options):
    found = inspect_dataset(name, Options(**{**vars(QUIET), **options})).findings
    return {kind.name: len(entries) for kind, entries in found.items()}


def write_image(path, seed, size=(W, H)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_label(path, values, size=(W, H), mode=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros((size[1], size[0]), dtype=mode)
    for k, value in enumerate(values):
        array[k * 5 : k * 5 + 5] = value
    Image.fromarray(array).save(path)


# ---- label maps -------------------------------------------------------------------------------------------------


@pytest.fixture
def semantic(tmp_path):
    for k in range(4):
        write_image(tmp_path / f"images/{k}.jpg", k)
        write_label(tmp_path / f"labels/{k}.png", [0, 1, 2, 255])
    (tmp_path / "sets.yaml").write_text(
        "sem: {form: semantic, images: images, labels: labels, classes: [sky, road, car], ignore: 9}\n"
    )
    register_from_yaml(tmp_path / "sets.yaml")
    return tmp_path


def rgb_label(root):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (H, W, 3), dtype=np.uint8)).save(root / "labels/1.png")


SEMANTIC = {
    "a value outside the list": (lambda r: write_label(r / "labels/1.png", [0, 7]), {"label-values": 1}),
    "a value to ignore": (lambda r: write_label(r / "labels/1.png", [0, 9]), {}),
    "colours": (rgb_label, {"label-values": 1}),
    "another size": (lambda r: write_label(r / "labels/1.png", [0, 1], (W, H + 1)), {"label-size": 1}),
    "missing label": (lambda r: (r / "labels/1.png").unlink(), {"label-missing": 1, "file-not-listed": 1}),
    "broken label": (lambda r: (r / "labels/1.png").write_bytes(b"\x89PNG\r\n\x1a\n1"), {"label-unreadable": 1}),
    "a jpeg named png": (
        lambda r: (r / "labels/1.png").write_bytes((r / "images/0.jpg").read_bytes()), {"label-channels": 1}
    ),
    "nothing labelled": (lambda r: write_label(r / "labels/1.png", [255] * 10), {"label-void": 1}),
    "a label without image": (lambda r: write_label(r / "labels/extra.png", [0]), {"label-not-listed": 1}),
    "a class that never occurs": (
        lambda r: [write_label(r / f"labels/{k}.png", [0, 1]) for k in range(4)], {"class-unused": 1}
    ),
    "a truncated image": (
        lambda r: (r / "images/2.jpg").write_bytes((r / "images/2.jpg").read_bytes()[:-9]), {"image-truncated": 1}
    ),
}  # fmt: skip


def test_clean_label_maps(semantic):
    assert kinds("sem") == {}
    findings = inspect_dataset("sem", QUIET).findings
    assert findings.histogram.counts == {"sky": 4 * W * (H - 15), "road": 4 * 5 * W, "car": 4 * 5 * W}
    assert kinds("sem", num_classes=4) == {"num-classes": 1}


@pytest.mark.parametrize("fault", SEMANTIC)
def test_faults_of_label_maps(semantic, fault):
    plant, expected = SEMANTIC[fault]
    plant(semantic)
    assert kinds("sem") == expected


def test_several_missing_label_maps_are_all_named(semantic):
    for k in (0, 3):
        (semantic / f"labels/{k}.png").unlink()
    found = inspect_dataset("sem", QUIET).findings.by_kind["label-missing"]
    assert len(found) == 2 and all(f"{k}.png" in entry.detail for k, entry in zip((0, 3), found))


# ---- panoptic ---------------------------------------------------------------------------------------------------


class Panoptic:
    def __init__(self, root):
        self.root = root
        self.content = {
            "images": [{"id": k, "file_name": f"{k}.jpg", "width": W, "height": H} for k in range(3)],
            "categories": [{"id": 5, "name": "road", "isthing": 0}, {"id": 6, "name": "car", "isthing": 1}],
            "annotations": [],
        }
        for k in range(3):
            write_image(root / f"images/{k}.jpg", k)
            self.draw(k)
            segments = [
                {"id": 300, "category_id": 5, "area": 30 * W, "bbox": [0, 0, W, 30], "iscrowd": 0},
                {"id": 70000, "category_id": 6, "area": 100, "bbox": [10, 32, 10, 10], "iscrowd": 0},
            ]
            annotation = {"image_id": k, "file_name": f"{k}.png", "segments_info": segments}
            self.content["annotations"].append(annotation)
        (root / "sets.yaml").write_text("pan: {form: coco_panoptic, json: pan.json, images: images, segments: png}\n")
        self.write()
        register_from_yaml(root / "sets.yaml")

    def draw(self, k, further=0, size=(W, H)):
        ids = np.zeros((size[1], size[0]), dtype=np.int32)
        ids[:30] = 300
        ids[32:42, 10:20] = 70000
        ids[44:46, :9] = further
        (self.root / "png").mkdir(exist_ok=True)
        write_panoptic_png(self.root / f"png/{k}.png", ids)

    def write(self):
        (self.root / "pan.json").write_text(json.dumps(self.content))

    def segment(self, k=0, number=1):
        return self.content["annotations"][k]["segments_info"][number]


@pytest.fixture
def panoptic(tmp_path):
    return Panoptic(tmp_path)


PANOPTIC = {
    "no annotation": (lambda p: p.content["annotations"].pop(), {"panoptic-missing": 1}),
    "no PNG": (lambda p: (p.root / "png/1.png").unlink(), {"label-missing": 1}),
    "broken PNG": (lambda p: (p.root / "png/1.png").write_text("x"), {"label-unreadable": 1}),
    "an id that is not listed": (lambda p: p.draw(1, 17), {"segment-unlisted": 1}),
    "a segment without pixels": (
        lambda p: p.content["annotations"][0]["segments_info"].append({"id": 9, "category_id": 5}),
        {"segment-absent": 1},
    ),
    "a segment twice": (
        lambda p: p.content["annotations"][0]["segments_info"].append(dict(p.segment())), {"segment-twice": 1}
    ),
    "unknown category": (lambda p: p.segment().update(category_id=99), {"category-unknown": 1}),
    "a list as a category": (lambda p: p.segment().update(category_id=[6]), {"category-unknown": 1}),
    "segments that are no list": (
        lambda p: p.content["annotations"][0].update(segments_info={}), {"entry-incomplete": 1, "panoptic-missing": 1}
    ),
    "no size": (lambda p: p.content["images"][0].update(width=-64), {"image-size-absent": 1}),
    "wrong area": (lambda p: p.segment().update(area=7), {"segment-area": 1}),
    "wrong box": (lambda p: p.segment().update(bbox=[0, 0, 5, 5]), {"segment-area": 1}),
    "another size": (lambda p: p.draw(1, 0, (W + 2, H)), {"label-size": 1, "segment-area": 1}),
    "unknown image": (
        lambda p: p.content["annotations"].append({"image_id": 8, "file_name": "8.png", "segments_info": []}),
        {"image-unknown": 1},
    ),
    "missing image": (lambda p: (p.root / "images/1.jpg").unlink(), {"image-missing": 1}),
}  # fmt: skip


@pytest.mark.parametrize("fault", ["", *PANOPTIC])
def test_faults_of_panoptic_files(panoptic, fault):
    plant, expected = PANOPTIC.get(fault, (lambda p: None, {}))
    plant(panoptic)
    panoptic.write()
    assert kinds("pan") == expected


@pytest.mark.parametrize("text", ["[]", "{", "null", '{"images": []}', '{"images": [], "annotations": [1, {}]}'])
def test_a_broken_panoptic_file_is_a_finding(panoptic, text):
    (panoptic.root / "pan.json").write_text(text)
    assert kinds("pan").keys() & {"annotations-unreadable", "no-images"}


# ---- Cityscapes -------------------------------------------------------------------------------------------------

ENDINGS = ("labelIds.png", "instanceIds.png", "color.png", "polygons.json")


@pytest.fixture
def tree(tmp_path):
    for k in range(3):
        frame = f"aachen_{k:06d}_000019"
        write_image(tmp_path / f"leftImg8bit/val/aachen/{frame}_leftImg8bit.png", k)
        base = tmp_path / "gtFine/val/aachen"
        # Every label of the 19 classes, so that none is unused.
        write_label(base / f"{frame}_gtFine_labelIds.png", [7, 8, 11, 12, 13, 17, 19, 20, 21])
        more = np.array(Image.open(base / f"{frame}_gtFine_labelIds.png"))
        more[0, :10] = [22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
        Image.fromarray(more).save(base / f"{frame}_gtFine_labelIds.png")
        write_label(base / f"{frame}_gtFine_instanceIds.png", [7, 24000, 26001, 26], mode=np.uint16)
        write_image(base / f"{frame}_gtFine_color.png", k)
        (base / f"{frame}_gtFine_polygons.json").write_text("{}")
    (tmp_path / "sets.yaml").write_text("city: {form: cityscapes, root: ., split: val, task: sem_seg}\n")
    register_from_yaml(tmp_path / "sets.yaml")
    return tmp_path


def label(root, frame, ending):
    return root / f"gtFine/val/aachen/aachen_{frame:06d}_000019_gtFine_{ending}"


CITYSCAPES = {
    "no labelIds": (lambda r: label(r, 1, "labelIds.png").unlink(), {"frame-incomplete": 1}),
    "no instanceIds": (lambda r: label(r, 1, "instanceIds.png").unlink(), {"frame-incomplete": 1}),
    "no polygons": (lambda r: label(r, 1, "polygons.json").unlink(), {"frame-partial": 1}),
    "some labelTrainIds": (lambda r: write_label(label(r, 1, "labelTrainIds.png"), [0, 18, 255]), {"frame-partial": 2}),
    "a value that is no trainId": (
        lambda r: [write_label(label(r, k, "labelTrainIds.png"), [0, 19]) for k in range(3)], {"label-values": 3}
    ),
    "no image": (
        lambda r: (r / "leftImg8bit/val/aachen/aachen_000001_000019_leftImg8bit.png").unlink(), {"frame-stray": 1}
    ),
    "a value that is no label": (lambda r: write_label(label(r, 1, "labelIds.png"), [7, 34]), {"label-values": 1}),
    "an instance of no label": (
        lambda r: write_label(label(r, 1, "instanceIds.png"), [34001], mode=np.uint16), {"label-values": 1}
    ),
    "labels of another size": (
        lambda r: write_label(label(r, 1, "instanceIds.png"), [7], (W, 20), np.uint16), {"label-size": 1}
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", ["", *CITYSCAPES])
def test_faults_of_a_cityscapes_tree(tree, fault):
    plant, expected = CITYSCAPES.get(fault, (lambda r: None, {}))
    plant(tree)
    assert kinds("city") == expected


def test_the_missing_files_of_a_frame_are_named(tree, capsys):
    label(tree, 1, "labelIds.png").unlink()
    label(tree, 1, "instanceIds.png").unlink()
    assert main(["check", "city"]) == 1
    assert "aachen_000001_000019: no _labelIds.png, _instanceIds.png" in capsys.readouterr().out


def test_panoptic_files_of_a_tree(tree):
    (tree / "more.yaml").write_text("cp: {form: cityscapes, root: ., split: val, task: panoptic_separated}\n")
    register_from_yaml(tree / "more.yaml")
    assert kinds("cp") == {"panoptic-not-made": 1}  # not made yet
    name = "aachen_000001_000019_gtFine_panoptic.png"
    annotation = {"image_id": "aachen_000001_000019", "file_name": name, "segments_info": [{"id": 7, "category_id": 7}]}
    content = {
        "images": [{"id": "aachen_000001_000019", "file_name": "x_leftImg8bit.png", "width": W, "height": H}],
        "categories": [{"id": 7, "name": "road", "isthing": 0}], "annotations": [annotation],
    }  # fmt: skip
    (tree / "gtFine/cityscapes_panoptic_val.json").write_text(json.dumps(content))
    (tree / "gtFine/cityscapes_panoptic_val").mkdir()
    assert kinds("cp") == {"label-missing": 1}
    write_panoptic_png(tree / "gtFine/cityscapes_panoptic_val" / name, np.full((H, W), 7))
    assert kinds("cp") == {}


# ---- file by file -----------------------------------------------------------------------------------------------

XML = """<annotation><size><width>64</width><height>48</height></size><object><name>cell</name>
<bndbox><xmin>{}</xmin><ymin>5</ymin><xmax>{}</xmax><ymax>15</ymax></bndbox></object></annotation>"""


@pytest.fixture
def voc(tmp_path):
    (tmp_path / "xml").mkdir()
    for k in range(4):
        write_image(tmp_path / f"images/{k}.jpg", k)
        (tmp_path / f"xml/{k}.xml").write_text(XML.format(10 + k, 30 + k))
    (tmp_path / "sets.yaml").write_text("cells: {form: voc, images: images, annotations: xml}\n")
    register_from_yaml(tmp_path / "sets.yaml")
    return tmp_path


def test_every_file_that_a_loader_refuses_is_named(voc):
    assert kinds("cells") == {}
    (voc / "xml/0.xml").write_text("<annotation>")
    (voc / "xml/2.xml").write_text(XML.format(30, 10))
    findings = inspect_dataset("cells", QUIET).findings
    assert [entry.detail.count(f"{k}.xml") for k, entry in zip((0, 2), findings.by_kind["file-refused"])] == [1, 1]
    assert findings.images == 2


def test_other_forms_are_checked_and_corrected_as_coco(voc, tmp_path):
    (voc / "images/1.jpg").write_bytes((voc / "images/3.jpg").read_bytes())
    (voc / "xml/2.xml").write_text(XML.format(50, 90))
    assert kinds("cells") == {"content-twice": 1, "box-over-border": 1}
    inspection = inspect_dataset("cells", QUIET)
    fixed, changes = fix_coco(inspection.content, inspection.paths, inspection.facts)
    assert changes == {"boxes clipped to their image": 1, "areas computed": 1}
    assert {image["file_name"] for image in fixed["images"]} == {f"{k}.jpg" for k in range(4)}


def test_leakage_between_forms(voc, semantic):
    # Both fixtures wrote the same pictures into the same folder.
    assert kinds("sem", others=content_hashes("cells", None, 1)) == {"leakage": 4}
    with pytest.raises(ValueError, match="not registered"):
        content_hashes("cell", None, 1)


def test_images_alone(voc):
    (voc / "more.yaml").write_text("pictures: {form: images, images: images}\n")
    register_from_yaml(voc / "more.yaml")
    assert kinds("pictures") == {}
    (voc / "images/0.jpg").write_bytes((voc / "images/0.jpg").read_bytes()[:-2])
    assert kinds("pictures") == {"image-truncated": 1}
