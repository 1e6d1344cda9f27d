"""Starts one small training in every way there is, kills one process of it, and prints what happened.

    python benchmarks/starts.py

Everything runs on this machine's CPU with two processes: ``--num-gpus``, torchrun, torchrun on two "machines" that meet
over the loopback interface, and two tasks as ``srun`` starts them, with its variables and nothing else of SLURM. Each
start trains and evaluates with replicas, which must have equal losses, ``--num-gpus`` also with sharded parameters,
where sums are rounded differently from the second step on. Then rank 1 is killed, and the others have to end with it.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fault_runs import ROOT, write_data

_OUTSIDE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def commands(start: str, tail: list[str], port: int) -> list[tuple[list[str], dict[str, str]]]:
    """The commands of a start, each with variables of its environment."""
    python, script = [sys.executable, "-W", "ignore"], [str(ROOT / "train_net.py"), *tail]
    torchrun = [*python, "-m", "torch.distributed.run"]
    if start == "torchrun":
        return [([*torchrun, "--standalone", "--nproc_per_node", "2", *script], {})]
    if start == "torchrun, two nodes":
        where = ["--nnodes", "2", "--nproc_per_node", "1", "--rdzv_backend", "c10d"]
        where += ["--rdzv_endpoint", f"127.0.0.1:{port}", "--rdzv_id", "starts"]
        return [([*torchrun, *where, *script], {})] * 2
    if start == "srun":
        tasks = []
        for rank in ("0", "1"):
            env = {"SLURM_JOB_ID": str(port), "SLURM_STEP_ID": "0", "SLURM_PROCID": rank, "SLURM_LOCALID": "0"}
            env |= {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "2"}
            # Two machines of which the first is this one under its address, so that the list has to be read.
            tasks.append(([*python, *script], env | {"SLURM_STEP_NODELIST": "127.0.0.[1-2]"}))
        return tasks
    return [([*python, *script, "--num-gpus", "2"], {})]


def run(start: str, tail: list[str], out: Path, fault: str = "") -> tuple[list[int], float, str]:
    """Runs a start; with a fault, one process of rank 1 is ended as soon as it trains.

    Returns:
        The exit codes of its commands, the seconds until they ended (from the fault on), and their output.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    base = {key: value for key, value in os.environ.items() if key not in _OUTSIDE and not key.startswith("SLURM_")}
    base |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    out.mkdir(parents=True)
    log = out / "console.txt"
    with log.open("w") as console:
        jobs = [
            subprocess.Popen(command, env=base | env, stdout=console, stderr=subprocess.STDOUT)
            for command, env in commands(start, [*tail, "OUTPUT_DIR", str(out)], port)
        ]
        begin = time.monotonic()
        if fault:
            begin = _end_rank_1(out, jobs, getattr(signal, fault))
        codes = [job.wait(600) for job in jobs]
    return codes, time.monotonic() - begin, log.read_text()


def _end_rank_1(out: Path, jobs: list[subprocess.Popen[bytes]], number: int) -> float:
    """Waits for the training to run, then sends rank 1 a signal."""
    until = time.monotonic() + 300
    while time.monotonic() < until and "iter: 19" not in (out / "console.txt").read_text():
        time.sleep(0.2)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            opened = {os.readlink(file) for file in (process / "fd").iterdir()}
        except OSError:
            continue
        if str(out / "log.txt.rank1") in opened:
            os.kill(int(process.name), number)
    return time.monotonic()


def losses(out: Path) -> list[float]:
    """The total loss of each line of ``metrics.json``."""
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    return [line["total_loss"] for line in lines if "total_loss" in line]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument("--only", default="", help="starts whose name contains this")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    write_data(folder)
    tail = ["--config-file", str(folder / "tiny.yaml"), "--datasets", str(folder / "own.yaml")]
    tail += ["SOLVER.MAX_ITER", str(args.iterations), "TEST.EVAL_PERIOD", "0"]
    sharded = ["MODEL.SHARDING.ENABLED", "True"]
    endless = ["SOLVER.MAX_ITER", "1000000"]
    rows, first = [], None
    for name in ("--num-gpus", "--num-gpus, sharded", "torchrun", "torchrun, two nodes", "srun"):
        if args.only not in name:
            continue
        start = name.removesuffix(", sharded")
        codes, seconds, text = run(start, [*tail, *(sharded if start != name else [])], folder / name.replace(" ", ""))
        found = losses(folder / name.replace(" ", "")) if not any(codes) else text[-800:]
        first = found if first is None else first
        outcome = f"losses {found}, {'as' if found == first else 'not as'} in the first row"
        rows.append(f"| {name} | trains, evaluates | {codes} | {seconds:.0f} s | {outcome} |")
        print(rows[-1], flush=True)
        if start != name:
            continue
        codes, seconds, text = run(start, [*tail, *endless], folder / f"{name}-killed".replace(" ", ""), "SIGKILL")
        said = next((line for line in text.splitlines() if "Rank 1 (" in line), "rank 1 is not named")
        rows.append(f"| {name} | rank 1 gets SIGKILL | {codes} | {seconds:.0f} s | {said[:150]} |")
        print(rows[-1], flush=True)
    print("\n| start | what happens | exit codes | ended after | outcome |\n|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
