"""Writes a trained model as one file for other runtimes, once it has proved to do what the model does.

  densekit export output/demo --to onnx
  densekit export output/demo --to program --output demo.pt2 --pictures photos/
  densekit export CONFIG --weights FILE --to onnx --output model.onnx --pictures a.jpg b.jpg

targets:
  onnx     an ONNX graph, FILE.onnx: ONNX Runtime and what else reads ONNX; needs pip install 'densekit[export]'
  openvino an OpenVINO model, FILE.xml and FILE.bin, made of such a graph; needs pip install 'densekit[openvino]'
  program  a program of torch.export, FILE.pt2: torch alone

The file takes one picture of any height and width, resized, and gives scores of pixels, or boxes, scores and classes
after suppression; docs/export.md has the form. The classes' names and the resizing are in its metadata. It is run on
pictures at sizes that were not traced; where it differs from the model nothing is written.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``densekit export``."""
    parser.add_argument(
        "words",
        nargs="+",
        metavar="RUN",
        help="a run's OUTPUT_DIR or checkpoint, or a configuration; then KEY VALUE pairs",
    )
    parser.add_argument("--to", required=True, choices=("onnx", "openvino", "program"), help="the kind of file")
    parser.add_argument(
        "--output", default="", metavar="FILE", help="the file (RUN/model.onnx, RUN/model.xml or RUN/model.pt2)"
    )
    parser.add_argument("--weights", default=None, metavar="FILE", help="the model's weights (RUN's last)")
    parser.add_argument(
        "--pictures", nargs="+", default=[], metavar="PATH", help="pictures to compare on (the first of DATASETS.TEST)"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the file.

    Raises:
        FileNotFoundError, MissingPackageError, ValueError: Something is missing, or the model cannot be exported.
    """
    import os

    from densekit.data.own.runs import use_root_of_run

    use_root_of_run(args.words[0])  # before the standard data sets are registered
    from densekit.cli.predict_options import split_words
    from densekit.config import load_config
    from densekit.deploy.targets import SUFFIXES
    from densekit.inference.export import export

    keys = load_config("").keys()
    words, opts = split_words(args.words, keys)
    pictures, more = split_words(args.pictures, keys)
    opts += more
    if len(words) != 1:
        raise ValueError(f"One RUN, not {len(words)}: {' '.join(words)}. Pictures come after --pictures.")
    (source,) = words
    if len(opts) % 2:
        raise ValueError(f"Keys and values come in pairs, KEY VALUE, and {' '.join(opts)!r} does not.")
    if not args.output and not os.path.isdir(source):
        raise ValueError("--output FILE is missing: only for a run's folder there is a place for the file.")
    output = args.output or os.path.join(source, f"model{SUFFIXES[args.to]}")
    checked = export(source, args.to, output, weights=args.weights, pictures=pictures, opts=opts)
    for one in checked:
        height, width = one.size
        print(f"{one.picture} at {height} x {width}: largest difference {one.worst:.1e}")
    print(f"The file is {output} ({os.path.getsize(output) / 1e6:.1f} MB)")
    return 0
