"""Does to real training runs what machines and people do to them, and shows whether anything was lost.

Every case starts ``train_net.py`` on a small detector (40 steps, checkpoints every 4, an evaluation in the middle),
lets something go wrong, goes on with ``--resume`` and compares weights, optimizer and evaluations with those of a run
that nothing happened to, bit for bit. The exit code is 1 if a case failed. Linux only; a full disk is a small tmpfs
where that may be mounted, and otherwise a limit on the size of files. Examples::

    python benchmarks/faults.py                                # everything, with 20, 10 and 20 repetitions
    python benchmarks/faults.py --cases kill damage --repeats 3 --seed 7
"""

import argparse
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from fault_runs import EVALUATION, PERIOD, STEPS, Run, write_data
from tabulate import tabulate
from tqdm import tqdm

from densekit.checkpoint.folder import CheckpointFolder

_SOON = 60.0  # seconds within which all processes end when one of them has
_REQUEUE = 75


@dataclass
class Bench:
    """Settings that the cases share.

    Attributes:
        folder: for data sets and runs.
        moments: draws when and where things go wrong.
        repeats: overrides the number of repetitions.
        wholes: runs that nothing happens to, by their options and flags.
    """

    folder: Path
    moments: random.Random
    repeats: int | None
    wholes: dict[tuple, Run] = field(default_factory=dict)
    count: int = 0

    def times(self, default: int) -> int:
        return default if self.repeats is None else min(self.repeats, default)

    def run(self, *options: object, flags: tuple[str, ...] = (), at: Path | None = None) -> Run:
        """A new run; it has not been started."""
        self.count += 1
        name = f"run{self.count:03d}"
        return Run((at or self.folder) / name, self.folder / "data", self.folder / f"{name}.console", options, flags)

    def whole(self, *options: object, flags: tuple[str, ...] = ()) -> Run:
        """The run with these options that nothing happens to."""
        if (options, flags) not in self.wholes:
            run = self.run(*options, flags=flags)
            if run.go_on() != 0:
                raise SystemExit(f"The run that nothing happens to has failed:\n{run.shown()[-3000:]}")
            self.wholes[options, flags] = run
        return self.wholes[options, flags]


@dataclass
class Outcome:
    """Outcome of one repetition of a case."""

    what: str
    problems: list[str]


def after(bench: Bench, run: Run, whole: Run, problems: list[str], what: str) -> Outcome:
    """Goes on with an interrupted run and compares its end."""
    code = run.go_on()
    if code != 0:
        problems.append(f"exit code {code} when resumed: {run.error() or run.shown()[-300:]}")
    return Outcome(what, problems + run.differences(whole))


def saved_at_least(run: Run, steps: int) -> Callable[[], bool]:
    return lambda: run.saved() >= steps


def killed(bench: Bench) -> Iterator[Outcome]:
    kills, whole, run = bench.times(20), bench.whole(), bench.run()
    for number in range(kills):
        before = run.saved()
        run.start()
        if number % 5 == 4:  # at the start, from which --resume must go on as well
            moment, delay = "the start", bench.moments.uniform(0, 6)
        else:
            steps = min(before + bench.moments.randint(0, 2 * (STEPS - before) // (kills - number)), STEPS - 1)
            training = run.wait_for(lambda: "Starting training" in run.shown() and run.saved() >= steps)  # noqa: B023
            moment, delay = f"{steps} steps" if training else "its end", bench.moments.uniform(0, 0.5)
        time.sleep(delay)
        run.kill()
        yield Outcome(f"after {moment} + {delay:.2f} s: {run.saved()} steps saved", [])
    yield after(bench, run, whole, [], "resumed to the end")


def asked_to_stop(bench: Bench) -> Iterator[Outcome]:
    workers = ("DATALOADER.NUM_WORKERS", 2)
    stops, whole, run = bench.times(10), bench.whole(), bench.run(*workers)
    for number in range(stops):
        before = run.saved()
        if before >= STEPS:  # it ended in its last evaluation: another run
            yield after(bench, run, whole, [], "resumed to the end")
            run, before = bench.run(*workers), 0
        run.start()
        evaluations, begun = run.log().count("Start inference"), run.log().count("Starting training")
        if number % 2:
            run.wait_for(lambda: run.log().count("Start inference") > evaluations)  # noqa: B023
            moment = "in an evaluation"
        else:
            ahead = bench.moments.randint(0, max(EVALUATION - before % EVALUATION - 1, 1))
            steps = before + ahead // PERIOD * PERIOD
            run.wait_for(lambda: run.log().count("Starting training") > begun and run.saved() >= steps)  # noqa: B023
            moment = f"after {run.saved()} steps"
        time.sleep(bench.moments.uniform(0, 0.2))
        done = run.process.poll() is not None
        run.process.send_signal(signal.SIGTERM)
        code = run.finish(_SOON)
        problems = [] if code == (0 if done else _REQUEUE) else [f"exit code {code}: {run.shown()[-200:]}"]
        yield Outcome(f"{moment}: exit code {code}, {run.saved()} steps saved", problems)
    yield after(bench, run, whole, [], "resumed to the end")


def one_rank_killed(bench: Bench) -> Iterator[Outcome]:
    flags = ("--num-gpus", "2")
    whole = bench.whole(flags=flags)
    for number in range(bench.times(2)):
        rank, run = 1 - number % 2, bench.run(flags=flags)
        run.start().wait_for(saved_at_least(run, PERIOD * bench.moments.randint(1, 3)))
        os.kill(run.children()[rank], signal.SIGKILL)
        began = time.monotonic()
        with suppress(subprocess.TimeoutExpired):
            run.process.wait(_SOON)
        while run.members() and time.monotonic() < began + _SOON:
            time.sleep(0.05)
        seconds, code = time.monotonic() - began, run.process.poll()
        problems = [] if code else [f"exit code {code}"]
        problems += [f"{len(run.members())} processes are left after {_SOON:.0f} s"] if run.members() else []
        run.kill()
        names = any(f"{word} {rank}" in run.shown().lower() for word in ("rank", "process"))
        problems += [] if names else [f"rank {rank} is not named: {run.shown()[-300:]}"]
        yield after(bench, run, whole, problems, f"rank {rank} killed: all ended after {seconds:.1f} s, code {code}")


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path | None]:
    """A tmpfs; None where none may be mounted."""
    with tempfile.TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder]
        try:
            mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
        except OSError:
            mounted = False
        try:
            yield Path(folder) if mounted else None
        finally:
            if mounted:
                subprocess.run(["umount", "-l", folder], check=False)


def disk_full(bench: Bench) -> Iterator[Outcome]:
    whole = bench.whole()
    with small_disk(256) as disk:
        run = bench.run(at=disk)
        run.start().wait_for(saved_at_least(run, PERIOD))
        if disk is None:
            run.kill()
            size = (run.folder / (run.folder / "last_checkpoint").read_text()).stat().st_size // 2
            run.start(preexec_fn=partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size)))
        else:
            fill(disk / "ballast")
        code, saved = run.finish(), run.saved()
        problems = [] if code and run.error() else [f"exit code {code}, no clear message: {run.shown()[-400:]}"]
        newest = CheckpointFolder(run.folder).newest_first()[0]
        problems += [
            f"{newest.name}: {problem}" for problem in [CheckpointFolder(run.folder).problem(newest)] if problem
        ]
        message, how = run.error(), "a limit on files" if disk is None else "a tmpfs of 256 MB"
        if disk:
            begun = run.log().count("Starting training")
            refused = run.go_on()
            if not refused or run.log().count("Starting training") > begun:
                problems.append(f"a start on the full disk was not refused: {run.error() or run.shown()[-300:]}")
            (disk / "ballast").unlink()
        yield after(bench, run, whole, problems, f"{how}, {saved} steps saved: {message}")


def fill(path: Path) -> None:
    """Writes until nothing more fits."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(1 << 16)):
            pass


def checkpoint_damaged(bench: Bench) -> Iterator[Outcome]:
    whole, template = bench.whole(), bench.run()
    template.start().wait_for(saved_at_least(template, STEPS - 2 * PERIOD))
    template.kill()
    for number in range(bench.times(20)):
        run = bench.run()
        shutil.copytree(template.folder, run.folder)
        newest, before = CheckpointFolder(run.folder).newest_first()[0], run.saved()
        size = newest.stat().st_size
        place = bench.moments.randrange(size)
        if number % 2:
            content = bytearray(newest.read_bytes())
            content[place] ^= 1 << bench.moments.randrange(8)
            newest.write_bytes(content)
        else:
            os.truncate(newest, place)
        what = f"{newest.name} {'bit flipped at' if number % 2 else 'cut to'} {place} of {size} bytes"
        outcome = after(bench, run, whole, [], what)
        fell_back = f"{before - PERIOD} of {STEPS} iterations are done" in run.log() and newest.name in run.log()
        outcome.problems += [] if fell_back else ["it did not fall back to the one before with a warning"]
        yield outcome
        shutil.rmtree(run.folder)


def image_deleted(bench: Bench) -> Iterator[Outcome]:
    for workers in (0, 2)[: bench.times(2)]:
        options = ("DATALOADER.NUM_WORKERS", workers)
        whole, run = bench.whole(), bench.run(*options)
        picture = bench.folder / "data" / "train" / f"{bench.moments.randint(1, 24):03d}.jpg"
        content = picture.read_bytes()
        run.start().wait_for(saved_at_least(run, PERIOD))
        picture.unlink()
        try:
            code = run.finish()
        finally:
            picture.write_bytes(content)
        clear = code == 2 and picture.name in run.error()
        problems = [] if clear else [f"exit code {code}, no clear message: {run.shown()[-300:]}"]
        yield after(bench, run, whole, problems, f"{workers} workers: {run.error()}")


def worker_killed(bench: Bench) -> Iterator[Outcome]:
    for _ in range(bench.times(2)):
        whole, run = bench.whole(), bench.run("DATALOADER.NUM_WORKERS", 2, "TEST.EVAL_PERIOD", 0)
        run.start().wait_for(saved_at_least(run, PERIOD * bench.moments.randint(1, 3)))
        os.kill(bench.moments.choice(run.children()), signal.SIGKILL)
        code = run.finish(_SOON)
        problems = [] if code and run.error() else [f"exit code {code}, no clear message: {run.shown()[-300:]}"]
        outcome = after(bench, run, whole, problems, run.error())
        # The evaluation in the middle is left out: its loader has processes as well.
        outcome.problems = [problem for problem in outcome.problems if not problem.startswith("evaluations")]
        yield outcome


def port_taken(bench: Bench) -> Iterator[Outcome]:
    whole = bench.whole(flags=("--num-gpus", "2"))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        run = bench.run(flags=("--num-gpus", "2", "--dist-url", f"tcp://127.0.0.1:{port}"))
        began = time.monotonic()
        code = run.start().finish(_SOON + 30)
        seconds = time.monotonic() - began
        named = bool(code) and str(port) in run.shown()
        problems = [] if named else [f"exit code {code} and no word of port {port}: {run.shown()[-300:]}"]
        yield Outcome(f"--dist-url with a taken port: code {code} after {seconds:.0f} s. {run.error()}", problems)
        yield after(bench, bench.run(flags=("--num-gpus", "2")), whole, [], "without --dist-url: a free one is found")


def two_runs(bench: Bench) -> Iterator[Outcome]:
    whole, first = bench.whole(), bench.run()
    first.start().wait_for(lambda: "Starting training" in first.shown())
    os.kill(first.process.pid, signal.SIGSTOP)  # it must still be there when the second one comes
    second = Run(first.folder, bench.folder / "data", bench.folder / "second.console")
    code = second.start().finish(_SOON)
    os.kill(first.process.pid, signal.SIGCONT)
    refused = bool(code) and str(first.folder) in second.error()
    problems = [] if refused else [f"the second run was not refused, code {code}: {second.shown()[-300:]}"]
    if (ended := first.finish()) != 0:
        problems.append(f"the first run ended with code {ended}: {first.shown()[-300:]}")
    yield Outcome(f"second: {second.error()}", problems + first.differences(whole))


# name: what goes wrong, generator of outcomes, how many there are
CASES: dict[str, tuple[str, Callable[[Bench], Iterator[Outcome]], int]] = {
    "kill": ("kill -9 at random moments", killed, 21),
    "sigterm": ("SIGTERM at random moments, also in evaluations", asked_to_stop, 11),
    "rank": ("one process of two killed", one_rank_killed, 2),
    "disk": ("disk full in mid-run", disk_full, 1),
    "damage": ("newest checkpoint cut or with a flipped bit", checkpoint_damaged, 20),
    "image": ("image deleted in mid-run", image_deleted, 2),
    "worker": ("a loader's process killed", worker_killed, 2),
    "port": ("port taken", port_taken, 2),
    "two": ("two runs in one OUTPUT_DIR", two_runs, 1),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--repeats", type=int, help="at most so many of each case")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and places")
    parser.add_argument("--folder", type=Path, help="keep data and runs there; it must not exist")
    args = parser.parse_args()
    rows, failed = [], False
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary) / "faults"
        folder.mkdir(parents=True)
        write_data(folder / "data")
        bench = Bench(folder.resolve(), random.Random(args.seed), args.repeats)
        total = sum(min(CASES[name][2], (args.repeats or 99) + 1) for name in args.cases)
        with tqdm(total=total, unit="fault", dynamic_ncols=True) as progress:
            for name in args.cases:
                title, case, _ = CASES[name]
                progress.set_postfix_str(title)
                for number, outcome in enumerate(case(bench), start=1):
                    verdict = "; ".join(outcome.problems)
                    rows.append([title if number == 1 else "", number, outcome.what, "FAILED" if verdict else "OK"])
                    progress.update()
                    if verdict:
                        failed = True
                        progress.write(f"FAILED: {title}, {number}: {outcome.what}: {verdict}", file=sys.stderr)
    widths = [30, None, 90, None]
    print(tabulate(rows, ["fault", "", "what happened", ""], maxcolwidths=widths))
    print("Something was lost." if failed else "Nothing was lost.")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
