"""The command ``densekit``: one module of this package for each sub-command, imported when it is asked for.

A sub-command's module has ``add_arguments(parser)`` and ``run(args)``, which returns the exit code; it must not import
torch before ``run``, so that ``--help`` answers at once. ``train`` reads its words itself, as ``train_net.py`` does.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from importlib import import_module

from densekit.cli import train
from densekit.cli.imports import import_engine

# name -> what it does, in the order of --help
COMMANDS = {
    "train": "train, evaluate and resume; train_net.py under another name",
    "configs": "list the configurations that densekit brings along",
    "check": "look for faults in a data set: files, sizes, boxes, masks, ids, leakage",
    "prepare": "make the label pictures of a public data set that its download lacks",
    "convert": "rename the weights of another code base, or change the file format",
    "predict": "run a trained model on pictures or a video, and write the results for other tools",
    "proposals": "find boxes that may hold an object, for detectors that learn from such a file",
    "export": "write a model as a file for ONNX Runtime, OpenVINO or torch.export, once it is proved equal",
    "quantize": "write a convolutional model in 8 bits, and say what that costs in accuracy and gains in time",
    "submit": "make the zip file that the Cityscapes benchmark takes",
    "report": "write a page about an evaluation: numbers, curves, mistakes, pictures",
    "demo": "run the small configuration of a system from data to report",
    "doctor": "look at this machine and its installation, and say what is in the way",
}

# They answer at once, and where torch is broken, too.
_WITHOUT_TORCH = ("configs", "demo", "doctor")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``densekit COMMAND ...``.

    Args:
        argv: the words after the program's name; by default those of this process.

    Returns:
        The exit code: 0, or what the command says; a mistake of the user ends the process with 2.
    """
    parser = argparse.ArgumentParser(
        prog="densekit",
        description="Train, evaluate and predict; work with configurations, data and weights.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["train"]:
        return train.main(words[1:], "densekit train")
    modules = {}
    for name, summary in COMMANDS.items():
        if name == "train":
            commands.add_parser(name, help=summary)
            continue
        modules[name] = import_module(f"{__name__}.{name}")
        command = commands.add_parser(
            name,
            help=summary,
            description=modules[name].__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        modules[name].add_arguments(command)
    if not words or words[0] not in modules:
        parser.parse_args(words)  # shows the help, or says what is wrong
        return 0
    # Intermixed, because positional words that flags stand between would otherwise be unknown.
    args = commands.choices[words[0]].parse_intermixed_args(words[1:])

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files that are no UTF-8
    if words[0] in _WITHOUT_TORCH:
        return int(modules[words[0]].run(args))

    import_engine()
    from densekit.engine.errors import user_errors

    with user_errors():
        return int(modules[words[0]].run(args))
