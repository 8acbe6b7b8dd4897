"""Whether training on damaged videos, with workers that are killed, gets as far as training on sound ones.

python scripts/faults_demo.py                 # about 10 minutes on 2 idle cores; Linux
python scripts/faults_demo.py --json

Generates the demo videos (configs/demo.yaml), copies them, and damages 5 % of the training files of the copy in all the
ways of DAMAGES and LATER: cut off at every tenth, empty, text, noise, no regular files, files that disappear for good
or for a while, and files that hang: the script holds a lease on them (F_SETLEASE), so that whoever opens one waits in
the kernel. Trains with `videogn fit` on both, with several seeds, and kills two of the workers of each run on the
damaged copy by SIGKILL, a third and two thirds of the way through. Prints the video-level top-1 of the last weights.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import fcntl
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import yaml
from measured import write_result

from videogn.data.cores import available_cores
from videogn.data.demo import DemoSpec, generate_demo

CONFIG = Path(__file__).parents[1] / "configs" / "demo.yaml"
SHARE = 0.05
TIMEOUT = 3.0  # data.decode_timeout


def _cut(tenth: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size * tenth // 10])


def _instead(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


DAMAGES: dict[str, Callable[[Path], None]] = {
    **{f"cut off at {tenth}0 %": _cut(tenth) for tenth in range(1, 10)},
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not a video\n" * 500) and None,
    "noise": lambda path: path.write_bytes(random.Random(0).randbytes(path.stat().st_size)) and None,
    "noise in its second half": lambda path: (
        path.write_bytes(
            (content := path.read_bytes())[: len(content) // 2] + random.Random(0).randbytes(len(content) // 2)
        )
        and None
    ),
    "unreadable": lambda path: path.chmod(0),  # but for root
    "hangs": lambda path: None,  # see held()
}
# When the list of videos has been read: it leaves out what is no file.
LATER: dict[str, Callable[[Path], None]] = {
    "FIFO": _instead(os.mkfifo),
    "device": _instead(lambda path: path.symlink_to("/dev/zero")),
    "link to itself": _instead(lambda path: path.symlink_to(path.name)),
    "disappears": Path.unlink,
    "disappears and comes back": lambda path: path.rename(path.with_suffix(".away")) and None,
}


@dataclass
class Run:
    """What came of one run of `videogn fit`."""

    top1: float
    seconds: float
    replaced: int = 0
    files: int = 0
    reasons: tuple[str, ...] = ()
    killed: int = 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the runs (default 0 1 2)")
    parser.add_argument("--epochs", type=int, default=3, help="of 800 videos (default 3)")
    parser.add_argument("--runs", type=int, default=available_cores(), help="at a time (default: the cores)")
    parser.add_argument("--folder", type=Path, help="where videos and runs stay (default: a temporary folder)")
    parser.add_argument("--json", action="store_true", help="also write scripts/results/faults_demo.json")
    arguments = parser.parse_args()
    signal.signal(signal.SIGIO, lambda *_: None)  # somebody opens a file that is to hang
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        clean = Path(generate_demo(folder / "clean", DemoSpec(**yaml.safe_load(CONFIG.read_text())["data"]["demo"])))
        jobs = [(kind, seed) for seed in arguments.seeds for kind in ("clean", "damaged")]
        with ThreadPoolExecutor(arguments.runs) as pool:
            runs = pool.map(lambda job: run(folder, clean, *job, arguments.epochs), jobs)
            found = dict(zip(jobs, runs, strict=True))
    sound = [found["clean", seed].top1 for seed in arguments.seeds]
    damaged = [found["damaged", seed] for seed in arguments.seeds]
    top1 = [run.top1 for run in damaged]
    within = min(sound) <= statistics.mean(top1)
    minutes = (time.perf_counter() - start) / 60
    print(f"val/top1 after {arguments.epochs} epochs, seeds {arguments.seeds}")
    print(f"  clean    {sound}  {min(sound):.4f} .. {max(sound):.4f}, mean {statistics.mean(sound):.4f}")
    judged = "not below the lowest clean run" if within else "BELOW the lowest clean run"
    print(f"  damaged  {top1}  mean {statistics.mean(top1):.4f}: {judged}")
    for seed, run_ in zip(arguments.seeds, damaged, strict=True):
        print(f"  seed {seed}: {run_.replaced} replacements of {run_.files} files, {run_.killed} workers replaced")
    reasons = sorted({reason for run_ in damaged for reason in run_.reasons})
    print("reasons:", *reasons, sep="\n  ")
    print(f"{minutes:.1f} minutes")
    if arguments.json:
        key = f"{arguments.epochs} epochs, seeds {' '.join(map(str, arguments.seeds))}"
        fields = {
            "minutes": round(minutes, 1),
            "runs_at_a_time": arguments.runs,
            "epochs": arguments.epochs,
            "seeds": arguments.seeds,
            "damages": [*DAMAGES, *LATER],
            "damaged_share": SHARE,
            "clean_top1": sound,
            "damaged_top1": top1,
            "clean_seconds": [round(found["clean", seed].seconds) for seed in arguments.seeds],
            "damaged_seconds": [round(run_.seconds) for run_ in damaged],
            "videos_replaced": [run_.replaced for run_ in damaged],
            "files_replaced": [run_.files for run_ in damaged],
            "workers_killed_and_replaced": [run_.killed for run_ in damaged],
            "reasons": reasons,
        }
        print(f"written to {write_result('faults_demo', key, fields)}")
    return 0 if within else 1


def run(folder: Path, clean: Path, kind: str, seed: int, epochs: int) -> Run:
    """One run of `videogn fit`, with what happens to it from outside."""
    root, damaged = clean, []
    if kind == "damaged":
        root = folder / f"damaged_{seed}"
        shutil.copytree(clean, root)
        damaged = damage(root, seed)
    place = folder / f"run_{kind}_{seed}"
    command = [sys.executable, "-m", "videogn", "fit", "-c", str(CONFIG), "--data.demo", "null"]
    command += ["--data.root", str(root), "--trainer.default_root_dir", str(place), "--seed_everything", str(seed)]
    command += ["--trainer.max_epochs", str(epochs), "--trainer.check_val_every_n_epoch", str(epochs)]
    command += ["--data.num_workers", "2", "--data.decode_timeout", str(TIMEOUT)]
    command += ["--trainer.enable_progress_bar", "false"]
    place.mkdir()
    begin = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(place / "log.txt", "w+") as log, held([path for name, path in damaged if name == "hangs"]):
        with subprocess.Popen(command, stdout=log, stderr=log, env=environment) as process:
            if damaged:
                meddle(process, place, epochs * 100, damaged)
        log.seek(0)
        text = log.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{text}")
    seconds = time.perf_counter() - begin
    rows = read(place / "version_0" / "videos_replaced.csv")
    reasons = {re.sub(r"\d+ bytes|byte \d+|the file at \d+", "...", row["reason"]) for row in rows}
    killed = text.count("was ended (signal SIGKILL)")
    if kind == "damaged" and killed != 2:
        raise RuntimeError(f"expected 2 workers that were killed, found {killed}:\n{text}")
    top1 = [float(row["val/top1"]) for row in read(place / "version_0" / "metrics.csv") if row.get("val/top1")][-1]
    print(f"{kind}, seed {seed}: {top1:.4f} ({seconds:.0f} s)", file=sys.stderr, flush=True)
    return Run(round(top1, 4), seconds, len(rows), len({row["path"] for row in rows}), tuple(reasons), killed)


def damage(root: Path, seed: int) -> list[tuple[str, Path]]:
    """Damages some of the training files: (how, path) of each."""
    paths = sorted(root.glob("train/*/*.mp4"))
    chosen = random.Random(seed).sample(paths, int(len(paths) * SHARE))
    kinds = [*DAMAGES, *LATER]
    done = [(kinds[number % len(kinds)], path) for number, path in enumerate(chosen)]
    for name, path in done:
        if name in DAMAGES:
            DAMAGES[name](path)
    return done


def meddle(process: subprocess.Popen[bytes], place: Path, steps: int, damaged: list[tuple[str, Path]]) -> None:
    """Damages files when training begins; kills two workers, a third and two thirds of the way."""
    kills = [steps // 3, 2 * steps // 3]
    later = [(name, path) for name, path in damaged if name in LATER]
    while process.poll() is None:
        rows = read(place / "version_0" / "metrics.csv")
        if later and (place / "version_0").exists():
            for name, path in later:
                LATER[name](path)
            later = []
        if rows and kills and int(rows[-1]["step"]) >= kills[0]:
            kills.pop(0)
            os.kill(random.choice(workers(process.pid)), signal.SIGKILL)
            for _, path in damaged:
                if (away := path.with_suffix(".away")).exists():
                    away.rename(path)
        time.sleep(0.2)


def workers(pid: int) -> list[int]:
    """The children of a process."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextlib.contextmanager
def held(paths: list[Path]):
    """Has everyone who opens one of these files wait; the kernel's patience (45 s) begins anew with each."""
    files = [os.open(path, os.O_RDWR) for path in paths]
    done = threading.Event()

    def hold() -> None:
        while not done.wait(0.05):
            for file in files:
                if fcntl.fcntl(file, fcntl.F_GETLEASE) != fcntl.F_WRLCK:
                    with contextlib.suppress(OSError):  # somebody waits for it
                        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        for file in files:
            os.close(file)


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none where there is no such file."""
    try:
        with open(path, newline="") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        return []


if __name__ == "__main__":
    sys.exit(main())
