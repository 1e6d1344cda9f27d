"""The command line of ``train_net.py`` and ``densekit train``: Detectron2's flags, read without importing torch."""

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

SCRIPT = "python train_net.py"  # what users of a checkout type; those of a wheel type "densekit train"
RESUME = ("auto", "must", "never")
_DESCRIPTION = "Train, evaluate and resume any system of densekit: the configuration file says which."
_EXAMPLES = """\
examples:
  train on one GPU (or on the CPU, where there is none)
    {program} --config-file {files}COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml

  change keys of the configuration: KEY VALUE pairs, anywhere on the line
    {program} --config-file FILE SOLVER.IMS_PER_BATCH 4 SOLVER.BASE_LR 0.005 OUTPUT_DIR runs/small

  go on after an interruption, from the last checkpoint in OUTPUT_DIR
    {program} --config-file FILE --resume OUTPUT_DIR runs/small

  evaluate weights on every data set of DATASETS.TEST
    {program} --config-file FILE --eval-only MODEL.WEIGHTS runs/small/model_final.pth

  train on own data, named in a small YAML file (docs/own_data.md lists the forms)
    {program} --config-file FILE --datasets my.yaml DATASETS.TRAIN "('my_train',)" DATASETS.TEST "('my_val',)"

  the same without a file: forms coco, coco_panoptic, cityscapes, semantic, voc, yolo, labelme, classes
    {program} --config-file FILE --train-data "form: voc, images: train/jpg, annotations: train/xml" \\
      --val-data "form: voc, images: val/jpg, annotations: val/xml"

  see what a file and its bases change, and in which line
    {program} --config-file FILE --diff

  what a run would need: parameters, FLOPs, memory, time, disk; nothing is written
    {program} --config-file FILE --dry-run --num-gpus 8

  8 GPUs of one machine; two processes on the CPU; two machines; torchrun; SLURM, with a task for each GPU
    {program} --config-file FILE --num-gpus 8
    {program} --config-file FILE --num-gpus 2 MODEL.DEVICE cpu
    {program} --config-file FILE --num-gpus 8 --num-machines 2 --machine-rank 0 --dist-url tcp://HOST:PORT
    torchrun --nproc_per_node 8 {script} --config-file FILE
    srun --ntasks-per-node 8 --gpus-per-node 8 {program} --config-file FILE

environment:
  DETECTRON2_DATASETS  where the data sets are (default: datasets)
  DENSEKIT_HOST        auto, detectron2 or builtin: which implementation runs (default: Detectron2 if it is installed)
  DENSEKIT_TRACEBACK   1 shows where an error message comes from
"""


class _Parser(argparse.ArgumentParser):
    """Says which flag was probably meant."""

    def error(self, message: str) -> NoReturn:
        if match := re.match(r"unrecognized arguments: (-\S+)", message):
            known = [name for action in self._actions for name in action.option_strings]
            near = difflib.get_close_matches(match[1].split("=")[0], known, n=1)
            message += f" (did you mean {near[0]}?)" if near else " (--help lists the flags)"
        self.exit(2, f"error: {message}\n")


def argument_parser(program: str = SCRIPT) -> argparse.ArgumentParser:
    """The flags that Detectron2's users know, then ``KEY VALUE`` pairs; the help shows how to type ``program``."""
    script = "train_net.py" if program == SCRIPT else f"-m {program}"
    shown = {"{program}": program, "{script}": script, "{files}": "configs/" if program == SCRIPT else ""}
    examples = re.sub(r"\{(program|script|files)\}", lambda found: shown[found[0]], _EXAMPLES)
    parser = _Parser(
        prog=program.removeprefix("python "),
        description=_DESCRIPTION,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config-file",
        default="",
        metavar="FILE",
        help="YAML file of the system to train, or the name of a shipped one (densekit configs lists them)",
    )
    parser.add_argument(
        "--datasets",
        default="",
        metavar="FILE",
        help="YAML file of own data sets: 'NAME: {form: coco, json: FILE, images: FOLDER}', paths relative to it",
    )
    for flag, use in (("--train-data", "train"), ("--val-data", "evaluate")):
        parser.add_argument(
            flag,
            default="",
            metavar="ENTRY",
            help=f"one data set to {use} on, in the words of such a file: 'form: coco, json: FILE, images: FOLDER'",
        )
    parser.add_argument(
        "--resume",
        choices=RESUME,
        default="never",
        help="--resume or --resume auto: go on from the last checkpoint in OUTPUT_DIR, if any; must: an error if there "
        "is none; never: begin anew (default)",
    )
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS and stop")
    parser.add_argument(
        "--replay",
        default="",
        metavar="FOLDER",
        help="run a step again that was infinite or NaN, from its OUTPUT_DIR/black_box/iter_<iteration>, and say where",
    )
    parser.add_argument(
        "--num-gpus", type=_count, default=1, metavar="N", help="processes on this machine, one GPU each (default: 1)"
    )
    parser.add_argument("--num-machines", type=_count, default=1, metavar="N", help="machines in the job (default: 1)")
    parser.add_argument("--machine-rank", type=int, default=0, metavar="N", help="this machine's number, from 0")
    parser.add_argument(
        "--dist-url",
        default="auto",
        metavar="URL",
        help="where processes meet, tcp://HOST:PORT (default: auto, a free port of this machine)",
    )
    _add_questions(parser)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="keys of the configuration with their new values")
    return parser


def _add_questions(parser: argparse.ArgumentParser) -> None:
    """Flags that ask something instead of starting a run."""
    parser.add_argument(
        "--print-config", action="store_true", help="print every key with its value and where that comes from, and stop"
    )
    parser.add_argument("--diff", action="store_true", help="the same for the keys that differ from their defaults")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="build model and data, make one training step, print what a run needs (memory, time, disk), and stop",
    )


def parse_arguments(argv: Sequence[str] | None = None, program: str = SCRIPT) -> argparse.Namespace:
    """Reads the command line; what is wrong with it ends the process with code 2 and one line.

    Args:
        argv: the words after the program's name; by default those of this process.
        program: what the user types.

    Returns:
        ``config_file, datasets, train_data, val_data, resume, eval_only, replay, num_gpus, num_machines, machine_rank,
        dist_url, print_config, diff, dry_run`` and ``opts``, the flat list of keys and values.
    """
    parser = argument_parser(program)
    # Intermixed, because flags after the first KEY would otherwise count as values of the configuration.
    args = parser.parse_intermixed_args(_with_resume_mode(sys.argv[1:] if argv is None else argv))
    if not args.config_file and not args.opts:
        parser.error("--config-file is missing: which system should run? --help shows examples.")
    if len(args.opts) % 2:
        hint = next((word for word in args.opts if re.fullmatch(r"[A-Z0-9_.]+=.*", word)), None)
        reason = f"write {hint.replace('=', ' ', 1)!r} instead of {hint!r}" if hint else "one of them has no value"
        parser.error(f"keys and values come in pairs, KEY VALUE, and {' '.join(args.opts)!r} does not: {reason}.")
    if args.replay and args.num_gpus * args.num_machines > 1:
        parser.error("--replay runs the processes of the step one after another: leave --num-gpus out.")
    if not 0 <= args.machine_rank < args.num_machines:
        parser.error(f"--machine-rank {args.machine_rank} is not in 0 .. {args.num_machines - 1} (--num-machines).")
    if args.num_machines > 1 and args.dist_url == "auto":
        parser.error("several machines need one --dist-url that all of them reach, such as tcp://10.0.0.1:29500.")
    return args


def _with_resume_mode(words: Sequence[str]) -> list[str]:
    """Writes ``--resume``, which Detectron2's users follow with KEY VALUE pairs, as ``--resume=auto``."""
    modes = [*words[1:], ""]
    return ["--resume=auto" if word == "--resume" and mode not in RESUME else word for word, mode in zip(words, modes)]


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)
