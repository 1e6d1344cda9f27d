"""Cost of ``densekit predict`` over the bare evaluation loop, with the same model, pictures, batches and processes.

The bare loop is the host's ``inference_on_dataset`` without an evaluator: it reads, resizes and runs the model, and
drops the results. The loop of predict encodes masks and writes its journal besides. The two take turns, and which goes
first alternates; the ratio is taken within each round and its median reported. Processor time, which a busy machine
changes less than the clock, is reported beside it. Example::

    python benchmarks/predict_throughput.py output/demo --input datasets/streets/val --rounds 7
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from densekit.cli.predict import add_arguments
from densekit.cli.predict_options import complete
from densekit.d2.data import build_detection_test_loader
from densekit.d2.evaluation import inference_on_dataset
from densekit.data import DatasetMapper
from densekit.data.mapper import inference_augmentations
from densekit.data.pictures import image_size
from densekit.engine.loading import build_with_weights
from densekit.inference.class_names import find_classes
from densekit.inference.inputs import pictures_of_words
from densekit.inference.journal import Part
from densekit.inference.outputs import LineMaker, products_of
from densekit.inference.predicting import open_batches, predict_batches
from densekit.inference.prediction_run import read_predict_config
from densekit.inference.reading import Views
from densekit.inference.recorder import Recorder


class Contest:
    """Both loops over the same pictures with one model.

    Args:
        args: the command line, as of ``densekit predict``.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.job = complete(args)
        self.cfg = read_predict_config(self.job)
        self.model = build_with_weights(self.cfg)
        self.pictures = pictures_of_words(self.job.input, self.job.output) * args.repeat
        self.workers = self.cfg.DATALOADER.NUM_WORKERS if self.job.num_workers is None else self.job.num_workers
        with torch.no_grad():
            self.products = products_of(self.model)

    def bare(self) -> None:
        sizes = {picture.path: image_size(picture.path) for picture in self.pictures}
        records = [
            {"file_name": p.path, "image_id": p.image_id, "height": sizes[p.path][0], "width": sizes[p.path][1]}
            for p in self.pictures
        ]
        loader = build_detection_test_loader(
            records, mapper=DatasetMapper(self.cfg, False), batch_size=self.job.batch_size, num_workers=self.workers
        )
        inference_on_dataset(self.model, loader, None)

    def predict(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            maker = LineMaker(Path(folder), find_classes(self.cfg, ""), self.job.score_threshold)
            predict_batches(
                self.model,
                Views(self.pictures, self.cfg.INPUT.FORMAT, inference_augmentations(self.cfg), None),
                open_batches(len(self.pictures), self.job.batch_size, set()),
                Recorder(Part(Path(folder)), maker, set()),
                products=self.products,
                batch_size=self.job.batch_size,
                num_workers=self.workers,
                strict=True,
            )


def seconds(loop: Callable[[], None]) -> tuple[float, float]:
    """Time by the clock, and processor time of this process and of those that it has waited for."""
    start, before = time.perf_counter(), sum(os.times()[:4])
    loop()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, sum(os.times()[:4]) - before


def main() -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    parser.description, parser.usage, parser.epilog = __doc__, None, None
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeat", type=int, default=1, help="go over the pictures so many times in a round")
    contest = Contest(parser.parse_intermixed_args())
    loops = [contest.bare, contest.predict]
    for loop in loops:
        loop()  # warms up
    ratios, rates = [], {loop.__name__: [] for loop in loops}
    for number in range(contest.job.rounds):
        taken = {loop.__name__: seconds(loop) for loop in (loops if number % 2 else loops[::-1])}
        (bare, bare_work), (predict, predict_work) = taken["bare"], taken["predict"]
        ratios.append((predict / bare, predict_work / bare_work))
        for name, (spent, _) in taken.items():
            rates[name].append(len(contest.pictures) / spent)
        print(f"round {number + 1}: bare {bare:.2f} s, predict {predict:.2f} s; ratio {ratios[-1][0]:.3f}", flush=True)
    print(", ".join(f"{name} {statistics.median(rate):.2f} pictures/s" for name, rate in rates.items()))
    clock, work = (statistics.median(column) for column in zip(*ratios))
    print(f"predict takes {clock:.3f} of the bare loop's time and {work:.3f} of its processor time (medians)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
