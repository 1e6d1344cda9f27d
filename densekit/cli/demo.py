"""Runs the small configuration of a system on the generated scenes: data, training, evaluation, pictures, report.

  densekit demo                  Mask R-CNN
  densekit demo --list           the systems that have such a configuration
  densekit demo retinanet --output output/first SOLVER.MAX_ITER 200

Interrupted, the same command goes on where it was. Everything that the steps say is in OUTPUT/demo.txt.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml
from tqdm import tqdm

from densekit.config_files import shipped_configs
from densekit.files.metrics import read_metrics

_DEFAULT = "mask_rcnn"
_LOOK_SECONDS = 0.5  # between two looks at the metrics of the training


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``densekit demo``."""
    parser.add_argument("system", nargs="?", default=_DEFAULT, metavar="SYSTEM", help=f"which one ({_DEFAULT})")
    parser.add_argument("--list", action="store_true", help="list the systems and their configurations, and stop")
    parser.add_argument("--output", metavar="DIR", help="OUTPUT_DIR of the run (output/demo, or output/demo_SYSTEM)")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="keys of the configuration with their new values")


def demo_configs() -> dict[str, str]:
    """Returns each system that has a small configuration on the generated scenes -> that configuration's name.

    A room is called by its folder, a system without a room by the beginning of the file's name. Of several the one with
    the shortest name is taken.
    """
    found: dict[str, str] = {}
    for name in shipped_configs():
        folder, _, file = name.rpartition("/")
        if "_streets" in file and "_base_" not in folder:
            system = file.partition("_R_")[0] if folder == "quickstart" else folder
            found[system] = min(found.get(system, name), name, key=lambda one: (len(one), one))
    return dict(sorted(found.items()))


def run(args: argparse.Namespace) -> int:
    """Runs the steps, each in a process of its own."""
    configs = demo_configs()
    if args.list or args.system not in configs:
        width = max(map(len, configs))
        print("\n".join(f"{system:<{width}}  {name}" for system, name in configs.items()))
        if not args.list:
            print(f"error: there is no small configuration of {args.system!r}; take one of these", file=sys.stderr)
        return 0 if args.list else 2
    output = Path(args.output or ("output/demo" if args.system == _DEFAULT else f"output/demo_{args.system}"))
    output.mkdir(parents=True, exist_ok=True)
    (output / "demo.txt").write_text("")  # what an earlier start has said is in log.txt
    scenes = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "streets"
    config, began = configs[args.system], time.monotonic()
    try:
        if not (scenes / "streets.json").is_file():
            print(f"scenes       200 + 50 pictures are painted in {scenes}", flush=True)
            _do(["-m", "densekit.streets", "--root", str(scenes)], output)
        print(f"training     {config} (the whole log: {output / 'log.txt'})", flush=True)
        words = ["--config-file", config, "--resume", "OUTPUT_DIR", str(output), *args.opts]
        _train(["-m", "densekit", "train", *words], output)
        for results in sorted(output.glob("inference/*/coco_instances_results.json")):
            words = ["--dataset", results.parent.name, "--predictions", str(results), "--output"]
            words += [str(output / "overlays"), "--count", "8", "--ground-truth"]
            _do(["-m", "densekit.formats.overlays", *words], output)
            print(f"pictures     {output / 'overlays'}", flush=True)
        _do(["-m", "densekit", "report", str(output)], output)
    except subprocess.CalledProcessError as error:
        print(_last_words(output), file=sys.stderr)
        print(f"The demo has stopped; {output / 'demo.txt'} has all that was said.", file=sys.stderr)
        return error.returncode if error.returncode > 0 else 1
    except KeyboardInterrupt:
        print(f"Stopped; the same command goes on. {output / 'demo.txt'} has all that was said.", file=sys.stderr)
        return 130
    print(f"weights      {output / 'model_final.pth'}")
    for page in sorted(output.glob("inference/*/report.html")):
        print(f"report       {page.resolve().as_uri()}")
    print(f"done         after {(time.monotonic() - began) / 60:.0f} min")
    return 0


def _do(words: Sequence[str], output: Path) -> None:
    with (output / "demo.txt").open("a") as log:
        subprocess.run([sys.executable, *words], stdout=log, stderr=subprocess.STDOUT, check=True)


def _train(words: Sequence[str], output: Path) -> None:
    """Runs a training behind a bar, which follows the run's metrics."""
    begun, before = time.time(), _progress(output)[0]
    with (output / "demo.txt").open("a") as log:
        process = subprocess.Popen([sys.executable, *words], stdout=log, stderr=subprocess.STDOUT)
        # A run that goes on has steps that this start did not take: they count in the bar, and not in its rate.
        bar = tqdm(desc="training", unit="step", initial=before, mininterval=0.1 if sys.stderr.isatty() else 30.0)
        shown: set[Path] = set()
        try:
            while process.poll() is None:
                _follow(bar, output, begun)
                for picture in sorted({*output.glob("first_batch.jpg"), *output.glob("pictures/*.jpg")} - shown):
                    shown.add(picture)
                    if _newer(picture, begun):
                        label = "first batch" if picture.parent == output else "so far"
                        bar.write(f"{label:<12} {picture}", file=sys.stdout)
                time.sleep(_LOOK_SECONDS)
            _follow(bar, output, begun)
        except KeyboardInterrupt:
            process.wait()  # it has heard Ctrl-C itself, finishes its step and saves
            raise
        finally:
            bar.close()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, list(words))


def _newer(path: Path, since: float) -> bool:
    return path.is_file() and path.stat().st_mtime >= since - 1


def _follow(bar: tqdm, output: Path, since: float) -> None:
    config, metrics = output / "config.yaml", output / "metrics.json"
    if not _newer(config, since) or not _newer(metrics, since):
        return
    steps, loss = _progress(output)
    if bar.total is None:
        bar.total = int(yaml.safe_load(config.read_text())["SOLVER"]["MAX_ITER"])
    done = min(steps, bar.total)
    if done != bar.n:
        bar.set_postfix(loss=loss, refresh=False)
        bar.update(done - bar.n)
    if done == bar.total:
        bar.set_description("evaluating")


def _progress(output: Path) -> tuple[int, float]:
    """Number of steps that the run has taken so far by its metrics, and the loss of the last."""
    for entry in reversed(read_metrics(output / "metrics.json")):
        if "total_loss" in entry:
            return int(entry["iteration"]) + 1, float(entry["total_loss"])
    return 0, 0.0


def _last_words(output: Path) -> str:
    lines = (output / "demo.txt").read_text().splitlines()
    return next((line for line in reversed(lines) if line.startswith("error:")), "\n".join(lines[-5:]))
