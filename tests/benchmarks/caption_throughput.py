"""How well `reelmill caption` keeps a server busy, and what a clip costs the client.

    python tests/benchmarks/caption_throughput.py [DATASET] [--clips 960] [--concurrency 32 128] [--latency 1 3]

A scripted HTTP server in a process of its own answers every request after a fixed time. From its log: how many requests were under way on
average between the first request and the last answer, as a share of the concurrency asked for. The client's CPU is that of its process
tree, less that of a run with nothing to do. Without DATASET, clips of real frames are made (three keyframes of 384 x 163 each).
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from curation.storage import Dataset  # noqa: E402
from schemas.tables import CLIPS  # noqa: E402
from tests.labeling.sample import CLIPS_PER_VIDEO, build  # noqa: E402


def children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def caption(dataset: str, address: str, concurrency: int) -> float:
    """One run to its end; CPU seconds."""
    before = children_cpu_s()
    options = ["--captioner", "openai", "--base-url", address, "--model", "tiny", "--concurrency", str(concurrency)]
    subprocess.run([sys.executable, "-m", "jobs.cli", "caption", dataset, *options], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    return children_cpu_s() - before


def measure(dataset: str, concurrency: int, latency_s: float, scratch: Path) -> str:
    """A row of the table."""
    log = scratch / "server.jsonl"
    log.unlink(missing_ok=True)
    shutil.rmtree(Path(dataset, "captions"), ignore_errors=True)
    command = ["-m", "tests.labeling.captions.scripted_server", "--latency", str(latency_s), "--log", str(log), "--script", "good"]
    server = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        address = server.stdout.readline().strip()
        cpu_s = caption(dataset, address, concurrency)
        cpu_s -= caption(dataset, address, concurrency)
    finally:
        server.kill()
        server.communicate()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    began, ended = min(line["arrived_s"] for line in lines), max(line["answered_s"] for line in lines)
    busy_s = sum(line["answered_s"] - line["arrived_s"] for line in lines)
    ideal_s = len(lines) * latency_s / concurrency
    share, ratio = busy_s / (ended - began) / concurrency, ideal_s / (ended - began)
    times = f"{ended - began:.2f} s of ideally {ideal_s:.2f} s | **{ratio:.1%}** | {share:.1%}"
    return f"| {concurrency} | {latency_s:g} s | {len(lines)} | {times} | {1e3 * cpu_s / len(lines):.1f} ms |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", nargs="?")
    parser.add_argument("--clips", type=int, default=960)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--latency", type=float, nargs="+", default=[1.0, 3.0])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if args.dataset:
            shutil.copytree(args.dataset, scratch / "dataset")
        else:
            build(scratch / "dataset", shards=args.clips // (2 * CLIPS_PER_VIDEO))
        dataset = str(scratch / "dataset")
        print(f"{Dataset(dataset).read(CLIPS, ['clip_id']).num_rows} clips")
        print("| at once | latency | requests | first request to last answer | of ideal | under way, mean | client CPU a clip |")
        print("|---" * 7 + "|")
        for concurrency in args.concurrency:
            for latency_s in args.latency:
                print(measure(dataset, concurrency, latency_s, scratch), flush=True)


if __name__ == "__main__":
    main()
