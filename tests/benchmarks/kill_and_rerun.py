"""Kill curate with SIGKILL at random moments, run it again, and compare its tables with those of an undisturbed run.

    python tests/benchmarks/kill_and_rerun.py [VIDEOS] [--kills 20] [--seed 1]

Each round starts a fresh dataset, kills the whole process group after a random part of the undisturbed time, and lets a second
run finish. Prints a line a round; exits 1 at the first difference.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).parents[2]
CORPUS = Path(os.environ.get("REELMILL_CORPUS", ROOT.parent / "shared"))


def command(sources: Sequence[str], dataset: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "jobs.cli", "curate", *sources, "--out", str(dataset), *options]


def run(sources: Sequence[str], dataset: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """One run to its end. Raises where it could not run."""
    done = subprocess.run(command(sources, dataset, *options), cwd=ROOT, text=True, capture_output=True, check=False)
    if done.returncode not in (0, 3):
        raise RuntimeError(done.stderr)
    return done


def run_killed(sources: Sequence[str], dataset: Path, after_s: float, *options: str) -> None:
    """Start a run and kill its driver after a while; its workers must follow by themselves."""
    process = subprocess.Popen(command(sources, dataset, *options), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(after_s)
    process.send_signal(signal.SIGKILL)
    process.wait()


def table_digests(dataset: Path) -> dict[str, str]:
    """SHA-256 of every table file of a dataset, by its path below it."""
    return {str(path.relative_to(dataset)): sha256(path.read_bytes()).hexdigest() for path in sorted(dataset.rglob("*.parquet"))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="?", default=str(CORPUS / "videos"))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", default="local")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as scratch:
        undisturbed, disturbed = Path(scratch, "undisturbed"), Path(scratch, "disturbed")
        began = time.monotonic()
        run([args.videos], undisturbed, "--engine", args.engine)
        seconds = time.monotonic() - began
        wanted = table_digests(undisturbed)
        print(f"undisturbed: {seconds:.1f} s, {len(wanted)} table files")
        second = run([args.videos], undisturbed, "--engine", args.engine)
        assert ", 0 to do" in second.stderr and table_digests(undisturbed) == wanted
        print("second run: nothing to do, tables unchanged")
        for kill in range(1, args.kills + 1):
            shutil.rmtree(disturbed, ignore_errors=True)
            moment = rng.uniform(0.3, seconds)
            run_killed([args.videos], disturbed, moment, "--engine", args.engine)
            left = len(table_digests(disturbed))
            run([args.videos], disturbed, "--engine", args.engine)
            same = table_digests(disturbed) == wanted
            verdict = "identical" if same else "DIFFERENT"
            print(f"kill {kill:2} at {moment:5.1f} s: {left:3} of {len(wanted)} files were there; after the rerun {verdict}", flush=True)
            if not same:
                sys.exit(1)


if __name__ == "__main__":
    main()
