"""Makes the zip file that the Cityscapes benchmark takes, from predictions that an evaluation has kept.

  densekit submit output/inference/cityscapes_fine_sem_seg_test --output semantic.zip

Nothing is predicted and nothing is uploaded. Frames without a prediction, and files that the benchmark could not use,
are named and no zip file is made.
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``densekit submit``."""
    parser.add_argument(
        "run", type=Path, metavar="RUN_FOLDER", help="OUTPUT_DIR of a run, or a data set's folder in its inference/"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.zip", help="the file to write")
    parser.add_argument(
        "--kind", choices=("semantic", "instances", "panoptic"), help="which predictions, where a run has several"
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="leftImg8bit/SPLIT, which says what frames there are; by default that of the data set",
    )
    parser.add_argument(
        "--datasets", metavar="FILE", help="YAML file of own data sets (by default what the run has kept)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace FILE.zip if it exists")


def run(args: argparse.Namespace) -> int:
    """Checks and packs.

    Raises:
        ValueError: There are no predictions, or not of every frame, or some cannot be used.
    """
    from densekit.data.own.runs import register_for_run, run_of, use_root_of_run

    use_root_of_run(args.run)  # before the standard data sets are registered
    from densekit.evaluation.cityscapes.submission import find_predictions, image_folder, list_images, write_submission

    if args.output.suffix != ".zip":
        raise ValueError(f"--output {args.output}: the benchmark takes a file that ends in .zip.")
    if args.output.exists() and not args.overwrite:
        raise ValueError(f"{args.output} exists; add --overwrite to replace it.")
    folder = find_predictions(args.run, args.kind)
    if args.images is None:
        register_for_run(run_of(folder) or folder, args.datasets, [folder.absolute().parent.name])
    images = list_images(args.images or image_folder(folder))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    count = write_submission(folder, images, args.output, progress=True)
    size = args.output.stat().st_size / 2**20
    print(f"{folder}: {len(images)} frames, {count} files -> {args.output} ({size:.1f} MiB)")
    return 0
