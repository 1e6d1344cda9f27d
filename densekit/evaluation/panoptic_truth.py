"""The ground truth of panoptic segmentation: COCO's JSON of segments beside a folder of PNGs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from densekit.d2.data import MetadataCatalog
from densekit.data.panoptic_json import PanopticFile, read_panoptic_file
from densekit.files.panoptic_png import read_panoptic_png
from densekit.metrics.panoptic_quality import TrueSegment


@dataclass(frozen=True)
class PanopticTruth:
    """Annotations of a panoptic test set.

    Attributes:
        file: The JSON file.
        folder: Where the PNGs are.
    """

    file: PanopticFile
    folder: Path

    @classmethod
    def of(cls, dataset_name: str) -> "PanopticTruth":
        """Reads what a registered data set names as ``panoptic_json`` and ``panoptic_root``.

        Raises:
            ValueError: The data set does not name them, or the file is not COCO's panoptic format.
        """
        metadata = MetadataCatalog.get(dataset_name)
        source, folder = metadata.get("panoptic_json"), metadata.get("panoptic_root")
        if not source or not folder:
            raise ValueError(
                f"Data set '{dataset_name}' names no panoptic annotation. Set it with "
                f"MetadataCatalog.get('{dataset_name}').set(panoptic_json=FILE, panoptic_root=FOLDER)."
            )
        return cls(read_panoptic_file(source), Path(folder))

    def png_name(self, image_id: Any) -> str:
        """Returns the name of an image's PNG within the folder."""
        return self.file.annotations[image_id]["file_name"]

    def ids(self, image_id: Any) -> np.ndarray:
        """Returns the annotated segment of each pixel of an image (H, W) int32; 0 is void."""
        return read_panoptic_png(self.folder / self.png_name(image_id))

    def segments(self, image_id: Any) -> dict[int, TrueSegment]:
        """Returns the annotated segments of an image by id."""
        return {
            segment["id"]: TrueSegment(segment["category_id"], bool(segment.get("iscrowd", 0)))
            for segment in self.file.annotations[image_id]["segments_info"]
        }
