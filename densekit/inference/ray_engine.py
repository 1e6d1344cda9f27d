"""The work of ``--engine ray``: pictures are decoded by tasks on CPUs and predicted by actors, one for each share.

A row of the data set is a batch, cut as the plain engine cuts it, so what a picture is padded with does not depend on
the number of actors. Decoded pictures travel through Ray's object store; the model goes to the actors once, so that
only the starting process needs the file of the weights. Ray starts tasks and actors that have died anew.
"""

import logging
import os
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from densekit.d2.data import transforms as T
from densekit.engine.errors import DataError
from densekit.inference.hole_masks import Masks
from densekit.inference.inputs import Picture
from densekit.inference.outputs import LineMaker
from densekit.inference.predicting import predict_batch
from densekit.inference.reading import Views
from densekit.inference.shards import Answer, present_stamp
from densekit.inference.tiles import Tiling

logger = logging.getLogger(__name__)

_TASK_PICTURES = 32  # pictures that one task decodes: fewer make more tasks, more make the actors wait at the start
_DEATHS = 4  # of processes over one batch; the next one ends the run, since the batch may be what kills them
_FOR_DECODING = 0.1  # share of the cores that is booked for decoding beside models on CPUs


@dataclass(frozen=True)
class Pool:
    """Actors and tasks of a run, and what each is booked with.

    Attributes:
        actors: how many models.
        device: of each.
        cpus: cores booked for each.
        threads: of each; 0 leaves them to torch.
        decoders: tasks that decode at once, at most; None for as many as there are free cores.
        decoder_cpus: cores booked for each.
    """

    actors: int
    device: str
    cpus: float
    threads: int
    decoders: int | None
    decoder_cpus: float


@dataclass(frozen=True)
class Decoding:
    """Reading of pictures; the arguments of :class:`densekit.inference.reading.Views`."""

    image_format: str
    augmentations: T.AugmentationList
    tiling: Tiling | None
    bits: int
    masks: Masks | None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Decodes the pictures of a batch."""
        pictures: list[Picture] = pickle.loads(row["pictures"])
        marks = [present_stamp(picture.path) for picture in pictures]
        views = Views(pictures, self.image_format, self.augmentations, self.tiling, self.bits, self.masks)
        loaded = [views[number] for number in range(len(pictures))]
        return {"batch": row["batch"], "loaded": pickle.dumps((marks, loaded), protocol=5)}


@dataclass(frozen=True)
class Predicting:
    """Work of an actor on a batch.

    Attributes:
        maker: of the lines.
        products: which parts of the outputs are kept.
        batch_size: views that the model gets at once.
    """

    maker: LineMaker
    products: Sequence[str]
    batch_size: int


class _Actor:
    """A model in a process of its own."""

    def __init__(self, model: Any, work: Predicting, pool: Pool) -> None:
        import ray

        if pool.threads:
            torch.set_num_threads(pool.threads)
        self._model, self._work = ray.get(model).to(pool.device).eval(), work

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        """Predicts a batch; ``rows`` has one row."""
        marks, batch = pickle.loads(rows["loaded"][0])
        stamps = dict(zip((loaded.picture.index for loaded in batch), marks))
        answers = []
        with torch.no_grad():
            for loaded, kept in predict_batch(self._model, batch, self._work.batch_size, self._work.products):
                index = loaded.picture.index
                line = None
                if not loaded.problem:
                    line = {**self._work.maker.line(loaded, kept), "stamp": stamps[index]}
                answers.append(Answer(index, stamps[index], line, loaded.problem))
        return {"batch": [int(rows["batch"][0])], "answers": [pickle.dumps(answers)]}


def connect(address: str) -> None:
    """Connects to a cluster, or starts one on this machine where no address is given.

    Args:
        address: as ``ray.init`` takes it; "" for RAY_ADDRESS in the environment, else a cluster of this machine alone.

    Raises:
        ValueError: Ray is not installed, or nothing answers at the address.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ValueError(f"--engine ray: pip install 'densekit[ray]' ({error}).") from error
    wanted = address or os.environ.get("RAY_ADDRESS") or "local"
    try:
        ray.init(address=wanted, log_to_driver=False, logging_level=logging.WARNING)
    except ConnectionError as error:
        raise ValueError(f"--address {wanted}: no Ray cluster answers there ({error}).") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)


def disconnect() -> None:
    """Leaves the cluster, and ends one that :func:`connect` has started."""
    import ray

    ray.shutdown()


def share_out(device: str, actors: int, decoders: int | None) -> Pool:
    """Decides what the actors and tasks are booked with in the cluster that is connected.

    Args:
        device: MODEL.DEVICE.
        actors: how many; on GPUs each has one.
        decoders: as in :class:`Pool`.

    Raises:
        ValueError: The cluster has fewer GPUs.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if device.startswith("cuda"):
        gpus = int(sum(node.get("GPU", 0) for node in nodes))
        if actors > gpus:
            raise ValueError(f"--num-gpus {actors}: the cluster has {gpus} GPUs. MODEL.DEVICE cpu predicts on CPUs.")
        return Pool(actors, "cuda", 0, 0, decoders or None, 1)
    return share_cores([int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1], actors, decoders)


def share_cores(cores: Sequence[int], actors: int, decoders: int | None) -> Pool:
    """Shares the cores of machines among models and decoding tasks, so that neither waits for the other for ever.

    Args:
        cores: of each machine.
        actors: how many models.
        decoders: tasks that decode at once; None for one for each two cores.

    Raises:
        ValueError: There are no cores.
    """
    if not cores:
        raise ValueError("The Ray cluster has no CPU to predict on.")
    each = -(-actors // len(cores))  # models of the machine that has most
    least = min(cores)
    tasks = decoders or max(1, sum(cores) // 2)
    booked = int(1000 * least * (1 - _FOR_DECODING) / each) / 1000
    limit = int(os.environ.get("OMP_NUM_THREADS") or least)
    decoding = int(1000 * least * _FOR_DECODING / -(-tasks // len(cores))) / 1000
    return Pool(actors, "cpu", booked, max(1, min(limit, least) // each), tasks, decoding)


def predict_on_ray(
    model: Any,
    pictures: Sequence[Picture],
    batches: Sequence[range],
    decoding: Decoding,
    work: Predicting,
    pool: Pool,
) -> Iterator[list[Answer]]:
    """Predicts batches on the cluster that is connected.

    Args:
        model: on the CPU.
        pictures: the whole input.
        batches: indices of the pictures of each.
        decoding: how they are read.
        work: the actors'.
        pool: as :func:`share_out` gives it.

    Yields:
        The answers of a batch; batches come in any order, each once.
    """
    import ray
    import ray.data

    rows = [
        {"batch": number, "pictures": pickle.dumps([pictures[index] for index in batch])}
        for number, batch in enumerate(batches)
    ]
    tasks = max(1, sum(map(len, batches)) // _TASK_PICTURES)
    kept = ray.put(model)
    data = ray.data.from_items(rows, override_num_blocks=min(len(rows), tasks)).map(
        decoding, compute=ray.data.TaskPoolStrategy(size=pool.decoders), num_cpus=pool.decoder_cpus, max_retries=_DEATHS
    )
    data = data.map_batches(
        _Actor,
        fn_constructor_args=(kept, work, pool),
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=pool.actors),
        num_cpus=pool.cpus,
        num_gpus=1 if pool.device == "cuda" else None,
        max_task_retries=_DEATHS,
    )
    try:
        for row in data.iter_rows():
            yield pickle.loads(row["answers"])
    except ray.exceptions.RayError as error:  # its text has the traceback of the process where it happened
        raise DataError(f"The cluster has ended the run; the same command goes on from there. {error}") from error
