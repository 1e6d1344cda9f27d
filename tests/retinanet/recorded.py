"""RetinaNet, on whichever host runs, against outputs recorded from Detectron2.

``python -m tests.retinanet.recorded FILE`` prints a line for each case.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from fvcore.nn import sigmoid_focal_loss
from torch import Tensor, nn

from densekit.config import load_config
from densekit.d2.config import CfgNode
from densekit.d2.layers import batched_nms
from densekit.d2.modeling import build_model
from densekit.d2.modeling.box_regression import Box2BoxTransform
from densekit.d2.modeling.matcher import Matcher
from densekit.d2.structures import Boxes, Instances
from densekit.d2.utils.events import EventStorage
from tests.recorded_cases import Cases, main

CONFIGS = Path(__file__).resolve().parents[2] / "configs/COCO-Detection"
DEPTHS = {6: 50, 23: 101, 36: 152}  # blocks of res4 -> depth


def check(recorded: Mapping[str, Any], cases: Cases) -> None:
    """Runs every case of a file."""
    models = [name for name, case in recorded.items() if isinstance(case, Mapping) and "state_dict" in case]
    for name in models:
        _check_model(name, recorded, cases)
    checks = {
        "no_objects": lambda name, case: _check_no_objects(name, recorded[models[0]], recorded, cases),
        "focal": _check_focal,
        "matcher": _check_matcher,
        "box_coder": _check_box_coder,
        "batched_nms": _check_nms,
        "head_init_stats_full": _check_full_init,
        "yaml": _check_yaml,
    }
    for name, case in recorded.items():
        if name in models or name in ("images", "gt"):
            continue
        if name == "about":
            cases.not_checked(name, "a description")
        elif name == "no_objects":
            checks[name](name, case)
        elif name in checks:
            checks[name](name, case, cases)
        else:
            cases.not_checked(name, "an unknown case")


def model_config(case: Mapping[str, Any]) -> CfgNode:
    """The configuration of a recorded model: the published one with the widths that its tensors have."""
    weights = case["state_dict"]
    stage = "backbone.bottom_up.res{}.{}.conv{}.weight"
    blocks = len([key for key in weights if key.startswith("backbone.bottom_up.res4") and key.endswith("conv1.weight")])
    sizes, ratios = zip(*(_sizes_and_ratios(level) for level in case["cell_anchors"]))
    cfg = load_config(str(CONFIGS / "retinanet_R_50_FPN_1x.yaml"))
    keys = {
        "DEVICE": "cpu",
        "WEIGHTS": "",
        "RESNETS.DEPTH": DEPTHS[blocks],
        "RESNETS.STEM_OUT_CHANNELS": len(weights["backbone.bottom_up.stem.conv1.weight"]),
        "RESNETS.WIDTH_PER_GROUP": len(weights[stage.format(2, 0, 1)]),
        "RESNETS.RES2_OUT_CHANNELS": len(weights[stage.format(2, 0, 3)]),
        "FPN.OUT_CHANNELS": len(weights["backbone.top_block.p6.weight"]),
        "RETINANET.NUM_CLASSES": len(weights["head.cls_score.bias"]) // len(case["cell_anchors"][0]),
        "ANCHOR_GENERATOR.SIZES": list(sizes),
        "ANCHOR_GENERATOR.ASPECT_RATIOS": list(ratios),
    }
    for key, value in keys.items():
        cfg.merge_from_list([f"MODEL.{key}", value])
    cfg.merge_from_list(list(case["opts"]))
    return cfg


def _sizes_and_ratios(cell: Tensor) -> tuple[list[float], list[float]]:
    """The settings behind the anchors (A, 4) of a location, sizes outermost."""
    width, height = (cell[:, 2:] - cell[:, :2]).double().unbind(1)
    areas = (width * height).sqrt()
    count = int((torch.isclose(areas, areas[0], rtol=1e-4)).sum())
    return areas[::count].tolist(), (height / width)[:count].tolist()


def _loaded(case: Mapping[str, Any]) -> nn.Module:
    model = build_model(model_config(case))
    weights = {key: v.float() if v.dtype == torch.float16 else v for key, v in case["state_dict"].items()}
    model.load_state_dict(weights)
    return model


def _inputs(recorded: Mapping[str, Any]) -> list[dict[str, Any]]:
    inputs = []
    for image, truth in zip(recorded["images"], recorded["gt"]):
        size = tuple(image.shape[-2:])
        instances = Instances(size, gt_boxes=Boxes(truth["boxes"].clone()), gt_classes=truth["classes"])
        inputs.append({"image": image, "instances": instances})
    return inputs


def _check_model(name: str, recorded: Mapping[str, Any], cases: Cases) -> None:
    case, inputs = recorded[name], _inputs(recorded)
    fresh = build_model(model_config(case))
    _check_init(f"{name}: fresh weights", fresh, case["init_stats"], cases)
    model = _loaded(case)
    _check_inference(name, model, case, inputs, cases)
    _check_labels(name, model, case, inputs, cases)
    _check_training(name, model, case, inputs, cases)
    known = {"opts", "init_stats", "state_dict", "padded", "features", "logits", "deltas", "anchors_first9_last9"}
    known |= {"n_anchors", "cell_anchors", "labels", "matched_boxes_of_positives", "n_positive", "raw", "post"}
    known |= {"n_candidates_before_nms", "grads", "losses_step1_step2"}
    cases.not_checked([f"{name}: {key}" for key in case if key not in known], "a note")


@torch.no_grad()
def _check_inference(
    name: str, model: nn.Module, case: Mapping[str, Any], inputs: list[dict[str, Any]], cases: Cases
) -> None:
    model.eval()
    images = model.preprocess_image(inputs)
    cases.equal(f"{name}: padded size", tuple(images.tensor.shape), tuple(case["padded"]))
    maps = model.backbone(images.tensor)
    for level, expected in case["features"].items():
        cases.close(f"{name}: {level}", maps[level], expected)
    features = [maps[level] for level in model.head_in_features]
    predictions = model.head(features)
    for kind, ours in zip(("logits", "deltas"), predictions):
        expected = case[kind]  # some cases hold the first rows and columns only
        cut = [x[..., : want.shape[2], : want.shape[3]] for x, want in zip(ours, expected)]
        cases.close(f"{name}: {kind}", cut, expected)
    anchors = [level.tensor for level in model.anchor_generator(features)]
    ends = [
        torch.cat((x[: len(want) // 2], x[-(len(want) // 2) :]))
        for x, want in zip(anchors, case["anchors_first9_last9"])
    ]
    cases.close(f"{name}: anchors", ends, case["anchors_first9_last9"], atol=1e-3)
    cases.equal(f"{name}: number of anchors", [len(x) for x in anchors], list(case["n_anchors"]))

    results = model.forward_inference(images, features, predictions)
    _check_detections(f"{name}: detections", results, case["raw"], cases)
    framed = [item | _frame(expected) for item, expected in zip(inputs, case["post"])]
    posted = [result["instances"] for result in model(framed)]
    _check_detections(f"{name}: detections in original pixels", posted, case["post"], cases)
    best = model.max_detections_per_image, model.test_nms_thresh
    model.max_detections_per_image, model.test_nms_thresh = 10**6, 1.0
    counts = [len(result) for result in model.forward_inference(images, features, model.head(features))]
    model.max_detections_per_image, model.test_nms_thresh = best
    cases.equal(f"{name}: candidates before suppression", counts, list(case["n_candidates_before_nms"]))


def _frame(expected: Mapping[str, Tensor]) -> dict[str, int]:
    """The size that results were asked in, which the file does not say: some of its boxes are cut off there."""
    width, height = expected["pred_boxes"][:, 2:].amax(dim=0).round().int().tolist()
    return {"width": width, "height": height}


def _check_detections(name: str, results: list[Instances], expected: list[Any], cases: Cases) -> None:
    """Compares detections in their order; where two scores tie to rounding they may have changed places."""
    for index, (ours, theirs) in enumerate(zip(results, expected)):
        cases.equal(f"{name} of image {index}: number", len(ours), len(theirs["scores"]))
        if len(ours) != len(theirs["scores"]):
            continue
        order = _order_of(ours, theirs)
        cases.close(f"{name} of image {index}: scores", ours.scores[order], theirs["scores"])
        cases.close(f"{name} of image {index}: boxes", ours.pred_boxes.tensor[order], theirs["pred_boxes"], rtol=1e-4)
        cases.equal(f"{name} of image {index}: classes", ours.pred_classes[order], theirs["pred_classes"])


def _order_of(ours: Instances, theirs: Mapping[str, Tensor]) -> Tensor:
    distance = torch.cdist(ours.pred_boxes.tensor.double(), theirs["pred_boxes"].double())
    distance += 1e3 * (ours.pred_classes[:, None] != theirs["pred_classes"])
    distance += 1e3 * (ours.scores[:, None] - theirs["scores"]).abs()
    return distance.argmin(dim=0)


def _check_labels(
    name: str, model: nn.Module, case: Mapping[str, Any], inputs: list[dict[str, Any]], cases: Cases
) -> None:
    images = model.preprocess_image(inputs)
    maps = model.backbone(images.tensor)
    anchors = model.anchor_generator([maps[level] for level in model.head_in_features])
    labels, boxes = model.label_anchors(anchors, [item["instances"] for item in inputs])
    positives = [(label >= 0) & (label < model.num_classes) for label in labels]
    for index, expected in enumerate(case["labels"]):
        cases.equal(f"{name}: labels of image {index}", labels[index], expected.to(labels[index].dtype))
    matched = [box[positive] for box, positive in zip(boxes, positives)]
    cases.close(f"{name}: boxes of the positives", matched, case["matched_boxes_of_positives"])
    cases.equal(f"{name}: number of positives", [int(x.sum()) for x in positives], list(case["n_positive"]))


def _check_training(
    name: str, model: nn.Module, case: Mapping[str, Any], inputs: list[dict[str, Any]], cases: Cases
) -> None:
    model.train()
    for step, expected in enumerate(case["losses_step1_step2"]):
        with EventStorage():
            losses = model(inputs)
        ours = {key: losses[key] for key in expected if key != "normaliser_after"}
        ours["normaliser_after"] = float(model.loss_normalizer)
        cases.close(f"{name}: losses of step {step + 1}", ours, expected, rtol=1e-4)
        if step == 0:
            sum(losses.values()).backward()
            check_gradients(f"{name}: gradients", model, case["grads"], cases)


def check_gradients(name: str, model: nn.Module, expected: Mapping[str, Any], cases: Cases) -> None:
    """Compares sum and norm of every parameter's gradient, a sum in units of the norm of what it sums."""
    expected = {key: value for key, value in expected.items() if value is not None}  # None: it does not learn
    ours = {
        key: (float(p.grad.sum()), float(p.grad.norm())) for key, p in model.named_parameters() if p.grad is not None
    }
    cases.equal(f"{name}: parameters", set(ours), set(expected))
    unit = {key: max(value[1], 1e-3) for key, value in expected.items()}
    common = [key for key in expected if key in ours]
    cases.close(
        name, *([[value / unit[key] for value in side[key]] for key in common] for side in (ours, expected)), atol=1e-3
    )


def _check_init(name: str, model: nn.Module, expected: Mapping[str, Any], cases: Cases) -> None:
    """Compares fresh weights with statistics of others: mean within five of its deviations, deviation within six."""
    tensors, wrong = model.state_dict(), []
    for key, (mean, std, low, high, count) in expected.items():
        value = tensors[key].double()
        error = std / math.sqrt(count)
        ours_std = float(value.std()) if count > 1 else 0.0
        right = value.numel() == count and abs(float(value.mean()) - mean) <= 8 * error + 1e-5 + 1e-5 * abs(mean)
        right = right and abs(ours_std - std) <= 6 * error + 1e-6
        bound = max(abs(low), abs(high)) * 1.8 + 1e-6
        if not right or float(value.abs().max()) > bound:
            wrong.append(key)
    cases.equal(name, wrong, [])


def _check_no_objects(name: str, model_case: Mapping[str, Any], recorded: Mapping[str, Any], cases: Cases) -> None:
    case, model = recorded[name], _loaded(model_case).train()
    index = int(case["image"].partition("[")[2].rstrip("]"))
    with EventStorage():
        losses = model([_inputs(recorded)[index]])
    cases.close(f"{name}: losses", {key: losses[key] for key in case["losses"]}, case["losses"])
    cases.close(f"{name}: normaliser", float(model.loss_normalizer), case["normaliser"])


def _check_focal(name: str, case: Mapping[str, Any], cases: Cases) -> None:
    for (alpha, gamma), (total, gradient) in case["cases"].items():
        logits = case["logits"].clone().requires_grad_()
        loss = sigmoid_focal_loss(logits, case["targets"], alpha=alpha, gamma=gamma, reduction="sum")
        loss.backward()
        cases.close(f"{name}: alpha {alpha}, gamma {gamma}", loss, total)
        cases.close(f"{name}: alpha {alpha}, gamma {gamma}, gradient", logits.grad, gradient)


def _check_matcher(name: str, case: Mapping[str, Any], cases: Cases) -> None:
    for kind, (matches, labels) in case["cases"].items():
        overlaps = case["iou"][:0] if kind == "no_gt" else case["iou"]
        matcher = Matcher([0.4, 0.5], [0, -1, 1], allow_low_quality_matches=kind is not False)
        ours = matcher(overlaps)
        cases.equal(f"{name}: {kind}, matches", ours[0], matches)
        cases.equal(f"{name}: {kind}, labels", ours[1], labels)


def _check_box_coder(name: str, case: Mapping[str, Any], cases: Cases) -> None:
    coder = Box2BoxTransform(weights=tuple(case["weights"]))
    cases.close(f"{name}: deltas", coder.get_deltas(case["anchors"], case["gt"]), case["deltas"])
    cases.close(f"{name}: boxes", coder.apply_deltas(case["in_deltas"], case["anchors"]), case["applied"], rtol=1e-4)


def _check_nms(name: str, case: Mapping[str, Any], cases: Cases) -> None:
    for key, expected in case.items():
        if key.startswith("keep_"):
            threshold = float(f"{key[5]}.{key[6:]}")
            keep = batched_nms(case["boxes"], case["scores"], case["classes"], threshold)
            cases.equal(f"{name}: overlap {threshold}", keep, expected)


def _check_full_init(name: str, case: Mapping[str, Any], cases: Cases) -> None:
    cfg = load_config(str(CONFIGS / "retinanet_R_50_FPN_1x.yaml"), ["MODEL.DEVICE", "cpu"])
    _check_init(name, build_model(cfg), case, cases)


def _check_yaml(name: str, case: Mapping[str, Any], cases: Cases) -> None:
    for file, expected in case.items():
        cfg = load_config(str(CONFIGS / f"{file}.yaml"), ["MODEL.DEVICE", "meta"])
        with torch.device("meta"):
            model = build_model(cfg)
        manifest = expected["manifest"]
        while isinstance(manifest, str):
            manifest = case[manifest.removeprefix("same as ")]["manifest"]
        ours = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        cases.equal(f"{name}: {file}, tensors", ours, {key: tuple(shape) for key, shape in manifest.items()})
        parameters = list(model.parameters())
        cases.equal(f"{name}: {file}, parameters", sum(p.numel() for p in parameters), expected["nparams"])
        trainable = sum(p.numel() for p in parameters if p.requires_grad)
        cases.equal(f"{name}: {file}, trainable", trainable, expected["trainable"])
        settings = {key.upper(): cfg.SOLVER[key.upper()] for key in expected["solver"]}
        cases.equal(f"{name}: {file}, solver", settings, {key.upper(): v for key, v in expected["solver"].items()})
        inputs = cfg.INPUT
        ours = {"min_train": tuple(inputs.MIN_SIZE_TRAIN), "max_train": inputs.MAX_SIZE_TRAIN}
        ours |= {"min_test": inputs.MIN_SIZE_TEST, "max_test": inputs.MAX_SIZE_TEST, "format": inputs.FORMAT}
        ours |= {"mean": list(cfg.MODEL.PIXEL_MEAN), "std": list(cfg.MODEL.PIXEL_STD)}
        cases.equal(f"{name}: {file}, input", ours, expected["input"])
        settings = {key: cfg.MODEL.RETINANET[key] for key in expected["retinanet"]}
        settings["BBOX_REG_WEIGHTS"] = list(settings["BBOX_REG_WEIGHTS"])
        cases.equal(f"{name}: {file}, RetinaNet", settings, expected["retinanet"])
        anchors = cfg.MODEL.ANCHOR_GENERATOR
        cases.close(f"{name}: {file}, anchor sizes", anchors.SIZES, expected["anchor_sizes"])
        cases.close(f"{name}: {file}, aspect ratios", anchors.ASPECT_RATIOS, expected["aspect_ratios"])


if __name__ == "__main__":
    main(check)
