"""The parts of models in the real Detectron2 and in the built-in runtime: same weights, same inputs, same outputs."""

import importlib

import pytest
import torch

from tests.tolerances import PARITY

detectron2 = pytest.importorskip("detectron2")

from tests.tolerances import close  # noqa: E402

NARROW = {"STEM_OUT_CHANNELS": 8, "RES2_OUT_CHANNELS": 16, "WIDTH_PER_GROUP": 4}
STAGES = ["res2", "res3", "res4", "res5"]
# Keys below MODEL.RESNETS; the others are given in full.
BACKBONES = {
    "R18": {"DEPTH": 18, "RES2_OUT_CHANNELS": 64},
    "R34-GN": {"DEPTH": 34, "RES2_OUT_CHANNELS": 64, "NORM": "GN"},
    "R50": NARROW,
    "R101": {"DEPTH": 101, **NARROW},
    "R152-BN": {"DEPTH": 152, "NORM": "BN", "MODEL.BACKBONE.FREEZE_AT": 3, **NARROW},
    "X50": {"NUM_GROUPS": 4, "STRIDE_IN_1X1": False, **NARROW},
    "DC5": {"RES5_DILATION": 2, **NARROW},
    "deform": {"DEFORM_ON_PER_STAGE": [False, True, True, True], **NARROW},
    "FPN": {"MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone", **NARROW},
    "FPN-avg-GN": {
        "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
        "MODEL.FPN.FUSE_TYPE": "avg",
        "MODEL.FPN.NORM": "GN",
        **NARROW,
    },
    "FPN-P7": {"MODEL.BACKBONE.NAME": "build_retinanet_resnet_fpn_backbone", **NARROW},
}


class Host:
    """Modules of one of the two implementations, by their path below its package."""

    def __init__(self, root):
        self.root = root

    def __call__(self, path):
        return importlib.import_module(f"{self.root}.{path}")

    def cfg(self, node, options):
        """The defaults with options below a node, or with their full key."""
        cfg = self("config").get_cfg()
        cfg.MODEL.DEVICE = "cpu"
        for key, value in options.items():
            cfg.merge_from_list([key if "." in key else f"{node}.{key}", value])
        return cfg


HOSTS = Host("detectron2"), Host("densekit.runtime")


def seeded(build):
    torch.manual_seed(0)
    return build()


def scatter(module):
    """Norms and biases that do something, and convolutions that keep the size of their signal."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if name.endswith(("bias", "running_mean")):
                value.copy_(torch.randn(value.shape, generator=generator) / 10)
            elif name.endswith(("running_var", "norm.weight")):
                # Blocks add little to their shortcut, or the signal would grow a hundredfold.
                small = 0.3 if name.endswith("conv3.norm.weight") else 1
                value.copy_(small * (1 + torch.rand(value.shape, generator=generator)))
            elif "offset" in name:
                value.copy_(torch.randn(value.shape, generator=generator) / 100)
    return module


def assert_near(ours, theirs, tolerance=PARITY["atol"]):
    assert ours.shape == theirs.shape
    if theirs.numel():
        difference, scale = (ours - theirs).abs().max(), max(theirs.abs().max(), 1)
        assert difference / scale <= tolerance, f"off by {difference:.2e} at values up to {scale:.2e}"


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones(name):
    """Equal parameters from an equal seed, equal features, equal gradients of equal parameters.

    In double precision: in single, a rounding error before one of a hundred ReLUs now and then flips a gradient.
    """
    options = {"OUT_FEATURES": STAGES, "MODEL.FPN.IN_FEATURES": STAGES, "MODEL.FPN.OUT_CHANNELS": 32, **BACKBONES[name]}
    configs = [host.cfg("MODEL.RESNETS", options) for host in HOSTS]
    theirs, ours = (seeded(lambda: host("modeling").build_backbone(cfg)) for host, cfg in zip(HOSTS, configs))  # noqa: B023
    state = theirs.state_dict()
    assert list(ours.state_dict()) == list(state)
    for key, value in ours.state_dict().items():
        assert torch.equal(value, state[key]), f"the initial {key} differs"
    assert {n: p.requires_grad for n, p in ours.named_parameters()} == {
        n: p.requires_grad for n, p in theirs.named_parameters()
    }
    ours.load_state_dict(scatter(theirs).state_dict())
    for left, right in zip(ours.output_shape().items(), theirs.output_shape().items()):
        assert left[0] == right[0] and vars(left[1]) == vars(right[1])
    assert ours.size_divisibility == theirs.size_divisibility and ours.padding_constraints == theirs.padding_constraints

    x, gradients = torch.randn(2, 3, 64, 96, dtype=torch.float64), []
    for model in (theirs, ours):
        features = model.double().eval()(x)
        if name != "deform":  # Detectron2's has no backward pass on the CPU
            sum((feature / (1 + feature.detach().abs().max())).mean() for feature in features.values()).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        model.outputs = features
    assert list(ours.outputs) == list(theirs.outputs)
    for key, expected in theirs.outputs.items():
        assert_near(ours.outputs[key], expected, 1e-8)
    assert gradients[0].keys() == gradients[1].keys()
    largest = max((g.abs().max() for g in gradients[0].values()), default=1)
    for key, expected in gradients[0].items():
        difference = (gradients[1][key] - expected).abs().max() / max(expected.abs().max(), largest / 1000)
        assert difference <= 1e-6, f"gradient of {key} is off by {difference:.2e} of its largest value"


# Keys below MODEL.RPN; the others are given in full.
RPNS = {
    "FPN": {},
    "all-keys": {
        "CONV_DIMS": [16, -1],
        "BBOX_REG_LOSS_TYPE": "giou",
        "BOUNDARY_THRESH": 16,
        "BATCH_SIZE_PER_IMAGE": 64,
        "POSITIVE_FRACTION": 0.25,
        "LOSS_WEIGHT": 2.0,
        "BBOX_REG_LOSS_WEIGHT": 0.5,
        "BBOX_REG_WEIGHTS": (10.0, 10.0, 5.0, 5.0),
        "NMS_THRESH": 0.5,
        "IOU_THRESHOLDS": [0.2, 0.6],
        "PRE_NMS_TOPK_TRAIN": 100,
        "PRE_NMS_TOPK_TEST": 60,
        "POST_NMS_TOPK_TRAIN": 40,
        "POST_NMS_TOPK_TEST": 30,
        "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": 6,
        "MODEL.ANCHOR_GENERATOR.OFFSET": 0.5,
    },
    "smooth": {"SMOOTH_L1_BETA": 0.1},
    "diou": {"BBOX_REG_LOSS_TYPE": "diou"},
    "ciou": {"BBOX_REG_LOSS_TYPE": "ciou"},
}


@pytest.mark.parametrize("name", RPNS)
@pytest.mark.parametrize("training", [True, False])
def test_rpn(name, training):
    options = {"IN_FEATURES": ["p3", "p4"], "MODEL.ANCHOR_GENERATOR.SIZES": [[16, 24], [48, 64]], **RPNS[name]}
    features = {"p3": torch.randn(2, 8, 10, 14), "p4": torch.randn(2, 8, 5, 7)}
    boxes = torch.tensor([[4.0, 4.0, 42.0, 40.0], [30.0, 8.0, 100.0, 70.0], [60.0, 30.0, 76.0, 46.0]])
    results, state = [], None
    for host in HOSTS:
        shape, structures = host("layers").ShapeSpec, host("structures")
        shapes = {"p3": shape(channels=8, stride=8), "p4": shape(channels=8, stride=16)}
        model = seeded(lambda: host("modeling").build_proposal_generator(host.cfg("MODEL.RPN", options), shapes))  # noqa: B023
        if state is None:
            state = {key: value * 20 for key, value in model.state_dict().items()}
        model.load_state_dict(state)
        model.train(training)
        images = structures.ImageList(torch.zeros(2, 3, 80, 112), [(80, 112), (75, 100)])
        truth = [
            structures.Instances(size, gt_boxes=structures.Boxes(boxes[:count].clone()))
            for size, count in zip(images.image_sizes, (3, 0))
        ]
        with host("utils.events").EventStorage() as storage:
            torch.manual_seed(5)
            proposals, losses = model(images, features, truth if training else None)
            scalars = {key: value[0] for key, value in storage.latest().items()}
        results.append((proposals, losses, scalars))
    (their_proposals, their_losses, their_scalars), (our_proposals, our_losses, our_scalars) = results
    assert our_scalars == their_scalars and bool(our_scalars) == training
    assert list(our_losses) == list(their_losses)
    for key, value in their_losses.items():
        assert_near(our_losses[key], value)
    for ours, theirs in zip(our_proposals, their_proposals):
        assert len(ours) > 5 and ours.image_size == theirs.image_size
        assert_near(ours.proposal_boxes.tensor, theirs.proposal_boxes.tensor)
        assert_near(ours.objectness_logits, theirs.objectness_logits)


@pytest.mark.parametrize(
    "quality", [torch.rand(6, 300), torch.rand(0, 9), torch.zeros(2, 5)], ids=["full", "0", "none"]
)
def test_matcher(quality):
    for settings in (([0.3, 0.7], [0, -1, 1], True), ([0.5], [0, 1], False), ([0.4, 0.5, 0.9], [-1, 0, -1, 1], True)):
        theirs, ours = (host("modeling.matcher").Matcher(*settings)(quality) for host in HOSTS)
        for found, expected in zip(ours, theirs):
            assert torch.equal(found, expected) and found.dtype == expected.dtype


def test_sampling_draws_the_same():
    labels = torch.randint(-1, 4, (500,))
    for settings in ((100, 0.25, 0), (400, 0.9, 3), (10, 0.0, 0)):
        theirs, ours = (
            seeded(lambda: host("modeling.sampling").subsample_labels(labels, *settings))  # noqa: B023
            for host in HOSTS
        )
        assert all(torch.equal(found, expected) for found, expected in zip(ours, theirs))


@pytest.mark.parametrize("pooler_type", ["ROIAlignV2", "ROIAlign", "ROIPool"])
@pytest.mark.parametrize("levels, ratio, canonical", [(4, 0, (224, 4)), (1, 2, (224, 4)), (3, 1, (100, 3))])
def test_poolers(pooler_type, levels, ratio, canonical):
    scales = [1 / 4, 1 / 8, 1 / 16, 1 / 32][:levels]
    features = [torch.randn(2, 5, int(128 * scale), int(192 * scale)) for scale in scales]
    corner = torch.rand(2, 30, 2) * 100
    boxes = torch.cat((corner, corner + 2 ** (torch.rand(2, 30, 2) * 8)), dim=2)
    outputs, gradients = [], []
    for host in HOSTS:
        inputs = [feature.clone().requires_grad_() for feature in features]
        pooler = host("modeling.poolers").ROIPooler(7, scales, ratio, pooler_type, *canonical)
        output = pooler(inputs, [host("structures").Boxes(one) for one in boxes])
        output.square().sum().backward()
        outputs.append(output)
        gradients.append([x.grad for x in inputs])
    torch.testing.assert_close(outputs[1], outputs[0], **close(torch.float32))
    for found, expected in zip(gradients[1], gradients[0]):
        assert_near(found, expected)


def test_box_coders():
    corner = torch.rand(2, 40, 2) * 50
    source, target = torch.cat((corner, corner + 1 + torch.rand(2, 40, 2) * 60), dim=2)
    deltas = torch.randn(40, 12)
    for name, settings in (("Box2BoxTransform", ((10.0, 10.0, 5.0, 5.0),)), ("Box2BoxTransformLinear", (True,))):
        theirs, ours = (getattr(host("modeling.box_regression"), name)(*settings) for host in HOSTS)
        assert torch.equal(ours.get_deltas(source, target), theirs.get_deltas(source, target))
        for part in (deltas, deltas[:, :4]) if name == "Box2BoxTransform" else (deltas[:, :4],):
            assert torch.equal(ours.apply_deltas(part, source), theirs.apply_deltas(part, source))


def test_anchors():
    features = [torch.zeros(1, 1, 7, 11), torch.zeros(1, 1, 3, 6)]
    for sizes, ratios, offset in (
        ([[32], [64]], [[0.5, 1, 2]], 0.0),
        ([[32, 40]], [[1.0], [3.0]], 0.5),
        ([8], [1], 0.9),
    ):
        theirs, ours = (
            host("modeling.anchor_generator").DefaultAnchorGenerator(
                sizes=sizes, aspect_ratios=ratios, strides=[8, 16], offset=offset
            )
            for host in HOSTS
        )
        assert ours.num_anchors == theirs.num_anchors and list(ours.state_dict()) == list(theirs.state_dict())
        assert [name for name, _ in ours.named_buffers()] == [name for name, _ in theirs.named_buffers()]
        for found, expected in zip(ours(features), theirs(features)):
            assert torch.equal(found.tensor, expected.tensor)


def test_panoptic_merge():
    masks = torch.rand(12, 1, 10, 14).repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)[:, 0] > 0.6
    scores, classes = torch.rand(12), torch.randint(0, 80, (12,))
    stuff = torch.randint(0, 6, (10, 14)).repeat_interleave(4, dim=0).repeat_interleave(4, dim=1)
    results = []
    for host in HOSTS:
        instances = host("structures").Instances((40, 56), pred_masks=masks, scores=scores, pred_classes=classes)
        merge = host("modeling.meta_arch.panoptic_fpn").combine_semantic_and_instance_outputs
        results.append(merge(instances, stuff, 0.4, 100, 0.3))
    (theirs, their_info), (ours, our_info) = results
    assert torch.equal(ours, theirs) and ours.dtype == theirs.dtype
    assert our_info == their_info and len(our_info) > 5
