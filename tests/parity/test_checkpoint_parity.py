"""Weight names: ours equal the real Detectron2's, on the blob names of Detectron's model zoo."""

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.checkpoint import c2_model_loading

from densekit.weights.names import from_caffe2, match_by_suffix


def backbone_blobs(blocks: tuple[int, ...], norm: str) -> list[str]:
    kinds = {"bn": ["bn_s", "bn_b"], "bn_full": ["bn_s", "bn_b", "bn_rm", "bn_riv"], "gn": ["gn_s", "gn_b"]}
    kinds["beta"] = ["bn_gamma", "bn_beta", "bn_running_mean", "bn_running_var"]
    names = ["conv1_w", *((f"conv1_{kind}" for kind in kinds[norm]) if norm == "gn" else ())]
    names += [f"res_conv1_{kind}" for kind in kinds[norm]] if norm != "gn" else []
    for stage, count in enumerate(blocks, start=2):
        for block in range(count):
            branches = ["branch2a", "branch2b", "branch2c", *(["branch1"] if block == 0 else [])]
            for branch in branches:
                names += [f"res{stage}_{block}_{branch}_{kind}" for kind in ("w", *kinds[norm])]
    return names


def fpn_blobs(blocks: tuple[int, ...], kinds: tuple[str, ...]) -> list[str]:
    names = []
    for stage, count in enumerate(blocks, start=2):
        lateral = "" if stage == 5 else "_lateral"
        names += [f"fpn_inner_res{stage}_{count - 1}_sum{lateral}_{kind}" for kind in kinds]
        names += [f"fpn_res{stage}_{count - 1}_sum_{kind}" for kind in kinds]
    return names


def both(*layers: str) -> list[str]:
    return [f"{layer}_{kind}" for layer in layers for kind in "wb"]


HEADS = {
    "fpn": both("conv_rpn_fpn2", "rpn_cls_logits_fpn2", "rpn_bbox_pred_fpn2", "fc6", "fc7", "cls_score", "bbox_pred"),
    "c4": both("conv_rpn", "rpn_cls_logits", "rpn_bbox_pred", "cls_score", "bbox_pred", "conv5_mask"),
    "mask": both(*(f"_[mask]_fcn{i}" for i in range(1, 5)), "conv5_mask", "mask_fcn_logits"),
    "keypoint": both(*(f"conv_fcn{i}" for i in range(1, 9)), "kps_score_lowres", "kps_score"),
    "conv_gn": [
        *(f"head_conv{i}_{kind}" for i in range(1, 5) for kind in ("w", "gn_s", "gn_b")),
        *(f"_[mask]_fcn{i}_{kind}" for i in range(1, 5) for kind in ("w", "gn_s", "gn_b")),
        *both("fc6", "cls_score", "bbox_pred"),
    ],
    "imagenet": ["pred_w", "pred_b"],
}
R50, R101 = (3, 4, 6, 3), (3, 4, 23, 3)
FILES = {
    "R-50.pkl": [*backbone_blobs(R50, "bn"), "fc1000_w", "fc1000_b"],
    "X-101.pkl": [*backbone_blobs(R101, "beta"), *HEADS["imagenet"]],
    "R-50-GN.pkl": [*backbone_blobs(R50, "gn"), *HEADS["imagenet"]],
    "full statistics": backbone_blobs(R50, "bn_full"),
    "mask_rcnn_R_50_FPN": [*backbone_blobs(R50, "bn"), *fpn_blobs(R50, ("w", "b")), *HEADS["fpn"], *HEADS["mask"]],
    "mask_rcnn_R_101_C4": [*backbone_blobs(R101, "bn"), *HEADS["c4"], *both("mask_fcn_logits")],
    "keypoint_rcnn_R_50_FPN": [
        *backbone_blobs(R50, "bn"),
        *fpn_blobs(R50, ("w", "b")),
        *HEADS["fpn"],
        *HEADS["keypoint"],
    ],
    "mask_rcnn_R_50_FPN_GN": [
        *backbone_blobs(R50, "gn"),
        *fpn_blobs(R50, ("w", "gn_s", "gn_b")),
        *both("conv_rpn_fpn2", "rpn_cls_logits_fpn2", "rpn_bbox_pred_fpn2"),
        *HEADS["conv_gn"],
    ],
}


@pytest.mark.parametrize("name", FILES)
def test_caffe2_names_and_values_agree(name):
    assert len(set(FILES[name])) == len(FILES[name])
    blobs = {blob: torch.arange(8 * 12.0).view(12, 8) + i for i, blob in enumerate(sorted(FILES[name]))}
    theirs, _ = c2_model_loading.convert_c2_detectron_names(dict(blobs))
    ours = from_caffe2(blobs)
    assert sorted(ours) == sorted(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


FPN = ["MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.RPN.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"]]
FPN += ["MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"], "MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead"]
FPN += ["MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"], "MODEL.ROI_HEADS.NAME", "StandardROIHeads"]
FPN += ["MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3", "p4", "p5"], "MODEL.ROI_BOX_HEAD.NUM_FC", 2]
FPN += ["MODEL.ANCHOR_GENERATOR.SIZES", [[32], [64], [128], [256], [512]]]
MODELS = {
    "mask_rcnn_R_101_C4": ["MODEL.RESNETS.DEPTH", 101, "MODEL.MASK_ON", True],
    "mask_rcnn_R_50_FPN": [*FPN, "MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.NUM_CONV", 4],
    "keypoint_rcnn_R_50_FPN": [*FPN, "MODEL.KEYPOINT_ON", True],
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("form", ["caffe2", "short"])
def test_matching_agrees_on_real_models(name, form):
    from detectron2.config import get_cfg

    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *MODELS[name]])
    model = {key: value.to("meta") for key, value in tiny(cfg).state_dict().items()}
    if form == "short":
        prefix = "backbone." if "C4" in name else "backbone.bottom_up."
        weights = {key.removeprefix(prefix): value for key, value in model.items() if key.startswith(prefix)}
        weights["linear.weight"] = torch.zeros(3)
    else:
        blobs, _ = c2_model_loading.convert_c2_detectron_names({blob: torch.zeros(12, 8) for blob in FILES[name]})
        weights = {}
        for key in blobs:
            shape = next((value.shape for full, value in model.items() if f".{full}".endswith(f".{key}")), ())
            weights[key] = torch.zeros(shape, device="meta")
    theirs = c2_model_loading.align_and_update_state_dicts(model, dict(weights), c2_conversion=False)
    assert match_by_suffix(weights, model).keys() == theirs.keys()


def tiny(cfg):
    """The same names at a fraction of the width."""
    from detectron2.modeling import build_model

    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 4, 8
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 4
    cfg.MODEL.FPN.OUT_CHANNELS = cfg.MODEL.ROI_BOX_HEAD.FC_DIM = cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 8
    cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS = [8] * 8
    return build_model(cfg)


def test_a_zoo_file_fills_both_hosts_equally(tmp_path):
    """The same .pkl of Caffe2 blobs through both checkpointers."""
    import pickle

    from detectron2.checkpoint import DetectionCheckpointer as Theirs
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.backbone import build_resnet_backbone

    from densekit.runtime.checkpoint import DetectionCheckpointer as Ours

    cfg = get_cfg()
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 4, 8
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP, cfg.MODEL.RESNETS.OUT_FEATURES = 4, ["res5"]
    models = [build_resnet_backbone(cfg, ShapeSpec(channels=3)) for _ in range(2)]
    names = {key: value.shape for key, value in models[0].state_dict().items()}
    blobs = {}
    for blob in backbone_blobs(R50, "bn_full"):
        shape = names[next(iter(from_caffe2({blob: torch.zeros(1)})))]
        blobs[blob] = np.random.rand(*shape).astype(np.float32)
        blobs[blob + "_momentum"] = blobs[blob]
    (tmp_path / "c2.pkl").write_bytes(pickle.dumps({"blobs": blobs, "cfg": "text"}, protocol=2))
    for model, checkpointer in zip(models, (Ours, Theirs)):
        checkpointer(model).load(str(tmp_path / "c2.pkl"))
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert torch.equal(first["res2.0.conv1.weight"], torch.from_numpy(blobs["res2_0_branch2a_w"]))


def test_the_catalogue_of_weights_is_theirs():
    from detectron2.checkpoint.catalog import ModelCatalog

    from densekit.weights.zoo import zoo_url

    names = [f"ImageNetPretrained/{name}" for name in ModelCatalog.C2_IMAGENET_MODELS]
    names += [f"Caffe2Detectron/COCO/{name}" for name in ModelCatalog.C2_DETECTRON_MODELS]
    assert len(names) == 20
    assert [zoo_url(f"catalog://{name}") for name in names] == [ModelCatalog.get(name) for name in names]
