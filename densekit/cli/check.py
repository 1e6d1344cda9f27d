"""Looks for faults in a data set before they cost a training run.

  densekit check coco_2017_val                                   a standard name
  densekit check cells_train --datasets cells.yaml --against cells_val
  densekit check cells_train --config-file output/cells/config.yaml
  densekit check --coco train.json --images images --fix corrected.json --html findings.html

Images are read in full but not decoded, since a JPEG or PNG shows without that whether it breaks off or was damaged;
--decode runs the decoder over each as well. The exit code is 0 where no error was found, 1 where there are some, 2 for
a wrong command line.
"""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from densekit.data.inspect import Findings, Inspection

_EXAMPLES = 3
_CLASSES = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``densekit check``."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="a registered data set")
    parser.add_argument("--datasets", metavar="FILE", help="YAML file of own data sets, as of train_net.py")
    parser.add_argument("--config-file", metavar="FILE", help="a configuration that names that file, of a run or not")
    parser.add_argument("--coco", metavar="JSON", help="a COCO annotation file instead of a name, with --images")
    parser.add_argument("--images", metavar="DIR", help="the folder that the file names of --coco are relative to")
    parser.add_argument(
        "--against",
        metavar="OTHER",
        help="find images that OTHER has too: a data set, a COCO JSON of --images, a folder",
    )
    parser.add_argument("--num-classes", type=int, metavar="N", help="the NUM_CLASSES of the model")
    parser.add_argument("--decode", action="store_true", help="decode every image in full (slower)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with thumbnails")
    parser.add_argument("--fix", type=Path, metavar="JSON", help="write a corrected copy in COCO's form")
    parser.add_argument("--json", action="store_true", help="print all findings as JSON instead of the table")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="threads that read files (%(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Inspects one data set, prints what was found and writes the files asked for.

    Raises:
        FileNotFoundError, ValueError, KeyError: the command line names what does not exist or contradicts itself.
    """
    from densekit.config import load_config
    from densekit.d2.data import MetadataCatalog
    from densekit.data import register_from_yaml
    from densekit.data.inspect import Options, content_hashes, inspect_coco, inspect_dataset
    from densekit.files.atomic import atomic_write

    if (args.name is None) == (args.coco is None):
        raise ValueError("Give the NAME of a data set, or --coco JSON with --images DIR.")
    if args.coco is not None and args.images is None:
        raise ValueError("--coco needs --images, the folder that its file names are relative to.")
    for path in (args.html, args.fix):
        if path is not None and not path.absolute().parent.is_dir():
            raise FileNotFoundError(f"The folder of {path} does not exist.")
        if path is not None and path.is_dir():
            raise ValueError(f"{path} is a folder. Name the file that is to be written.")
    catalog = args.datasets or (load_config(args.config_file).DATASETS.CATALOG if args.config_file else "")
    if catalog:
        register_from_yaml(catalog, [name for name in (args.name, args.against) if name])
    source = MetadataCatalog.get(args.name).get("json_file") if args.coco is None else args.coco
    if args.fix is not None and source is not None and args.fix.resolve() == Path(source).resolve():
        raise ValueError(f"--fix {args.fix} is the annotation file itself. Give the corrected copy another name.")
    others = {} if args.against is None else content_hashes(args.against, args.images, args.workers)
    options = Options(args.num_classes, others, args.decode, args.workers)
    if args.coco is not None:
        inspection = inspect_coco(args.coco, args.images, Path(args.coco).name, options)
    else:
        inspection = inspect_dataset(args.name, options)
    _print(inspection.findings, args.json)
    if args.fix is not None:
        _fix(inspection, args.fix, quiet=args.json)
    if args.html is not None:
        from densekit.report.findings_page import findings_page

        with atomic_write(args.html) as file:
            file.write(findings_page(inspection.findings))
        if not args.json:
            print(f"The page is {args.html}")
    return 0 if inspection.findings.clean else 1


def _print(findings: "Findings", as_json: bool) -> None:
    if as_json:
        import json

        print(json.dumps(findings.to_json(), indent=1, ensure_ascii=False, allow_nan=False))
        return
    from tabulate import tabulate

    print(f"{findings.name}: {findings.images} images" + (f", {findings.objects} objects" if findings.objects else ""))
    if findings.histogram is not None:
        counts = sorted(findings.histogram.counts.items(), key=lambda entry: -entry[1])
        shown = [(name, count, findings.histogram.images[name]) for name, count in counts if count][:_CLASSES]
        print("\n" + tabulate(shown, headers=("class", findings.histogram.unit, "images"), tablefmt="simple"))
        if len(counts) > len(shown):
            print(f"... {len(counts)} classes in all")
    print()
    for kind, found in findings.items():
        print(f"{kind.severity:<8}{len(found):>6}  {kind.title}  [{kind.name}]")
        for finding in found[:_EXAMPLES]:
            print(f"{'':16}{finding.where}" + (f": {finding.detail}" if finding.detail else ""))
        if len(found) > _EXAMPLES:
            print(f"{'':16}... and {len(found) - _EXAMPLES} more")
        print(f"{'':16}-> {kind.remedy}")
    errors, warnings, notes = (findings.count(severity) for severity in ("error", "warning", "info"))
    print(f"\n{errors} errors, {warnings} warnings, {notes} notes")


def _fix(inspection: "Inspection", target: Path, quiet: bool) -> None:
    """Writes the corrected copy and says what changed."""
    import json

    from densekit.data.inspect import fix_coco
    from densekit.files.atomic import atomic_write, strict

    if inspection.content is None or not inspection.paths:
        raise ValueError(f"{inspection.findings.name} has no entries that could be corrected; {target} is not written.")
    fixed, changes = fix_coco(inspection.content, inspection.paths, inspection.facts, inspection.leaked)
    with atomic_write(target) as file:
        file.write(json.dumps(strict(fixed), allow_nan=False))
    if quiet:
        return
    print(f"\nCorrected copy: {target} ({len(fixed['images'])} images, {len(fixed['annotations'])} annotations)")
    for change, count in changes.items():
        print(f"{count:>8}  {change}")
    left = [kind.title for kind, _ in inspection.findings.items() if kind.severity != "info" and not kind.fix]
    if left:
        print(f"Left as they are, for you to decide: {'; '.join(left)}.")
