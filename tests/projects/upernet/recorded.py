"""Checks recorded outputs of UPerNet: ``python -m tests.projects.upernet.recorded FILE``.

A file holds mmsegmentation's heads (``mmseg*``) and the authors' decoder (``csail*``) on given maps, losses, schedules,
counts and names. Sizes are read from the file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densekit.config import load_config
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling import Backbone, build_model
from densekit.layers.pixel_losses import mean_cross_entropy
from densekit.modeling.fcn_head import FCNHead
from densekit.modeling.image_sized_segmentor import ImageSizedSegmentor
from densekit.modeling.semantic_head import SemanticHead, conv_norm_relu
from densekit.projects.upernet.head import UPerHead
from densekit.solver import build_lr_scheduler
from densekit.weights.parts import find_layout, rename_part
from tests.recorded_cases import Cases, main

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "upernet"
_IGNORED = 255
_RESNET50 = (256, 512, 1024, 2048)


def check(recorded: Mapping[str, Any], cases: Cases) -> None:
    for key, case in recorded.items():
        if key.startswith("mmseg_swin"):
            _mmseg_model(key, case, cases)
        elif key.startswith("mmseg_head"):
            _mmseg_head(key, case, recorded["feats"], cases)
        elif key == "mmseg_loss":
            _mmseg_loss(key, case, cases)
        elif key == "csail_upernet":
            _authors_head(key, case, recorded["feats"], cases)
        elif key == "lr":
            _schedules(case, cases)
        elif key == "param_counts":
            _counts(case, cases)
        elif key.startswith("mmseg_fcn"):
            cases.not_checked(key, "its concatenation of the input (concat_input) is no option of the auxiliary head")
        elif key == "csail_groups":
            cases.not_checked(key, "groups of a toy module, which WEIGHT_DECAY_NORM and WEIGHT_DECAY_BIAS 0 make")
        elif not key.startswith("manifest") and key not in ("about", "source", "feats"):
            cases.not_checked(key, "a kind of case that is not known")
    _names({key: names for key, names in recorded.items() if key.startswith("manifest")}, cases)


def _single(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}


def _shapes(features: list[Tensor]) -> dict[str, ShapeSpec]:
    return {f"res{k + 2}": ShapeSpec(channels=x.shape[1], stride=4 * 2**k) for k, x in enumerate(features)}


def _maps(features: list[Tensor]) -> dict[str, Tensor]:
    return {f"res{k + 2}": x for k, x in enumerate(features)}


def _load(head: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Fills a head; only the norms' counters may be missing."""
    missing, unexpected = head.load_state_dict(dict(weights), strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(f"missing {missing}, unexpected {unexpected}")


def _upernet(weights: Mapping[str, Tensor], features: list[Tensor], **options: Any) -> UPerHead:
    """The head with weights under densekit's names."""
    pools = [name for name in weights if name.startswith("ppm.branches.") and name.endswith("norm.weight")]
    head = UPerHead(
        _shapes(features),
        channels=weights["fuse.weight"].shape[0],
        num_classes=weights["predictor.weight"].shape[0],
        pool_scales=options.pop("pool_scales", (1, 2, 3, 6)[: len(pools)]),
        **options,
    )
    branch, (channels, merged) = weights["ppm.branches.0.weight"].shape[0], weights["ppm.project.weight"].shape[:2]
    if branch != channels:  # the record's pooled maps are narrower than the rest of its head
        in_channels = features[-1].shape[1]
        head.ppm.branches = nn.ModuleList(conv_norm_relu(in_channels, branch, 1, "BN") for _ in head.ppm.scales)
        head.ppm.project = conv_norm_relu(merged, channels, 3, "BN")
    _load(head, weights)
    return head


def _mmseg_head(key: str, case: Mapping[str, Any], features: list[Tensor], cases: Cases) -> None:
    if "align_true" in key:
        cases.not_checked(key, "align_corners True is no option here")
        return
    weights = rename_part("mmsegmentation", "decode_head", _single(case["state_dict"]))
    head = _upernet(weights, features).eval()
    with torch.no_grad():
        cases.close(f"{key} logits", head.layers(_maps(features)), case["logits"])
        if "psp_out" in case:
            cases.close(f"{key} pyramid pooling", head.ppm(features[-1]), case["psp_out"])
    _start(key, "decode_head", case, features, cases)


def _start(key: str, slot: str, case: Mapping[str, Any], features: list[Tensor], cases: Cases) -> None:
    """Start values are drawn: their spread is compared where there are enough of them."""
    torch.manual_seed(0)
    weights = rename_part("mmsegmentation", slot, _single(case["state_dict"]))
    head = UPerHead(
        _shapes(features), channels=weights["fuse.weight"].shape[0], num_classes=weights["predictor.weight"].shape[0]
    )
    stats = {name: torch.tensor(value) for name, value in case["init_stats"].items()}
    for name, (_, spread, *_, count) in rename_part("mmsegmentation", slot, stats).items():
        if count > 500:
            error = 5 * float(spread) / (2 * float(count)) ** 0.5
            cases.close(f"{key} spread of {name}", head.get_parameter(name).std(), spread, atol=error, rtol=0)


def _mmseg_model(key: str, case: Mapping[str, Any], cases: Cases) -> None:
    """Both heads on the recorded maps of the backbone, whose own records belong to its system."""
    weights = _single(case["state_dict"])
    slots = {
        slot: {name.removeprefix(slot + "."): x for name, x in weights.items() if name.startswith(slot + ".")}
        for slot in ("decode_head", "auxiliary_head")
    }
    features = case["feats"]
    own = rename_part("mmsegmentation", "auxiliary_head", slots["auxiliary_head"])
    channels, in_channels = own["convs.0.weight"].shape[:2]
    index = [x.shape[1] for x in features].index(in_channels)
    auxiliary = FCNHead(
        in_feature=f"res{index + 2}",
        in_channels=in_channels,
        channels=channels,
        num_convs=sum(name.startswith("convs.") and name.endswith("norm.weight") for name in own),
        num_classes=len(own["predictor.bias"]),
        norm="BN",
        stride=4 * 2**index,
    )
    _load(auxiliary, own)
    head = _upernet(rename_part("mmsegmentation", "decode_head", slots["decode_head"]), features).eval()
    with torch.no_grad():
        logits = head.layers(_maps(features))
        cases.close(f"{key} logits", logits, case["logits"])
        cases.close(f"{key} logits of the auxiliary head", auxiliary.eval().layers(_maps(features)), case["aux_logits"])
        labels = _whole_picture(head, logits, "input", case["x"]).argmax(1)
        cases.agreement(f"{key} labels of all pixels", labels, case["pred_full"].long())
    for name in ("train_losses", "grads", "buffers_after_train", "init_stats"):
        cases.not_checked(f"{key} {name}", "in training the maps are those of the backbone with its random paths")


class _Scores(SemanticHead):
    """A head whose scores are given."""

    def __init__(self, head: SemanticHead, scores: Tensor) -> None:
        super().__init__(stride=head.stride, align_corners=head.align_corners)
        self.scores = scores

    def layers(self, features: Any) -> Tensor:
        return self.scores


def _whole_picture(head: SemanticHead, scores: Tensor, resize_to: str, pictures: Tensor) -> Tensor:
    """The scores of the whole model at every pixel."""
    model = ImageSizedSegmentor(
        resize_to=resize_to,
        backbone=_Maps(),
        sem_seg_head=_Scores(head, scores),
        pixel_mean=[0.0] * 3,
        pixel_std=[1.0] * 3,
    )
    outputs = model.eval()([{"image": picture} for picture in pictures])
    return torch.stack([output["sem_seg"] for output in outputs])


class _Maps(Backbone):
    """A backbone that sees nothing."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {}


def _mmseg_loss(key: str, case: Mapping[str, Any], cases: Cases) -> None:
    """That code divides by all pixels, this by the labelled ones."""
    labels = case["label"][:, 0]
    scores = F.interpolate(case["score"], size=labels.shape[-2:], mode="bilinear", align_corners=False)
    share = (labels != _IGNORED).double().mean()
    cases.close(
        f"{key}, as a mean of all pixels",
        mean_cross_entropy(scores, labels, _IGNORED) * share,
        case["plain"]["loss_seg"],
    )
    cases.not_checked(f"{key} weighted", "weights of classes are no option here")
    cases.not_checked(f"{key} acc_seg", "a figure that is watched and not learned")


def _authors_head(key: str, case: Mapping[str, Any], features: list[Tensor], cases: Cases) -> None:
    converted = _authors_names(_single(case["state_dict"]))
    head = _upernet(converted, features, convention="csail").eval()
    with torch.no_grad():
        scores = head.layers(_maps(features))
        cases.close(f"{key} log-probabilities", scores.log_softmax(1), case["log_probs"])
        name = next(name for name in case if name.startswith("probs_"))
        size = tuple(case[name].shape[-2:])
        enlarged = _whole_picture(head, scores, "output", torch.zeros(len(scores), 3, *size))
        cases.close(f"{key} probabilities of all pixels", enlarged.softmax(1), case[name])
    head.train()
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = case["bn_momentum"]
    scores = head.layers(_maps(features))
    cases.close(f"{key} log-probabilities in training", scores.log_softmax(1), case["log_probs_train"])
    labels = torch.where(case["label"] < 0, _IGNORED, case["label"])
    loss = mean_cross_entropy(scores, labels, _IGNORED)
    cases.close(f"{key} loss", loss, case["loss"])
    accuracy = (scores.argmax(1) == labels)[labels != _IGNORED].double().mean()
    cases.close(f"{key} pixel accuracy", accuracy, case["pixel_acc"])
    loss.backward()
    wanted = _authors_names({name: torch.tensor(value) for name, value in case["grads"].items()})
    for name, (total, norm) in wanted.items():
        grad = head.get_parameter(name).grad
        cases.close(f"{key} gradient of {name}", [grad.sum(), grad.norm()], [total, norm], atol=1e-5, rtol=1e-3)
    cases.not_checked(
        [f"{key} buffers_after_train", f"{key} init_stats"], "norms keep the host's momentum; starts are drawn"
    )


def _authors_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return rename_part("UPerNet's authors", "decoder", dict(weights))


def _schedules(case: Mapping[str, Any], cases: Cases) -> None:
    recipes = {
        "mmseg_poly": {
            "BASE_LR": 6e-5,
            "MAX_ITER": 160000,
            "WARMUP_ITERS": 1500,
            "WARMUP_FACTOR": 1e-6,
            "POLY_LR_POWER": 1.0,
        },
        "csail_poly": {"BASE_LR": 0.02, "MAX_ITER": 150000, "WARMUP_ITERS": 0, "POLY_LR_POWER": 0.9},
    }
    for name, keys in recipes.items():
        opts = [str(word) for key, value in keys.items() for word in (f"SOLVER.{key}", value)]
        cfg = load_config("", ["SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR", "SOLVER.WARMUP_FACTOR", "1e-6", *opts])
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=cfg.SOLVER.BASE_LR)
        schedule = build_lr_scheduler(cfg, optimizer)
        for iteration, expected in case.get(name, {}).items():
            schedule.last_epoch = int(iteration)
            cases.close(f"{name} at {iteration}", schedule.get_lr()[0], expected, atol=1e-15, rtol=1e-6)


def _counts(case: Mapping[str, Any], cases: Cases) -> None:
    for name, counts in case.items():
        if isinstance(counts, Mapping):
            with torch.device("meta"):
                maps = [torch.zeros(1, channels, 1, 1) for channels in counts["in_channels"]]
                head = UPerHead(_shapes(maps), channels=512, num_classes=150)
                extra = FCNHead(
                    in_feature="res4",
                    in_channels=counts["in_channels"][2],
                    channels=256,
                    num_convs=1,
                    num_classes=150,
                    norm="BN",
                    stride=16,
                )
            found = [sum(p.numel() for p in part.parameters()) for part in (head, extra)]
            cases.equal(f"parameters on {name}", found, [counts["decode_head"], counts["auxiliary_head"]])
        elif name == "csail_upernet_r50":
            with torch.device("meta"):
                maps = [torch.zeros(1, channels, 1, 1) for channels in _RESNET50]
                head = UPerHead(_shapes(maps), channels=512, num_classes=150, convention="csail")
            cases.equal(f"parameters of {name}", sum(p.numel() for p in head.parameters()), counts)
        elif name == "csail_encoder_r50":
            with torch.device("meta"):
                cfg = load_config(str(CONFIGS / "upernet_R_50_csail_ade20k.yaml"), ["MODEL.DEVICE", "meta"])
                cfg.MODEL.BACKBONE.FREEZE_AT = 0
                backbone = build_model(cfg).backbone
            cases.equal(f"parameters of {name}", sum(p.numel() for p in backbone.parameters()), counts)
        else:
            cases.not_checked(f"parameters of {name}", "a model that is not here")


def _names(manifests: Mapping[str, Mapping[str, Any]], cases: Cases) -> None:
    """Recorded names of parts, each of one layout, become those of the shipped models."""
    configs = {"mmseg": "upernet_R_50_ade20k.yaml", "csail": "upernet_R_50_csail_ade20k.yaml"}
    for key, names in manifests.items():
        config = next(file for kind, file in configs.items() if kind in key)
        with torch.device("meta"):
            cfg = load_config(str(CONFIGS / config), ["MODEL.DEVICE", "meta", "MODEL.WEIGHTS", ""])
            model = {name: tuple(x.shape) for name, x in build_model(cfg).state_dict().items()}
            weights = {name: torch.empty(tuple(shape)) for name, shape in names.items()}
        layout = find_layout(names)
        found = layout.convert(weights) if layout else weights
        shapes = {name: tuple(x.shape) for name, x in found.items()}
        cases.equal(f"{key} under densekit's names", {name: model.get(name) for name in shapes}, shapes)


if __name__ == "__main__":
    main(check)
