"""Records as a top-down pose model takes them: crops of persons in training, else the image with the persons' boxes."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from densekit.d2.config import CfgNode, configurable
from densekit.d2.structures import Boxes, Instances, Keypoints
from densekit.data.mapper import MAPPERS, DatasetMapper
from densekit.data.training_images import as_planes, read_training_image

from .config import view_from_config
from .people import DETECTOR, GROUND_TRUTH, People, PeopleOfResults, annotated_people, box_of, people_of_annotations
from .view import View

_KEPT = ("file_name", "image_id", "height", "width")
HALF_PIXEL = np.array([0.5, 0.5, 0.0])  # from pixel indices to the frame of the host's keypoints


@MAPPERS.register()
class PoseMapper(DatasetMapper):
    """Crops persons.

    Args:
        view: Of a person in training.
        most: Persons of one image in a step, drawn at random.
        people: The boxes of a record in inference; None leaves them to the model's detector.
        options: As of the host's mapper.
    """

    @configurable
    def __init__(
        self, *, view: View, most: int, people: Callable[[Mapping[str, Any]], People] | None, **options: Any
    ) -> None:
        super().__init__(**options)
        self._view, self._most, self._people = view, most, people

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        node = cfg.MODEL.POSE
        people: Any = None
        if node.BOXES == GROUND_TRUTH:
            people = people_of_annotations
        elif node.BOXES != DETECTOR and not is_train:
            people = PeopleOfResults(node.BOXES, threshold=node.BOX_SCORE_THRESH, category_id=node.BOX_CATEGORY)
        options = super().from_config(cfg, is_train)
        return options | {"view": view_from_config(cfg), "most": node.PERSONS_PER_IMAGE, "people": people}

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        mapped = super().__call__(dataset_dict)
        if not self.is_train and self._people is not None:
            boxes, scores = self._people(dataset_dict)
            mapped |= {"person_boxes": torch.as_tensor(boxes), "person_scores": torch.as_tensor(scores)}
        return mapped

    def _for_training(self, record: dict[str, Any], labels: np.ndarray | None) -> dict[str, Any] | None:  # type: ignore[override]
        image = read_training_image(record["file_name"], self.image_format)
        people = annotated_people(record)
        if not people:
            return None  # the loader draws another image
        chosen = np.random.permutation(len(people))[: self._most]
        views = [self._view(image, box_of(people[i]), keypoints_of(people[i])) for i in chosen]
        crops = torch.stack([as_planes(pixels) for pixels, _ in views])
        joints = torch.as_tensor(np.stack([points for _, points in views])).float()
        kept: dict[str, Any] = {
            key: record[key] for key in ("file_name", "image_id", "height", "width") if key in record
        }
        # The first crop is the picture of this sample for whoever draws the batch.
        return {**kept, "image": crops[0], "instances": _drawn(joints[0], crops[0]), "crops": crops, "joints": joints}


def keypoints_of(annotation: Mapping[str, Any]) -> np.ndarray:
    """The keypoints (K, 3) of an annotation of the standard format as pixel indices."""
    return np.asarray(annotation["keypoints"], dtype=np.float64).reshape(-1, 3) - HALF_PIXEL


def _drawn(joints: torch.Tensor, pixels: torch.Tensor) -> Instances:
    height, width = (int(side) for side in pixels.shape[-2:])
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor([[0.0, 0.0, width, height]]))
    instances.gt_classes = torch.zeros(1, dtype=torch.int64)
    instances.gt_keypoints = Keypoints(joints[None] + torch.as_tensor(HALF_PIXEL).float())
    return instances
