#!/usr/bin/env python3
"""Whether tags measure what they say.

    python tests/benchmarks/tag_validity.py                               all of it, long
    python tests/benchmarks/tag_validity.py --only blur --clips 4 --values

Three tests, on the corpus in REELMILL_CORPUS (default ../shared). What is measured is what a user gets: files go through
`reelmill curate`, and tags are read from its dataset.

* degrade: pieces of single-shot clips are spoiled at five levels. The matching tag's Spearman rho against the level (the original is
  level 0) is taken per clip; the median over clips has to be 0.9 in the direction expected, with values on half of them at least.
  Beside it the share of clips with 0.9, and cross-talk: which other tags move most, in their interquartile range over the corpus.
* camera: synthetic moves over real stills and real clips of a camera at rest; `motion_camera` against what was done.
* corpus: area under the ROC curve of tags that tell screens, drawings and renderings from camera footage, by INDEX.tsv's kind.

Spoiled copies are kept in --cache; the dataset is made anew each time, with the code as it is. Exit status 1: fewer than 20 tags
follow all their degradations with 0.9, or a figure of the other two tests is below its mark.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.stats import mannwhitneyu, spearmanr

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from labeling.catalog import open_catalog  # noqa: E402
from schemas.tags import TAGS, WEIGHT_FREE  # noqa: E402
from tests.benchmarks.camera_moves import MOVES, SECONDS, VIEW, Move, film  # noqa: E402
from tests.benchmarks.degraded_copies import CORPUS, ORIGINAL, copy_path, make_copies, numbered, read_frames  # noqa: E402
from tests.benchmarks.validity_cases import CAMERA_CLIPS, CAMERA_STILLS, CASES, CLIPS, Case  # noqa: E402
from tests.video import write_video  # noqa: E402

RHO, ENOUGH_TAGS, CAMERA_RIGHT = 0.9, 20, 0.95

# Kinds of INDEX.tsv and the tags that tell them from "real", with the least area where one is promised.
KINDS = {
    "screen/slides": ("naturalness_screen_recording",),
    "animation/CG": ("naturalness_cartoon", "naturalness_flat_area"),
    "AI-generated": ("naturalness_cartoon", "quality_naturalness_distance"),
}
MARKS = {"screen/slides: naturalness_screen_recording": 0.95, "animation/CG: naturalness_cartoon": 0.8}

# Facts of the lossless copy, not of the picture: left out of the cross-talk.
ENCODING = {"quality_bit_rate", "quality_bits_per_pixel", "quality_keyframe_interval"}
AXES = ("pan", "tilt", "zoom", "roll")
NUMERIC = tuple(tag.name for tag in TAGS if tag.dtype != "string" and tag.group in WEIGHT_FREE)

WHOLE = "is one whole clip"  # beside the tags of a copy

Key = tuple[str, str, int]  # clip, degradation, level; 0 is the original
Values = dict[str, float | None]


def curate(files: Iterable[Path | str], dataset: Path, workers: int, names: Sequence[str] = NUMERIC) -> dict[str, list[dict[str, Any]]]:
    """What `reelmill curate` says of the clips of each file. Files that failed are not there, and are named."""
    paths = sorted(map(str, files))
    listing = dataset.with_suffix(".csv")
    listing.write_text("uri\n" + "".join(f"{path}\n" for path in paths))
    command = [sys.executable, "-m", "jobs.cli", "curate", str(listing), "--out", str(dataset)]
    options = ["--workers", str(workers), "--shard-size", "64"]
    done = subprocess.run([*command, *options], cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
    if done.returncode not in (0, 3):
        raise SystemExit(f"curate ended with {done.returncode}")
    rows = read_rows(dataset, names)
    for path in paths:
        if path not in rows:
            print(f"not in the dataset: {path}", file=sys.stderr)
    return rows


def read_rows(dataset: Path, names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Clips of each source of a dataset: `duration_s`, `video_duration_s` and the columns `names`."""
    catalog = open_catalog(str(dataset))
    there = [name for name in names if name in catalog.columns]
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in catalog.connection.sql(catalog.select([*there, "duration_s", "video_duration_s"])).to_arrow_table().to_pylist():
        rows[row["uri"]].append(row)
    return rows


def mean_over_clips(clips: Sequence[Mapping[str, Any]]) -> Values:
    """Numeric tags of a source: means over its clips, weighted by duration."""
    means = {name: _mean([(clip[name], clip["duration_s"]) for clip in clips if clip.get(name) is not None]) for name in NUMERIC}
    return means | {WHOLE: float(len(clips) == 1 and clips[0]["duration_s"] > 0.97 * clips[0]["video_duration_s"])}


def _mean(weighted: Sequence[tuple[float, float]]) -> float | None:
    if not weighted:
        return None
    return float(np.average([float(value) for value, _ in weighted], weights=[max(weight, 1e-3) for _, weight in weighted]))


# --- degradations ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Follows:
    """How a tag follows a degradation."""

    degradation: str
    tag: str
    direction: int
    rho: float | None  # median over clips, of those where the tag has values
    share: float  # of clips with RHO or more in the direction
    clips: int  # where the tag has values
    of_clips: int
    exists: bool

    @property
    def passes(self) -> bool:
        """Whether it follows, and has values on half of the clips at least."""
        return self.rho is not None and self.rho * self.direction >= RHO and 2 * self.clips >= self.of_clips


def rho(values: Sequence[float | None]) -> float | None:
    """Spearman's rho of a tag's values against 0, 1, …; 0 where it does not move, None where it has values at few levels."""
    known = [(level, value) for level, value in enumerate(values) if value is not None]
    if len(known) < min(4, len(values)):
        return None
    levels, found = zip(*known, strict=True)
    return round(float(spearmanr(levels, found).statistic), 9) if len(set(found)) > 1 else 0.0


def follow(case: Case, values: Mapping[Key, Values], clips: Sequence[str]) -> list[Follows]:
    """How each tag of a case follows it."""
    found = []
    for tag, direction in case.moves.items():
        series = (series_of(values, clip, case, tag) for clip in clips)
        rhos = [one for one in map(rho, series) if one is not None]
        middle = float(np.median(rhos)) if rhos else None
        share = float(np.mean([one * direction >= RHO for one in rhos])) if rhos else 0.0
        found.append(Follows(case.degradation.name, tag, direction, middle, share, len(rhos), len(clips), tag in NUMERIC))
    return found


def series_of(values: Mapping[Key, Values], clip: str, case: Case, tag: str) -> list[float | None]:
    """A tag's values, from the original or the first level on."""
    keys = [(clip, case.degradation.name, number) for number, _ in numbered(case.degradation)]
    keys = [(clip, ORIGINAL.name, 0), *keys] if case.from_original else keys
    rows = [values.get(key, {}) for key in keys]
    return [row.get(tag) if row.get(WHOLE) or not case.unnoticed else None for row in rows]


def cross_talk(case: Case, values: Mapping[Key, Values], clips: Sequence[str], spread: Mapping[str, float]) -> list[tuple[str, float]]:
    """Tags that move most at the strongest level beside those meant to: median over clips, in spreads. Largest first."""
    moves = []
    for tag in sorted(set(spread) - set(case.moves) - ENCODING):
        ends = [series[:: len(series) - 1] for clip in clips if (series := series_of(values, clip, case, tag))]
        shifts = [last - first for first, last in ends if first is not None and last is not None]
        if shifts:
            moves.append((tag, float(np.median(shifts)) / spread[tag]))
    return sorted(moves, key=lambda move: -abs(move[1]))


def spreads(rows: Iterable[Values]) -> dict[str, float]:
    """Interquartile range of each tag, of those that have one."""
    columns = {tag: [row[tag] for row in rows if row.get(tag) is not None] for rows in [list(rows)] for tag in NUMERIC}
    ranges = {tag: float(np.subtract(*np.percentile(np.asarray(column, float), [75, 25]))) for tag, column in columns.items() if column}
    return {tag: value for tag, value in ranges.items() if value > 0}


def test_degradations(args: argparse.Namespace, spread: Mapping[str, float] | None, scratch: Path) -> dict[str, Any]:
    """Tables 1 and 2. Without `spread`, that of the originals."""
    cases = [case for case in CASES if not args.only or case.degradation.name in args.only]
    wanted = [ORIGINAL, *(case.degradation for case in cases)]
    clips = [name for name, _ in CLIPS[: args.clips]]
    with ProcessPoolExecutor(args.workers) as pool:
        list(pool.map(partial(make_copies, args.cache, [one.name for one in wanted]), range(len(clips))))
    keys = [(clip, one, number) for clip in clips for one in wanted for number, _ in numbered(one)]
    files = {str(copy_path(args.cache, clip, one, number)): (clip, one.name, number) for clip, one, number in keys}
    rows = curate(files, scratch / "degraded", args.workers)
    values = {files[uri]: mean_over_clips(shots) for uri, shots in rows.items()}
    found = [one for case in cases for one in follow(case, values, clips)]
    good = {one.tag for one in found if one.passes}
    always = sorted(good - {one.tag for one in found if not one.passes})
    spread = spread or spreads([values[clip, ORIGINAL.name, 0] for clip in clips])
    talk = {case.degradation.name: cross_talk(case, values, clips, spread) for case in cases}
    print(f"\n## Tags against degradations: {len(clips)} clips, original and 5 levels\n")
    print("| degradation | tag | | median rho | clips with 0.9 | |\n|---|---|---|---|---|---|")
    for one in found:
        shown, way = "-" if one.rho is None else f"{one.rho:.3f}", "up" if one.direction > 0 else "down"
        verdict = "pass" if one.passes else "FAIL" if one.exists else "no tag"
        print(f"| {one.degradation} | `{one.tag}` | {way} | {shown} | {one.share:.0%} of {one.clips} | {verdict} |")
    print(f"\n{len(always)} tags follow with {RHO} or more wherever they should: {', '.join(always)}")
    print(f"\n{len(good) - len(always)} more follow in a part of their cases: {', '.join(sorted(good - set(always)))}")
    print("\n## Cross-talk: other tags that move most at the strongest level, in interquartile ranges of the corpus\n")
    print("| degradation | tags |\n|---|---|")
    for name, moves in talk.items():
        print(f"| {name} | {', '.join(f'`{tag}` {move:+.1f}' for tag, move in moves[:5])} |")
    if args.values:
        print_values(cases, values, clips)
    follows = [asdict(one) | {"passes": one.passes} for one in found]
    return {"follows": follows, "good": always, "cross_talk": {name: moves[:12] for name, moves in talk.items()}}


def print_values(cases: Sequence[Case], values: Mapping[Key, Values], clips: Sequence[str]) -> None:
    for case in cases:
        for tag in case.moves:
            print(f"\n{case.degradation.name} {case.degradation.levels}: {tag}")
            for clip in clips:
                series = series_of(values, clip, case, tag)
                listed = " ".join("    null" if value is None else f"{value:8.4g}" for value in series)
                print(f"  {clip[:28]:28} {listed}   rho {rho(series)}")


# --- camera ------------------------------------------------------------------------------------------------------------------------


def make_moves(folder: Path, number: int) -> list[tuple[str, Move]]:
    """All moves over one source, with their files; those that are there are kept."""
    cv2.setNumThreads(1)
    name, start_s, is_still = (CAMERA_STILLS + CAMERA_CLIPS)[number]
    frames, fps, side = None, (24, 25, 30)[number % 3], 1280 if is_still else 3 * VIEW[1] // 2
    made = []
    for index, move in enumerate(MOVES):
        path = folder / f"{name}-{side}-{move.kind}-{sha256(repr((move, index, VIEW)).encode()).hexdigest()[:12]}.mkv"
        made.append((str(path), move))
        if path.exists():
            continue
        if frames is None:
            frames, rate = read_frames(name, start_s, SECONDS, side)
            frames, fps = (frames[:1], fps) if is_still else (frames, rate)
        unfinished = path.with_name(f"_{path.name}")
        write_video(unfinished, film(frames, fps, move, seed=index), fps=fps, options={"crf": "17", "preset": "veryfast"})
        unfinished.replace(path)
    return made


def test_camera(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Confusion of `motion_camera` with the moves that were made."""
    folder = args.cache / "camera"
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(args.workers) as pool:
        moves = dict(sum(pool.map(partial(make_moves, folder), range(len(CAMERA_STILLS + CAMERA_CLIPS))), []))
    rows = curate(moves, scratch / "camera", args.workers, ["motion_camera", *(f"motion_{axis}" for axis in AXES)])
    longest = {uri: max(clips, key=lambda clip: clip["duration_s"]) for uri, clips in rows.items()}
    truth, said = {uri: move.kind for uri, move in moves.items()}, {uri: clip["motion_camera"] or "null" for uri, clip in longest.items()}
    names = list(dict.fromkeys(truth.values()))
    others = sorted(set(said.values()) - set(names))
    counts = Counter((truth[uri], kind) for uri, kind in said.items())
    right = sum(counts[name, name] for name in names) / len(truth)
    print(f"\n## Camera: {len(truth)} moves over {len(CAMERA_STILLS)} stills and {len(CAMERA_CLIPS)} clips, {right:.1%} right\n")
    print(f"| made \\ said | {' | '.join(names + others)} | right |\n{'|---' * (len(names + others) + 2)}|")
    for name in names:
        line = [counts[name, kind] for kind in names + others]
        print(f"| {name} | {' | '.join(str(count or '') for count in line)} | {counts[name, name] / max(sum(line), 1):.0%} |")
    speeds = {axis: speed_of(axis, moves, longest) for axis in AXES}
    print("\n| speed | rho with the truth | median measured/true |\n|---|---|---|")
    for axis, (follows, ratio) in speeds.items():
        print(f"| `motion_{axis}` | {follows:.3f} | {ratio:.3f} |")
    wrong = {uri: (truth[uri], kind) for uri, kind in sorted(said.items()) if kind != truth[uri]}
    if args.values:
        for uri, (made, kind) in wrong.items():
            print(f"  {Path(uri).name}: {made} called {kind}")
    return {"right": right, "moves": len(truth), "wrong": wrong, "speeds": speeds}


def speed_of(axis: str, moves: Mapping[str, Move], clips: Mapping[str, Mapping[str, Any]]) -> tuple[float, float]:
    """Over moves along one axis by steady hands: Spearman's rho of measured and true speeds, and their median ratio."""
    pairs = [
        (getattr(move, axis), clips[uri][f"motion_{axis}"])
        for uri, move in moves.items()
        if getattr(move, axis) and not move.hand and uri in clips and clips[uri][f"motion_{axis}"] is not None
    ]
    true, measured = map(np.array, zip(*pairs, strict=True))
    return float(spearmanr(true, measured).statistic), float(np.median(measured / true))


# --- corpus ------------------------------------------------------------------------------------------------------------------------


def test_corpus(index: Sequence[Mapping[str, str]], rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, float]:
    """Areas under the ROC curve, by clip."""
    kinds = {str(CORPUS / "videos" / row["file"]): row["kind"] for row in index}
    areas = {}
    print("\n## Kinds of footage told from camera footage, area under the ROC curve over clips\n")
    print("| kind | tag | area | clips of the kind, camera clips (sources) |\n|---|---|---|---|")
    for kind, tags in KINDS.items():
        for tag in tags:
            known = {uri: [float(clip[tag]) for clip in clips if clip.get(tag) is not None] for uri, clips in rows.items()}
            of_kind, of_camera = ([known[uri] for uri in known if kinds[uri] == one and known[uri]] for one in (kind, "real"))
            if of_kind and of_camera:
                areas[f"{kind}: {tag}"] = area = roc_area(sum(of_kind, []), sum(of_camera, []))
                counts = ", ".join(f"{sum(map(len, part))} ({len(part)})" for part in (of_kind, of_camera))
                print(f"| {kind} | `{tag}` | {area:.3f} | {counts} |")
            else:
                print(f"| {kind} | `{tag}` | no tag | |")
    return areas


def roc_area(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Chance that a value of `positive` is above one of `negative`; ties count half."""
    return float(mannwhitneyu(positive, negative).statistic) / (len(positive) * len(negative))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [case.degradation.name for case in CASES]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help="a few degradations: of the first test, these alone")
    parser.add_argument("--parts", nargs="+", choices=("degrade", "camera", "corpus"), default=("degrade", "camera", "corpus"))
    parser.add_argument("--clips", type=int, default=len(CLIPS), help="how many clips are degraded")
    parser.add_argument("--values", action="store_true", help="print the values of each clip and level")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "reelmill-degraded", help="where made videos are kept")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    parts = ("degrade",) if args.only else args.parts
    report: dict[str, Any] = {}
    spread = None
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if "corpus" in parts:
            with (CORPUS / "videos/INDEX.tsv").open() as handle:
                index = list(csv.DictReader(handle, delimiter="\t"))
            rows = curate([CORPUS / "videos" / row["file"] for row in index], scratch / "corpus", args.workers)
            spread = spreads(clip for clips in rows.values() for clip in clips)
            report["areas"] = test_corpus(index, rows)
        if "camera" in parts:
            report["camera"] = test_camera(args, scratch)
        if "degrade" in parts:
            report["degrade"] = test_degradations(args, spread, scratch)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))
    sys.exit(not args.only and any(failures(report)))


def failures(report: Mapping[str, Any]) -> Iterator[str]:
    """What is below its mark, said on stderr too."""
    checks = {f"area of {name}": (area, MARKS[name]) for name, area in report.get("areas", {}).items() if name in MARKS}
    if "camera" in report:
        checks["camera moves right"] = (report["camera"]["right"], CAMERA_RIGHT)
    if "degrade" in report:
        checks["tags that follow"] = (len(report["degrade"]["good"]), ENOUGH_TAGS)
    for name, (value, mark) in checks.items():
        if value < mark:
            print(f"below its mark: {name}: {value:.3g} of {mark:.3g}", file=sys.stderr)
            yield name


if __name__ == "__main__":
    main()
