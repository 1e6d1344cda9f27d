"""Whole models: properties that hold for any weights, empty ground truth, and the merging of panoptic outputs."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from densekit.d2.config import get_cfg
from densekit.d2.modeling import build_model, detector_postprocess
from densekit.d2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
from densekit.d2.modeling.postprocessing import sem_seg_postprocess
from densekit.d2.structures import Boxes, Instances, PolygonMasks
from densekit.d2.utils.events import EventStorage
from tests.tolerances import close

SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.MASK_ON": True,
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.RESNETS.DEPTH": 18,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[8], [16], [32], [64], [128]],
    "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "MODEL.RPN.POST_NMS_TOPK_TEST": 50,
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "MODEL.ROI_HEADS.NUM_CLASSES": 3,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 8,
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 5,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "MODEL.PIXEL_STD": [60.0, 60.0, 60.0],
    "TEST.DETECTIONS_PER_IMAGE": 10,
}


def small_model(**options):
    cfg = get_cfg()
    settings = {**SMALL, **{key.replace("__", "."): value for key, value in options.items()}}
    cfg.merge_from_list([item for pair in settings.items() for item in pair])
    torch.manual_seed(0)
    return build_model(cfg)


def image(height=64, width=96):
    return (torch.rand(3, height, width) * 255).to(torch.uint8)


def ground_truth(count, size=(64, 96)):
    boxes = torch.tensor([[4.0, 4.0, 42.0, 40.0], [30.0, 8.0, 80.0, 60.0]])[:count]
    polygons = [[np.array([x0, y0, x1, y0, x1, y1, x0, y1])] for x0, y0, x1, y1 in boxes.double().numpy()]
    return Instances(size, gt_boxes=Boxes(boxes), gt_classes=torch.arange(count), gt_masks=PolygonMasks(polygons))


def labels(size=(64, 96)):
    return torch.randint(0, 5, size)


def run(model, batch):
    with torch.no_grad():
        return model.eval()(batch)


def assert_same(found, expected):
    assert found.get_fields().keys() == expected.get_fields().keys() and len(found) == len(expected)
    for name, value in expected.get_fields().items():
        left, right = (x.tensor if isinstance(x, Boxes) else x for x in (found.get(name), value))
        torch.testing.assert_close(left.float(), right.float(), rtol=1e-4, atol=1e-3)


# --- R-CNN ------------------------------------------------------------------------------------------------------------


def test_batch_equals_single_images():
    model, images = small_model(), [image(), image()]
    together = run(model, [{"image": x} for x in images])
    for found, x in zip(together, images):
        assert len(found["instances"]) > 0
        assert_same(found["instances"], run(model, [{"image": x}])[0]["instances"])


def test_padding_is_invisible_in_the_results():
    """An image whose sides are no multiples of 32, beside a larger one."""
    model = small_model()
    small, large = run(model, [{"image": image(50, 70)}, {"image": image(64, 96)}])
    for result, (height, width) in ((small, (50, 70)), (large, (64, 96))):
        boxes = result["instances"].pred_boxes.tensor
        assert len(boxes) and (boxes >= 0).all() and (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()
        assert result["instances"].pred_masks.shape[1:] == (height, width)
    padded = model.preprocess_image([{"image": image(50, 70)}])
    assert padded.tensor.shape == (1, 3, 64, 96) and padded.image_sizes == [(50, 70)]
    assert (padded.tensor[..., 50:, :] == 0).all() and (padded.tensor[..., 70:] == 0).all()


def test_images_are_normalized():
    model, x = small_model(), image()
    mean, std = model.pixel_mean, model.pixel_std
    torch.testing.assert_close(model.preprocess_image([{"image": x}]).tensor[0], (x - mean) / std)
    assert not any("pixel_" in name or "cell_anchors" in name for name in model.state_dict())
    assert model.device == torch.device("cpu")


def test_results_come_in_the_frame_that_the_input_asks_for():
    model, x = small_model(), image()
    plain = run(model, [{"image": x}])[0]["instances"]
    scaled = run(model, [{"image": x, "height": 128, "width": 288}])[0]["instances"]
    assert scaled.image_size == (128, 288) and scaled.pred_masks.shape[1:] == (128, 288)
    torch.testing.assert_close(scaled.pred_boxes.tensor, plain.pred_boxes.tensor * torch.tensor([3.0, 2.0, 3.0, 2.0]))
    with torch.no_grad():
        (raw,) = model.inference([{"image": x, "height": 128, "width": 288}], do_postprocess=False)
    assert raw.image_size == (64, 96)
    torch.testing.assert_close(raw.pred_boxes.tensor, plain.pred_boxes.tensor)


def test_masks_of_known_boxes_are_those_of_the_same_detections():
    model, x = small_model(), image()
    with torch.no_grad():
        (found,) = model.eval().inference([{"image": x}], do_postprocess=False)
        known = Instances(found.image_size, pred_boxes=found.pred_boxes, pred_classes=found.pred_classes)
        (again,) = model.inference([{"image": x}], detected_instances=[known], do_postprocess=False)
    torch.testing.assert_close(again.pred_masks, found.pred_masks, **close(torch.float32))


@pytest.mark.parametrize("counts", [(2, 2), (2, 0), (0, 0)])
def test_training_with_little_or_no_ground_truth(counts):
    model = small_model().train()
    batch = [{"image": image(), "instances": ground_truth(count)} for count in counts]
    with EventStorage():
        losses = model(batch)
    assert set(losses) == {"loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc"}
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    if sum(counts) == 0:
        assert losses["loss_box_reg"] == losses["loss_mask"] == losses["loss_rpn_loc"] == 0
    else:
        assert min(losses.values()) > 0
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_given_proposals_replace_the_generator():
    model = small_model(MODEL__PROPOSAL_GENERATOR__NAME="PrecomputedProposals", MODEL__LOAD_PROPOSALS=True)
    assert model.proposal_generator is None
    proposals = Instances((64, 96))
    proposals.proposal_boxes = Boxes(torch.tensor([[4.0, 4.0, 42.0, 40.0], [30.0, 8.0, 80.0, 60.0]]))
    proposals.objectness_logits = torch.zeros(2)
    x = image()
    found = run(model, [{"image": x, "proposals": proposals}])[0]["instances"]
    with torch.no_grad():
        images = model.preprocess_image([{"image": x}])
        (expected,), _ = model.roi_heads(images, model.backbone(images.tensor), [proposals], None)
    torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    with EventStorage():
        losses = model.train()([{"image": x, "proposals": proposals, "instances": ground_truth(2)}])
    assert set(losses) == {"loss_cls", "loss_box_reg", "loss_mask"}


def test_first_stage_by_itself():
    model, x = small_model(MODEL__META_ARCHITECTURE="ProposalNetwork"), image()
    found = run(model, [{"image": x, "height": 128, "width": 192}])[0]["proposals"]
    plain = run(model, [{"image": x}])[0]["proposals"]
    assert len(found) == 50 and found.image_size == (128, 192)
    torch.testing.assert_close(found.proposal_boxes.tensor, 2 * plain.proposal_boxes.tensor)
    assert (found.objectness_logits.diff() <= 0).all()
    with EventStorage():
        losses = model.train()([{"image": x, "instances": ground_truth(2)}])
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_loc"}


def test_training_pictures_show_truth_and_proposals():
    model = small_model(VIS_PERIOD=1).train()
    pictures = []
    with EventStorage() as storage:
        storage.put_image = lambda *item: pictures.append(item)
        model([{"image": image(), "instances": ground_truth(2)}])
    (picture,) = [picture for name, picture in pictures if "proposals" in name]
    assert picture.shape == (3, 64, 2 * 96)


def test_c4_shares_its_last_stage():
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.RESNETS.RES2_OUT_CHANNELS", 16])
    cfg.merge_from_list(["MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.WIDTH_PER_GROUP", 4])
    cfg.merge_from_list(["MODEL.ROI_HEADS.NUM_CLASSES", 3, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0])
    model = build_model(cfg)
    assert any(name.startswith("roi_heads.res5.") for name in model.state_dict())
    with EventStorage():
        losses = model.train()([{"image": image(), "instances": ground_truth(2)}])
    assert all(loss.isfinite() for loss in losses.values())
    assert run(model, [{"image": image()}])[0]["instances"].image_size == (64, 96)


# --- post-processing --------------------------------------------------------------------------------------------------


def test_postprocess_scales_clips_and_drops_what_is_empty():
    results = Instances((10, 20))
    results.pred_boxes = Boxes(torch.tensor([[-5.0, 2.0, 30.0, 8.0], [25.0, 1.0, 40.0, 5.0], [1.0, 1.0, 3.0, 4.0]]))
    results.scores = torch.tensor([0.9, 0.8, 0.7])
    results.pred_keypoints = torch.tensor([[[1.0, 2.0, 0.5]]]).repeat(3, 1, 1)
    found = detector_postprocess(results, 30, 40)
    # The middle box lies outside the image.
    assert found.pred_boxes.tensor.tolist() == [[0, 6, 40, 24], [2, 3, 6, 12]]
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.7]))
    assert found.pred_keypoints.tolist() == [[[2, 6, 0.5]], [[2, 6, 0.5]]] and found.image_size == (30, 40)


def test_postprocess_pastes_masks_into_their_boxes():
    results = Instances((32, 32))
    results.pred_boxes = Boxes(torch.tensor([[8.0, 8.0, 24.0, 16.0]]))
    results.pred_masks = torch.ones(1, 1, 28, 28)
    pasted = detector_postprocess(results, 32, 32).pred_masks
    expected = torch.zeros(1, 32, 32, dtype=torch.bool)
    expected[:, 8:16, 8:24] = True
    assert torch.equal(pasted, expected)


def test_runtime_postprocess_leaves_its_input_alone_and_needs_boxes():
    from densekit.runtime.modeling import detector_postprocess as postprocess
    from densekit.runtime.structures import Boxes as RuntimeBoxes
    from densekit.runtime.structures import Instances as RuntimeInstances

    results = RuntimeInstances((10, 20), pred_boxes=RuntimeBoxes(torch.tensor([[1.0, 2.0, 3.0, 4.0]])))
    results.pred_keypoints = torch.ones(1, 2, 3)
    postprocess(results, 100, 100)
    assert results.pred_boxes.tensor.tolist() == [[1, 2, 3, 4]] and (results.pred_keypoints == 1).all()
    with pytest.raises(ValueError, match=r"got only \['scores'\]"):
        postprocess(RuntimeInstances((10, 20), scores=torch.ones(1)), 10, 10)


def test_semantic_postprocess_cuts_the_padding_first():
    scores = torch.zeros(2, 8, 8)
    scores[:, :4, :6] = torch.tensor([1.0, 2.0])[:, None, None]
    resized = sem_seg_postprocess(scores, (4, 6), 12, 18)
    torch.testing.assert_close(resized, torch.tensor([1.0, 2.0])[:, None, None].expand(2, 12, 18))


# --- semantic and panoptic --------------------------------------------------------------------------------------------


def padded(model, x):
    """The network input for an image of 50 x 70 pixels: normalized, then zeros up to multiples of 32."""
    return F.pad((x - model.pixel_mean) / model.pixel_std, (0, 26, 0, 14))[None]


def test_semantic_segmentor_scores_every_pixel():
    model, x = small_model(MODEL__META_ARCHITECTURE="SemanticSegmentor"), image(50, 70)
    (found,) = run(model, [{"image": x, "height": 100, "width": 140}])
    assert found["sem_seg"].shape == (5, 100, 140)
    with torch.no_grad():
        full, losses = model.sem_seg_head(model.backbone(padded(model, x)), None)
    assert not losses
    torch.testing.assert_close(found["sem_seg"], sem_seg_postprocess(full[0], (50, 70), 100, 140))


def test_semantic_loss_is_the_mean_over_labelled_pixels():
    model = small_model(MODEL__META_ARCHITECTURE="SemanticSegmentor").train()
    x, target = image(50, 70), labels((50, 70))
    target[:10] = 255
    loss = model([{"image": x, "sem_seg": target}])["loss_sem_seg"]
    loss.backward()
    with torch.no_grad():
        full, _ = model.sem_seg_head.eval()(model.backbone(padded(model, x)), None)
    probability = full[0, :, :50, :70].log_softmax(dim=0)[:, 10:].flatten(1)
    expected = -probability[target[10:].flatten(), torch.arange(40 * 70)].mean()
    torch.testing.assert_close(loss, expected, **close(torch.float32))
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("count", [2, 0])
def test_panoptic_model_trains_and_predicts(count):
    model = small_model(MODEL__META_ARCHITECTURE="PanopticFPN", MODEL__PANOPTIC_FPN__INSTANCE_LOSS_WEIGHT=0.5)
    batch = [{"image": image(), "instances": ground_truth(count), "sem_seg": labels()}]
    with EventStorage():
        losses = model.train()(batch)
    assert {"loss_sem_seg", "loss_mask", "loss_rpn_loc"} < set(losses)
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    (found,) = run(model, [{"image": image(), "height": 32, "width": 48}])
    assert found["sem_seg"].shape == (5, 32, 48) and found["instances"].image_size == (32, 48)
    segments, info = found["panoptic_seg"]
    assert segments.shape == (32, 48) and set(segments.unique().tolist()) - {0} == {item["id"] for item in info}
    with torch.no_grad():
        raw, scores = model.inference([{"image": image()}], do_postprocess=False)
    assert raw[0].image_size == (64, 96) and scores.shape == (1, 5, 64, 96)


def test_panoptic_merge_by_hand():
    """4 x 8 pixels; instances that overlap, that are covered, of a low score and empty; two kinds of stuff."""
    masks = torch.zeros(5, 4, 8, dtype=torch.bool)
    masks[0, :, 2:6] = True  # score 0.8: loses column 2 to the better one
    masks[1, :, 0:3] = True  # score 0.9
    masks[2, :2, 0:3] = True  # score 0.7: wholly covered
    masks[3, :, 6:] = True  # score 0.4: below the threshold
    instances = Instances((4, 8), pred_masks=masks, scores=torch.tensor([0.8, 0.9, 0.7, 0.4, 0.6]))
    instances.pred_classes = torch.tensor([10, 11, 12, 13, 14])
    stuff = torch.zeros(4, 8, dtype=torch.long)
    stuff[:3, 5:] = 1  # 6 free pixels
    stuff[3, :] = 2  # 2 free pixels: too few
    segments, info = combine_semantic_and_instance_outputs(instances, stuff, 0.5, 5, 0.5)
    assert segments.dtype == torch.int32
    assert segments.tolist() == [[1, 1, 1, 2, 2, 2, 3, 3]] * 3 + [[1, 1, 1, 2, 2, 2, 0, 0]]
    assert [item["category_id"] for item in info] == [11, 10, 1]
    assert [item["isthing"] for item in info] == [True, True, False]
    assert [item["id"] for item in info] == [1, 2, 3]
    assert [item.get("instance_id") for item in info] == [1, 0, None] and info[2]["area"] == 6
    assert info[0]["score"] == pytest.approx(0.9)


def test_panoptic_merge_of_nothing():
    instances = Instances((4, 8), pred_masks=torch.zeros(0, 4, 8), scores=torch.zeros(0), pred_classes=torch.zeros(0))
    segments, info = combine_semantic_and_instance_outputs(instances, torch.zeros(4, 8).long(), 0.5, 1, 0.5)
    assert not info and not segments.any()


def test_missing_inputs_are_named():
    from densekit.runtime.config import get_cfg as runtime_cfg
    from densekit.runtime.modeling import build_model as build

    def model(**options):
        cfg = runtime_cfg()
        settings = {**SMALL, **{key.replace("__", "."): value for key, value in options.items()}}
        cfg.merge_from_list([item for pair in settings.items() for item in pair])
        return build(cfg)

    with pytest.raises(ValueError, match="'instances'"):
        model()([{"image": image()}])
    with pytest.raises(ValueError, match=r"model\.eval"):
        model().inference([{"image": image()}])
    with pytest.raises(ValueError, match="no 'proposals'"):
        model(MODEL__PROPOSAL_GENERATOR__NAME="PrecomputedProposals").eval()([{"image": image()}])
    with pytest.raises(ValueError, match="'sem_seg'"):
        model(MODEL__META_ARCHITECTURE="SemanticSegmentor")([{"image": image()}])
    with pytest.raises(ValueError, match="'sem_seg' in every"):
        from densekit.runtime.structures import Instances as RuntimeInstances

        model(MODEL__META_ARCHITECTURE="PanopticFPN")([{"image": image(), "instances": RuntimeInstances((64, 96))}])
    with pytest.raises(ValueError, match="differ in length"):
        model(MODEL__PIXEL_STD=[1.0])
