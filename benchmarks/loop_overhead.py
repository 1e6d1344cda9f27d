"""Cost of densekit's training loop over a bare PyTorch loop: same process, model, optimizer and tensors.

The trainer runs as in a real training, with all hooks and writers that it has by default; only its loader gives batches
that lie in memory. After a few of its steps a last hook runs as many of the bare loop (forward, backward, update,
learning rate) on the same batches, so that both meet the same moments of the machine. Example::

    python benchmarks/loop_overhead.py --blocks 12 --threads 2
"""

import argparse
import gc
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from densekit.config import load_config
from densekit.d2.config import CfgNode
from densekit.d2.engine import HookBase
from densekit.d2.structures import Boxes, Instances, PolygonMasks
from densekit.d2.utils.events import EventStorage
from densekit.engine import Trainer

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "quickstart" / "mask_rcnn_R_18_FPN_streets.yaml"
_BATCHES = 5  # different ones, in turns

Batch = list[dict[str, Any]]
Seconds = tuple[float, float]  # by the clock on the wall, and of processor time


def now() -> Seconds:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def since(began: Seconds) -> Seconds:
    wall, processor = now()
    return wall - began[0], processor - began[1]


def picture(height: int, width: int, objects: int, classes: int, generator: torch.Generator) -> dict[str, Any]:
    """A training sample: noise, and objects that are rectangles."""
    size = torch.tensor([width, height])
    corner = torch.rand(objects, 2, generator=generator) * size * 0.7
    extent = (0.05 + 0.25 * torch.rand(objects, 2, generator=generator)) * size
    boxes = torch.cat([corner, corner + extent], dim=1)  # xyxy, pixels
    outlines = [[[x0, y0, x1, y0, x1, y1, x0, y1]] for x0, y0, x1, y1 in boxes.tolist()]
    instances = Instances((height, width), gt_boxes=Boxes(boxes), gt_masks=PolygonMasks(outlines))
    instances.gt_classes = torch.randint(classes, (objects,), generator=generator)
    pixels = torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)
    return {"image": pixels, "instances": instances, "height": height, "width": width, "file_name": "none.jpg"}


def batches(cfg: CfgNode, size: tuple[int, int]) -> list[Batch]:
    """A few batches of the size that the config asks for."""
    generator = torch.Generator().manual_seed(0)
    classes, images = cfg.MODEL.ROI_HEADS.NUM_CLASSES, range(cfg.SOLVER.IMS_PER_BATCH)
    return [[picture(*size, 8, classes, generator) for _ in images] for _ in range(_BATCHES)]


class Alternation(HookBase):
    """Times turns of the trainer's steps, and after each as many bare ones.

    Args:
        given: batches.
        turn: steps in a row of either kind.
        block: steps whose times are added up; a multiple of ``turn``.
    """

    def __init__(self, given: list[Batch], turn: int, block: int) -> None:
        self._batches: Iterator[Batch] = itertools.cycle(given)
        self._turn, self._block = turn, block
        self._turns: list[tuple[Seconds, Seconds]] = []  # of this block
        self.times: list[tuple[Seconds, Seconds]] = []  # of a block: the trainer's, the bare loop's

    def before_train(self) -> None:
        self._begin = now()

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._turn:
            return
        ours = since(self._begin)
        gc.collect()
        began = now()
        with EventStorage():
            self._bare()
        self._turns.append((ours, since(began)))
        if done % self._block == 0:
            ours, bare = ((sum(wall), sum(used)) for wall, used in (zip(*kind) for kind in zip(*self._turns)))
            self.times.append((ours, bare))
            self._turns = []
        gc.collect()
        self._begin = now()

    def _bare(self) -> None:
        step = self.trainer._trainer
        for batch in itertools.islice(self._batches, self._turn):
            loss = sum(step.model(batch).values())
            step.optimizer.zero_grad()
            loss.backward()
            step.optimizer.step()
            self.trainer.scheduler.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default=str(CONFIG))
    parser.add_argument("--size", type=int, nargs=2, default=(256, 512), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--turn", type=int, default=5, help="steps in a row of either loop")
    parser.add_argument("--block", type=int, default=20, help="steps in a block; the writers write every 20")
    parser.add_argument("--blocks", type=int, default=12, help="timed blocks after one to warm up")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("opts", nargs="*", help="KEY VALUE ... of the configuration")
    args = parser.parse_args()
    if args.block % args.turn:
        parser.error(f"--block {args.block} is no multiple of --turn {args.turn}.")
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        options = ["MODEL.WEIGHTS", "", "OUTPUT_DIR", folder, "DATASETS.TEST", "()", "TEST.EVAL_PERIOD", "0"]
        steps = args.block * (args.blocks + 1) + 1  # a last one, with the checkpoint at the end, that nobody times
        options += ["SOLVER.MAX_ITER", str(steps), "SOLVER.CHECKPOINT_PERIOD", "1000000"]
        if not torch.cuda.is_available():
            options += ["MODEL.DEVICE", "cpu"]
        cfg = load_config(args.config_file, [*options, *args.opts])
        given = batches(cfg, tuple(args.size))

        class Prefetched(Trainer):
            @classmethod
            def build_train_loader(cls, cfg: CfgNode) -> Iterator[Batch]:
                return itertools.cycle(given)

        trainer = Prefetched(cfg)
        alternation = Alternation(given, args.turn, args.block)
        trainer.register_hooks([alternation])
        trainer.train()
    times = alternation.times[1:]
    ours, bare = (statistics.median(block[kind][0] for block in times) / args.block for kind in (0, 1))
    added = [[one[clock] / other[clock] - 1 for one, other in times] for clock in (0, 1)]
    wall, processor = map(statistics.median, added)
    print(
        f"{len(times)} blocks of {args.block} steps, medians: densekit {ours * 1e3:.1f} ms a step, a bare loop "
        f"{bare * 1e3:.1f} ms; the loop adds {wall:+.1%} ({min(added[0]):+.1%} to {max(added[0]):+.1%}; "
        f"{processor:+.1%} of processor time)."
    )


if __name__ == "__main__":
    main()
