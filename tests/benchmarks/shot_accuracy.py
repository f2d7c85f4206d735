#!/usr/bin/env python3
"""How well shot boundaries are found, beside scenedetect's detectors.

    OPENBLAS_NUM_THREADS=1 python tests/benchmarks/shot_accuracy.py --reels 12 --seed 5
    python tests/benchmarks/shot_accuracy.py --reels 6 --seed 1 2 3 4 6 7 8

Three tests, on the corpus in REELMILL_CORPUS (default ../shared):

* reels with exact truth, made by its make_spliced.py from single-shot clips and kept in --cache;
* the clips that INDEX.tsv calls single shots: every boundary found in one is false;
* CUTS.json, films whose cuts were labeled by hand.

scenedetect runs as its users run it: `scenedetect.detect(file, Detector())`, all defaults, full resolution. Ours runs
on what `curation.scan` leaves behind.

How a reel is scored, the same for all. A predicted cut within one frame of a true cut not yet taken is a hit. A
predicted cut inside a true fade or dissolve, or within two frames of it, hits that, as a fade rightly makes detectors
of cuts fire at both of its ends; a predicted fade or dissolve hits the true one it overlaps. A prediction that hits
nothing is a false alarm: in the gradual column if a true fade or dissolve is within twelve frames, or if it says
itself that it is one, else in the hard column. F1 is over all boundaries of all reels. For `--reels 12 --seed 5` the
rule gives Adaptive 0.987 / 0.590 and Content 0.993 / 0.736, hard and gradual, and Histogram 0.918 / 0.881.

With --models DIR, a folder that holds TransNetV2's weights, `--shots transnetv2` has a row too (15 ms of CPU a frame).

The row "ours, strict" is harder on us: a cut predicted inside a true fade or dissolve hits nothing and is a false cut.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import av
import numpy as np
import scenedetect
from scenedetect.detectors import AdaptiveDetector, ContentDetector, HistogramDetector

from curation.scan import ScanConfig, scan_video
from curation.shots import Boundary, detect_boundaries

CUT_TOLERANCE = 1
GRADUAL_TOLERANCE = 2
NEAR_GRADUAL = 12

Detect = Callable[[Path], list[Boundary]]


@dataclass
class Tally:
    """Hits, false alarms and misses."""

    hits: int = 0
    false: int = 0
    missed: int = 0

    @property
    def f1(self) -> float:
        return 2 * self.hits / max(2 * self.hits + self.false + self.missed, 1)


@dataclass
class Score:
    """Tallies of hard cuts and of gradual boundaries."""

    hard: Tally = field(default_factory=Tally)
    gradual: Tally = field(default_factory=Tally)


def transnetv2(weights: Path) -> Detect:
    from labeling.transnetv2 import TransNetV2

    detector = TransNetV2(str(weights))

    def detect(path: Path) -> list[Boundary]:
        with scan_video(str(path), ScanConfig(detector=detector)) as scan:
            return detector.detect(scan.pictures)

    return detect


def ours(path: Path) -> list[Boundary]:
    with scan_video(str(path), ScanConfig()) as scan:
        return detect_boundaries(scan.features)


@cache
def frame_times(path: Path) -> np.ndarray:
    """When each frame appears, in seconds from the first. scenedetect's own frame numbers assume a constant rate."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        ticks = sorted(packet.pts for packet in container.demux(stream) if packet.pts is not None)
        return (np.array(ticks) - ticks[0]) * float(stream.time_base)


def theirs(detector: type) -> Detect:
    def detect(path: Path) -> list[Boundary]:
        seconds = [start.seconds for start, _ in scenedetect.detect(str(path), detector())[1:]]
        cuts = np.searchsorted(frame_times(path), np.array(seconds) - 1e-3).tolist()
        return [Boundary("cut", cut, cut) for cut in cuts]

    return detect


DETECTORS: dict[str, Detect] = {
    "scenedetect Adaptive": theirs(AdaptiveDetector),
    "scenedetect Content": theirs(ContentDetector),
    "scenedetect Histogram": theirs(HistogramDetector),
    "ours": ours,
}


def meets(one: Boundary, other: Boundary, slack: int) -> bool:
    """Whether two boundaries are at most `slack` frames apart; -1 wants a frame that is in both."""
    return other.start - slack <= one.end and one.start <= other.end + slack


def score(found: list[Boundary], truth: list[Boundary], total: Score, strict: bool = False) -> None:
    """Add one reel to `total`; the rule is in the module's docstring."""
    cuts = [one for one in truth if one.kind == "cut"]
    graduals = [one for one in truth if one.kind != "cut"]
    taken: set[int] = set()
    hit: set[int] = set()
    for one in found:
        is_cut = one.kind == "cut"
        near = [k for k, cut in enumerate(cuts) if k not in taken and abs(cut.start - one.start) <= CUT_TOLERANCE]
        inside = {k for k, true in enumerate(graduals) if meets(one, true, GRADUAL_TOLERANCE if is_cut else -1)}
        if is_cut and near:
            taken.add(near[0])
        elif inside and not (is_cut and strict):
            hit |= set(sorted(inside - hit)[:1])
        elif is_cut and (strict or not any(meets(one, true, NEAR_GRADUAL) for true in graduals)):
            total.hard.false += 1
        else:
            total.gradual.false += 1
    total.hard.hits += len(taken)
    total.hard.missed += len(cuts) - len(taken)
    total.gradual.hits += len(hit)
    total.gradual.missed += len(graduals) - len(hit)


def make_reels(corpus: Path, folder: Path, seed: int, reels: int, shots: int) -> list[Path]:
    """The reels of one seed, made if they are not there yet."""
    wanted = [folder / f"reel_{number:02d}.mp4" for number in range(reels)]
    if not all(path.with_suffix(".json").exists() for path in wanted):
        options = ["--index", corpus / "videos/INDEX.tsv", "--reels", reels, "--shots", shots, "--seed", seed]
        command = [sys.executable, corpus / "make_spliced.py", folder, *options]
        subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
    return wanted


def truth_of(reel: Path) -> list[Boundary]:
    records = json.loads(reel.with_suffix(".json").read_text())["boundaries"]
    return [Boundary(record["type"], record["start"], record["end"]) for record in records]


def test_reels(corpus: Path, args: argparse.Namespace) -> None:
    print("## Reels with exact truth (F1 hard / gradual)\n")
    totals: dict[str, Score] = {}
    rows: dict[str, list[str]] = {}
    for seed in args.seed:
        reels = make_reels(corpus, args.cache / f"seed{seed}-{args.reels}x{args.shots}", seed, args.reels, args.shots)
        of_seed: dict[str, Score] = {}
        for reel in reels:
            truth = truth_of(reel)
            for name, detect in DETECTORS.items():
                found = detect(reel)
                for row, strict in [(name, False)] + ([(f"{name}, strict", True)] if name.startswith("ours") else []):
                    score(found, truth, of_seed.setdefault(row, Score()), strict)
                    score(found, truth, totals.setdefault(row, Score()), strict)
        for name, one in of_seed.items():
            rows.setdefault(name, []).append(f"{one.hard.f1:.3f} / {one.gradual.f1:.3f}")
        print(f"seed {seed}: {len(reels)} reels done", file=sys.stderr)
    print(f"| detector | {' | '.join(f'seed {seed}' for seed in args.seed)} | all | hits, false, missed |")
    print("|---" * (len(args.seed) + 3) + "|")
    for name, one in totals.items():
        hard, gradual = one.hard, one.gradual
        counts = f"{hard.hits}, {hard.false}, {hard.missed} / {gradual.hits}, {gradual.false}, {gradual.missed}"
        print(f"| {name} | {' | '.join(rows[name])} | **{hard.f1:.3f} / {gradual.f1:.3f}** | {counts} |")


def test_single_shots(corpus: Path) -> None:
    with (corpus / "videos/INDEX.tsv").open() as handle:
        clips = [row["file"] for row in csv.DictReader(handle, delimiter="\t") if row["single_shot"] == "yes"]
    seconds = 0.0
    for clip in clips:
        with scan_video(str(corpus / "videos" / clip), ScanConfig()) as scan:
            seconds += scan.num_frames * scan.features.frame_s
    print(f"\n## False boundaries in {len(clips)} single shots, {seconds / 60:.1f} minutes\n")
    print("| detector | false | in 10 minutes | where |\n|---|---|---|---|")
    for name, detect in DETECTORS.items():
        found = {clip: detect(corpus / "videos" / clip) for clip in clips}
        false = sum(map(len, found.values()))
        where = ", ".join(f"{clip} {[one.start for one in some]}" for clip, some in found.items() if some)
        print(f"| {name} | {false} | {false / seconds * 600:.1f} | {where or '-'} |")


def test_labeled(corpus: Path) -> None:
    """A cut to or from black may be found as the end of a fade that holds the black."""
    labels = json.loads((corpus / "videos/CUTS.json").read_text())
    print("\n## Films labeled by hand (CUTS.json)\n")
    print("| detector | cuts found | gradual found | missed | found, but not labeled |\n|---|---|---|---|---|")
    for name, detect in DETECTORS.items():
        cuts = graduals = cuts_hit = graduals_hit = 0
        missed, extra = [], []
        for clip, label in labels.items():
            found = detect(corpus / "videos" / clip)
            explained: set[Boundary] = set()
            stem = clip[:14]
            for cut in label["hard_cuts"]:
                hits = {one for one in found if min(abs(one.start - cut), abs(one.end - cut)) <= CUT_TOLERANCE}
                explained |= hits
                cuts, cuts_hit = cuts + 1, cuts_hit + bool(hits)
                missed += [] if hits else [f"{stem} {cut}"]
            for start, end, _ in label["gradual"]:
                slack = GRADUAL_TOLERANCE
                hits = {one for one in found if start - slack <= one.end and one.start <= end + slack}
                explained |= hits
                graduals, graduals_hit = graduals + 1, graduals_hit + bool(hits)
                missed += [] if hits else [f"{stem} {start}-{end}"]
            extra += [f"{stem} {one.start}-{one.end}" for one in found if one not in explained]
        shares = f"{cuts_hit} of {cuts} | {graduals_hit} of {graduals}"
        print(f"| {name} | {shares} | {', '.join(missed)} | {', '.join(extra)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reels", type=int, default=12, help="reels of each seed")
    parser.add_argument("--seed", type=int, nargs="+", default=[5])
    parser.add_argument("--shots", type=int, default=12, help="shots of each reel")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "reelmill-reels")
    parser.add_argument("--models", type=Path, help="folder with the weights of TransNetV2")
    args = parser.parse_args()
    if args.models:
        from labeling.transnetv2 import WEIGHTS

        DETECTORS["ours, transnetv2"] = transnetv2(args.models / WEIGHTS)
    corpus = Path(os.environ.get("REELMILL_CORPUS", "../shared"))
    test_reels(corpus, args)
    test_single_shots(corpus)
    test_labeled(corpus)


if __name__ == "__main__":
    main()
