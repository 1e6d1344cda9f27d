"""Looks at this machine and its installation: what runs, what is in the way, and what to do about it.

The exit code is 0 where nothing is in the way, 1 where something is.
"""

import argparse
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

_OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
_PACKAGES = ("torchvision", "fvcore", "iopath", "yacs", "pycocotools", "numpy", "scipy", "pillow")
# Instruction sets as Linux names them -> what they are good for.
_INSTRUCTIONS = {
    "avx2": "the least for fast convolutions",
    "avx512f": "wider vectors",
    "avx512_vnni": "int8 products",
    "avx512_bf16": "bfloat16 products",
    "amx_bf16": "bfloat16 tiles",
    "amx_int8": "int8 tiles",
}
_LITTLE_DISK, _LITTLE_MEMORY = 5 * 2**30, 2 * 2**30

Line = tuple[str, str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``densekit doctor``."""
    parser.add_argument(
        "--folder", default=".", metavar="DIR", help="where runs are to be written (default: the working directory)"
    )


def run(args: argparse.Namespace) -> int:
    """Prints the findings."""
    found: list[Line] = []
    advice: list[str] = []
    for part in (_python, _torch, _host, _opencv, _packages, _processor):
        lines, problems = part()
        found += lines
        advice += problems
    lines, problems = _room(args.folder)
    found += lines
    advice += problems
    width = max(len(name) for name, _ in found)
    print("\n".join(f"{name:<{width}}  {value}" for name, value in found))
    print("\n" + ("\n".join(f"- {line}" for line in advice) if advice else "Nothing is in the way."))
    return 1 if advice else 0


def _python() -> tuple[list[Line], list[str]]:
    kind = "virtual environment" if sys.prefix != sys.base_prefix else "no virtual environment"
    lines = [("Python", f"{platform.python_version()}, {sys.executable} ({kind})"), ("system", platform.platform())]
    lines.append(("densekit", f"{_version('densekit')}, {Path(__file__).resolve().parents[1]}"))
    return lines, []


def _torch() -> tuple[list[Line], list[str]]:
    try:
        import torch
    except (ImportError, OSError) as error:
        return [("torch", f"does not import: {error}")], ["Install torch as https://pytorch.org says for this machine."]
    lines = [("torch", f"{torch.__version__}, {torch.get_num_threads()} threads")]
    built = torch.version.cuda
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(number)
            lines.append((f"GPU {number}", f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, CUDA {built}"))
        return lines, []
    lines.append(("CUDA", f"torch is built for CUDA {built} and sees no device" if built else "torch is built without"))
    has_gpu = shutil.which("nvidia-smi") is not None or os.path.exists("/dev/nvidia0")
    if not has_gpu:
        return lines, []
    remedy = "update the driver, or install a torch for it" if built else "install a torch with CUDA"
    return lines, [f"This machine has an NVIDIA GPU that torch does not use: {remedy} (https://pytorch.org)."]


def _host() -> tuple[list[Line], list[str]]:
    wanted = os.environ.get("DENSEKIT_HOST", "auto")
    installed = importlib.util.find_spec("detectron2") is not None
    shown = f"{_version('detectron2')} is installed" if installed else "not installed"
    try:
        from densekit.d2 import HOST
    except Exception as error:
        lines = [("Detectron2", shown), ("host", f"DENSEKIT_HOST={wanted} does not work: {error}")]
        return lines, ["Set DENSEKIT_HOST=builtin, which needs no Detectron2, or mend Detectron2."]
    chosen = "Detectron2" if HOST == "detectron2" else "densekit's built-in runtime"
    return [("Detectron2", shown), ("host", f"{chosen} (DENSEKIT_HOST={wanted})")], []


def _opencv() -> tuple[list[Line], list[str]]:
    builds = opencv_builds(dist.metadata["Name"] or "" for dist in distributions())
    lines = [("OpenCV", ", ".join(f"{name} {_version(name)}" for name in builds) or "not installed")]
    advice = []
    if len(builds) > 1:
        keep = next((name for name in builds if "contrib" in name), builds[0])
        advice.append(
            f"{' and '.join(builds)} are one package `cv2` installed {len(builds)} times, and the last one wins. Do: "
            f"pip uninstall {' '.join(builds)}; pip install {keep}"
        )
    try:
        import cv2  # noqa: F401
    except ImportError as error:
        remedy = "opencv-python-headless, which needs no screen's libraries" if "libGL" in str(error) else _OPENCV[0]
        advice.append(f"cv2 does not import ({error}): install {remedy}.")
    return lines, advice


def opencv_builds(names: Iterable[str]) -> list[str]:
    """Returns those of the installed packages that all are ``cv2``, in the order of their names."""
    installed = {name.lower().replace("_", "-") for name in names}
    return [name for name in _OPENCV if name in installed]


def _packages() -> tuple[list[Line], list[str]]:
    missing = [name for name in _PACKAGES if not _version(name)]
    shown = ", ".join(f"{name} {_version(name)}" for name in _PACKAGES if name not in missing)
    return [("packages", shown)], [f"Not installed: {', '.join(missing)}. Do: pip install densekit"] if missing else []


def _processor() -> tuple[list[Line], list[str]]:
    path = Path("/proc/cpuinfo")
    text = path.read_text() if path.is_file() else ""
    model = next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")), "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    lines = [("processor", f"{model or platform.machine()}, {cores} cores for this process")]
    if text:
        has = instruction_sets(text)
        shown = ", ".join(f"{name} ({_INSTRUCTIONS[name]})" for name in has) or "none of those that help"
        lines.append(("instructions", shown))
    return lines, []


def instruction_sets(cpuinfo: str) -> list[str]:
    """Returns the names of the sets that help, of a text as of ``/proc/cpuinfo``."""
    flags = next((line.partition(":")[2].split() for line in cpuinfo.splitlines() if line.startswith("flags")), [])
    return [name for name in _INSTRUCTIONS if name in flags]


def _room(folder: str) -> tuple[list[Line], list[str]]:
    existing = Path(folder).absolute()
    while not existing.exists():
        existing = existing.parent
    lines, advice = [], []
    free = shutil.disk_usage(existing).free
    lines.append(("disk", f"{free / 2**30:.1f} GiB free for {Path(folder).absolute()}"))
    if free < _LITTLE_DISK:
        advice.append("Less than 5 GiB of the disk are free: choose another OUTPUT_DIR, or SOLVER.CHECKPOINT_KEEP 1.")
    if not os.access(existing, os.W_OK):
        advice.append(f"{existing} cannot be written: choose another OUTPUT_DIR.")
    group = "/sys/fs/cgroup/memory"
    memory = free_memory(_text("/proc/meminfo"), _text(f"{group}.max"), _text(f"{group}.current"))
    if memory is not None:
        lines.append(("memory", f"{memory / 2**30:.1f} GiB free"))
        if memory < _LITTLE_MEMORY:
            advice.append("Less than 2 GiB of memory are free: lower SOLVER.IMS_PER_BATCH and DATALOADER.NUM_WORKERS.")
    shared = Path("/dev/shm")
    if shared.is_dir() and (size := shutil.disk_usage(shared).total) < 2**28:
        lines.append(("shared memory", f"{size / 2**20:.0f} MiB"))
        advice.append(
            "/dev/shm is small, and loaders pass pictures through it: start the container with --shm-size=1g."
        )
    return lines, advice


def free_memory(meminfo: str, limit: str, used: str) -> int | None:
    """Returns the bytes that this process can have: those of the machine, or what the container has left of its limit.

    Args:
        meminfo: as of ``/proc/meminfo``; "" where there is none.
        limit: bytes or "max", as of a container's ``memory.max``; "" where there is none.
        used: bytes of the container.
    """
    lines = (line.split() for line in meminfo.splitlines())
    free = next((int(words[1]) * 1024 for words in lines if words and words[0] == "MemAvailable:"), None)
    if limit.strip().isdigit() and used.strip().isdigit():
        left = max(int(limit) - int(used), 0)
        return left if free is None else min(free, left)
    return free


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
