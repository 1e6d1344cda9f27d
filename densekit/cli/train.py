"""Trains, evaluates and resumes; ``train_net.py`` is this command under another name."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from densekit.cli.arguments import SCRIPT, parse_arguments
from densekit.cli.imports import import_engine

if TYPE_CHECKING:
    from densekit.run_options import RunOptions

_NOT_FLAGS = ("print_config", "diff", "dry_run")
INTERRUPTED, REQUEUE = 130, 75  # exit codes of :mod:`densekit.engine.preemption`, which needs torch


def main(argv: Sequence[str] | None = None, program: str = SCRIPT) -> int:
    """Reads the command line before torch is imported, then runs the job in as many processes as it asks for.

    Args:
        argv: the words after the program's name; by default those of this process.
        program: what the user types, for the help and for messages.

    Returns:
        0; a mistake of the user ends the process with 2.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    args = parse_arguments(words, program)
    try:
        _run(args)
    except KeyboardInterrupt:
        _say_how_to_go_on(args, program, words)
        raise SystemExit(INTERRUPTED) from None
    except SystemExit as end:
        if end.code in (INTERRUPTED, REQUEUE):
            _say_how_to_go_on(args, program, words)
        raise
    return 0


def _say_how_to_go_on(args: argparse.Namespace, program: str, words: Sequence[str]) -> None:
    """Prints the command that resumes a training, in the first process."""
    asks = args.print_config or args.diff or args.dry_run or args.eval_only or args.replay
    first = os.environ.get("RANK", "0") == "0" and os.environ.get("SLURM_PROCID", "0") == "0"
    if first and not asks:
        print(f"To go on from the last checkpoint: {resume_command(program, words)}", file=sys.stderr, flush=True)


def resume_command(program: str, words: Sequence[str]) -> str:
    """Returns the command line that goes on with the training that ``words`` have started."""
    import shlex

    if any(word == "--resume" or word.startswith("--resume=") for word in words):
        return shlex.join([*shlex.split(program), *words])
    return shlex.join([*shlex.split(program), "--resume=auto", *words])


def _run(args: argparse.Namespace) -> None:
    import_engine()
    from densekit.engine import launch, run, user_errors
    from densekit.engine.setup import describe, read_config

    with user_errors():
        options = run_options(args)
        if args.print_config or args.diff:
            print(describe(options, changed_only=args.diff))
            return
        if args.dry_run:
            from densekit.engine.dry_run import rehearse

            print(rehearse(options))
            return
        cfg, _ = read_config(options)
    launch(run, options, cfg.MODEL.DEVICE)


def run_options(args: argparse.Namespace) -> "RunOptions":
    """Returns the options of the job, its configuration found.

    Raises:
        FileNotFoundError: there is no such configuration.
    """
    # Not before, for --help answers in the time that Python itself needs.
    from densekit.config_files import find_config
    from densekit.run_options import RunOptions

    words = {key: value for key, value in vars(args).items() if key not in _NOT_FLAGS}
    return RunOptions(**(words | {"config_file": find_config(args.config_file) if args.config_file else ""}))
