"""Finds boxes that may hold an object in the pictures of a data set, for Fast R-CNN and its like to learn from.

  densekit proposals streets_train --method selective-search --output streets_train.pkl
  densekit proposals cells_val --datasets cells.yaml --method rpn --run output/cells --output cells_val.pkl

Name the files in DATASETS.PROPOSAL_FILES_TRAIN and _TEST, one for each data set, with MODEL.LOAD_PROPOSALS True and
MODEL.PROPOSAL_GENERATOR.NAME PrecomputedProposals. A command that was ended goes on where it was when it is given
again. Where the data set has annotations, a table and a plot beside the file say how many objects the boxes cover.

selective-search and edge-boxes need OpenCV's contributed modules: pip install 'densekit[proposals]'. Plain
opencv-python has a folder of the same name, and the package installed last is the one in force:
pip install --force-reinstall --no-deps opencv-contrib-python-headless
"""

import argparse
import os
from pathlib import Path

_METHODS = ("selective-search", "edge-boxes", "rpn")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``densekit proposals``."""
    parser.add_argument("name", metavar="DATASET", help="a registered data set")
    parser.add_argument("--datasets", metavar="FILE", help="YAML file of own data sets, as of train_net.py")
    parser.add_argument("--method", choices=_METHODS, default=_METHODS[0], help="of finding boxes (%(default)s)")
    parser.add_argument("--run", type=Path, metavar="RUN", help="OUTPUT_DIR of a trained model, whose RPN is asked")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the file to write (proposals_DATASET_METHOD.pkl)")
    parser.add_argument("--count", type=int, default=2000, metavar="N", help="boxes kept of a picture (%(default)s)")
    parser.add_argument(
        "--width", type=int, default=500, metavar="PX", help="wider pictures are searched at this width (%(default)s)"
    )
    parser.add_argument("--least", type=int, default=20, metavar="PX", help="least side of a box there (%(default)s)")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="pictures searched at once (%(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Computes the proposals and says how many objects they cover.

    Raises:
        FileNotFoundError, ValueError: the command line names what does not exist or contradicts itself, or OpenCV lacks
            its contributed modules.
    """
    if (args.method == "rpn") != (args.run is not None):
        raise ValueError("--method rpn needs --run RUN, and no other method takes it.")
    for option in ("count", "width", "least", "workers"):
        if getattr(args, option) < 1:
            raise ValueError(f"--{option} {getattr(args, option)}: at least 1 is needed.")
    output = args.output or Path(f"proposals_{args.name}_{args.method}.pkl")
    if not output.absolute().parent.is_dir():
        raise FileNotFoundError(f"The folder of {output} does not exist.")
    if output.is_dir():
        raise ValueError(f"--output {output} is a folder. Name the file, such as {output / 'proposals.pkl'}.")

    from densekit.d2.data import DatasetCatalog
    from densekit.data import register_from_yaml
    from densekit.data.registry import check_registered
    from densekit.inference.proposal_run import collect_proposals, searcher, trained_proposer

    if args.datasets:
        register_from_yaml(args.datasets, [args.name])
    check_registered(args.name, "Own data: --datasets FILE names the file that describes it.")
    records = DatasetCatalog.get(args.name)
    if not records:
        raise ValueError(f"Data set {args.name!r} has no images.")
    settings = {"dataset": args.name, "method": args.method, "count": args.count}
    if args.method == "rpn":
        settings["run"] = str(args.run)
        propose, workers = trained_proposer(args.run, args.count), 1  # the model itself uses all processors
    else:
        settings |= {"width": args.width, "least": args.least}
        propose = searcher(args.method, count=args.count, width=args.width, least=args.least)
        workers = args.workers
    predictions = collect_proposals(records, propose, output, settings=settings, workers=workers)
    boxes = sum(len(prediction["proposals"][1]) for prediction in predictions)
    print(f"{output}: {boxes} boxes in {len(predictions)} pictures")
    _print_recall(args.name, predictions, output)
    return 0


def _print_recall(name: str, predictions: list, output: Path) -> None:
    """Prints the share of objects that are covered, and draws it; nothing where there are no objects."""
    from tabulate import tabulate

    from densekit.data.ground_truth import GroundTruth
    from densekit.evaluation.proposals import RECALL_THRESHOLDS, proposal_recall
    from densekit.files.atomic import atomic_write
    from densekit.inference.proposal_plot import draw_recall

    truth = GroundTruth.of(name)
    recall = proposal_recall(truth, predictions) if truth.annotated else {}
    if not recall:
        print("The data set has no objects, so that there is no recall.")
        return
    rows = [[limit, *(f"{value:.1f}" for value in values), f"{values.mean():.1f}"] for limit, values in recall.items()]
    heads = ["boxes", *(f"{threshold:.2f}" for threshold in RECALL_THRESHOLDS.tolist()), "mean"]
    print("\nObjects covered, in %, by the best boxes of a picture at an overlap of at least\n")
    print(tabulate(rows, headers=heads, tablefmt="simple", disable_numparse=True))
    plot = output.with_suffix(".png")
    with atomic_write(plot, "wb") as file:
        draw_recall(recall).savefig(file, format="png", dpi=110)
    print(f"\nThe plot is {plot}")
