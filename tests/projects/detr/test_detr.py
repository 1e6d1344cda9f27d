"""DETR as a model of the host: what must hold whatever the weights, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from densekit.checkpoint import Checkpointer
from densekit.config import describe_config, load_config
from densekit.d2.modeling import build_model
from densekit.d2.structures import BitMasks, Boxes, Instances
from densekit.d2.utils.events import EventStorage
from densekit.data.mapper import MAPPERS
from densekit.projects.detr.mapper import DetrDatasetMapper
from densekit.projects.detr.query_fusion import merge_masks
from densekit.solver import build_optimizer
from tests.projects.detr.cases import padded, tiny_detr
from tests.tolerances import close

ROOT = Path(__file__).resolve().parents[3]
FOUR = ["res2", "res3", "res4", "res5"]
SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
    "MODEL.DETR.HIDDEN_DIM": 128,
    "MODEL.DETR.DIM_FEEDFORWARD": 64,
    "MODEL.DETR.ENC_LAYERS": 1,
    "MODEL.DETR.DEC_LAYERS": 2,
    "MODEL.DETR.DROPOUT": 0.0,
    "MODEL.DETR.NUM_CLASSES": 3,
    "MODEL.DETR.NUM_OBJECT_QUERIES": 7,
}


def small(config="detr_R_50", **options):
    """A narrow model of a shipped configuration; options are keys of MODEL.DETR, or full keys."""
    extra = {key if "." in key else f"MODEL.DETR.{key}": value for key, value in options.items()}
    pairs = [item for pair in {**SMALL, **extra}.items() for item in pair]
    cfg = load_config(str(ROOT / f"configs/detr/{config}.yaml"), [])
    cfg.merge_from_list(pairs)
    return build_model(cfg)


def sample(height=64, width=96, objects=2, masks=False):
    truth = Instances((height, width))
    corners = torch.rand(objects, 2) * torch.tensor([width / 2, height / 2])
    truth.gt_boxes = Boxes(torch.cat((corners, corners + 10), dim=1))
    truth.gt_classes = torch.randint(0, 3, (objects,))
    if masks:
        truth.gt_masks = BitMasks(torch.rand(objects, height, width) > 0.5)
    return {"image": torch.randint(0, 256, (3, height, width), dtype=torch.uint8), "instances": truth}


def train_losses(model, batch):
    with EventStorage() as storage:
        losses = model.train()(batch)
        return losses, storage.latest()


@torch.no_grad()
def predict(model, batch):
    return model.eval()(batch)


def assert_same(found, expected, **tolerance):
    for name, value in expected.get_fields().items():
        other = found.get(name)
        value, other = getattr(value, "tensor", value), getattr(other, "tensor", other)
        torch.testing.assert_close(other, value, **tolerance)


@pytest.mark.parametrize("options", [{}, {"QUERY_SELECTION": True}])
def test_double_precision_is_kept(options):
    model = small(**options)
    item = sample()
    with torch.no_grad():
        single = model.eval().detr(model.preprocess_image([item]).tensor, [(64, 96)])
        double = model.double().detr(model.preprocess_image([item]).tensor, [(64, 96)])
    for name in ("pred_logits", "pred_boxes"):
        assert double[name].dtype == torch.float64
        torch.testing.assert_close(single[name].double(), double[name], atol=1e-4, rtol=1e-4)


def test_permuted_queries_permute_the_predictions():
    model = small()
    item, order = sample(), torch.randperm(7)
    before = predict(model, [item])[0]["instances"]
    embedding = model.detr.query_embed.weight.data
    embedding.copy_(embedding[order].clone())
    after = predict(model, [item])[0]["instances"]
    assert len(after) == len(before) == 7
    assert_same(after, before[order], **close(torch.float32))


def test_a_batch_of_one_size_equals_its_images_alone():
    model, batch = small(), [sample(), sample(), sample()]
    for item, together in zip(batch, predict(model, batch)):
        assert_same(together["instances"], predict(model, [item])[0]["instances"], **close(torch.float32))


class Patches(nn.Module):
    """A backbone whose cells see 32 x 32 pixels each and nothing of their neighbours."""

    def __init__(self):
        super().__init__()
        self.project = nn.Conv2d(3, 256, 32, stride=32)

    def forward(self, x):
        return {"patches": self.project(x)}


def test_padding_does_not_move_boxes():
    """In the authors' convention. A convolution that reaches over the border sees what is behind it; patches do not."""
    model = tiny_detr()
    model.backbone[0].backbone = Patches()
    image = torch.randn(3, 64, 96)
    with torch.no_grad():
        alone = model.eval()(*padded([image]))
        together = model(*padded([image, torch.randn(3, 160, 128)]))
    moved = (alone["pred_boxes"][0] - together["pred_boxes"][0]).abs().max()
    assert moved < 1e-5
    assert (together["pred_boxes"][0] - together["pred_boxes"][1]).abs().max() > 100 * moved


def sample_of(height, width):
    torch.manual_seed(height)
    return sample(height, width)


def test_results_are_in_the_frame_that_is_asked_for():
    model, item = small(), sample()
    plain = predict(model, [item])[0]["instances"]
    scaled = predict(model, [item | {"height": 128, "width": 288}])[0]["instances"]
    assert scaled.image_size == (128, 288)
    factor = torch.tensor([3.0, 2.0, 3.0, 2.0])
    torch.testing.assert_close(scaled.pred_boxes.tensor, plain.pred_boxes.tensor * factor, **close(torch.float32))
    assert (scaled.scores > 0).all() and (scaled.pred_classes < 3).all()


def test_losses_of_all_layers_and_figures_to_watch():
    losses, watched = train_losses(small(DEC_LAYERS=3), [sample(), sample(objects=0)])
    names = ("loss_ce", "loss_bbox", "loss_giou")
    assert losses.keys() == {f"{name}{suffix}" for name in names for suffix in ("", "_0", "_1")}
    assert {"detr/class_error", "detr/cardinality_error"} <= watched.keys()
    losses, _ = train_losses(small(DEC_LAYERS=3, DEEP_SUPERVISION=False), [sample()])
    assert losses.keys() == set(names)


def test_a_batch_without_objects_has_finite_gradients():
    model = small("detr_R_50_masks")
    with_masks, as_mapped = sample(objects=0, masks=True), sample(56, objects=0)  # the mapper adds no empty masks
    mixed, _ = train_losses(model, [sample(masks=True), as_mapped])
    assert mixed["loss_mask"] > 0
    losses, _ = train_losses(model, [with_masks, as_mapped])
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert losses["loss_bbox"] == losses["loss_mask"] == 0


def test_selected_queries_start_from_the_best_cells():
    model, batch = small(QUERY_SELECTION=True, NUM_OBJECT_QUERIES=5), [sample_of(64, 96), sample_of(96, 64)]
    losses, _ = train_losses(model, batch)
    assert {"loss_ce_enc", "loss_bbox_enc", "loss_giou_enc"} <= losses.keys()
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    # Where both box heads answer 0, a query's box is that of its cell: a small one around the cell's centre.
    for head in (model.detr.bbox_embed, model.detr.selection.bbox_embed):
        for parameter in head.parameters():
            parameter.data.zero_()
    wide, tall = predict(model, batch)
    columns, rows = ({1 / 6, 0.5, 5 / 6}, {0.25, 0.75})  # of 2 x 3 cells in 3 x 3 with padding
    assert relative_centres(wide, 96, 64) <= {(round(x, 3), round(y, 3)) for x in columns for y in rows}
    assert relative_centres(tall, 64, 96) <= {(round(x, 3), round(y, 3)) for x in rows for y in columns}


def relative_centres(result, width, height):
    boxes = result["instances"].pred_boxes.tensor / torch.tensor([width, height, width, height])
    return {(round(x, 3), round(y, 3)) for x, y in ((boxes[:, :2] + boxes[:, 2:]) / 2).tolist()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("config", ["detr_R_50", "detr_R_50_panoptic"])
def test_half_precision_and_checkpointed_layers(config, dtype):
    model = small(config, ACTIVATION_CHECKPOINT=True)
    batch = [sample(masks=True)]
    exact = train_losses(model, batch)[0]
    with torch.autocast("cpu", dtype=dtype):
        losses = train_losses(model, batch)[0]
    assert losses["loss_bbox"].dtype == torch.float32  # costs and losses stay in single precision
    for name, loss in losses.items():
        torch.testing.assert_close(loss, exact[name], atol=0.1, rtol=0.1)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    with torch.autocast("cpu", dtype=dtype):
        result = predict(model, batch)[0]
    assert result["instances"].pred_boxes.tensor.dtype == torch.float32


def test_masks_are_of_the_frame_and_of_things():
    model = small("detr_R_50_panoptic", NUM_CLASSES=133, PANOPTIC_SCORE_THRESH=0.0)
    assert model.things == frozenset(range(80))
    results = predict(model, [sample() | {"height": 100, "width": 150}, sample(48, 64)])
    for result, size in zip(results, ((100, 150), (48, 64))):
        instances = result["instances"]
        assert instances.pred_masks.shape == (len(instances), *size) and instances.pred_masks.dtype == torch.bool
        assert (instances.pred_classes < 80).all()
        segments, info = result["panoptic_seg"]
        assert segments.shape == size and segments.dtype == torch.int32
        assert set(segments.unique().tolist()) - {0} <= {segment["id"] for segment in info}
        assert all(segment["id"] > 0 and segment["isthing"] == (segment["category_id"] < 80) for segment in info)


def test_the_mask_head_splits_its_first_convolution_without_loss():
    """Against the same convolution on the concatenation, as the paper draws it."""
    model = tiny_detr(128, 8, 2, 5, masks=True).eval()
    images, sizes = padded([torch.randn(3, 64, 96), torch.randn(3, 80, 64)])
    encoded = model.detr.encode(images, sizes)
    seen = []
    model.mask_head.gn1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.masks(encoded)
    maps = model.bbox_attention(encoded.states[-1], encoded.memory, encoded.mask)
    source = encoded.source[:, None].expand(-1, 5, -1, -1, -1)
    expected = model.mask_head.lay1(torch.cat((source, maps), dim=2).flatten(0, 1))
    torch.testing.assert_close(seen[0], expected, **close(torch.float32))
    assert maps.sum(dim=(2, 3, 4)).sub(1).abs().max() < 1e-5
    assert encoded.mask is not None and not maps[encoded.mask[:, None, None].expand_as(maps)].any()


def test_small_masks_are_dropped_and_nothing_found_is_void():
    logits = torch.full((3, 4), -9.0)
    logits[:, 0] = 9.0
    masks = torch.full((3, 20, 20), -5.0)
    masks[0, :, :10], masks[1, :, 10:] = 5.0, 5.0
    masks[2, 0, 0] = 9.0  # a mask of one pixel
    frame = {"padded_size": (20, 20), "image_size": (20, 20), "things": {0}}
    segments, info = merge_masks(logits, masks, **frame)
    assert [segment["area"] for segment in info] == [200, 200] and segments[0, 0] == 0 and segments[0, 19] == 1
    # As stuff the first two are one segment; then nothing but it is left.
    logits[:2] = torch.tensor([-9.0, -9.0, 9.0, -9.0])
    segments, info = merge_masks(logits[:2], masks[:2], **frame)
    assert [(segment["category_id"], segment["isthing"]) for segment in info] == [(2, False)]
    logits[:, 3] = 99.0
    segments, info = merge_masks(logits, masks, **frame, output_size=(5, 6))
    assert info == [] and segments.shape == (5, 6) and not segments.any()


def test_dc5_has_torchvisions_dilations():
    model = small("detr_R_50_DC5")
    blocks = model.detr.backbone[0].backbone.res5
    assert [block.conv2.dilation[0] for block in blocks] == [1, 2, 2]
    features = model.detr.backbone[0](torch.randn(1, 3, 64, 96), [(64, 96)])[0]
    assert features[-1].shape[-2:] == (4, 6)


def test_the_backbone_has_a_learning_rate_of_its_own():
    cfg = load_config(str(ROOT / "configs/detr/detr_R_50.yaml"), ["MODEL.DEVICE", "cpu"])
    model = small()
    rates = {id(p): group["lr"] for group in build_optimizer(cfg, model).param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert rates[id(parameter)] == (1e-5 if ".backbone." in name else 1e-4), name
    frozen = {name.split(".")[4] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"stem", "res2"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"POSITION_EMBEDDING": "cosine"}, "sine, learned"),
        ({"PADDING_MASK": "floor"}, "ceil"),
        ({"HIDDEN_DIM": 130}, "multiple of 4"),
        (
            {"MODEL.MASK_ON": True, "MODEL.RESNETS.OUT_FEATURES": FOUR, "PANOPTIC_ON": True, "DATASETS.TRAIN": ()},
            "must be a panoptic one",
        ),
        ({"MODEL.MASK_ON": True}, "four feature maps"),
        ({"MODEL.MASK_ON": True, "MODEL.RESNETS.OUT_FEATURES": FOUR, "HIDDEN_DIM": 64}, "multiple of 128"),
    ],
)
def test_wrong_keys_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


WRAPPERS_YAML = """
MODEL:
  META_ARCHITECTURE: "Detr"
  RESNETS:
    STRIDE_IN_1X1: False
    OUT_FEATURES: ["res2", "res3", "res4", "res5"]
  DETR:
    GIOU_WEIGHT: 2.0
    L1_WEIGHT: 5.0
    NUM_OBJECT_QUERIES: 50
SOLVER:
  OPTIMIZER: "ADAMW"
  BACKBONE_MULTIPLIER: 0.1
  CLIP_GRADIENTS:
    ENABLED: True
    CLIP_TYPE: "full_model"
INPUT:
  CROP:
    ENABLED: True
    TYPE: "absolute_range"
    SIZE: (384, 600)
VERSION: 2
"""


def test_a_yaml_of_the_wrapper_loads_as_it_is(tmp_path):
    (tmp_path / "detr.yaml").write_text(WRAPPERS_YAML)
    cfg = load_config(str(tmp_path / "detr.yaml"), ["MODEL.DEVICE", "cpu"])
    model = build_model(cfg)
    assert model.detr.query_embed.num_embeddings == 50 and model.detr.backbone[0].padding_mask == "ceil"
    assert isinstance(build_optimizer(cfg, model), torch.optim.AdamW)
    assert "RandomApply" in str(MAPPERS.get(cfg.INPUT.MAPPER)(cfg, True).augmentations)


def originals(model):
    """A checkpoint under the authors' names, from one of ours."""
    nested = any(".mask_head." in name for name in model.state_dict())
    back = {f".conv{i}.norm": f".bn{i}" for i in (1, 2, 3)} | {
        "shortcut.norm": "downsample.1",
        "shortcut": "downsample.0",
    }
    renamed = {}
    for name, value in model.state_dict().items():
        if name.startswith("criterion."):
            continue
        name = name.removeprefix("detr.")
        if ".backbone.0.backbone." in f".{name}":
            for ours, theirs in back.items():
                name = name.replace(ours, theirs)
            name = name.replace("backbone.0.backbone.", "backbone.0.body.").replace("stem.", "")
            for stage in range(2, 6):
                name = name.replace(f"res{stage}.", f"layer{stage - 1}.")
        renamed[name] = value
    assert nested == any(name.startswith("detr.") for name in renamed)
    return renamed


def randomised(model):
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(0.1 * torch.rand_like(value))
    return model


@pytest.mark.parametrize("config", ["detr_R_50", "detr_R_50_masks"])
def test_checkpoints_of_the_authors_load_by_name(config, tmp_path):
    source, target = randomised(small(config)), small(config)
    names = originals(source)
    assert not set(names) & set(source.state_dict()) or config == "detr_R_50_masks"
    torch.save({"model": names, "epoch": 3}, tmp_path / "detr.pth")
    Checkpointer(target).load(str(tmp_path / "detr.pth"))
    for name, value in source.state_dict().items():
        if not name.startswith("criterion."):
            torch.testing.assert_close(target.state_dict()[name], value, msg=name)


def test_the_wrappers_checkpoints_load_and_the_losss_class_weights_stay(tmp_path):
    source, target = randomised(small()), small()
    torch.save({"model": source.state_dict()}, tmp_path / "detr.pth")
    weights = target.criterion.empty_weight.clone()
    Checkpointer(target).load(str(tmp_path / "detr.pth"))
    torch.testing.assert_close(target.detr.state_dict(), source.detr.state_dict())
    torch.testing.assert_close(target.criterion.empty_weight, weights)


def test_rows_of_raw_coco_ids_are_picked_for_contiguous_classes(tmp_path):
    raw = small(NUM_CLASSES=91)
    raw.detr.class_embed.bias.data = torch.arange(92.0)
    torch.save({"model": originals(raw)}, tmp_path / "detr.pth")
    contiguous, same = small(NUM_CLASSES=80), small(NUM_CLASSES=91)
    for model in (contiguous, same):
        Checkpointer(model).load(str(tmp_path / "detr.pth"))
    bias = contiguous.detr.class_embed.bias.tolist()
    # person, bicycle ...; stop sign is id 13, toothbrush 90, "no object" the last row.
    assert (bias[0], bias[11], bias[79], bias[80]) == (1, 13, 90, 91) and len(bias) == 81
    assert same.detr.class_embed.bias.tolist() == list(range(92))


def test_rows_of_raw_panoptic_ids_are_picked(tmp_path):
    raw, contiguous = small(NUM_CLASSES=250), small(NUM_CLASSES=133)
    raw.detr.class_embed.bias.data = torch.arange(251.0)
    torch.save({"model": originals(raw)}, tmp_path / "detr.pth")
    Checkpointer(contiguous).load(str(tmp_path / "detr.pth"))
    bias = contiguous.detr.class_embed.bias.tolist()
    # banner is the first stuff, 92; rug-merged the last, 200.
    assert (bias[79], bias[80], bias[132], bias[133]) == (90, 92, 200, 250)


def test_other_checkpoints_are_refused_with_their_keys(tmp_path):
    weights = originals(small()) | {"label_enc.weight": torch.zeros(3, 3), "refpoint_embed.weight": torch.zeros(3, 4)}
    torch.save({"model": weights}, tmp_path / "dn_detr.pth")
    with pytest.raises(ValueError, match=r"label_enc\.weight, refpoint_embed\.weight"):
        Checkpointer(small()).load(str(tmp_path / "dn_detr.pth"))


def test_the_second_stage_trains_the_mask_head_alone(tmp_path):
    detector = randomised(small())
    torch.save({"model": detector.state_dict()}, tmp_path / "boxes.pth")
    model = small("detr_R_50_masks", FROZEN_WEIGHTS=str(tmp_path / "boxes.pth"))
    torch.testing.assert_close(model.detr.detr.state_dict(), detector.detr.state_dict())
    trained = {name.split(".")[1] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"bbox_attention", "mask_head"}
    losses, _ = train_losses(model, [sample(masks=True)])
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    with pytest.raises(ValueError, match=r"boxes\.pth is not a checkpoint of this detector: 2 of its"):
        small("detr_R_50_masks", FROZEN_WEIGHTS=str(tmp_path / "boxes.pth"), NUM_CLASSES=5)


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
def test_the_frozen_detector_stays_as_it_is_to_the_last_bit(norm, tmp_path):
    narrow = {"MODEL.RESNETS.NORM": norm, "DROPOUT": 0.1}
    detector = small(**narrow)
    torch.save({"model": detector.state_dict()}, tmp_path / "boxes.pth")
    model = small("detr_R_50_masks", FROZEN_WEIGHTS=str(tmp_path / "boxes.pth"), **narrow)
    cfg = load_config(str(ROOT / "configs/detr/detr_R_50_masks.yaml"), ["SOLVER.BASE_LR", "0.1"])
    optimizer, head = build_optimizer(cfg, model), model.detr.mask_head.lay1.weight.detach().clone()
    for _ in range(2):
        losses, _ = train_losses(model, [sample(masks=True), sample(masks=True)])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert not torch.equal(model.detr.mask_head.lay1.weight, head)
    kept = model.detr.detr.state_dict()
    for name, value in detector.detr.state_dict().items():
        assert torch.equal(kept[name], value), name


def test_a_backbone_alone_does_not_replace_that_of_the_frozen_detector(tmp_path):
    detector = randomised(small())
    torch.save({"model": detector.state_dict()}, tmp_path / "boxes.pth")
    backbone = detector.detr.backbone[0].backbone.state_dict()
    torch.save({"model": backbone, "matching_heuristics": True}, tmp_path / "R-50.pth")
    model = small("detr_R_50_masks", FROZEN_WEIGHTS=str(tmp_path / "boxes.pth"))
    with pytest.raises(ValueError, match=r"set MODEL\.WEIGHTS ''"):
        Checkpointer(model).load(str(tmp_path / "R-50.pth"))
    Checkpointer(small("detr_R_50_masks")).load(str(tmp_path / "R-50.pth"))  # nothing is frozen
    torch.save({"model": model.state_dict()}, tmp_path / "second.pth")
    Checkpointer(model).load(str(tmp_path / "second.pth"))  # a whole model


def test_a_second_stage_is_evaluated_without_the_file_of_the_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no run has been
    gone = {"FROZEN_WEIGHTS": str(tmp_path / "gone.pth")}
    with pytest.raises(FileNotFoundError, match=r"gone\.pth"):
        small("detr_R_50_masks", **gone)
    torch.save({"model": randomised(small("detr_R_50_masks")).state_dict()}, tmp_path / "second.pth")
    model = small("detr_R_50_masks", **gone, **{"MODEL.WEIGHTS": str(tmp_path / "second.pth")}).eval()
    with torch.no_grad():
        with pytest.raises(FileNotFoundError, match=r"gone\.pth"):
            model([sample()])
        Checkpointer(model).load(str(tmp_path / "second.pth"))
        model([sample()])


@pytest.mark.parametrize("options", [{"POSITION_EMBEDDING": "learned"}, {"PRE_NORM": True}, {"PADDING_MASK": "ceil"}])
def test_other_variants_learn_and_keep_their_names(options, tmp_path):
    """What keys choose reaches the model: every parameter learns, and a checkpoint under the authors' names fits."""
    model, batch = small(**options), [sample_of(83, 110), sample_of(110, 83)]  # the paddings of which differ
    losses, _ = train_losses(model, batch)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    torch.save({"model": originals(model)}, tmp_path / "theirs.pth")
    again = small(**options)
    Checkpointer(again).load(str(tmp_path / "theirs.pth"))
    plain = small()
    plain.load_state_dict(model.state_dict(), strict=False)
    for found, expected, other in zip(predict(again, batch), predict(model, batch), predict(plain, batch)):
        assert_same(found["instances"], expected["instances"], **close(torch.float32))
        assert not torch.equal(other["instances"].scores, expected["instances"].scores)


def test_the_mapper_crops_half_and_makes_segments_objects(tmp_path):
    cfg = load_config(str(ROOT / "configs/detr/detr_R_50_panoptic.yaml"), [])
    cfg.merge_from_list(["INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.RANDOM_FLIP", "none", "INPUT.CROP.ENABLED", False])
    ids = np.zeros((32, 48, 3), dtype=np.uint8)
    ids[:, :24, 0], ids[:8, 24:, 1] = 7, 1  # segments 7 and 256; the rest is void
    Image.fromarray(ids).save(tmp_path / "ids.png")
    Image.fromarray(ids).save(tmp_path / "image.png")
    record = {
        "file_name": str(tmp_path / "image.png"),
        "pan_seg_file_name": str(tmp_path / "ids.png"),
        "segments_info": [{"id": 256, "category_id": 100}, {"id": 7, "category_id": 3}, {"id": 9, "category_id": 5}],
    }
    found = DetrDatasetMapper(cfg, True)(record)["instances"]
    assert found.gt_classes.tolist() == [100, 3]
    assert found.gt_boxes.tensor.tolist() == [[48, 0, 96, 16], [0, 0, 48, 64]]
    assert found.gt_masks.tensor.sum(dim=(1, 2)).tolist() == [48 * 16, 48 * 64]
    assert "segments_info" in record and "instances" not in record

    cfg.INPUT.CROP.ENABLED = True
    mapper = DetrDatasetMapper(cfg, True)
    wholes = [mapper(record)["image"].shape == (3, 64, 96) for _ in range(60)]
    assert 10 < sum(wholes) < 50


def test_the_mapper_names_the_file(tmp_path):
    cfg = load_config(str(ROOT / "configs/detr/detr_R_50_panoptic.yaml"), [])
    Image.new("RGB", (48, 32)).save(tmp_path / "image.png")
    record = {
        "file_name": str(tmp_path / "image.png"),
        "pan_seg_file_name": str(tmp_path / "gone.png"),
        "segments_info": [],
    }
    with pytest.raises((ValueError, OSError), match=r"gone\.png"):
        DetrDatasetMapper(cfg, True)(record)


def test_what_a_project_adapts_is_said_to_be_its_doing(tmp_path):
    path = tmp_path / "detr.yaml"
    path.write_text("MODEL: {META_ARCHITECTURE: Detr}\nSOLVER: {OPTIMIZER: ADAMW}\nSEED: 3\n")
    lines = describe_config(load_config(str(path)), str(path), []).splitlines()
    for key, origin in (
        ("INPUT.MAPPER", "adapted by projects/detr"),
        ("SOLVER.OPTIMIZER", "adapted by projects/detr"),
        ("SEED", f"{path}:3"),
    ):
        (line,) = [line for line in lines if line.startswith(f"{key}:")]
        assert line.endswith(f"# {origin}")
