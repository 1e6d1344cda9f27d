"""Top-down pose: geometry and its inverse, heat maps, suppression, the mapper and the model on any backbone."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from densekit.config import load_config
from densekit.d2.data import DatasetCatalog
from densekit.d2.modeling import build_model
from densekit.d2.utils.events import EventStorage
from densekit.data.coco import register_coco_instances
from densekit.data.mapper import build_mapper
from densekit.evaluation import COCOEvaluator
from densekit.projects.pose.geometry import box_regions, crop, move, region_matrix, to_image
from densekit.projects.pose.heatmaps import average_with_mirrored, decode, gaussian_targets, mirror_back, pose_loss
from densekit.projects.pose.people import PeopleOfResults
from densekit.projects.pose.suppression import rescore, similarity, suppress
from densekit.projects.pose.view import View, plain
from densekit.weights import adapt_names
from tests.contract.shrinking import shrunken
from tests.contract.test_configs import sample

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
PAIRS = [[1, 2]]
SIGMAS = (0.05, 0.1, 0.1)


# Geometry


def test_a_region_has_the_input_s_shape_around_the_box():
    (wide, tall) = box_regions(np.array([[10, 20, 80, 40], [0, 0, 30, 100]]), (192, 256))
    np.testing.assert_allclose(wide, [50, 40, 1.25 * 80, 1.25 * 80 * 4 / 3])
    np.testing.assert_allclose(tall, [15, 50, 1.25 * 75, 1.25 * 100])


@pytest.mark.parametrize("rotation", [0.0, 30.0, -120.0])
def test_the_matrix_keeps_the_center_and_the_width(rotation):
    region = np.array([60.0, 45.0, 30.0, 40.0])
    matrix = region_matrix(region, (96, 128), rotation)
    np.testing.assert_allclose(move(region[:2], matrix), [48, 64])
    angle = np.deg2rad(rotation)
    side = region[:2] + 15 * np.array([np.cos(angle), np.sin(angle)])  # the middle of the region's right side
    np.testing.assert_allclose(move(side, matrix), [96, 64], atol=1e-9)


def test_points_of_maps_go_back_to_the_image():
    regions = box_regions(np.array([[10.0, 20, 80, 40], [5, 5, 30, 100]]), (96, 128))
    points = np.random.rand(2, 4, 2) * [100, 120]
    maps = np.stack([move(p, region_matrix(r, (24, 32))) for p, r in zip(points, regions)])
    np.testing.assert_allclose(to_image(maps, regions, (24, 32)), points)


def test_a_crop_shows_the_pixel_that_the_matrix_says():
    image = np.zeros((60, 80, 3), np.uint8)
    image[30, 40] = 255
    region = np.array([45.0, 33.0, 24.0, 32.0])
    matrix = region_matrix(region, (48, 64))
    pixels = crop(image, matrix, (48, 64))
    x, y = move(np.array([40.0, 30.0]), matrix).round().astype(int)
    assert pixels[y, x, 0] == pixels.max() > 200


# Heat maps


def test_targets_are_gaussians_at_rounded_places():
    joints = torch.tensor([[[33.0, 18.0], [8.0, 40.0], [500.0, 2.0]]])
    targets, weights = gaussian_targets(joints, torch.tensor([[2.0, 0.0, 1.0]]), (16, 12), 4, 1.0)
    assert weights.tolist() == [[1, 0, 0]]  # not labelled; beyond the map
    for y in range(16):
        for x in range(12):
            near = abs(x - 8) <= 3 and abs(y - 5) <= 3  # 33 / 4 and 18 / 4, rounded
            expected = np.exp(-((x - 8) ** 2 + (y - 5) ** 2) / 2) if near else 0
            assert targets[0, 0, y, x].item() == pytest.approx(expected)
    assert targets[0, 1:].abs().sum() == 0


def test_decoding_finds_what_targets_show():
    joints = torch.rand(5, 7, 2) * torch.tensor([150.0, 200.0]) + 20
    targets, weights = gaussian_targets(joints, torch.ones(5, 7), (64, 48), 4, 2.0)
    places, scores = decode(targets)
    assert weights.all() and torch.equal(scores, torch.ones(5, 7))
    # Targets are symmetric around whole pixels: nothing to move by a quarter.
    torch.testing.assert_close(places, (joints / 4 + 0.5).floor())


@pytest.mark.parametrize("x, y", [(4, 5), (1, 5), (10, 3), (6, 1), (6, 14)])
def test_the_place_moves_towards_the_larger_neighbour_except_at_the_rim(x, y):
    maps = torch.zeros(1, 1, 16, 12)
    maps[0, 0, y, x], maps[0, 0, y, x + 1], maps[0, 0, y - 1, x] = 1.0, 0.5, 0.4
    (place,), _ = decode(maps)
    inner = 1 < x < 11 and 1 < y < 15
    assert place[0].tolist() == [x + 0.25 * inner, y - 0.25 * inner]


def test_maps_without_a_positive_value_are_at_the_origin():
    places, scores = decode(torch.full((1, 2, 4, 4), -1.0))
    assert places.abs().sum() == 0 and (scores == -1).all()


def test_mirroring_twice_is_nothing():
    maps = torch.randn(2, 3, 4, 5)
    assert torch.equal(mirror_back(mirror_back(maps, PAIRS), PAIRS), maps)
    moved = average_with_mirrored(torch.zeros_like(maps), maps)
    torch.testing.assert_close(moved[..., 1:], maps[..., :-1] / 2)


def test_the_loss_is_that_of_a_loop():
    maps, targets = torch.randn(2, 3, 4, 5), torch.rand(2, 3, 4, 5)
    weights = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    each = [[0.5 * (weights[p, k] * (maps[p, k] - targets[p, k]) ** 2).mean() for k in range(3)] for p in range(2)]
    torch.testing.assert_close(pose_loss(maps, targets, weights), sum(map(sum, each)) / 6)
    worst = [sorted(row)[-2:] for row in each]
    torch.testing.assert_close(pose_loss(maps, targets, weights, hardest=2), sum(map(sum, worst)) / 4)


def test_gradients_of_the_loss():
    maps = torch.randn(1, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    targets, weights = torch.rand(1, 3, 2, 3).double(), torch.tensor([[1.0, 0.0, 1.0]]).double()
    assert torch.autograd.gradcheck(lambda x: pose_loss(x, targets, weights, 2), maps)


def test_nobody_is_no_loss():
    maps = torch.zeros(0, 3, 4, 5, requires_grad=True)
    loss = pose_loss(maps, torch.zeros(0, 3, 4, 5), torch.zeros(0, 3))
    loss.backward()
    assert loss.item() == 0


# Scores and suppression


def test_scores_count_confident_keypoints_alone():
    scores = rescore(np.array([0.5, 0.8]), np.array([[0.9, 0.3, 0.1], [0.1, 0.1, 0.0]]), 0.2)
    assert scores == pytest.approx([0.5 * 0.6, 0.0])


def test_similar_poses_go_the_best_stays():
    pose = np.array([[10.0, 10], [20, 10], [15, 30]])
    poses = np.stack([pose, pose + 0.5, pose + 40])
    kept = suppress(poses, np.array([0.5, 0.9, 0.1]), np.full(3, 400.0), 0.9, SIGMAS)
    assert kept == [1, 2]
    assert suppress(poses, np.array([0.5, 0.9, 0.1]), np.full(3, 400.0), 1.0, SIGMAS) == [1, 0, 2]
    assert suppress(np.zeros((0, 3, 2)), np.zeros(0), np.zeros(0), 0.9, SIGMAS) == []


def test_similarity_is_coco_s():
    from pycocotools.cocoeval import COCOeval

    box = [0.0, 0.0, 60.0, 40.0]
    points, moved = np.random.rand(17, 2) * 40, np.random.rand(17, 2) * 40
    evaluation = COCOeval(iouType="keypoints")
    full = np.concatenate([points, np.full((17, 1), 2)], axis=1)
    other = np.concatenate([moved, np.ones((17, 1))], axis=1)
    truth = {"keypoints": full.ravel().tolist(), "area": 900.0, "bbox": box, "num_keypoints": 17}
    evaluation._gts[1, 1], evaluation._dts[1, 1] = [truth], [{"keypoints": other.ravel().tolist(), "score": 1.0}]
    evaluation.params.useCats, evaluation.params.maxDets = 1, [20]
    expected = evaluation.computeOks(1, 1)[0, 0]
    sigmas = np.array(evaluation.params.kpt_oks_sigmas)
    assert similarity(points, moved[None], 900.0, np.array([900.0]), sigmas)[0] == pytest.approx(expected)


def test_deviations_of_another_skeleton_are_refused():
    with pytest.raises(ValueError, match="KEYPOINT_OKS_SIGMAS"):
        suppress(np.zeros((1, 3, 2)), np.ones(1), np.ones(1), 0.9)


# Views


@pytest.mark.parametrize("mirror", [0.0, 1.0])
def test_keypoints_stay_on_what_they_mark(mirror):
    image = np.zeros((120, 160, 3), np.uint8)
    keypoints = np.array([[80.0, 40, 2], [60, 70, 2], [100, 70, 2]])
    for k, (x, y, _) in enumerate(keypoints):
        cv2.circle(image, (int(x), int(y)), 4, (80 * (k + 1),) * 3, -1)
    view = View((96, 128), PAIRS, scale=0.3, rotation=40.0, rotation_probability=1.0, mirror_probability=mirror)
    for _ in range(5):
        pixels, moved = view(image, np.array([50.0, 20, 60, 80]), keypoints)
        for k, (x, y, _) in enumerate(moved):
            if 2 < x < 93 and 2 < y < 125:
                wanted = {0: 0, 1: 2, 2: 1}[k] if mirror else k
                assert pixels[round(y), round(x), 0] == 80 * (wanted + 1)


def test_half_a_body_shows_one_half():
    keypoints = np.concatenate([np.random.rand(12, 2) * [40, 30] + [50, 20], np.full((12, 1), 2.0)], axis=1)
    keypoints[6:, 1] += 60
    view = View((96, 128), (), upper_body=range(6), half_body_probability=1.0)
    image = np.zeros((160, 160, 3), np.uint8)
    for _ in range(6):
        _, moved = view(image, np.array([50.0, 20, 40, 90]), keypoints)
        inside = ((moved[:, :2] >= 0) & (moved[:, :2] < [96, 128])).all(axis=1)
        assert inside[:6].all() or inside[6:].all()
        assert not inside.all()


def test_a_plain_view_is_always_the_same():
    image = np.random.randint(0, 255, (50, 60, 3), np.uint8)
    view = plain(View((32, 64), PAIRS, scale=0.3, rotation=40.0, rotation_probability=1.0, mirror_probability=1.0))
    box, keypoints = np.array([5.0, 5, 20, 30]), np.random.rand(3, 3)
    (one, points), (two, _) = view(image, box, keypoints), view(image, box, keypoints)
    assert np.array_equal(one, two)
    matrix = region_matrix(box_regions(box, (32, 64))[0], (32, 64))
    np.testing.assert_allclose(points[:, :2], move(keypoints[:, :2], matrix))


# Mapper, model, evaluation


@pytest.fixture
def people(tmp_path):
    """Two images with three persons of 17 keypoints, one person without any, and one crowd."""
    names = [f"{side}{k}" for k in range(8) for side in ("left_", "right_")] + ["nose"]
    generator = np.random.default_rng(0)
    images = [{"id": k, "file_name": f"{k}.png", "height": 90, "width": 120} for k in (1, 2)]
    annotations = []
    for number, (image, box, labelled, crowd) in enumerate(
        [
            (1, [10, 10, 40, 60], 2, 0),
            (1, [60, 20, 40, 60], 2, 0),
            (2, [30, 5, 60, 80], 2, 0),
            (2, [5, 5, 9, 9], 0, 0),
            (2, [1, 1, 50, 50], 2, 1),
        ],
        start=1,
    ):
        points = generator.integers(0, [box[2], box[3]], (17, 2)) + np.array(box[:2])
        flat = np.concatenate([points, np.full((17, 1), labelled)], axis=1) if labelled else np.zeros((17, 3), int)
        annotations.append(
            {
                "id": number,
                "image_id": image,
                "category_id": 1,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": crowd,
                "keypoints": flat.ravel().tolist(),
                "num_keypoints": 17 if labelled else 0,
            }
        )
    for image in images:
        cv2.imwrite(str(tmp_path / image["file_name"]), generator.integers(0, 255, (90, 120, 3), np.uint8))
    categories = [{"id": 1, "name": "person", "keypoints": names, "skeleton": [[1, 2]]}]
    path = tmp_path / "people.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    register_coco_instances("people_train", {}, path, tmp_path)
    DatasetCatalog.get("people_train")
    return path


def config(*opts, file="pose/pose_hrnet_w32_256x192.yaml"):
    cfg = shrunken(CONFIGS / file)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("people_train",)
    cfg.merge_from_list(list(opts))
    return cfg


def mapper_of(cfg, is_train):
    return build_mapper(cfg, is_train=is_train)


def test_training_crops_every_labelled_person(people):
    cfg = config("MODEL.POSE.PERSONS_PER_IMAGE", 8)
    samples = [mapper_of(cfg, True)(record) for record in DatasetCatalog.get("people_train")]
    assert [len(item["crops"]) for item in samples] == [2, 1]
    assert samples[0]["crops"].shape[1:] == (3, 96, 64) and samples[0]["joints"].shape == (2, 17, 3)
    cfg.MODEL.POSE.PERSONS_PER_IMAGE = 1
    assert len(mapper_of(cfg, True)(DatasetCatalog.get("people_train")[0])["crops"]) == 1


def test_evaluation_gets_annotated_boxes_or_those_of_a_file(people, tmp_path):
    record = DatasetCatalog.get("people_train")[0]
    mapped = mapper_of(config(), False)(record)
    assert mapped["person_boxes"].tolist() == [[10, 10, 40, 60], [60, 20, 40, 60]]
    found = tmp_path / "found.json"
    rows = [(1, 1, 0.9), (1, 1, 0.1), (1, 3, 0.9), (2, 1, 0.8)]
    found.write_text(
        json.dumps([{"image_id": i, "category_id": c, "bbox": [1, 2, 30, 40], "score": s} for i, c, s in rows])
    )
    cfg = config("MODEL.POSE.BOXES", str(found), "MODEL.POSE.BOX_SCORE_THRESH", 0.5)
    assert mapper_of(cfg, False)(record)["person_scores"].tolist() == [0.9]
    with pytest.raises(FileNotFoundError, match=r"MODEL\.POSE\.BOXES"):
        PeopleOfResults("missing.json", threshold=0.0, category_id=1)
    with pytest.raises(ValueError, match="no box of category 7"):
        PeopleOfResults(str(found), threshold=0.0, category_id=7)


def test_perfect_heat_maps_score_100(people, monkeypatch):
    """The whole way: annotation, region, crop, map, decoding, image, COCO's evaluation."""
    # Keypoints at random are harder to tell apart than those of bodies: larger maps stand for the larger bodies.
    cfg = config("MODEL.POSE.FLIP_TEST", False, "MODEL.POSE.INPUT_SIZE", [192, 256])
    model = build_model(cfg).eval()
    records = DatasetCatalog.get("people_train")
    evaluator = COCOEvaluator("people_train", ["keypoints"], distributed=False)
    to_test = mapper_of(cfg, False)
    for record in records:
        item = to_test(record)
        regions = box_regions(item["person_boxes"].numpy(), (192, 256))
        people = [a for a in record["annotations"] if any(a["keypoints"][2::3]) and not a["iscrowd"]]
        truth = np.array([a["keypoints"] for a in people]).reshape(-1, 17, 3)[..., :2] - 0.5
        joints = np.stack([move(p, region_matrix(r, (192, 256))) for p, r in zip(truth, regions)])
        targets, _ = gaussian_targets(torch.as_tensor(joints), torch.ones(len(people), 17), (64, 48), 4, 2.0)
        monkeypatch.setattr(type(model), "heatmaps", lambda self, crops, maps=targets: maps)
        evaluator.process([item], model([item]))
    assert evaluator.evaluate()["keypoints"]["AP"] == pytest.approx(100)


def test_results_are_in_pixels_of_the_original_image(people):
    cfg = config()
    model = build_model(cfg).eval()
    item = mapper_of(cfg, False)(DatasetCatalog.get("people_train")[0])
    with torch.no_grad():
        (once,) = model([item])
        (twice,) = model([{**item, "height": 180, "width": 240, "person_boxes": 2 * item["person_boxes"]}])
    for name in ("pred_keypoints", "pred_boxes"):
        one, two = (getattr(out["instances"], name) for out in (once, twice))
        one, two = (getattr(x, "tensor", x)[..., :2] for x in (one, two))
        torch.testing.assert_close(2 * one, two)
    assert twice["instances"].image_size == (180, 240)


def test_no_person_is_no_pose(people):
    cfg = config()
    model = build_model(cfg).eval()
    item = mapper_of(cfg, False)(DatasetCatalog.get("people_train")[0])
    nobody = {**item, "person_boxes": torch.zeros(0, 4), "person_scores": torch.zeros(0)}
    with torch.no_grad():
        (output,) = model([nobody])
        (whole,) = model([{key: item[key] for key in ("image", "height", "width")}])
    assert len(output["instances"]) == 0 and output["instances"].pred_keypoints.shape == (0, 17, 3)
    assert whole["instances"].pred_boxes.tensor.tolist() == [[0, 0, 120, 90]]  # without a detector


def test_a_detector_finds_the_persons(people, tmp_path):
    detector = load_config(str(CONFIGS / "_base_/models/rcnn_tiny.yaml"), ["MODEL.DEVICE", "cpu"])
    torch.save({"model": build_model(detector).state_dict()}, tmp_path / "detector.pth")
    keys = ["MODEL.POSE.DETECTOR.CONFIG_FILE", str(CONFIGS / "_base_/models/rcnn_tiny.yaml")]
    cfg = config(*keys, "MODEL.POSE.DETECTOR.WEIGHTS", str(tmp_path / "detector.pth"), "MODEL.POSE.BOXES", "detector")
    cfg.MODEL.POSE.OKS_NMS_THRESH = 1.0
    model = build_model(cfg).eval()
    item = mapper_of(cfg, False)(DatasetCatalog.get("people_train")[0])
    assert "person_boxes" not in item
    with torch.no_grad():
        (output,) = model([item])
    boxes, _ = model.detector(item["image"].permute(1, 2, 0).numpy())
    assert len(output["instances"]) == len(boxes)
    assert not any("detector" in name for name in model.state_dict())
    with pytest.raises(ValueError, match=r"DETECTOR\.WEIGHTS"):
        build_model(config(*keys))
    with pytest.raises(ValueError, match=r"DETECTOR\.CONFIG_FILE"):
        build_model(config("MODEL.POSE.BOXES", "detector"))


@pytest.mark.parametrize("file", ["pose/pose_hrnet_w32_256x192.yaml", "pose/pose_R_50_256x192.yaml"])
def test_it_learns_a_crop_by_heart(file, people):
    cfg = config("MODEL.HRNET.INIT", "kaiming", file=file)
    model = build_model(cfg)
    item = sample(cfg)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        with EventStorage():
            loss = model([item])["loss_pose"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_the_authors_weights_fill_the_model(people):
    model = build_model(config())
    state = {k: v + 1 for k, v in model.state_dict().items()}
    file = {
        k.replace("backbone.network.", "").replace("pose_head.predictor", "final_layer"): v for k, v in state.items()
    }
    model.load_state_dict(adapt_names({"model": file}, model.state_dict()))
    assert all(torch.equal(model.state_dict()[k], v) for k, v in state.items())


@pytest.mark.parametrize(
    "opts, named",
    [
        (("MODEL.POSE.IN_FEATURE", "res5"), "IN_FEATURE"),
        (("MODEL.POSE.INPUT_SIZE", [100, 128]), "INPUT_SIZE"),
        (("MODEL.POSE.FLIP_PAIRS", [[1, 17]]), "FLIP_PAIRS"),
    ],
)
def test_wrong_keys_are_named(people, opts, named):
    with pytest.raises(ValueError, match=named):
        build_model(config(*opts))
