"""From the words of ``densekit predict`` to its options: the run's folder, the configuration, the weights."""

import os
from argparse import Namespace
from collections.abc import Mapping, Sequence

from densekit.config import load_config
from densekit.config_files import find_config
from densekit.deploy.targets import SUFFIXES
from densekit.engine.sources import RUN_CONFIG, weights_of_run
from densekit.formats.formats import check_formats
from densekit.inference.options import PredictOptions

# Every trade of a little exactness for time; the rest of MODEL.INFERENCE is on by itself.
_FAST = ("MODEL.INFERENCE.DTYPE", "bfloat16")


def complete(args: Namespace) -> PredictOptions:
    """Sorts out which words are what, and fills in what a run's folder says.

    Args:
        args: as parsed; ``words, input, format`` may end in ``KEY VALUE`` pairs of the configuration, because flags
            with several values take all that follows.

    Raises:
        ValueError, FileNotFoundError: Something is missing, or said twice.
    """
    keys = load_config("").keys()
    given: dict[str, list[str]] = {}
    opts: list[str] = []
    for name in ("words", "input", "format", "mask", "mask_classes"):
        given[name], pairs = split_words(getattr(args, name) or [], keys)
        opts += pairs
    check_formats(given["format"])
    words = given.pop("words")
    if len(words) > 1:
        raise ValueError(f"One RUN_DIR, not {len(words)}: {' '.join(words)}. Pictures come after --input.")
    exported = words[0] if words and words[0].endswith(tuple(SUFFIXES.values())) else ""
    run_dir = words[0] if words and not exported else ""
    config_file, weights = args.config_file, args.weights
    if exported and (config_file or weights):
        raise ValueError(f"{exported} has its configuration and weights inside: leave --config-file and --weights out.")
    if run_dir:
        config_file, weights = _of_run(run_dir, config_file, weights, opts)
    if not config_file and not exported:
        raise ValueError("Which model? Give a training run's folder, or --config-file FILE with --weights FILE.")
    _check(args, given)
    return PredictOptions(
        config_file=find_config(config_file) if config_file else "",
        exported=exported,
        opts=[*(_FAST if args.fast else []), *opts, *(["MODEL.WEIGHTS", weights] if weights else [])],
        output=args.output or os.path.join(run_dir or os.path.dirname(exported), "predictions"),
        run_dir=run_dir,
        dataset=args.dataset,
        datasets=args.datasets,
        palette=args.palette,
        score_threshold=args.score_threshold,
        track=args.track,
        tile=args.tile,
        overlap=args.overlap,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        strict=args.strict,
        overwrite=args.overwrite,
        num_gpus=args.num_gpus,
        engine=args.engine,
        address=args.address,
        shard_size=args.shard_size,
        shard_format=args.shard_format,
        input=given["input"],
        format=given["format"],
        mask=given["mask"],
        mask_polarity=args.mask_polarity,
        mask_classes=given["mask_classes"],
        mask_grow=args.mask_grow,
    )


def _check(args: Namespace, given: Mapping[str, Sequence[str]]) -> None:
    """Refuses options that do not go together."""
    if bool(given["input"]) == bool(args.dataset):
        raise ValueError("What to predict on? Give --input PATH ..., or --dataset NAME, and not both.")
    if not 0 <= args.score_threshold <= 1:
        raise ValueError(f"--score-threshold {args.score_threshold:g}: scores are numbers from 0 to 1.")
    if "mot" in given["format"] and not args.track:
        raise ValueError("--format mot has the objects of --track NAME, such as --track bytetrack.")
    if args.track and args.engine == "ray":
        raise ValueError("--track follows frames in their order: leave out --engine ray.")
    if args.address and args.engine != "ray":
        raise ValueError("--address is the address of a Ray cluster: add --engine ray.")


def split_words(words: Sequence[str], keys: Sequence[str]) -> tuple[list[str], list[str]]:
    """Words, and the KEY VALUE pairs behind them; a file that is called like a key is a file."""
    for number, word in enumerate(words):
        if word.split(".")[0] in keys and not os.path.exists(word):
            return list(words[:number]), list(words[number:])
    return list(words), []


def _of_run(folder: str, config_file: str, weights: str, opts: Sequence[str]) -> tuple[str, str]:
    """The configuration and the weights of a run, unless others are given."""
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"RUN_DIR {folder} is no folder; give the OUTPUT_DIR of a training run.")
    if not weights and "MODEL.WEIGHTS" not in opts[::2]:
        weights = weights_of_run(folder)
    return config_file or os.path.join(folder, RUN_CONFIG), weights
