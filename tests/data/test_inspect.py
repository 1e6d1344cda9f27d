"""What ``densekit check`` finds in a COCO data set: every planted fault, and nothing where nothing is wrong."""

import copy
import json
import math
import zlib

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from densekit.cli import main
from densekit.data.coco import load_coco_json
from densekit.data.coco_masks import _runs
from densekit.data.inspect import KINDS, Options, content_hashes, fix_coco, inspect_coco
from densekit.files.atomic import strict

OPTIONS = Options(workers=2, progress=False)
W, H = 64, 48
POINTS = ["nose", "left_eye", "right_eye"]


def square(x, y, w, h):
    return [[float(v) for v in (x, y, x + w, y, x + w, y + h, x, y + h)]]


def rle(x, y, w, h, size=(H, W)):
    mask = np.zeros(size, dtype=np.uint8)
    mask[y : y + h, x : x + w] = 1
    encoded = mask_util.encode(np.asfortranarray(mask))
    return {"size": list(size), "counts": encoded["counts"].decode()}


class Data:
    """Eight sound images with polygons, RLE, a crowd and keypoints; faults are planted into ``content`` and files."""

    def __init__(self, folder):
        self.folder = folder
        self.images = folder / "images"
        self.images.mkdir()
        annotations = []
        for i in range(1, 9):
            suffix = "png" if i % 2 else "jpg"
            pixels = np.random.default_rng(i).integers(0, 255, (H, W, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(self.images / f"{i}.{suffix}")
            annotations += [
                {"id": 10 * i, "image_id": i, "category_id": 7, "bbox": [10, 5, 20, 10], "area": 200, "iscrowd": 0,
                 "segmentation": square(10, 5, 20, 10), "keypoints": [12, 6, 2, 20, 9, 1, 0, 0, 0], "num_keypoints": 2},
                {"id": 10 * i + 1, "image_id": i, "category_id": 9, "bbox": [30, 20, 16, 16], "area": 256,
                 "iscrowd": i % 2, "segmentation": rle(30, 20, 16, 16)},
            ]  # fmt: skip
        self.content = {
            "images": [
                {"id": i, "file_name": f"{i}.{'png' if i % 2 else 'jpg'}", "width": W, "height": H} for i in range(1, 9)
            ],
            "categories": [
                {"id": 7, "name": "person", "keypoints": POINTS, "skeleton": [[1, 2], [2, 3]]},
                {"id": 9, "name": "car"},
            ],
            "annotations": annotations,
        }
        self.write()

    @property
    def json_file(self):
        return str(self.folder / "data.json")

    def write(self):
        (self.folder / "data.json").write_text(json.dumps(self.content))

    def person(self, image=1):
        return self.content["annotations"][2 * (image - 1)]

    def car(self, image=1):
        return self.content["annotations"][2 * (image - 1) + 1]

    def inspect(self, **options):
        self.write()
        return inspect_coco(self.json_file, str(self.images), "data", Options(**{**vars(OPTIONS), **options}))

    def kinds(self, **options):
        return {kind.name: len(found) for kind, found in self.inspect(**options).findings.items()}


@pytest.fixture
def data(tmp_path):
    return Data(tmp_path)


def drop(entry, key):
    del entry[key]


def cut(path, share):
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])


def overwrite(path, foreign):
    raw = bytearray(path.read_bytes())
    start = raw.index(b"\xff\xda") + 60
    raw[start : start + len(foreign)] = foreign
    path.write_bytes(raw)


def turn(data, orientation, size=None):
    path = data.images / "2.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.open(path).save(path, exif=exif)
    data.content["images"][1].update(size or {})


def damage_png(data):
    path = data.images / "1.png"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)


def save16(data):
    Image.fromarray(np.full((H, W), 40000, dtype=np.uint16)).save(data.images / "1.png")


def add(data, **fields):
    data.content["annotations"].append({**copy.deepcopy(data.car(2)), "id": 999, "bbox": [5, 5, 9, 9], **fields})


def text_ids_of_categories(data):
    for category in data.content["categories"]:
        category["id"] = f"class {category['id']}"
    for annotation in data.content["annotations"]:
        annotation["category_id"] = f"class {annotation['category_id']}"


def all_boxes(data, change):
    for annotation in data.content["annotations"]:
        annotation["bbox"] = change(annotation["bbox"])
        annotation.pop("segmentation")
        annotation.pop("area")


# What is planted -> what must be found, and nothing else.
FAULTS = {
    "missing image": (lambda d: (d.images / "3.png").unlink(), {"image-missing": 1}),
    "empty file": (lambda d: (d.images / "3.png").write_bytes(b""), {"image-unreadable": 1}),
    "text instead of an image": (lambda d: (d.images / "3.png").write_text("<html>404"), {"image-unreadable": 1}),
    "damaged png": (damage_png, {"image-unreadable": 1}),
    "half a jpeg": (lambda d: cut(d.images / "2.jpg", 0.6), {"image-truncated": 1}),
    "a jpeg without its last bytes": (lambda d: cut(d.images / "2.jpg", 0.998), {"image-truncated": 1}),
    "a jpeg cut in its header": (lambda d: cut(d.images / "2.jpg", 0.05), {"image-truncated": 1}),
    "half a png": (lambda d: cut(d.images / "1.png", 0.5), {"image-truncated": 1}),
    "foreign bytes in a jpeg": (lambda d: overwrite(d.images / "2.jpg", b"\xff\x17"), {"image-damaged": 1}),
    "restarts in a jpeg without": (lambda d: overwrite(d.images / "2.jpg", b"\xff\xd3" * 9), {"image-damaged": 1}),
    "16 bits": (save16, {"image-depth": 1}),
    "another size": (lambda d: Image.new("RGB", (50, 50)).save(d.images / "2.jpg"), {"image-size-differs": 1}),
    "no size": (lambda d: drop(d.content["images"][1], "width"), {"image-size-absent": 1}),
    "exif against the annotations": (lambda d: turn(d, 6), {"exif-contradicts": 1}),
    "exif mirrored": (lambda d: turn(d, 2), {"exif-ambiguous": 1}),
    "a file under two names": (
        lambda d: (d.images / "4.jpg").write_bytes((d.images / "2.jpg").read_bytes()), {"content-twice": 1}
    ),
    "a file listed twice": (
        lambda d: d.content["images"][3].update(file_name="./2.jpg"), {"file-listed-twice": 1, "file-not-listed": 1}
    ),
    "an unlisted file": (lambda d: Image.new("RGB", (5, 5)).save(d.images / "extra.jpg"), {"file-not-listed": 1}),
    "image id twice": (
        lambda d: d.content["images"].append({"id": 3, "file_name": "3.png", "width": W, "height": H}),
        {"image-id-twice": 1},
    ),
    "annotation id twice": (lambda d: d.car(1).update(id=10), {"annotation-id-twice": 1}),
    "annotation id 0": (lambda d: d.car(1).update(id=0), {"annotation-id-zero": 1}),
    "category id twice": (
        lambda d: d.content["categories"].append({"id": 9, "name": "van"}), {"category-id-twice": 1}
    ),
    "category name twice": (
        lambda d: d.content["categories"].append({"id": 4, "name": "car"}),
        {"category-name-twice": 1, "class-unused": 1},
    ),
    "unknown image": (lambda d: add(d, image_id=77), {"image-unknown": 1}),
    "unknown category": (lambda d: add(d, category_id=77), {"category-unknown": 1}),
    "ids of two types": (lambda d: d.car(1).update(id="11"), {"annotation-id-odd": 1}),
    "category ids of text": (text_ids_of_categories, {"id-type": 1}),
    "no category": (lambda d: add(d, category_id=None), {"entry-incomplete": 1}),
    "no box": (lambda d: drop(d.car(1), "bbox"), {"entry-incomplete": 1}),
    "image without a name": (
        lambda d: d.content["images"].append({"id": 99, "width": W, "height": H}), {"entry-incomplete": 1}
    ),
    "image without objects": (
        lambda d: d.content.update(annotations=d.content["annotations"][2:]), {"image-empty": 1}
    ),
    "class without objects": (
        lambda d: d.content["categories"].append({"id": 1, "name": "bus"}), {"class-unused": 1}
    ),
    "box of five numbers": (lambda d: d.car(1).update(bbox=[1, 2, 3, 4, 5]), {"box-malformed": 1}),
    "box of words": (lambda d: d.car(1).update(bbox=["one", 2, 3, 4]), {"box-malformed": 1}),
    "NaN box": (lambda d: d.car(1).update(bbox=[1, math.nan, 3, 4]), {"box-nan": 1, "json-nan": 1}),
    "box without width": (lambda d: d.car(1).update(bbox=[10, 10, 0, 5]), {"box-empty": 1}),
    "box of negative height": (lambda d: d.car(1).update(bbox=[10, 10, 5, -5]), {"box-empty": 1}),
    "box outside": (
        lambda d: d.car(1).update(bbox=[70, 5, 9, 9], area=81, segmentation=[]),
        {"box-outside": 1},
    ),
    "box over the border": (
        lambda d: d.car(1).update(bbox=[50, 20, 30, 16], segmentation=rle(50, 20, 14, 16), area=224),
        {"box-over-border": 1, "mask-contradicts-box": 1},
    ),
    "boxes in fractions": (
        lambda d: all_boxes(d, lambda b: [b[0] / W, b[1] / H, b[2] / W, b[3] / H]), {"boxes-fractions": 1}
    ),
    "boxes of corners": (
        lambda d: all_boxes(d, lambda b: [b[0] + 10, b[1] + 10, b[0] + b[2] + 18, b[1] + b[3] + 10]),
        {"boxes-xyxy": 1},
    ),
    "an object twice": (lambda d: d.content["annotations"].append({**d.car(2), "id": 999}), {"object-twice": 1}),
    "negative area": (lambda d: d.car(1).update(area=-1), {"area-contradicts": 1}),
    "area larger than the box": (lambda d: d.car(1).update(area=1e6), {"area-contradicts": 1}),
    "crowd flag 2": (lambda d: d.car(1).update(iscrowd=2), {"crowd-flag": 1}),
    "crowd flag null": (lambda d: d.car(1).update(iscrowd=None), {"crowd-flag": 1}),
    "ignore flag": (lambda d: d.car(1).update(ignore=1), {"ignore-flag": 1}),
    "polygon of two points": (lambda d: d.person(1)["segmentation"].append([1, 1, 5, 5]), {"polygon-box": 1}),
    "polygon of seven numbers": (
        lambda d: d.person(1)["segmentation"].append([1, 1, 5, 5, 1, 5, 3]), {"polygon-degenerate": 1}
    ),
    "polygon on a line": (
        lambda d: d.person(1)["segmentation"].append([11, 6, 12, 7, 13, 8]), {"polygon-degenerate": 1}
    ),
    "NaN polygon": (
        lambda d: d.person(1)["segmentation"].append([1, 1, 5, math.nan, 1, 5]), {"polygon-nan": 1, "json-nan": 1}
    ),
    "polygon over the border": (
        lambda d: d.person(1).update(segmentation=square(10, -3, 20, 18), bbox=[10, 0, 20, 15], area=300),
        {"polygon-outside": 1},
    ),
    "segmentation of text": (lambda d: d.person(1).update(segmentation="[1, 2]"), {"segmentation-malformed": 1}),
    "flat polygon": (
        lambda d: d.person(1).update(segmentation=square(10, 5, 20, 10)[0][:7]), {"segmentation-malformed": 1}
    ),
    "an object without a mask": (lambda d: drop(d.car(2), "segmentation"), {"segmentation-some": 1}),
    "RLE of another size": (
        lambda d: d.car(1).update(segmentation=rle(20, 30, 16, 16, (W, H))), {"rle-broken": 1}
    ),
    "RLE with too many pixels": (
        lambda d: d.car(1).update(segmentation={"size": [H, W], "counts": [10, 20]}), {"rle-broken": 1}
    ),
    "RLE of other characters": (
        lambda d: d.car(1).update(segmentation={"size": [H, W], "counts": "!!"}), {"rle-broken": 1}
    ),
    "empty RLE": (
        lambda d: d.car(1).update(segmentation={"size": [H, W], "counts": [H * W]}), {"mask-empty": 1}
    ),
    "mask elsewhere": (lambda d: d.car(1).update(segmentation=rle(2, 2, 16, 16)), {"mask-elsewhere": 1}),
    "mask of half the box": (lambda d: d.car(1).update(segmentation=rle(30, 20, 16, 8)), {"mask-contradicts-box": 1}),
    "two keypoints of three": (
        lambda d: d.person(1).update(keypoints=[12, 6, 2, 20, 9, 1]), {"keypoint-count": 1}
    ),
    "no keypoints": (lambda d: drop(d.person(1), "keypoints"), {"keypoint-count": 1}),
    "visibility 3": (lambda d: d.person(1)["keypoints"].__setitem__(2, 3), {"keypoint-visibility": 1}),
    "NaN keypoint": (
        lambda d: d.person(1)["keypoints"].__setitem__(0, math.nan), {"keypoint-nan": 1, "json-nan": 1}
    ),
    "unlabelled keypoint with a place": (
        lambda d: d.person(1)["keypoints"].__setitem__(6, 9), {"keypoint-unlabelled": 1}
    ),
    "keypoint outside": (lambda d: d.person(1)["keypoints"].__setitem__(0, 90), {"keypoint-outside": 1}),
    "wrong num_keypoints": (lambda d: d.person(1).update(num_keypoints=3), {"keypoint-number": 1}),
    "keypoint name twice": (
        lambda d: d.content["categories"][0].update(keypoints=["nose", "eye", "nose"]), {"keypoint-names": 1}
    ),
    "left without right": (
        lambda d: d.content["categories"][0].update(keypoints=["nose", "left_eye", "ear"]), {"keypoint-mirror": 1}
    ),
    "limb to nowhere": (
        lambda d: d.content["categories"][0]["skeleton"].append([3, 4]), {"keypoint-skeleton": 1}
    ),
}  # fmt: skip


def test_nothing_is_found_on_clean_data(data):
    assert data.kinds() == {}
    assert data.kinds(decode=True, num_classes=2) == {}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_and_nothing_else(data, fault):
    plant, expected = FAULTS[fault]
    plant(data)
    assert data.kinds() == expected


def test_all_object_faults_at_once_are_found_each(data):
    """Faults of different images do not hide each other."""
    together = ["NaN box", "box without width", "polygon of two points", "RLE with too many pixels", "mask elsewhere"]
    expected = {}
    originals = data.car, data.person
    for image, fault in enumerate(together, start=2):
        data.car, data.person = (lambda _, n=image, f=f: f(n) for f in originals)
        FAULTS[fault][0](data)
        expected.update(FAULTS[fault][1])
    data.car, data.person = originals
    assert data.kinds() == expected


def test_class_count_and_leakage(data, tmp_path):
    assert data.kinds(num_classes=80) == {"num-classes": 1}
    other = tmp_path / "val"
    other.mkdir()
    (other / "copy.jpg").write_bytes((data.images / "2.jpg").read_bytes())
    assert data.kinds(others=content_hashes(str(other), None, 1)) == {"leakage": 1}


def test_a_png_that_only_a_decoder_can_refuse(data):
    """Every chunk is there and its CRC is right, but the compressed pixels are not."""
    path = data.images / "1.png"
    raw = path.read_bytes()
    start = raw.index(b"IDAT")
    length = int.from_bytes(raw[start - 4 : start], "big")
    body = b"IDAT" + b"\x00" * length
    path.write_bytes(raw[:start] + body + zlib.crc32(body).to_bytes(4, "big") + raw[start + 4 + length + 4 :])
    assert data.kinds() == {}
    assert data.kinds(decode=True) == {"image-unreadable": 1}


@pytest.mark.parametrize(
    "options", [{"progressive": True}, {"restart_marker_blocks": 2}, {"quality": 100}, {"optimize": 1}]
)
def test_all_sorts_of_jpeg_are_sound(data, options):
    pixels = np.random.default_rng(0).integers(0, 255, (H, W, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(data.images / "2.jpg", **options)
    assert data.kinds() == {}
    with open(data.images / "2.jpg", "ab") as file:
        file.write(b"maker's own data \xff\x17")  # behind the end, as cameras write it
    assert data.kinds() == {}


def test_a_preview_within_exif_does_not_hide_a_cut(data):
    """The preview's own end marker lies before the image data."""
    path = data.images / "2.jpg"
    raw = path.read_bytes()
    body = b"Exif\0\0" + raw
    path.write_bytes(raw[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + raw[2:])
    assert data.kinds() == {}
    cut(path, 0.9)
    assert data.kinds() == {"image-truncated": 1}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"images": {}}', '{"images": [1], "annotations": 3}', "\x00\x01"])
def test_a_broken_annotation_file_is_a_finding(data, text):
    data.write = lambda: (data.folder / "data.json").write_text(text)
    assert "annotations-unreadable" in data.kinds()


def test_hostile_json_does_not_stop_the_inspection(data):
    """Any JSON value at any key of an annotation, image or category ends in findings, not in an exception."""
    values = [None, True, -1, 1e400, "x", "", [], [[]], [None], {}, {"size": 3}, {"counts": "a"}, [["a"] * 6]]
    for keys, group in (
        (("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation", "keypoints", "num_keypoints"),
         "annotations"),
        (("id", "file_name", "width", "height"), "images"),
        (("id", "name", "keypoints", "skeleton"), "categories"),
    ):  # fmt: skip
        for key in keys:
            for value in values:
                kept = data.content[group][0].get(key)
                data.content[group][0][key] = value
                inspection = data.inspect()
                json.dumps(inspection.findings.to_json(), allow_nan=False)
                fixed, _ = fix_coco(inspection.content, inspection.paths, inspection.facts)
                json.dumps(strict(fixed), allow_nan=False)
                data.content[group][0][key] = kept


def test_run_lengths_equal_those_of_pycocotools():
    generator = np.random.default_rng(0)
    for _ in range(50):
        size = generator.integers(1, 200, 2)
        mask = (generator.random(size) > generator.random()).astype(np.uint8)
        flat = mask.T.ravel()
        edges = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
        expected = np.diff([0, *edges, flat.size])
        counts = mask_util.encode(np.asfortranarray(mask))["counts"].decode()
        np.testing.assert_array_equal(_runs(counts), expected)


# Kinds that --fix says it corrects must be gone afterwards.
@pytest.mark.parametrize("fault", FAULTS)
def test_the_corrected_copy_is_free_of_what_it_says_it_corrects(data, fault, tmp_path):
    FAULTS[fault][0](data)
    inspection = data.inspect()
    before = json.dumps(inspection.content)
    fixed, changes = fix_coco(inspection.content, inspection.paths, inspection.facts, inspection.leaked)
    assert json.dumps(inspection.content) == before
    data.content = strict(fixed)
    found = data.kinds()
    fixable = {kind for kind in FAULTS[fault][1] if KINDS[kind].fix}
    assert not fixable & set(found), found
    # Removing an image leaves its file unlisted, and removing the last object leaves a class or an image without.
    by_removal = {"file-not-listed", "image-empty", "class-unused"}
    assert set(found) <= by_removal | set(FAULTS[fault][1])
    if fixable - {"json-nan"}:
        assert changes


@pytest.mark.parametrize(("flag", "crowd"), [(None, 0), ("0", 0), (False, 0), ("1", 1), (2, 1)])
def test_only_a_crowd_becomes_a_crowd(data, flag, crowd):
    data.car(1)["iscrowd"] = flag
    inspection = data.inspect()
    fixed, _ = fix_coco(inspection.content, inspection.paths, inspection.facts, inspection.leaked)
    assert next(a for a in fixed["annotations"] if a["id"] == data.car(1)["id"])["iscrowd"] == crowd


def test_a_corrected_copy_with_many_faults_loads(data):
    originals = data.car, data.person
    image = 0
    for plant, expected in FAULTS.values():
        # What only a person can decide, or is about all boxes, stays out; so does what would remove most images.
        if all(KINDS[kind].fix for kind in expected) and not any(
            "image" in kind or "boxes" in kind for kind in expected
        ):
            image = image % 8 + 1
            data.car, data.person = (lambda _, n=image, f=f: f(n) for f in originals)
            try:
                plant(data)
            except (KeyError, TypeError, AttributeError):
                continue  # an earlier fault has removed what this one would change
    (data.images / "3.png").unlink()
    inspection = data.inspect()
    assert len(inspection.findings.by_kind) > 20
    with pytest.raises(ValueError):
        load_coco_json(data.json_file, data.images)
    fixed, _ = fix_coco(inspection.content, inspection.paths, inspection.facts)
    data.content = strict(fixed)
    assert not {kind.name for kind, _ in data.inspect().findings.items() if kind.severity == "error"}
    records = load_coco_json(data.json_file, data.images)
    assert 0 < len(records) < 8


def test_what_is_sound_stays_as_it_is(data):
    inspection = data.inspect()
    fixed, changes = fix_coco(inspection.content, inspection.paths, inspection.facts)
    assert fixed == data.content and not changes


def test_command_line(data, tmp_path, capsys):
    data.car(1).update(bbox=[10, 10, 0, 5], id="<b>&")
    data.content["categories"][1]["name"] = "</script><script>alert(1)</script>"
    data.write()
    page, fixed = tmp_path / "page.html", tmp_path / "fixed.json"
    words = ["check", "--coco", data.json_file, "--images", str(data.images)]
    assert main([*words, "--html", str(page), "--fix", str(fixed)]) == 1
    out = capsys.readouterr().out
    assert "box-empty" in out and "[10, 10, 0, 5]" in out and "boxes taken from their masks" in out
    text = page.read_text()
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)" in text and "<b>&" not in text
    assert main(["check", "--coco", str(fixed), "--images", str(data.images)]) == 0  # ids of text are names, and stay
    capsys.readouterr()
    assert main([*words, "--json"]) == 1
    result = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert {entry["kind"]: entry["count"] for entry in result["findings"]} == {"box-empty": 1, "annotation-id-odd": 1}


@pytest.mark.parametrize(
    "words",
    [[], ["nosuch_set"], ["--coco", "x.json"], ["a", "--coco", "x.json"], ["--coco", "x.json", "--images", "."],
     ["a", "--html", "/no/such/folder/x.html"], ["a", "--fix", "/tmp"]],
    ids=" ".join,
)  # fmt: skip
def test_a_wrong_command_line_ends_with_2(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["check", *words])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_clean_data_ends_with_0(data, capsys):
    assert main(["check", "--coco", data.json_file, "--images", str(data.images)]) == 0
    assert "0 errors, 0 warnings, 0 notes" in capsys.readouterr().out


def test_the_correction_never_replaces_the_file_itself(data, capsys, monkeypatch):
    data.write()
    before = (data.folder / "data.json").read_bytes()
    monkeypatch.chdir(data.folder)
    with pytest.raises(SystemExit) as caught:
        main(["check", "--coco", str(data.folder / "data.json"), "--images", str(data.images), "--fix", "data.json"])
    assert caught.value.code == 2 and "is the annotation file itself" in capsys.readouterr().err
    assert (data.folder / "data.json").read_bytes() == before


def test_a_configuration_names_the_data_sets(data, tmp_path, monkeypatch, capsys):
    data.write()
    entry = f"mine: {{form: coco, json: {data.json_file}, images: {data.images}}}\n"
    (tmp_path / "mine.yaml").write_text(entry + "away: {form: images, images: nowhere}\n")
    (tmp_path / "config.yaml").write_text("DATASETS: {CATALOG: mine.yaml}\n")
    monkeypatch.chdir(tmp_path)
    assert main(["check", "mine", "--config-file", "config.yaml"]) == 0
    assert capsys.readouterr().out.startswith("mine: ")
    with pytest.raises(SystemExit):
        main(["check", "away", "--config-file", "config.yaml"])
    assert "nowhere" in capsys.readouterr().err
