"""Writes a trained convolutional model in 8 bits, for ONNX Runtime and OpenVINO, and says what that costs and gains.

  densekit quantize output/cells --calibration cells_train
  densekit quantize output/cells --calibration cells_train --images 300 --keep-float 6 --to openvino
  densekit quantize output/cells/model.onnx --calibration cells_train --method entropy --output quantised

RUN is exported first, as by densekit export --to onnx; an ONNX file of that command is taken as it is. Pictures of the
calibration data, which need no annotations, tell the ranges of all maps. Convolutions and linear layers compute in 8
bits then; suppression and all else after the last of them stay in float. The folder gets

  model.int8.onnx           for densekit predict, MODEL.EXPORTED and ONNX Runtime
  model.int8.xml, .bin      the same for OpenVINO; needs pip install 'densekit[openvino]'
  quantisation.json, .txt   accuracy on DATASETS.TEST and time, before and after, and each layer's sensitivity
  sensitivity.png           the same as a plot
  calibration.npz           the ranges; the command goes on from it when it is given again

docs/quantisation.md says more.
"""

import argparse
from collections.abc import Mapping
from typing import Any

_METHODS = ("max", "percentile", "entropy", "mse")
_TARGETS = ("onnx", "openvino")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``densekit quantize``."""
    parser.add_argument(
        "words",
        nargs="+",
        metavar="RUN",
        help="a run's OUTPUT_DIR or checkpoint, a configuration, or an exported .onnx file; then KEY VALUE pairs",
    )
    parser.add_argument("--calibration", required=True, metavar="NAME", help="data set whose pictures tell the ranges")
    parser.add_argument("--datasets", default="", metavar="FILE", help="YAML file of own data sets (RUN's)")
    parser.add_argument("--images", type=int, default=300, metavar="N", help="pictures of it (%(default)s)")
    parser.add_argument(
        "--method",
        choices=_METHODS,
        default="mse",
        help="of choosing a range: the largest value, the 99.99th percentile, least divergence of the distributions, "
        "least squared error (%(default)s)",
    )
    parser.add_argument(
        "--keep-float",
        type=int,
        default=0,
        metavar="K",
        help="leave the K most sensitive layers in float (%(default)s)",
    )
    parser.add_argument("--to", nargs="+", choices=_TARGETS, default=list(_TARGETS), help="the kinds of files (both)")
    parser.add_argument("--output", default="", metavar="DIR", help="folder for the results (quantised beside RUN's)")
    parser.add_argument("--weights", default=None, metavar="FILE", help="the model's weights (RUN's last)")
    parser.add_argument("--skip-evaluation", action="store_true", help="measure no accuracy")


def run(args: argparse.Namespace) -> int:
    """Writes the files.

    Raises:
        FileNotFoundError, MissingPackageError, ValueError: Something is missing, or the model cannot be quantised.
    """
    import os

    from densekit.data.own.runs import use_root_of_run

    use_root_of_run(args.words[0])  # before the standard data sets are registered
    from densekit.cli.predict_options import split_words
    from densekit.config import load_config
    from densekit.deploy.exported import is_exported
    from densekit.files.atomic import atomic_write
    from densekit.inference.quantize import Quantising, quantize

    words, opts = split_words(args.words, load_config("").keys())
    if len(words) != 1:
        raise ValueError(f"One RUN, not {len(words)}: {' '.join(words)}.")
    if len(opts) % 2:
        raise ValueError(f"Keys and values come in pairs, KEY VALUE, and {' '.join(opts)!r} does not.")
    (source,) = words
    place = source if os.path.isdir(source) else os.path.dirname(source) if is_exported(source) else None
    if not args.output and place is None:
        raise ValueError("--output DIR is missing: only for a run's folder or a file there is a place for the results.")
    folder = args.output or os.path.join(str(place), "quantised")
    choices = Quantising(
        calibration=args.calibration,
        images=args.images,
        method=args.method,
        keep_float=args.keep_float,
        targets=tuple(dict.fromkeys(args.to)),
        evaluates=not args.skip_evaluation,
        datasets=args.datasets,
    )
    report = quantize(source, folder, choices, weights=args.weights, opts=opts)
    summary = _summary(report)
    with atomic_write(os.path.join(folder, "quantisation.txt")) as file:
        file.write(f"{summary}\n\n{_layers(report)}\n")
    print(f"\n{summary}\nThe layers: {os.path.join(folder, 'quantisation.txt')}, sensitivity.png")
    return 0


def _summary(report: Mapping[str, Any]) -> str:
    """A table with a row for each file: accuracy, time and size."""
    import os

    from tabulate import tabulate

    from densekit.inference.quantize import headlines

    rows = []
    for name, milliseconds in report["milliseconds"].items():
        path = report["files"].get(name, "")
        sizes = [os.path.getsize(file) for file in (path, f"{path.removesuffix('.xml')}.bin") if os.path.isfile(file)]
        scores = {title: f"{value:.2f}" for title, value in headlines(report["results"].get(name, {}))}
        size = f"{sum(sizes) / 1e6:.1f}" if sizes else ""
        rows.append({"file": name, **scores, "ms a picture": f"{milliseconds:.1f}", "MB": size, "path": path})
    return tabulate(rows, headers="keys", disable_numparse=True)


def _layers(report: Mapping[str, Any]) -> str:
    """A table with a row for each layer, the most sensitive first."""
    from tabulate import tabulate

    kept = set(report["float_layers"])
    rows = [
        {
            "layer": layer["layer"],
            "kind": layer["kind"],
            "SNR, dB": f"{layer['snr']:.1f}",
            "MSE": f"{layer['mse']:.2e}",
            "cosine": f"{layer['cosine']:.5f}",
            "computes in": "float" if layer["layer"] in kept else "8 bits",
        }
        for layer in sorted(report["layers"], key=lambda layer: layer["snr"])
    ]
    return tabulate(rows, headers="keys", disable_numparse=True)
