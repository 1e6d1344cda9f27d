"""The named options of mass prediction."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PredictOptions:
    """Options of a prediction: the inputs, the model, and the files to write.

    Attributes:
        config_file: the model's configuration.
        opts: ``[KEY, VALUE, ...]`` that override it, MODEL.WEIGHTS among them.
        exported: a file of densekit export, which has configuration and weights inside; "" for none.
        output: the folder for the results.
        run_dir: the training run's folder that the model is from; "" for none.
        input: files, folders, patterns, videos, or one data set's name.
        dataset: a data set's name instead; "" for none.
        datasets: a YAML file of own data sets; "" for what the run has kept.
        mask: where the holes are, for a model that paints: a mask, a folder of masks, or of another run's predictions.
        mask_polarity: what of a mask is the hole, "white" or "black".
        mask_classes: of predictions as masks, the names of those that count; [] for all.
        mask_grow: pixels by which holes are widened.
        format: names of the formats to write; [] for what the model gives.
        palette: colours of the classes of pixels, a name or a file; "" for those of the data set.
        score_threshold: leaves out detections below it, 0 to 1.
        track: name of the tracker that follows objects through frames; "" for none.
        tile: sides of the tiles in pixels; None for whole pictures.
        overlap: of neighbouring tiles, a share of their sides.
        batch_size: pictures or tiles at once, in each process.
        num_workers: processes that read pictures; None for DATALOADER.NUM_WORKERS.
        strict: stop at a picture that cannot be read.
        overwrite: replace other predictions in ``output``.
        engine: "plain", or "ray" for shards that a Ray cluster predicts.
        address: of the cluster; "" for RAY_ADDRESS, else one of this machine alone.
        shard_size: pictures of a shard, rounded up to whole batches.
        shard_format: "jsonl" or "parquet".
        num_gpus, num_machines, machine_rank, dist_url: as in :class:`densekit.run_options.Processes`.
    """

    config_file: str
    opts: Sequence[str]
    output: str
    run_dir: str = ""
    exported: str = ""
    input: Sequence[str] = ()
    dataset: str = ""
    datasets: str = ""
    mask: Sequence[str] = ()
    mask_polarity: str = "white"
    mask_classes: Sequence[str] = ()
    mask_grow: int = 0
    format: Sequence[str] = ()
    palette: str = ""
    score_threshold: float = 0.5
    track: str = ""
    tile: int | None = None
    overlap: float = 0.2
    batch_size: int = 1
    num_workers: int | None = None
    strict: bool = False
    overwrite: bool = False
    engine: str = "plain"
    address: str = ""
    shard_size: int = 1000
    shard_format: str = "jsonl"
    num_gpus: int = 1
    num_machines: int = 1
    machine_rank: int = 0
    dist_url: str = "auto"
