"""Runs a trained model on pictures, and writes what it finds in the formats of your tools.

No annotations are needed. Results are kept picture by picture: after an interruption the same command goes on where it
stopped, and later it adds further formats without running the model again.
"""

import argparse

_EXAMPLES = """\
examples:
  a training run's folder has it all: configuration, last weights, names of the classes
    densekit predict output/demo --input photos/ --output found --format coco overlay

  any configuration and weights; single pictures, patterns in quotes, a video
    densekit predict --config-file configs/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml \\
        --weights model_final_f10217.pkl --input a.jpg 'more/**/*.png' clip.mp4 --output found

  labels for annotation tools: LabelMe files, YOLO text files, one COCO file for CVAT and FiftyOne
    densekit predict output/demo --input photos/ --output found --format labelme yolo coco_full --score-threshold 0.6

  label maps in colours, indexed PNGs; the same in Cityscapes' colours, or in your own (docs/prediction.md)
    densekit predict output/semantic --input photos/ --output found --format colours
    densekit predict output/semantic --input photos/ --output found --format colours overlay --palette cityscapes

  large aerial pictures or scans, in tiles of 1024 pixels that overlap by a fifth
    densekit predict output/demo --input scans/ --output found --tile 1024 --overlap 0.2

  a registered data set, under its own image ids; every score, for an evaluation elsewhere
    densekit predict output/demo --input streets_val --output found --score-threshold 0
    densekit predict output/demo --input my_test --datasets my.yaml --output found --score-threshold 0

  a model that paints: the hole of one photo, of a folder of photos, and all persons that another run has found
    densekit predict output/inpainting --input photo.jpg --mask mask.png --output painted
    densekit predict output/inpainting --input photos/ --mask masks/ --output painted
    densekit predict output/inpainting --input photos/ --mask found/ --mask-classes person --mask-grow 8 --output empty

  4 GPUs; two processes on the CPU; other keys of the configuration
    densekit predict output/demo --input photos/ --output found --num-gpus 4 --batch-size 8
    densekit predict output/demo --input photos/ --output found --num-gpus 2 MODEL.DEVICE cpu INPUT.MIN_SIZE_TEST 600

  millions of pictures on a Ray cluster (docs/mass_inference.md): resumable shards, and bad pictures by name
    densekit predict output/demo --input s3://bucket/photos --output s3://bucket/found --engine ray --address auto \\
        --num-gpus 16 --batch-size 8 --shard-format parquet

formats (default: coco, panoptic, semantic, inpainted, classes, as far as the model gives them):
  coco        coco_instances_results.json, the list of results that evaluations take
  coco_full   coco_full.json, a whole COCO file with images, categories and annotations
  panoptic    panoptic.json and panoptic/*.png, COCO's panoptic format
  semantic    semantic/*.png with the data set's label ids, and semantic.json with their names
  colours     colours/*.png, the same in the colours of the classes, indexed by the ids, and colours.json
  labelme     labelme/*.json, polygons or boxes
  mot         mot/<video>.txt, the objects of --track in the text format of the MOT challenges
  yolo        yolo/labels/*.txt, outlines or boxes, with data.yaml and classes.txt
  inpainted   inpainted/*.png, pictures that are untouched outside their holes
  classes     image_classes.json, the best five classes of whole pictures with their scores
  overlay     overlay/*.jpg, drawn pictures; an .mp4 for each video

what is always there: predictions.jsonl, a line for each picture, and settings.json; with --engine ray shards/* with the
  same lines, manifest/*.json, and formats only where --format asks for them.
exit code: 0, or 1 if some pictures could not be read (they are listed), or 2 for a mistake in the command.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``densekit predict``."""
    parser.epilog = _EXAMPLES
    parser.usage = (
        "densekit predict [RUN_DIR | --config-file FILE --weights FILE] --input PATH ... [options] [KEY VALUE ...]"
    )
    parser.add_argument("words", nargs="*", metavar="RUN_DIR", help="a training run's OUTPUT_DIR; then KEY VALUE pairs")
    parser.add_argument("--config-file", default="", metavar="FILE", help="the model's configuration, see configs/")
    parser.add_argument("--weights", default="", metavar="FILE", help="the model's weights (default: RUN_DIR's last)")
    parser.add_argument(
        "--input",
        nargs="+",
        metavar="PATH",
        help="pictures, folders, patterns, videos, URLs, lists (.txt, .parquet); or a data set",
    )
    parser.add_argument("--dataset", default="", metavar="NAME", help="a data set in place of --input")
    parser.add_argument(
        "--datasets", default="", metavar="FILE", help="YAML file of own data sets (what the run has kept)"
    )
    parser.add_argument(
        "--mask", nargs="+", metavar="PATH", help="holes to paint: a mask, a folder of masks, or of a run's predictions"
    )
    parser.add_argument(
        "--mask-polarity", choices=("white", "black"), default="white", help="what of a mask is the hole (white)"
    )
    parser.add_argument(
        "--mask-classes", nargs="+", metavar="NAME", help="of predictions as masks: paint over these alone (all)"
    )
    parser.add_argument(
        "--mask-grow", type=int, default=0, metavar="PIXELS", help="widen the holes by so many pixels (0)"
    )
    _add_results(parser)
    parser.add_argument(
        "--track",
        default="",
        metavar="NAME",
        help="follow objects through frames: sort, bytetrack, ocsort, botsort; track_id in the results",
    )
    parser.add_argument(
        "--tile", type=_positive, metavar="PIXELS", help="cut larger pictures into tiles with sides of so many pixels"
    )
    parser.add_argument("--overlap", type=float, default=0.2, metavar="SHARE", help="of neighbouring tiles (0.2)")
    parser.add_argument(
        "--batch-size", type=_positive, default=1, metavar="N", help="pictures or tiles at once, in each process (1)"
    )
    parser.add_argument(
        "--fast", action="store_true", help="bfloat16 where the device computes in it: a little less exact"
    )
    parser.add_argument(
        "--num-workers", type=int, metavar="N", help="processes that read pictures (DATALOADER.NUM_WORKERS)"
    )
    parser.add_argument("--num-gpus", type=_positive, default=1, metavar="N", help="processes, one GPU each (1)")
    _add_cluster(parser)
    parser.add_argument("--strict", action="store_true", help="stop at a picture that cannot be read")
    parser.add_argument("--overwrite", action="store_true", help="replace other predictions in the output folder")


def _add_results(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that choose what is written."""
    parser.add_argument("--output", default="", metavar="DIR", help="folder for the results (RUN_DIR/predictions)")
    parser.add_argument("--format", nargs="+", metavar="NAME", help="what to write, see below")
    parser.add_argument(
        "--palette",
        default="",
        metavar="NAME|FILE",
        help="colours of label maps: ade20k, camvid, cityscapes, voc, or a file (the data set's own)",
    )
    parser.add_argument(
        "--score-threshold", type=float, default=0.5, metavar="S", help="leave out detections below it (0.5)"
    )


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that choose a Ray cluster and the files that it makes."""
    parser.add_argument(
        "--engine", choices=("plain", "ray"), default="plain", help="ray: shards, on a Ray cluster of any size (plain)"
    )
    parser.add_argument(
        "--address", default="", metavar="ADDRESS", help="the Ray cluster (RAY_ADDRESS, else this machine alone)"
    )
    parser.add_argument(
        "--shard-size", type=_positive, default=1000, metavar="N", help="pictures in each file of --engine ray (1000)"
    )
    parser.add_argument(
        "--shard-format", choices=("jsonl", "parquet"), default="jsonl", help="of the files of --engine ray (jsonl)"
    )


def run(args: argparse.Namespace) -> int:
    """Predicts.

    Raises:
        ValueError, FileNotFoundError: The command line contradicts itself or names what does not exist.
    """
    from densekit.cli.predict_options import complete
    from densekit.engine import launch
    from densekit.inference.prediction_run import read_predict_config
    from densekit.inference.prediction_run import run as predict

    job = complete(args)
    if job.engine == "ray":
        from densekit.inference.mass import run_on_ray

        run_on_ray(job)
        return 0
    launch(predict, job, read_predict_config(job).MODEL.DEVICE)
    return 0


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)
