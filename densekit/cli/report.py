"""Writes one HTML page about an evaluation: numbers, curves, mistakes and pictures, in one file that loads nothing.

densekit report output/demo
densekit report output/cells --dataset cells_val --datasets cells.yaml --output cells.html
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``densekit report``."""
    parser.add_argument("run", type=Path, metavar="RUN", help="the OUTPUT_DIR of a run that was evaluated")
    parser.add_argument("--dataset", metavar="NAME", help="which evaluation, where RUN has several")
    parser.add_argument(
        "--datasets", metavar="FILE", help="YAML file of own data sets (by default what the run has kept)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="the page (RUN/inference/NAME/report.html)")
    parser.add_argument(
        "--images", type=int, default=12, metavar="N", help="how many of the worst and of the best images (%(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the page.

    Raises:
        FileNotFoundError, ValueError: the run has no such evaluation, or its files do not fit the data set.
    """
    from densekit.data.own.runs import register_for_run, use_root_of_run

    use_root_of_run(args.run)  # before the standard data sets are registered
    from densekit.files.atomic import atomic_write
    from densekit.report.evaluation_page import evaluation_page
    from densekit.report.run_files import read_run

    if args.images < 1:
        raise ValueError(f"--images {args.images}: at least 1 is needed.")
    files = read_run(args.run, args.dataset)
    register_for_run(args.run, args.datasets, [files.dataset])
    target = args.output or files.inference / "report.html"
    if not target.absolute().parent.is_dir():
        raise FileNotFoundError(f"The folder of {target} does not exist.")
    if target.is_dir():
        raise ValueError(f"--output {target} is a folder. Name the file, such as {target / 'report.html'}.")
    text = evaluation_page(files, args.images)
    with atomic_write(target) as file:
        file.write(text)
    print(f"The page is {target} ({len(text) / 1e6:.1f} MB)")
    return 0
