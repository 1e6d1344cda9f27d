"""densekit, on whichever host runs, against numbers recorded from Detectron2: functions, whole models, parameters."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from densekit.config import load_config
from densekit.d2.config import get_cfg
from densekit.d2.layers import ROIAlign, paste_masks_in_image
from densekit.d2.modeling import build_model
from densekit.d2.modeling.box_regression import Box2BoxTransform
from densekit.d2.modeling.roi_heads.keypoint_head import keypoint_rcnn_loss
from densekit.d2.structures import Boxes, Instances, Keypoints, PolygonMasks, heatmaps_to_keypoints
from densekit.d2.utils.events import EventStorage
from tests.tolerances import PARITY

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
BASES = {
    "mask_fpn": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
    "keypoint": "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml",
    "c4": "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml",
    "dc5": "COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_1x.yaml",
    "fast": "COCO-Detection/fast_rcnn_R_50_FPN_1x.yaml",
}


@pytest.fixture(scope="module")
def recorded(reference_dir):
    return torch.load(reference_dir / "detectron2.pt", weights_only=True)


def assert_near(ours, expected, name, tolerance=PARITY["atol"]):
    """Within the tolerance, times the largest value where that is above 1."""
    ours, expected = (torch.as_tensor(x).detach().float() for x in (ours, expected))
    assert ours.shape == expected.shape, name
    if expected.numel():
        difference, scale = (ours - expected).abs().max(), max(expected.abs().max(), 1)
        assert difference / scale <= tolerance, f"{name} is off by {difference:.2e} at values up to {scale:.2e}"


# --- functions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sampling_ratio", "aligned"),
    [("roi_align_aligned", 0, True), ("roi_align_v1", 0, False), ("roi_align_s2", 2, True)],
)
def test_roi_align(recorded, name, sampling_ratio, aligned):
    case = recorded["functions"]
    pool = ROIAlign((7, 7), spatial_scale=0.25, sampling_ratio=sampling_ratio, aligned=aligned)
    assert_near(pool(case["feat"], case["rois"]), case[name], name)


def test_box_coder(recorded):
    case, coder = recorded["functions"], Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0))
    assert_near(coder.get_deltas(case["boxes"], case["gt"]), case["deltas"], "deltas")
    assert_near(coder.apply_deltas(case["applied_in"], case["boxes"]), case["applied"], "boxes")


def test_mask_pasting(recorded):
    case = recorded["functions"]
    pasted = paste_masks_in_image(case["masks28"], Boxes(case["paste_boxes"]), case["pasted"].shape[1:], threshold=0.5)
    assert (pasted == case["pasted"]).float().mean() >= 0.999


def test_keypoint_targets_loss_and_decoding(recorded):
    case = recorded["keypoint_functions"]
    heatmaps, keypoints = case["heatmaps"].float(), Keypoints(case["keypoints"])
    target, valid = keypoints.to_heatmap(case["rois"], 56)
    assert torch.equal(valid, case["valid"])
    assert torch.equal(target * valid, case["target"] * case["valid"])

    proposals = Instances((200, 200), proposal_boxes=Boxes(case["rois"]), gt_keypoints=keypoints)
    with EventStorage():
        visible = keypoint_rcnn_loss(heatmaps, [proposals], normalizer=None)
        all_points = keypoint_rcnn_loss(heatmaps, [proposals], normalizer=17 * 512 * 0.25)
    assert_near(visible, case["loss_visible"], "loss over visible keypoints")
    assert_near(all_points, case["loss_normalizer_17_512_025"], "loss over all keypoints of a full batch")
    assert_near(heatmaps_to_keypoints(heatmaps, case["rois"]), case["decoded"], "decoded keypoints")


# --- parameters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", sorted(BASES))
def test_parameter_names_and_shapes(recorded, base):
    cfg = load_config(str(CONFIGS / BASES[base]), ["MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        model = build_model(cfg)
    ours = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert ours == {name: tuple(shape) for name, shape in recorded["manifest"][base].items()}


# --- a whole model ----------------------------------------------------------------------------------------------------


def known(node, default):
    """The recorded config without the keys of parts that densekit does not have."""
    return {k: known(v, default[k]) if isinstance(v, dict) else v for k, v in node.items() if k in default}


@pytest.fixture
def mask_rcnn(recorded):
    case = recorded["mask_fpn"]
    cfg = get_cfg()
    cfg.merge_from_other_cfg(type(cfg)(known(yaml.safe_load(case["config"]), cfg)))
    cfg.merge_from_list(list(map(str, case["opts"])))
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    weights = {k: v.float() if v.dtype == torch.float16 else v for k, v in case["state_dict"].items()}
    loaded = model.load_state_dict(weights, strict=False)
    unnamed = {k for k in loaded.missing_keys if not k.startswith("pixel_") and "anchor" not in k}
    assert not unnamed and not loaded.unexpected_keys
    inputs = [{"image": x, "height": 2 * x.shape[1], "width": 2 * x.shape[2]} for x in recorded["images"]]
    return case, model, inputs


def fields(instances, names):
    values = {name: instances.get(name) for name in names}
    return {name: value.tensor if isinstance(value, Boxes) else value for name, value in values.items()}


@torch.no_grad()
def test_features_proposals_and_detections(mask_rcnn):
    case, model, inputs = mask_rcnn
    model.eval()
    images = model.preprocess_image(inputs)
    assert tuple(images.tensor.shape) == case["padded"]
    features = model.backbone(images.tensor)
    for name, expected in case["features"].items():
        assert_near(features[name], expected, name)

    logits, deltas = model.proposal_generator.rpn_head([features[f] for f in model.proposal_generator.in_features])
    for level, (ours, expected) in enumerate(zip(logits, case["rpn_logits"])):
        assert_near(ours, expected, f"objectness of level {level}")
    for level, (ours, expected) in enumerate(zip(deltas, case["rpn_deltas"])):
        assert_near(ours, expected, f"deltas of level {level}", tolerance=4e-3)  # recorded in half precision

    proposals, _ = model.proposal_generator(images, features, None)
    for ours, expected in zip(proposals, case["proposals"]):
        assert len(ours) == expected["n"]
        assert_near(ours.proposal_boxes.tensor[: len(expected["boxes"])], expected["boxes"], "proposals")
        assert_near(ours.objectness_logits[: len(expected["logits"])], expected["logits"], "objectness of proposals")

    for ours, expected, count in zip(model.inference(inputs, do_postprocess=False), case["raw"], case["n_raw"]):
        assert len(ours) == count
        for name, value in fields(ours, expected).items():
            assert_near(value[: len(expected[name])], expected[name], name)


@torch.no_grad()
def test_results_in_original_pixels(mask_rcnn):
    case, model, inputs = mask_rcnn
    for result, expected in zip(model.eval()(inputs), case["post"]):
        instances, shape = result["instances"], expected["mask_shape"]
        for name, value in fields(instances, ["pred_boxes", "scores", "pred_classes"]).items():
            assert_near(value[: len(expected[name])], expected[name], name)
        bits = np.unpackbits(expected["mask_bits"].numpy())[: np.prod(shape)].reshape(shape).astype(bool)
        assert (instances.pred_masks[: shape[0]].numpy() == bits).mean() >= 0.999


def test_losses_and_gradients(mask_rcnn):
    case, model, inputs = mask_rcnn
    for item, truth in zip(inputs, case["gt"]):
        item["instances"] = Instances(
            tuple(item["image"].shape[-2:]),
            gt_boxes=Boxes(truth["boxes"]),
            gt_classes=truth["classes"],
            gt_masks=PolygonMasks([[np.asarray(part) for part in polygons] for polygons in truth["polygons"]]),
        )
    with EventStorage():
        losses = model.train()(inputs)
        sum(losses.values()).backward()
    assert losses.keys() == case["losses"].keys()
    for name, expected in case["losses"].items():
        assert_near(losses[name], expected, name)
    norms = {name: p.grad.norm() for name, p in model.named_parameters() if p.grad is not None}
    assert norms.keys() == case["grad_norms"].keys()
    for name, expected in case["grad_norms"].items():
        assert_near(norms[name], expected, f"gradient of {name}")
