"""Human pose from the top down: "Deep High-Resolution Representation Learning for Human Pose" (arXiv 1902.09212).

Every person is cropped by a box and the network says where the keypoints are. Departures from the authors' training:
a step draws images and crops the persons on them, not persons from all images.

Shapes: P persons, K keypoints, H x W their maps.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from densekit.d2.config import CfgNode, configurable
from densekit.d2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from densekit.d2.structures import Boxes, Instances

from .config import detector_config, view_from_config
from .geometry import box_regions, crop, region_matrix, to_image
from .head import PoseHead
from .heatmaps import average_with_mirrored, decode, gaussian_targets, mirror_back, pose_loss
from .mapper import HALF_PIXEL
from .people import People, PersonDetector
from .suppression import rescore, suppress
from .view import View, plain

Inputs = Sequence[Mapping[str, Any]]


@META_ARCH_REGISTRY.register()
class TopDownPose(nn.Module):
    """Finds the keypoints of persons.

    Args:
        backbone: Any, of which one map is used.
        head: On that map.
        in_feature: Its name.
        stride: Of the heat maps.
        view: Gives the size of crops and the pairs of keypoints.
        sigma: Deviation of the targets in pixels of the maps.
        hardest: As of :func:`~densekit.projects.pose.heatmaps.pose_loss`.
        flip_test: Average with the mirrored crop in inference.
        keypoint_threshold: Keypoints above it make up the score of a pose.
        oks_threshold: Poses more similar than that to a better one are left out.
        sigmas: Of the similarity; empty for COCO's.
        batch: Crops at once in inference.
        detector: Finds persons where inputs bring no boxes; None takes the whole image for one person.
        pixel_mean: Of each channel.
        pixel_std: Deviation of each channel.
    """

    output_kinds = ("instances",)
    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: PoseHead,
        in_feature: str,
        stride: float,
        view: View,
        sigma: float,
        hardest: int,
        flip_test: bool,
        keypoint_threshold: float,
        oks_threshold: float,
        sigmas: Sequence[float],
        batch: int,
        detector: PersonDetector | None,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pose_head = head
        self.in_feature = in_feature
        self.stride = stride
        self.view = plain(view)
        self.sigma = sigma
        self.hardest = hardest
        self.flip_test = flip_test
        self.keypoint_threshold = keypoint_threshold
        self.oks_threshold = oks_threshold
        self.sigmas = tuple(sigmas)
        self.batch = batch
        self.detector = detector
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        node, backbone = cfg.MODEL.POSE, build_backbone(cfg)
        shapes = backbone.output_shape()
        if node.IN_FEATURE not in shapes:
            raise ValueError(
                f"MODEL.POSE.IN_FEATURE is {node.IN_FEATURE!r}; the backbone {cfg.MODEL.BACKBONE.NAME} returns "
                f"{', '.join(shapes)}."
            )
        divisor = max(backbone.size_divisibility, 1)
        if any(side % divisor for side in node.INPUT_SIZE):
            raise ValueError(
                f"MODEL.POSE.INPUT_SIZE is {node.INPUT_SIZE}; width and height have to be multiples of {divisor} for "
                f"the backbone {cfg.MODEL.BACKBONE.NAME}."
            )
        shape: Any = shapes[node.IN_FEATURE]
        head = PoseHead(
            in_channels=shape.channels,
            num_keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS,
            num_deconvs=node.NUM_DECONV,
            channels=node.DECONV_DIM,
        )
        detector = None
        if (found := detector_config(cfg)) is not None:
            detector = PersonDetector(
                found,
                node.DETECTOR.WEIGHTS,
                person=node.DETECTOR.PERSON,
                threshold=node.BOX_SCORE_THRESH,
                image_format=cfg.INPUT.FORMAT,
            )
        return {
            "backbone": backbone,
            "head": head,
            "in_feature": node.IN_FEATURE,
            "stride": shape.stride / 2**node.NUM_DECONV,
            "view": view_from_config(cfg),
            "sigma": node.SIGMA,
            "hardest": node.HARDEST,
            "flip_test": node.FLIP_TEST,
            "keypoint_threshold": node.KEYPOINT_SCORE_THRESH,
            "oks_threshold": node.OKS_NMS_THRESH,
            "sigmas": cfg.TEST.KEYPOINT_OKS_SIGMAS,
            "batch": node.BATCH_TEST,
            "detector": detector,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: Inputs) -> Any:
        """Trains or predicts.

        Args:
            batched_inputs: In training ``crops`` (P, 3, height, width) uint8 and ``joints`` (P, K, 3), x and y in their
                pixel indices and visibility, or else ``image`` and ``instances`` as the host's mapper makes them. In
                inference ``image`` (3, h, w) uint8, ``height`` and ``width``; ``person_boxes`` (R, 4) xywh in pixels of
                the original image and ``person_scores`` (R,) where the persons are known.

        Returns:
            In training the loss by name. Else per image ``{"instances": Instances}`` with ``pred_boxes``, ``scores``,
            ``pred_classes`` and ``pred_keypoints`` (R, K, 3), best first, in pixels of the original image.
        """
        if not self.training:
            return [{"instances": self._poses(item)} for item in batched_inputs]
        views = [self._views(item) for item in batched_inputs]
        joints = torch.cat([points for _, points in views]).to(self.device)
        maps = self.heatmaps(torch.cat([crops for crops, _ in views]))
        targets, weights = gaussian_targets(
            joints[..., :2], joints[..., 2], (maps.shape[2], maps.shape[3]), self.stride, self.sigma
        )
        return {"loss_pose": pose_loss(maps.float(), targets, weights, self.hardest)}

    def heatmaps(self, crops: Tensor) -> Tensor:
        """Maps (P, K, H, W) of crops (P, 3, height, width), values 0 to 255."""
        x = (crops.to(self.device) - self.pixel_mean) / self.pixel_std
        return self.pose_head(self.backbone(x)[self.in_feature])

    def _views(self, item: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Crops and joints of an input, made here where its mapper has not made them."""
        if "crops" in item:
            return item["crops"], item["joints"]
        image, people = _array(item["image"]), item["instances"]
        boxes = people.gt_boxes.tensor.double().cpu().numpy()
        boxes[:, 2:] -= boxes[:, :2]
        points = people.gt_keypoints.tensor.double().cpu().numpy() - HALF_PIXEL
        views = [self.view(image, box, joints) for box, joints in zip(boxes, points)]
        width, height = self.view.output
        crops = np.stack([pixels for pixels, _ in views]) if views else np.zeros((0, height, width, 3), np.uint8)
        joints = np.stack([joints for _, joints in views]) if views else points
        return torch.as_tensor(crops).permute(0, 3, 1, 2), torch.as_tensor(joints).float()

    def _poses(self, item: Mapping[str, Any]) -> Instances:
        image = _array(item["image"])
        height, width = image.shape[:2]
        frame = (item.get("height", height), item.get("width", width))
        scale = np.array([frame[1] / width, frame[0] / height])  # of the original image to the one that is here
        boxes, box_scores = self._people(item, image, scale)
        regions = box_regions(boxes, self.view.output)
        points, scores = self._keypoints(image, regions)
        ranks = rescore(box_scores, scores, self.keypoint_threshold)
        areas = regions[:, 2] * regions[:, 3]
        kept = suppress(points, ranks, areas, self.oks_threshold, self.sigmas)
        found = Instances(frame)
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1) * np.tile(scale, 2)
        found.pred_boxes = Boxes(torch.as_tensor(corners[kept]).float().to(self.device))
        found.scores = torch.as_tensor(ranks[kept]).float().to(self.device)
        found.pred_classes = torch.zeros(len(kept), dtype=torch.int64, device=self.device)
        points = (points + HALF_PIXEL[:2]) * scale
        keypoints = np.concatenate([points, scores[..., None]], axis=2)[kept]
        found.pred_keypoints = torch.as_tensor(keypoints).float().to(self.device)
        return found

    def _people(self, item: Mapping[str, Any], image: np.ndarray, scale: np.ndarray) -> People:
        """Boxes xywh in pixels of ``image``, and scores."""
        if "person_boxes" in item:
            boxes = item["person_boxes"].double().cpu().numpy().reshape(-1, 4)
            return boxes / np.tile(scale, 2), item["person_scores"].double().cpu().numpy()
        if self.detector is not None:
            return self.detector(image)
        height, width = image.shape[:2]
        return np.array([[0.0, 0.0, width, height]]), np.ones(1)

    def _keypoints(self, image: np.ndarray, regions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places (P, K, 2) in pixel indices of the image and scores (P, K) of the keypoints in regions (P, 4)."""
        output = self.view.output
        points, scores = [], []
        for start in range(0, max(len(regions), 1), self.batch):
            some = regions[start : start + self.batch]
            crops = [crop(image, region_matrix(region, output), output) for region in some]
            pixels = np.stack(crops) if crops else np.zeros((1, output[1], output[0], 3), np.uint8)
            maps = self._averaged(torch.as_tensor(pixels).permute(0, 3, 1, 2)).detach()[: len(some)]
            places, maxima = decode(maps)
            size = (maps.shape[3], maps.shape[2])
            points.append(to_image(places.double().cpu().numpy(), some, size))
            scores.append(maxima.double().cpu().numpy())
        return np.concatenate(points), np.concatenate(scores)

    def _averaged(self, crops: Tensor) -> Tensor:
        maps = self.heatmaps(crops).float()
        if not self.flip_test:
            return maps
        mirrored = mirror_back(self.heatmaps(crops.flip(3)).float(), self.view.pairs)
        return average_with_mirrored(maps, mirrored)


def _array(image: Tensor) -> np.ndarray:
    """(3, H, W) as (H, W, 3) uint8."""
    pixels = image.detach().cpu().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
