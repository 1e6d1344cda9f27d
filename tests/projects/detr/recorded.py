"""Checks recorded outputs of DETR's authors and of their Detectron2 wrapper.

``python -m tests.projects.detr.recorded FILE``: a file of the authors' holds tiny models (``post``, ``segm`` ...) from
images to losses and cases of the panoptic output; one of the wrapper's its names and padding masks. Sizes are read from
the file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from densekit.config import load_config
from densekit.d2.modeling import build_model
from densekit.modeling.matcher import HungarianMatcher
from densekit.modeling.set_criterion import SetCriterion, weighted
from densekit.projects.detr.query_fusion import merge_masks, paste_masks
from densekit.weights.parts import find_layout
from tests.projects.detr.cases import load, padded, tiny_detr
from tests.recorded_cases import Cases, main

ROOT = Path(__file__).resolve().parents[3]
WEIGHTS = {"loss_ce": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0, "loss_mask": 1.0, "loss_dice": 1.0}
_SIGN = "transformer.encoder.layers.0.linear1.weight"


def check(recorded: Mapping[str, Any], cases: Cases) -> None:
    if "mask_original" in recorded:
        _wrapper(recorded, cases)
        return
    base = recorded.get("post", {})
    for key, record in recorded.items():
        if isinstance(record, Mapping) and "state_dict" in record:
            # Variants hold the entries that differ from the first model's.
            whole = record["state_dict"]
            if not any(name.endswith(_SIGN) for name in whole):
                whole = {**base["state_dict"], **whole}
            _model(key, {**record, "state_dict": whole}, recorded["images"], cases)
        elif key == "panoptic_post":
            _panoptic(record, cases)
        elif key not in ("about", "images"):
            cases.not_checked(key, "a kind of case that is not known")


def _tiny(record: Mapping[str, Any]) -> nn.Module:
    """The model of a record, whose options and widths are its configuration's and its weights'."""
    options, weights = dict(record["config"]), record["state_dict"]
    for name, value in weights.items():
        if name.endswith("query_embed.weight"):
            options |= {"q": value.shape[0], "hidden": value.shape[1]}
        elif name.endswith("class_embed.bias"):
            options["classes"] = len(value) - 1
        elif name.endswith("encoder.layers.0.linear1.bias"):
            options["ffn"] = len(value)
        elif name.endswith("body.conv1.weight"):
            options["width"] = len(value)
    options["enc"] = sum(name.endswith("linear1.bias") and ".encoder." in name for name in weights)
    return tiny_detr(**options)


def _model(key: str, record: Mapping[str, Any], originals: list[Tensor], cases: Cases) -> None:
    torch.manual_seed(1)
    model = _tiny(record)
    for name, spread in record.get("init_std", {}).items():
        cases.close(f"{key} spread of {name}", model.get_parameter(name).std(), spread, atol=0, rtol=0.05)
    load(model, record["state_dict"])
    images, sizes = padded(originals)
    model.train()
    _states(key, record, model, images, sizes, cases)
    with torch.no_grad():
        _outputs(key, record, model, images, sizes, cases)
    _losses(key, record, model, images, sizes, cases)
    cases.not_checked(f"{key} weighted_total", "the total with the watched figures; that of training is compared")


def _states(key, record, model, images, sizes, cases: Cases) -> None:
    detector = getattr(model, "detr", model)
    with torch.no_grad():
        encoded = detector.encode(images, sizes)
    cells = tuple(encoded.features[-1].shape[-2:])
    mask = detector.backbone[0].mask(sizes, tuple(images.shape[-2:]), cells)
    cases.close(f"{key} features", encoded.features[-1], record["feat_last"])
    cases.equal(f"{key} padding", mask, record["mask_last"])
    cases.close(f"{key} positions", detector.backbone[1](mask), record["pos_last"])
    cases.close(f"{key} memory", encoded.memory, record["memory"])
    cases.close(f"{key} states", encoded.states, record["hs"])
    if "bbox_attention" in record:
        maps = model.bbox_attention(encoded.states[-1], encoded.memory, encoded.mask)
        cases.close(f"{key} attention maps", maps, record["bbox_attention"])


def _outputs(key, record, model, images, sizes, cases: Cases) -> None:
    outputs, expected = model(images, sizes), record["out"]
    for number, (found, wanted) in enumerate(
        zip([outputs, *outputs["aux_outputs"]], [expected, *expected["aux_outputs"]], strict=True)
    ):
        for name in ("pred_logits", "pred_boxes"):
            cases.close(f"{key} {name} {number or ''}", found[name], wanted[name])
    for index, wanted in enumerate(record["postprocess"]):
        scores, labels = outputs["pred_logits"][index].softmax(-1)[:, :-1].max(-1)
        height, width = record["target_sizes"][index].tolist()
        cx, cy, w, h = outputs["pred_boxes"][index].unbind(-1)
        corners = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], dim=-1)
        boxes = corners * torch.tensor([width, height, width, height])
        cases.close(f"{key} scores of image {index}", scores, wanted["scores"])
        cases.equal(f"{key} labels of image {index}", labels, wanted["labels"])
        cases.close(f"{key} boxes of image {index}", boxes, wanted["boxes"], atol=1e-2)  # pixels
    if "pred_masks" not in outputs:
        return
    cases.close(f"{key} pred_masks", outputs["pred_masks"], expected["pred_masks"])
    for index, wanted in enumerate(record["target_sizes"].tolist()):
        shape = record["segm_masks_shape"][index]
        bits = np.unpackbits(record["segm_masks"][index].numpy())[: np.prod(shape)].reshape(shape)[:, 0]
        pasted = paste_masks(outputs["pred_masks"][index], tuple(images.shape[-2:]), sizes[index], tuple(wanted))
        cases.agreement(f"{key} masks of image {index}", pasted.bool(), torch.from_numpy(bits).bool())


def _losses(key, record, model, images, sizes, cases: Cases) -> None:
    outputs, targets = model(images, sizes), _targets(record, images)
    matcher = HungarianMatcher()
    layers = [*zip(outputs["aux_outputs"], record["aux_indices"], strict=True), (outputs, record["indices"])]
    for number, (layer, expected) in enumerate(layers):
        for image, (found, pair) in enumerate(zip(matcher(layer, targets), expected, strict=True)):
            cases.equal(
                f"{key} matches of layer {number}, image {image}",
                [x.tolist() for x in found],
                [x.tolist() for x in pair],
            )
    criterion = SetCriterion(num_classes=outputs["pred_logits"].shape[-1] - 1, matcher=matcher)
    losses = criterion(outputs, targets)
    cases.close(f"{key} losses", losses, record["losses"])
    total = sum(weighted(losses, WEIGHTS).values())
    cases.close(f"{key} total", total, record["train_total"])
    model.zero_grad()
    total.backward()
    layout = find_layout(record["state_dict"])
    theirs = {name: torch.tensor(norm) for name, norm in record["grad_norms"].items()}
    norms = {f"detr.{name}": p.grad.norm() for name, p in model.named_parameters() if p.grad is not None}
    cases.close(f"{key} norms of gradients", norms, layout.convert(theirs) if layout else theirs)


def _targets(record, images) -> list[dict[str, Tensor]]:
    targets = [dict(target) for target in record["targets"]]
    for target in targets:
        if "masks" in target:
            height, width = target["masks"].shape[1:]
            extra = (0, images.shape[-1] - width, 0, images.shape[-2] - height)
            target["masks"] = nn.functional.pad(target["masks"], extra)
    return targets


def _panoptic(record: Mapping[str, Any], cases: Cases) -> None:
    outputs = record["outputs"]
    for kind, case in record.items():
        if "processed" not in case:
            continue
        size, target = tuple(case["processed"][0]), case["target"]
        segments, info = merge_masks(
            outputs["pred_logits"][0],
            outputs["pred_masks"][0],
            padded_size=size,
            image_size=size,
            output_size=tuple(target[0]) if target else None,
            things=range(91),
        )
        cases.equal(f"panoptic, {kind}: segments", segments, case["seg"])
        cases.equal(f"panoptic, {kind}: descriptions", info, case["segments_info"])
    cases.not_checked("panoptic_post none_kept", "the outputs of this case are not in the file")


def _wrapper(recorded: Mapping[str, Any], cases: Cases) -> None:
    images, sizes = padded(recorded["images"])
    cells = tuple(recorded["mask"].shape[1:])
    for convention, key in (("ceil", "mask"), ("nearest", "mask_original")):
        backbone = tiny_detr(padding_mask=convention).backbone[0]
        cases.equal(f"padding, {convention}", backbone.mask(sizes, tuple(images.shape[-2:]), cells), recorded[key])
    with torch.device("meta"):
        model = build_model(load_config(str(ROOT / "configs/detr/detr_R_50.yaml"), ["MODEL.DEVICE", "meta"]))
    ours = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    cases.equal("manifest", ours, {name: tuple(shape) for name, shape in recorded["manifest"].items()})


if __name__ == "__main__":
    main(check)
