"""Useful tokens of packed and of bucketed batches at an equal token budget, and how far either moves samples.

    python -m tests.benchmarks.packing DATASET [--clips 1000000]

DATASET is a folder made by `reelmill curate`; its clips give the real shapes, drawn for as many epochs as make 20 000 draws.
The synthetic clips have aspect ratios, sizes, rates and durations as video of the web has them, by assumption, and are drawn once.
Useful share: tokens of the clips in the batches / (batches x max_tokens). There is no padding inside a batch; what is
missing is budget that no clip filled. `left` is the share of draws carried beyond the last step; `wait` is how many
draws after its own a sample is trained on, `moved` how far its place in the order trained is from that in the order drawn.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from training.balance import plan_balance
from training.config import ShapesConfig
from training.packing import BucketPlanner, Loads, PackPlanner, PlanState
from training.sampler import make_sampler
from training.shapes import Shapes, Token, elongated, plan_shapes

CASES = {
    "96x56, 8 fps": (ShapesConfig(areas=[[96, 56]], max_frames=17, fps=8), Token(8, 4)),
    "640x360, 24 fps": (ShapesConfig(areas=[[640, 360]], max_frames=81, fps=24), Token(16, 4)),
    "640x360, native fps": (ShapesConfig(areas=[[640, 360]], max_frames=81, fps="native"), Token(16, 4)),
    "240p, 360p and 720p": (ShapesConfig(areas=[[426, 240], [640, 360], [1280, 720]], max_frames=81, fps=24), Token(16, 4)),
}
BUDGETS = (2, 4, 8)  # max_tokens, in tokens of the largest shape and of the commonest
MICRO_BATCHES = 8


@dataclass(frozen=True)
class Outcome:
    """What came of planning all draws."""

    useful: float
    steps: int
    left: float
    waits: np.ndarray
    moved: np.ndarray
    samples_per_s: float


def real_clips(dataset: Path) -> pa.Table:
    """Shapes of a curated dataset's clips."""
    clips = ds.dataset(dataset / "clips").to_table()
    videos = ds.dataset(dataset / "videos").to_table(columns=["video_id", "sample_aspect_ratio"])
    return clips.join(videos, "video_id").sort_by([("video_id", "ascending"), ("start_frame", "ascending")])


def synthetic_clips(count: int, seed: int = 0) -> pa.Table:
    """Shapes of `count` clips: mostly 16:9 and 9:16 at the common sizes, some odd crops, durations log-normal around 5 s."""
    random = np.random.default_rng(seed)
    aspects = np.array([16 / 9, 9 / 16, 4 / 3, 1.0, 2.39, 4 / 5, 3 / 4])
    aspect = aspects[random.choice(7, count, p=[0.58, 0.2, 0.09, 0.05, 0.04, 0.02, 0.02])]
    odd = random.random(count) < 0.03
    aspect = np.where(odd, np.exp(random.normal(0.3, 0.4, count)), aspect)
    side = np.array([240, 360, 480, 720, 1080, 2160])[random.choice(6, count, p=[0.03, 0.1, 0.12, 0.35, 0.35, 0.05])]
    fps = np.array([23.976, 24, 25, 29.97, 30, 50, 59.94])[random.choice(7, count, p=[0.1, 0.1, 0.15, 0.3, 0.25, 0.03, 0.07])]
    frames = np.maximum(1, (np.clip(np.exp(random.normal(np.log(5), 0.8, count)), 0.5, 60) * fps).astype(np.int64))
    width, height = np.round(np.where(aspect > 1, side * aspect, side)), np.round(np.where(aspect > 1, side, side / aspect))
    spans = {"num_frames": frames, "start_s": np.zeros(count), "end_s": frames / fps, "fps": fps}
    return pa.table({**spans, "crop_w": width.astype(np.int64), "crop_h": height.astype(np.int64)})


def plan(rows: pa.Table, planned: Shapes, max_tokens: int, planner_type: type, draws: int) -> Outcome:
    """Plan until `draws` draws are used up."""
    sampler = make_sampler(plan_balance(rows, None), "benchmark", 0)
    planner = planner_type(Loads(planned.tokens, planned.buckets, max_tokens, MICRO_BATCHES), sampler.rows, PlanState())
    order: list[int] = []
    drawn_by: list[tuple[int, int]] = []
    began, steps = time.process_time(), 0
    while planner._draws.next_k < draws:
        taken = [k for batch in planner.step().batches for k in batch]
        order += taken
        drawn_by.append((planner._draws.next_k, len(taken)))
        steps += 1
    seconds = time.process_time() - began
    ks = np.array(order)
    at = np.repeat(*np.array(drawn_by).T)
    tokens = planned.tokens[[int(row) for row in _rows(sampler, int(ks.max()) + 1)]][ks]
    useful = tokens.sum() / (steps * MICRO_BATCHES * max_tokens)
    left = len(planner.state.carried) / planner.state.next_k
    return Outcome(useful, steps, left, at - 1 - ks, np.abs(np.arange(len(ks)) - ks), len(ks) / seconds)


def _rows(sampler: object, count: int) -> np.ndarray:
    parts, k = [], 0
    while k < count:
        parts.append(sampler.rows(k, count - k))
        k += len(parts[-1])
    return np.concatenate(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--clips", type=int, default=1_000_000)
    args = parser.parse_args()
    real, synthetic = real_clips(args.dataset), synthetic_clips(args.clips)
    for name, rows, draws in ((f"{args.dataset}", real, 20_000), (f"synthetic, {args.clips} clips", synthetic, args.clips)):
        print(f"\n{name}: {rows.num_rows} clips, {draws} draws, {MICRO_BATCHES} micro-batches a step")
        for case, (shapes, token) in CASES.items():
            fitting = rows.filter(pa.array(~elongated(rows, [shapes], token)))
            began = time.process_time()
            planned = plan_shapes(fitting, shapes, token)
            seconds, buckets = time.process_time() - began, int(planned.buckets.max()) + 1
            dropped, most = rows.num_rows - fitting.num_rows, int(planned.tokens.max())
            common = int(np.bincount(planned.tokens).argmax())
            tokens = f"{planned.tokens.min()} to {most} tokens, mean {planned.tokens.mean():.0f}"
            print(f"  {case}: {buckets} shapes of {tokens}; {dropped} clips too elongated; shapes in {seconds:.2f} s of CPU")
            for max_tokens in sorted({times * unit for times in BUDGETS for unit in (most, common)}):
                print(f"    max_tokens {max_tokens}: {max_tokens / most:.2f} of the largest, {max_tokens / common:.2f} of the commonest")
                for label, planner in (("packed", PackPlanner), ("bucketed", BucketPlanner)):
                    print(f"      {label:8} {_told(plan(fitting, planned, max_tokens, planner, draws))}", flush=True)


def _told(got: Outcome) -> str:
    wait = f"wait median {np.median(got.waits):.0f}, p99 {np.percentile(got.waits, 99):.0f}, max {got.waits.max()}"
    moved = f"moved median {np.median(got.moved):.0f}, p99 {np.percentile(got.moved, 99):.0f}"
    speed = f"{got.samples_per_s / 1000:.0f} k samples/s of CPU"
    return f"useful {got.useful:7.2%}  left {got.left:.2%}  {wait}; {moved}; {got.steps} steps; {speed}"


if __name__ == "__main__":
    main()
