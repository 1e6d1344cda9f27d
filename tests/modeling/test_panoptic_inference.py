"""Windows, scales and mirror images of Panoptic FPN, against a slow reference and the host's parts."""

from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from densekit.config import load_config
from densekit.d2.modeling import GeneralizedRCNNWithTTA, build_model
from densekit.deploy import inference_form
from densekit.modeling.semantic_inference import augmented_semantic_inference, semantic_inference
from tests.inference.conftest import BASE, FPN, options

CLASSES = 6
WINDOW, STRIDE, SCALES = (48, 64), (32, 43), (0.75, 1.25)


def config(*opts):
    own = ["MODEL.META_ARCHITECTURE", "PanopticFPN", "MODEL.DEVICE", "cpu", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", CLASSES]
    return load_config(str(BASE), [*options(FPN), *own, "MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH", 0.6, *opts])


def network(cfg):
    """A model that sees something of every class, and objects that overlap."""
    torch.manual_seed(3)
    model = build_model(cfg)
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("mask_head.predictor", "sem_seg_head.predictor", "cls_score")):
            std = 0.3 if "sem_seg" in name else 2.0  # logits of a size at which float32 gives 1e-6
            torch.nn.init.normal_(parameter, std=std if name.endswith("weight") else 0.0)
    with torch.no_grad():
        for _ in range(20):  # running averages, without which all features are nearly the same
            model.backbone.train()(F.interpolate(100 * torch.randn(4, 3, 8, 12), size=(64, 96)))
    return model.eval()


def picture(height=64, width=96):
    generator = torch.Generator().manual_seed(7)
    coarse = 255 * torch.rand(1, 3, height // 8, width // 8, generator=generator)
    return F.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 255)[0].byte()


def slow_scores(model, image, frame):
    """(C, height, width): every window and its mirror image by themselves, the mean over those that hold a pixel."""
    total = 0
    for scale in SCALES:
        height, width = (round(side * scale) for side in image.shape[1:])
        scaled = F.interpolate(image[None].float(), size=(height, width), mode="bilinear", antialias=True)[0]
        sums, counts = np.zeros((CLASSES, height, width)), np.zeros((height, width))
        starts = [
            [*range(0, max(side - w, 0), s), max(side - w, 0)] for side, w, s in zip((height, width), WINDOW, STRIDE)
        ]
        for top, left in product(*starts):
            crop = scaled[:, top : top + WINDOW[0], left : left + WINDOW[1]]
            views = [model([{"image": crop}])[0]["sem_seg"].softmax(0)]
            views.append(model([{"image": crop.flip(2)}])[0]["sem_seg"].softmax(0).flip(2))
            sums[:, top : top + WINDOW[0], left : left + WINDOW[1]] += (sum(views) / 2).numpy()
            counts[top : top + WINDOW[0], left : left + WINDOW[1]] += 1
        mean = torch.from_numpy(sums / counts)[None]
        total = total + F.interpolate(mean, size=frame, mode="bilinear")[0] / len(SCALES)
    return total


def slow_panoptic(labels, found, overlap, smallest, threshold):
    """The map and (class, isthing) of each segment: one object after the other, the best first, then the stuff."""
    ids, segments = np.zeros(labels.shape, int), []
    for k in np.argsort(-found.scores.numpy(), kind="stable"):
        mask = found.pred_masks[k].numpy().astype(bool)
        if found.scores[k] < threshold or not mask.any() or (mask & (ids > 0)).sum() / mask.sum() > overlap:
            continue
        segments.append((int(found.pred_classes[k]), True))
        ids[mask & (ids == 0)] = len(segments)
    for label in range(1, CLASSES):
        place = (labels == label) & (ids == 0)
        if place.sum() >= max(smallest, 1):
            segments.append((label, False))
            ids[place] = len(segments)
    return ids, segments


@pytest.mark.parametrize("form", [False, True])
def test_the_semantic_branch_sees_the_views_and_the_detector_the_picture(form):
    views = {"WINDOW": WINDOW, "STRIDE": STRIDE, "SCALES": SCALES, "FLIP": True}
    cfg = config(*(word for key, value in views.items() for word in (f"TEST.SEMANTIC.{key}", value)))
    model = network(cfg)
    frame, item = (90, 130), {"image": picture(), "height": 90, "width": 130}
    wrapped = semantic_inference(cfg, inference_form(cfg, model) if form else model)
    with torch.no_grad():
        ours, plain = wrapped([item])[0], model([item])[0]
        scores = slow_scores(model, item["image"], frame)
    torch.testing.assert_close(ours["sem_seg"].double(), scores, atol=1e-4 if form else 1e-6, rtol=0)
    assert len(torch.unique(ours["sem_seg"].argmax(0))) > 2
    for field in ("scores", "pred_masks", "pred_classes"):
        torch.testing.assert_close(ours["instances"].get(field), plain["instances"].get(field))
    node = cfg.MODEL.PANOPTIC_FPN.COMBINE
    limits = node.OVERLAP_THRESH, node.STUFF_AREA_LIMIT, node.INSTANCES_CONFIDENCE_THRESH
    ids, segments = slow_panoptic(ours["sem_seg"].argmax(0).numpy(), ours["instances"], *limits)
    assert np.array_equal(ours["panoptic_seg"][0].numpy(), ids)
    assert [(s["category_id"], s["isthing"]) for s in ours["panoptic_seg"][1]] == segments
    assert any(thing for _, thing in segments) and not all(thing for _, thing in segments)
    assert not torch.equal(ours["sem_seg"].argmax(0), plain["sem_seg"].argmax(0))


def test_a_batch_is_its_pictures_and_nothing_asked_is_the_model_itself():
    cfg = config("TEST.SEMANTIC.FLIP", True)
    model = network(cfg)
    assert semantic_inference(config(), model) is model
    inputs = [{"image": picture(*size)} for size in ((64, 96), (72, 64))]
    wrapped = semantic_inference(cfg, model)
    with torch.no_grad():
        for item, together in zip(inputs, wrapped(inputs), strict=True):
            alone = wrapped([item])[0]
            assert torch.equal(alone["sem_seg"], together["sem_seg"])
            # The detector sees the pictures of a batch padded to one size.
            torch.testing.assert_close(alone["instances"].scores, together["instances"].scores, atol=0.05, rtol=0)


def test_augmented_branches_are_those_of_a_detector_and_of_a_semantic_model():
    aug = {"MIN_SIZES": (64, 80), "MAX_SIZE": 160, "FLIP": True}
    cfg = config(*(word for key, value in aug.items() for word in (f"TEST.AUG.{key}", value)))
    model = network(cfg)
    alone = {}
    for name in ("GeneralizedRCNN", "SemanticSegmentor"):
        part = cfg.clone()
        part.MODEL.META_ARCHITECTURE = name
        alone[name] = build_model(part).eval()
        found = alone[name].load_state_dict(model.state_dict(), strict=False)
        assert not found.missing_keys
    item = {"image": picture(), "height": 90, "width": 130}
    with torch.no_grad():
        ours = augmented_semantic_inference(cfg, model)([item])[0]
        instances = GeneralizedRCNNWithTTA(cfg, alone["GeneralizedRCNN"])([item])[0]["instances"]
        scores = augmented_semantic_inference(cfg, alone["SemanticSegmentor"])([item])[0]["sem_seg"]
    torch.testing.assert_close(ours["sem_seg"], scores)
    for field in ("scores", "pred_masks", "pred_classes"):
        torch.testing.assert_close(ours["instances"].get(field), instances.get(field))
    assert {"things", "stuff"} == {"things" if s["isthing"] else "stuff" for s in ours["panoptic_seg"][1]}
