"""DETR against the recorded outputs of its authors' code."""

from pathlib import Path

import numpy as np
import pytest
import torch

from densekit.config import load_config
from densekit.d2.modeling import build_model
from densekit.modeling.matcher import HungarianMatcher
from densekit.modeling.set_criterion import SetCriterion, weighted
from densekit.projects.detr.panoptic import merge_masks, paste_masks
from densekit.weights.parts import find_layout
from tests.projects.detr.cases import load, padded, tiny_detr
from tests.tolerances import PARITY

ROOT = Path(__file__).resolve().parents[3]
WEIGHTS = {"loss_ce": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0, "loss_mask": 1.0, "loss_dice": 1.0}


@pytest.fixture(scope="module")
def recorded(reference_dir):
    return torch.load(reference_dir / "detr.pt")


@pytest.fixture(params=["post", "segm"])
def case(request, recorded):
    record = recorded[request.param]
    model = tiny_detr(**record["config"])
    load(model, record["state_dict"])
    images, sizes = padded(recorded["images"])
    return record, model.train(), images, sizes


def targets_of(record, images):
    targets = [dict(target) for target in record["targets"]]
    for target in targets:
        if "masks" in target:
            height, width = target["masks"].shape[1:]
            extra = (0, images.shape[-1] - width, 0, images.shape[-2] - height)
            target["masks"] = torch.nn.functional.pad(target["masks"], extra)
    return targets


def test_recorded_states(case):
    record, model, images, sizes = case
    detector = getattr(model, "detr", model)
    encoded = detector.encode(images, sizes)
    torch.testing.assert_close(encoded.features[-1], record["feat_last"], **PARITY)
    cells = tuple(encoded.features[-1].shape[-2:])
    mask = detector.backbone[0].mask(sizes, tuple(images.shape[-2:]), cells)
    assert torch.equal(mask, record["mask_last"])
    torch.testing.assert_close(detector.backbone[1](mask), record["pos_last"], **PARITY)
    torch.testing.assert_close(encoded.memory, record["memory"], **PARITY)
    torch.testing.assert_close(encoded.states, record["hs"], **PARITY)
    if "bbox_attention" in record:
        maps = model.bbox_attention(encoded.states[-1], encoded.memory, encoded.mask)
        torch.testing.assert_close(maps, record["bbox_attention"], **PARITY)


def test_recorded_outputs(case):
    record, model, images, sizes = case
    with torch.no_grad():
        outputs = model(images, sizes)
    for found, expected in zip(
        [outputs, *outputs["aux_outputs"]], [record["out"], *record["out"]["aux_outputs"]], strict=True
    ):
        for name in ("pred_logits", "pred_boxes"):
            torch.testing.assert_close(found[name], expected[name], **PARITY)
    if "pred_masks" in outputs:
        torch.testing.assert_close(outputs["pred_masks"], record["out"]["pred_masks"], **PARITY)
        for index, wanted in enumerate(record["target_sizes"].tolist()):
            shape = record["segm_masks_shape"][index]
            expected = np.unpackbits(record["segm_masks"][index].numpy())[: np.prod(shape)].reshape(shape)[:, 0]
            pasted = paste_masks(outputs["pred_masks"][index], tuple(images.shape[-2:]), sizes[index], tuple(wanted))
            assert (pasted.numpy() == expected).mean() > 0.999


def test_recorded_matches_losses_and_gradients(case):
    record, model, images, sizes = case
    outputs, targets = model(images, sizes), targets_of(record, images)
    matcher = HungarianMatcher()
    layers = [*zip(outputs["aux_outputs"], record["aux_indices"], strict=True), (outputs, record["indices"])]
    for layer, expected in layers:
        for found, pair in zip(matcher(layer, targets), expected, strict=True):
            assert torch.equal(found[0], pair[0]) and torch.equal(found[1], pair[1])

    criterion = SetCriterion(num_classes=7, matcher=matcher)
    losses = criterion(outputs, targets)
    assert losses.keys() == record["losses"].keys()
    for name, expected in record["losses"].items():
        assert losses[name].item() == pytest.approx(expected, abs=1e-4), name
    total = sum(weighted(losses, WEIGHTS).values())
    assert total.item() == pytest.approx(record["train_total"], abs=1e-4)

    total.backward()
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None}
    recorded = {name: torch.tensor(norm) for name, norm in record["grad_norms"].items()}
    expected = find_layout(record["state_dict"]).convert(recorded)
    assert {f"detr.{name}" for name in norms} == expected.keys()
    for name, norm in norms.items():
        assert norm == pytest.approx(expected[f"detr.{name}"].item(), rel=1e-4, abs=1e-4), name


def test_initial_deviations_are_the_authors(recorded):
    for name in ("post", "segm"):
        record = recorded[name]
        torch.manual_seed(1)
        model = tiny_detr(**record["config"])
        for parameter, expected in record["init_std"].items():
            found = model.get_parameter(parameter).std().item()
            assert found == pytest.approx(expected, rel=0.05), parameter


@pytest.mark.parametrize("kind", ["same", "resized"])
def test_recorded_panoptic_cases_are_met_exactly(recorded, kind):
    cases = recorded["panoptic_post"]
    size, target = cases[kind]["processed"][0], cases[kind]["target"]
    segments, info = merge_masks(
        cases["outputs"]["pred_logits"][0],
        cases["outputs"]["pred_masks"][0],
        padded_size=tuple(size),
        image_size=tuple(size),
        output_size=tuple(target[0]) if target else None,
        things=range(91),
    )
    assert torch.equal(segments, cases[kind]["seg"])
    assert info == cases[kind]["segments_info"]


def test_recorded_padding_masks(reference_dir):
    record = torch.load(reference_dir / "detr_d2.pt")
    images, sizes = padded(record["images"])
    for convention, key in (("ceil", "mask"), ("nearest", "mask_original")):
        backbone = tiny_detr(padding_mask=convention).backbone[0]
        assert torch.equal(backbone.mask(sizes, tuple(images.shape[-2:]), (4, 6)), record[key])


def test_full_size_parameters_are_the_wrappers(reference_dir):
    manifest = torch.load(reference_dir / "detr_d2.pt")["manifest"]
    model = build_model(load_config(str(ROOT / "configs/detr/detr_R_50.yaml"), ["MODEL.DEVICE", "cpu"]))
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == {
        name: tuple(shape) for name, shape in manifest.items()
    }
