"""From the words of ``densekit predict`` to a job: the run's folder, the configuration, the weights."""

import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from densekit.config import load_config
from densekit.formats.formats import check_formats

_CONFIG, _POINTER, _FINAL = "config.yaml", "last_checkpoint", "model_final.pth"


def complete(args: Namespace) -> Namespace:
    """Sorts out which words are what, and fills in what a run's folder says.

    Args:
        args: as parsed; ``words, input, format`` may end in ``KEY VALUE`` pairs of the configuration, because flags
            with several values take all that follows.

    Returns:
        The same with ``run_dir`` ("" for none), ``config_file, opts, input, format, output`` complete, and what the
        launcher wants to know.

    Raises:
        ValueError, FileNotFoundError: Something is missing, or said twice.
    """
    keys = load_config("").keys()
    done = Namespace(**vars(args), num_machines=1, machine_rank=0, dist_url="auto", opts=[], eval_only=True)
    for name in ("words", "input", "format"):
        words, opts = _split(getattr(args, name) or [], keys)
        setattr(done, name, words)
        done.opts += opts
    check_formats(done.format)
    if len(done.words) > 1:
        raise ValueError(f"One RUN_DIR, not {len(done.words)}: {' '.join(done.words)}. Pictures come after --input.")
    done.run_dir = done.words[0] if done.words else ""
    if done.run_dir:
        _use_run(done)
    if not done.config_file:
        raise ValueError("Which model? Give a training run's folder, or --config-file FILE with --weights FILE.")
    if bool(done.input) == bool(done.dataset):
        raise ValueError("What to predict on? Give --input PATH ..., or --dataset NAME, and not both.")
    if not 0 <= done.score_threshold <= 1:
        raise ValueError(f"--score-threshold {done.score_threshold:g}: scores are numbers from 0 to 1.")
    if done.weights:
        done.opts += ["MODEL.WEIGHTS", done.weights]
    done.output = done.output or os.path.join(done.run_dir, "predictions")
    return done


def _split(words: Sequence[str], keys: Sequence[str]) -> tuple[list[str], list[str]]:
    """Words, and the KEY VALUE pairs behind them; a file that is called like a key is a file."""
    for number, word in enumerate(words):
        if word.split(".")[0] in keys and not os.path.exists(word):
            return list(words[:number]), list(words[number:])
    return list(words), []


def _use_run(args: Namespace) -> None:
    folder = Path(args.run_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"RUN_DIR {folder} is no folder; give the OUTPUT_DIR of a training run.")
    if not args.config_file:
        args.config_file = str(folder / _CONFIG)
    if not args.weights and "MODEL.WEIGHTS" not in args.opts[::2]:
        args.weights = str(_last_weights(folder))


def _last_weights(folder: Path) -> Path:
    pointer = folder / _POINTER
    path = folder / (pointer.read_text().strip() if pointer.is_file() else _FINAL)
    if not path.is_file():
        raise FileNotFoundError(
            f"RUN_DIR {folder} has no weights: {path} does not exist. Has the run saved a checkpoint yet? "
            "--weights FILE takes others."
        )
    return path
