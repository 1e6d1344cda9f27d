"""From the network's input frame to the frame that the caller asked for."""

import torch.nn.functional as F
from torch import Tensor

from densekit.runtime.structures import Instances, ROIMasks


def detector_postprocess(
    results: Instances, output_height: int, output_width: int, mask_threshold: float = 0.5
) -> Instances:
    """Scales boxes and keypoints to another image size, drops what became empty, and pastes the masks.

    Args:
        results: Detections (``pred_boxes``) or proposals (``proposal_boxes``) in pixels of ``results.image_size``;
            ``pred_masks`` as (N, 1, M, M) probabilities or ROIMasks. Not modified.
        output_height: Height of the wanted frame in pixels.
        output_width: Width of the wanted frame in pixels.
        mask_threshold: Probability from which a pixel belongs to the mask.

    Returns:
        Instances of the new size; ``pred_masks`` is a bool tensor (N, output_height, output_width).

    Raises:
        ValueError: There are neither detections nor proposals.
    """
    height, width = results.image_size
    scale_x, scale_y = output_width / width, output_height / height
    scaled = Instances((output_height, output_width), **results.get_fields())
    name = next((key for key in ("pred_boxes", "proposal_boxes") if scaled.has(key)), None)
    if name is None:
        raise ValueError(f"Results need pred_boxes or proposal_boxes, got only {list(results.get_fields())}.")
    boxes = scaled.get(name).clone()
    boxes.scale(scale_x, scale_y)
    boxes.clip(scaled.image_size)
    scaled.set(name, boxes)
    scaled = scaled[boxes.nonempty()]

    if scaled.has("pred_masks"):
        masks = scaled.pred_masks
        roi_masks = masks if isinstance(masks, ROIMasks) else ROIMasks(masks[:, 0])
        pasted = roi_masks.to_bitmasks(scaled.pred_boxes, output_height, output_width, mask_threshold)
        scaled.pred_masks = pasted.tensor
    if scaled.has("pred_keypoints"):
        keypoints = scaled.pred_keypoints  # (N, K, 3): x, y, score; the indexing above made it our own
        keypoints[..., 0] *= scale_x
        keypoints[..., 1] *= scale_y
    return scaled


def sem_seg_postprocess(result: Tensor, img_size: tuple[int, int], output_height: int, output_width: int) -> Tensor:
    """Cuts the padding off the class scores of one image and resizes them.

    Args:
        result: (C, H, W) scores of the padded network input.
        img_size: Height and width of the image before padding.
        output_height: Height of the wanted frame in pixels.
        output_width: Width of the wanted frame in pixels.

    Returns:
        (C, output_height, output_width) scores.
    """
    cropped = result[None, :, : img_size[0], : img_size[1]]
    return F.interpolate(cropped, size=(output_height, output_width), mode="bilinear", align_corners=False)[0]
