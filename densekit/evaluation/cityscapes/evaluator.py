"""Base of the Cityscapes evaluators: predictions become files as they arrive, and one process scores them all."""

import json
import logging
import math
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
from densekit.evaluation.cityscapes.frames import frame_of, ground_truth, refuse_missing
from densekit.files.atomic import atomic_write, strict

logger = logging.getLogger(__name__)


class CityscapesEvaluator(DatasetEvaluator):
    """Writes predictions in the benchmark's format and has them scored with the figures of cityscapesscripts.

    Every process writes the frames it sees into the same folder. Then the main process makes sure that this evaluation
    has written every frame that has a ground truth, and scores the files; they stay where they are.

    Attributes:
        output: The key in the model's outputs.
        task: The key of the results.
        folder_name: Where the predictions go; a folder per format, for cityscapesscripts search whole trees.
        ending: Of a frame's prediction, after the frame.
        truth_kind: Of the ground truth's PNGs.
        tables: The metrics whose values for each class make a table.
    """

    output: ClassVar[str]
    task: ClassVar[str]
    folder_name: ClassVar[str]
    ending: ClassVar[str]
    truth_kind: ClassVar[str]
    tables: ClassVar[tuple[tuple[str, ...], ...]]

    def __init__(self, dataset_name: str, output_dir: str, *, required: bool = True) -> None:
        """Remembers where to write; the folder is made when there is something to write.

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
        """Folder of the predictions."""
        return self._output_dir / self.folder_name

    def reset(self) -> None:
        self._written: set[str] = set()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Writes the predictions of one batch.

        Args:
            inputs: One dict per image with its ``"file_name"``.
            outputs: One dict per image.
        """
        for item, output in zip(inputs, outputs):
            prediction = self._prediction(output)
            if prediction is not None:
                self.folder.mkdir(parents=True, exist_ok=True)
                frame = frame_of(item["file_name"])
                self._write(frame, prediction)
                self._written.add(frame)

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
        written = set().union(*gathered)
        if not written and not self._required:
            logger.info(f"The model has no output '{self.output}', so '{self._dataset_name}' gets no {self.task}.")
            return {}
        truth = ground_truth(self._metadata("gt_dir"), self.truth_kind)
        if not truth:
            logger.warning(
                f"'{self._dataset_name}' has no ground truth to score the predictions with; they are in {self.folder}."
            )
            return {}
        files = {frame: self._file(frame) for frame in truth}
        refuse_missing(self.output, files, written)
        logger.info(f"Scoring {len(files)} frames of '{self._dataset_name}' in {self.folder} ...")
        metrics = self._score([(files[frame], truth[frame]) for frame in files])
        averages = {name: value for name, value in metrics.items() if "-" not in name}
        warn_if_undefined(self._dataset_name, averages)
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

    def _file(self, frame: str) -> Path:
        """The file whose presence says that a frame has been written."""
        return self.folder / f"{frame}{self.ending}"

    def _keep(self, name: str, scores: Mapping[str, Any]) -> None:
        """Writes all scores beside the predictions, in the script's form."""
        with atomic_write(self.folder / f"{name}.json") as file:
            file.write(json.dumps(strict(scores), allow_nan=False))

    def _prediction(self, output: Mapping[str, Any]) -> Any:
        """The part of a model's output that is judged; None where it has none."""
        return output.get(self.output)

    @abstractmethod
    def _write(self, frame: str, prediction: Any) -> None:
        """Writes the files of a frame."""

    @abstractmethod
    def _score(self, files: list[tuple[Path, Path]]) -> dict[str, float]:
        """Scores pairs of prediction and ground truth; a metric of one class is called ``<metric>-<class>``."""


def warn_if_undefined(dataset_name: str, averages: Mapping[str, float]) -> None:
    """Says why where all figures are undefined."""
    if all(math.isnan(value) for value in averages.values()):
        logger.warning(
            f"Nothing in the ground truth of '{dataset_name}' counts, as in Cityscapes' own test set; the benchmark's "
            "server scores the file that `densekit submit` makes."
        )


def _class_table(metrics: Mapping[str, float], columns: tuple[str, ...]) -> str:
    names = [name.removeprefix(f"{columns[0]}-") for name in metrics if name.startswith(f"{columns[0]}-")]
    rows = [[name, *(metrics.get(f"{column}-{name}", "") for column in columns)] for name in names]
    return tabulate(rows, headers=["class", *columns], tablefmt="pipe", floatfmt=".1f", numalign="left")
