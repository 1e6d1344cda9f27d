"""From the parameter names of other code bases to Detectron2's.

Three vocabularies are known: Caffe2 blobs of Detectron and MSRA (``res2_0_branch2a_bn_s``), torchvision's ResNets
(``layer1.0.bn1.weight``), and Detectron2's own names without the prefix of the model they belong to
(``res2.0.conv1.norm.weight``), which are matched by suffix.
"""

import logging
import re
from collections import Counter
from typing import Any

import torch

from densekit.weights.parts import find_layout
from densekit.weights.pixels import IMAGENET_RGB, Pixels

Weights = dict[str, torch.Tensor]

# A Caffe2 blob is <layer>_<kind>; the kind says which tensor of the layer it is. First match decides.
_CAFFE2_KINDS = (
    (r"_bn_running_mean|_bn_rm", ".norm.running_mean"),
    (r"_bn_running_var|_bn_riv", ".norm.running_var"),
    (r"_bn_gamma|_[bg]n_s", ".norm.weight"),
    (r"_bn_beta|_[bg]n_b", ".norm.bias"),
    (r"_w", ".weight"),
    (r"_b", ".bias"),
)
_CAFFE2_LAYERS = (
    (r"(?:res_)?conv1", r"stem.conv1"),
    (r"res(\d)_(\d+)_branch1", r"res\1.\2.shortcut"),
    (r"res(\d)_(\d+)_branch2a", r"res\1.\2.conv1"),
    (r"res(\d)_(\d+)_branch2b", r"res\1.\2.conv2"),
    (r"res(\d)_(\d+)_branch2c", r"res\1.\2.conv3"),
    (r"pred", r"linear"),
    (r"fpn_inner_res(\d)_\d+_sum(?:_lateral)?", r"fpn_lateral\1"),
    (r"fpn_res(\d)_\d+_sum", r"fpn_output\1"),
    # Detectron builds the RPN on the finest level and shares it with the others, hence "fpn2".
    (r"conv_rpn(?:_fpn2)?", r"proposal_generator.rpn_head.conv"),
    (r"rpn_cls_logits(?:_fpn2)?", r"proposal_generator.rpn_head.objectness_logits"),
    (r"rpn_bbox_pred(?:_fpn2)?", r"proposal_generator.rpn_head.anchor_deltas"),
    (r"fc6", r"box_head.fc1"),
    (r"fc7", r"box_head.fc2"),
    (r"head_conv(\d+)", r"box_head.conv\1"),
    (r"(cls_score|bbox_pred)", r"\1"),
    (r"_(?:\[mask\]|mask)_fcn(\d+)", r"mask_head.mask_fcn\1"),
    (r"mask_fcn_logits", r"mask_head.predictor"),
    (r"conv5_mask", r"mask_head.deconv"),
    (r"conv_fcn(\d+)", r"roi_heads.keypoint_head.conv_fcn\1"),
    (r"kps_score(_lowres)?", lambda m: "roi_heads.keypoint_head.score" + (m[1] or "")),
)
_TORCHVISION_RULES = (
    (r"^layer(\d)\.", lambda m: f"res{int(m[1]) + 1}."),
    (r"^(?=conv1\.|bn1\.)", "stem."),
    (r"\bbn(\d)\.", r"conv\1.norm."),
    (r"\bdownsample\.0\.", "shortcut."),
    (r"\bdownsample\.1\.", "shortcut.norm."),
    (r"^fc\.", "linear."),
)


def caffe2_name(blob: str) -> str:
    """Detectron2's name of a Caffe2 blob, without the prefix of the model; unknown layers keep their words."""
    layer, kind = blob, ""
    for pattern, suffix in _CAFFE2_KINDS:
        if match := re.search(f"(?:{pattern})$", blob):
            layer, kind = blob[: match.start()], suffix
            break
    for pattern, name in _CAFFE2_LAYERS:
        if match := re.fullmatch(pattern, layer):
            return (name(match) if callable(name) else match.expand(name)) + kind
    return layer.replace("_", ".") + kind


def from_caffe2(blobs: Weights) -> Weights:
    """Renames the blobs of a Caffe2 model and moves its background class to where Detectron2 has it.

    Detectron counts the background as class 0. Detectron2 has it last among the class scores and gives it neither
    boxes nor masks.
    """
    weights: Weights = {}
    for blob, value in blobs.items():
        name = caffe2_name(blob)
        if name in weights:
            raise ValueError(f"Two Caffe2 blobs, {blob!r} among them, are both named {name!r} in Detectron2.")
        if name.startswith("cls_score."):
            value = torch.cat([value[1:], value[:1]])
        elif name.startswith("bbox_pred."):
            value = value[4:]
        elif name.startswith("mask_head.predictor."):
            value = value[1:]
        weights[name] = value
    return weights


def is_torchvision_resnet(names: Any) -> bool:
    """Tells whether the names are those of a torchvision (or timm) ResNet."""
    return {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight"} <= set(names)


def from_torchvision(weights: Weights) -> Weights:
    """Renames a torchvision ResNet; batch counters have no counterpart and are left out."""
    renamed: Weights = {}
    for name, value in weights.items():
        if name.endswith("num_batches_tracked"):
            continue
        for pattern, replacement in _TORCHVISION_RULES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed


def match_by_suffix(weights: Weights, model: Weights) -> Weights:
    """Gives each entry of the model the entry of the file whose name is its longest whole-word suffix.

    ``backbone.bottom_up.res2.0.conv1.weight`` takes ``res2.0.conv1.weight`` rather than ``conv1.weight``.

    Args:
        weights: the file's names -> tensors.
        model: the state dict of the model to fill.

    Returns:
        Matched entries under the model's names, whatever their shapes; entries that match nothing keep theirs.

    Raises:
        ValueError: one entry of the file fits two entries of the model.
    """
    taken: dict[str, str] = {}
    result: Weights = {}
    for target, wanted in model.items():
        words = target.split(".")
        source = next((name for start in range(len(words)) if (name := ".".join(words[start:])) in weights), None)
        if source is None:
            continue
        if weights[source].shape == wanted.shape and taken.setdefault(source, target) != target:
            raise ValueError(
                f"Entry {source!r} of the weight file fits both {taken[source]!r} and {target!r} of the model. Name "
                "the entries of the file in full and drop its 'matching_heuristics'."
            )
        result[target] = weights[source]
        taken.setdefault(source, target)
    result.update({name: value for name, value in weights.items() if name not in taken})
    return result


def below_prefix(weights: Weights, model: Weights) -> Weights:
    """Puts a file of one part of the model, such as a backbone of timm, under the name that the part has in the model.

    Args:
        weights: the file's names -> tensors.
        model: the state dict of the model to fill.

    Returns:
        The weights as they are if any of their names is one of the model's, or if no part of the model has at least
        half of them; else the same below the prefix under which most of them are found.
    """
    if not weights.keys().isdisjoint(model):
        return weights
    counts = Counter(
        target.removesuffix(name)
        for target in model
        for words in [target.split(".")]
        for name in (".".join(words[start:]) for start in range(1, len(words)))
        if name in weights
    )
    prefix, found = max(counts.items(), key=lambda item: item[1], default=("", 0))
    if 2 * found < len(weights):
        return weights
    logging.getLogger(__name__).info(f"The weights are those of the model's part {prefix.rstrip('.')!r}.")
    return {prefix + name: value for name, value in weights.items()}


def fills_a_part(weights: Weights, model: Weights) -> Weights | None:
    """As :func:`below_prefix` where the file has all that a part of the model has, under the same names; else None."""
    placed = below_prefix(weights, model)
    if placed is weights:
        return None
    prefix = next(iter(placed)).removesuffix(next(iter(weights)))
    wanted = {name for name in model if name.startswith(prefix) and not name.endswith("num_batches_tracked")}
    return placed if wanted <= placed.keys() else None


def with_linear_layer(weights: Weights, model: Weights) -> Weights:
    """Gives an image classifier the linear layer of a file in which that is all that the backbone has no use for.

    A file with another layer behind the backbone, such as a norm, is another network than the mean of a map and a
    linear layer, and keeps its names.

    Args:
        weights: under the model's names, as far as it has them.
        model: the state dict of the model to fill.
    """
    over = sorted(name for name in weights if name not in model and not name.endswith("num_batches_tracked"))
    ours = ["classifier.bias", "classifier.weight"]
    if not set(ours) <= model.keys() or [name.rpartition(".")[2] for name in over] != ["bias", "weight"]:
        return weights
    if over[0].removesuffix("bias") != over[1].removesuffix("weight"):
        return weights
    if weights[over[1]].shape[1:] != model[ours[1]].shape[1:]:
        return weights
    renamed = dict(zip(over, ours))
    return {renamed.get(name, name): value for name, value in weights.items()}


def pixels_of(checkpoint: dict[str, Any]) -> set[Pixels]:
    """The pixels that the weights of a checkpoint were trained on, as far as their names tell."""
    names = [name.removeprefix("module.") for name in checkpoint["model"]]
    if layout := find_layout(names):
        return layout.pixels
    return {IMAGENET_RGB} if is_torchvision_resnet(names) else set()


def adapt_names(checkpoint: dict[str, Any], model: Weights) -> Weights:
    """The weights of a checkpoint under the names of the model.

    Args:
        checkpoint: what :func:`~densekit.weights.formats.read_checkpoint` returned.
        model: the state dict of the model to fill.

    Returns:
        name -> tensor; entries without a counterpart keep the file's name.
    """
    weights: Weights = checkpoint["model"]
    if all(name.startswith("module.") for name in weights):  # saved from inside DataParallel
        weights = {name.removeprefix("module."): value for name, value in weights.items()}
    if layout := find_layout(weights):
        try:
            converted = layout.convert(weights, model)
        except ValueError:  # a network of another code base as it is, below a name of the model's
            if (own := fills_a_part(weights, model)) is None:
                raise
            return with_linear_layer(own, model)
        logging.getLogger(__name__).info(f"The names of {layout.name} are mapped to densekit's.")
        return converted
    if is_torchvision_resnet(weights) and "conv1.weight" not in model:
        if (own := fills_a_part(weights, model)) is not None:
            return with_linear_layer(own, model)
        logging.getLogger(__name__).info(
            "torchvision's names are mapped to Detectron2's. These weights expect MODEL.RESNETS.STRIDE_IN_1X1 False."
        )
        return with_linear_layer(match_by_suffix(from_torchvision(weights), model), model)
    if not checkpoint.get("matching_heuristics"):
        return with_linear_layer(below_prefix(weights, model), model)
    if checkpoint.get("__author__") == "Caffe2":
        weights = from_caffe2(weights)
    return match_by_suffix(weights, model)
