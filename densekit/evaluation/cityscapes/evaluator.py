"""What the Cityscapes evaluators share: predictions become files as they arrive, and one process scores them all."""

import logging
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from tabulate import tabulate

from densekit.d2.data import MetadataCatalog
from densekit.d2.evaluation import DatasetEvaluator
from densekit.d2.utils import comm
from densekit.d2.utils.logger import create_small_table
from densekit.evaluation.cityscapes.frames import frame_of, refuse_missing

logger = logging.getLogger(__name__)


class CityscapesEvaluator(DatasetEvaluator):
    """Writes predictions in the benchmark's format and has them scored with the figures of cityscapesscripts.

    Every process writes the frames it sees into the same folder. Then the main process makes sure that this evaluation
    has written every frame that has a ground truth, and scores the files; they stay where they are.
    """

    output: ClassVar[str]  # the key in the model's outputs
    task: ClassVar[str]  # the key of the results
    folder_name: ClassVar[str]  # of the predictions; a folder per format, for cityscapesscripts search whole trees
    tables: ClassVar[tuple[tuple[str, ...], ...]]  # the metrics whose values for each class make a table

    def __init__(self, dataset_name: str, output_dir: str, *, required: bool = True) -> None:
        """Makes the folder.

        Args:
            dataset_name: A registered data set in Cityscapes' form, with ``gt_dir`` in its metadata.
            output_dir: Where the predictions go, in a folder of their own; several machines have to share it.
            required: Whether a model without this output is an error; else there are no results.
        """
        self._dataset_name = dataset_name
        self._output_dir = Path(output_dir)
        self._required = required
        self.reset()

    @property
    def folder(self) -> Path:
        """Where the predictions are."""
        return self._output_dir / self.folder_name

    def reset(self) -> None:
        self._written: dict[str, Any] = {}  # frame -> what the main process has to know of it

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Writes the predictions of one batch.

        Args:
            inputs: One dict per image with its ``"file_name"``.
            outputs: One dict per image.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for item, output in zip(inputs, outputs):
            if self.output in output:
                frame = frame_of(item["file_name"])
                self._written[frame] = self._write(frame, output[self.output])

    def evaluate(self) -> Mapping[str, Any]:
        """Scores the files of all processes.

        Returns:
            ``{task: {metric: 0 to 100, "<metric>-<class>": ...}}`` with NaN where there is no ground truth; empty in
            other processes than the main one.

        Raises:
            ValueError: The prediction of a frame is missing, or a prediction does not fit its ground truth.
        """
        gathered = comm.gather(self._written, dst=0)
        if not comm.is_main_process():
            return {}
        written = {frame: what for part in gathered for frame, what in part.items()}
        if not written and not self._required:
            logger.info(f"The model has no output '{self.output}', so '{self._dataset_name}' gets no {self.task}.")
            return {}
        frames = self._frames()
        if not frames:
            logger.warning(
                f"'{self._dataset_name}' has no ground truth to score the predictions with; they are in {self.folder}."
            )
            return {}
        refuse_missing(self.output, {frame: self._file(frame) for frame in frames}, written)
        logger.info(f"Scoring {len(frames)} frames of '{self._dataset_name}' in {self.folder} ...")
        metrics = self._score(frames, written)
        averages = {name: value for name, value in metrics.items() if "-" not in name}
        logger.info(f"Evaluation results for {self.task}:\n" + create_small_table(averages))
        for columns in self.tables:
            logger.info(f"{', '.join(columns)} of each class:\n" + _class_table(metrics, columns))
        return OrderedDict({self.task: metrics})

    def _metadata(self, name: str) -> Any:
        """A field of the data set's metadata; read late, for loaders may set it."""
        value = MetadataCatalog.get(self._dataset_name).get(name)
        if value is None:
            raise ValueError(
                f"Data set '{self._dataset_name}' is evaluated as Cityscapes', but its metadata has no '{name}'. "
                f"Set it with MetadataCatalog.get('{self._dataset_name}').set({name}=...)."
            )
        return value

    @abstractmethod
    def _write(self, frame: str, prediction: Any) -> Any:
        """Writes the files of a frame; what it returns reaches ``_score``."""

    @abstractmethod
    def _file(self, frame: str) -> Path:
        """The file whose presence says that a frame has been written."""

    @abstractmethod
    def _frames(self) -> dict[str, Any]:
        """The frames with a ground truth."""

    @abstractmethod
    def _score(self, frames: dict[str, Any], written: dict[str, Any]) -> dict[str, float]:
        """Scores the files of all frames; a metric of one class is called ``<metric>-<class>``."""


def _class_table(metrics: Mapping[str, float], columns: tuple[str, ...]) -> str:
    names = [name.removeprefix(f"{columns[0]}-") for name in metrics if name.startswith(f"{columns[0]}-")]
    rows = [[name, *(metrics.get(f"{column}-{name}", "") for column in columns)] for name in names]
    return tabulate(rows, headers=["class", *columns], tablefmt="pipe", floatfmt=".1f", numalign="left")
