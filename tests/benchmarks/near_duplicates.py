"""How many degraded copies of real clips `reelmill dedup` finds, and how many of its pairs are right.

    python tests/benchmarks/near_duplicates.py [--cache /tmp/copies] [--limit N]

Every clip that INDEX.tsv calls single shot is copied in twelve ways by ffmpeg (its first 8 s; cropped by 5 %; 1.25 and 0.8 x as fast).
`reelmill curate` runs over the whole corpus and the copies, then `reelmill dedup`. Printed for each kind of copy: the share found, as a
pair with its original and in one cluster with it. A pair of clips is right when both come from the same footage; files of the corpus
that hold the same footage are listed below. The mirrored are found when they are found as mirrored. "mixed" is five degradations at
once and not part of the total.
"""

import argparse
import csv
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg

from curation.dedup import search
from curation.storage import Dataset
from labeling.duplicates import GROUP, ClipSet, read_clips
from schemas.tables import CLIPS, VIDEOS, tag_table

ROOT = Path(__file__).parents[2]
CORPUS = Path(os.environ.get("REELMILL_CORPUS", ROOT.parent / "shared"))

SAME_FOOTAGE = {
    "mimetype_3gp": "lego robot",
    "mimetype_flv": "lego robot",
    "mimetype_mov": "lego robot",
    "mmaction2_demo": "arm wrestling",
    "mmaction2_demo_spatiotemporal_det": "arm wrestling",
    "decord_corrupted": "ffmpeg testsrc",
    "torchcodec_av1_video": "ffmpeg testsrc",
    "torchcodec_h264_10bits": "10-bit test pattern",
    "torchcodec_h265_10bits": "10-bit test pattern",
}

_CROP = "crop=trunc(iw*0.475)*2:trunc(ih*0.475)*2:iw*0.05*{x}:ih*0.05*{y}"  # 5 % of width and height, from any side
_LOGO = (
    "drawbox=x=iw*0.76:y=ih*0.05:w=iw*0.2:h=ih*0.12:color=white:t=fill,"
    "drawbox=x=iw*0.78:y=ih*0.07:w=iw*0.06:h=ih*0.08:color=red:t=fill,drawbox=x=iw*0.86:y=ih*0.09:w=iw*0.08:h=ih*0.04:color=blue:t=fill"
)
COPIES = {  # kind -> filters and CRF
    "recoded": ("null", 37),
    "rescaled": ("scale=trunc(iw*0.2)*2:trunc(ih*0.2)*2", 26),
    "cropped": (_CROP, 26),
    "faster": ("setpts=PTS/1.25", 26),
    "slower": ("setpts=PTS/0.8", 26),
    "12fps": ("fps=12", 26),
    "trimmed": ("trim=start=0.7:duration={kept},setpts=PTS-STARTPTS", 26),
    "logo": (_LOGO, 26),
    "mirrored": ("hflip", 28),
    "bars": ("pad=iw:trunc(ih*0.66)*2:0:(oh-ih)/2", 26),
    "exposure": ("eq=gamma=1.3:saturation=0.8", 26),
    "mixed": (f"{_CROP},scale=trunc(iw*0.25)*2:trunc(ih*0.25)*2,{_LOGO},setpts=PTS/1.1", 32),
}
APART = ("mixed",)


@dataclass(frozen=True)
class Origin:
    """Where a clip comes from: its footage, and by which copy, "" for the corpus itself."""

    footage: str
    kind: str

    @staticmethod
    def of(uri: str) -> "Origin":
        stem, _, kind = Path(uri).stem.partition("__")
        return Origin(SAME_FOOTAGE.get(stem, stem), kind)


def make_copies(folder: Path, limit: int | None) -> None:
    """Degraded copies of the corpus's single shots, each made once."""
    with (CORPUS / "videos" / "INDEX.tsv").open() as handle:
        rows = [row for row in csv.DictReader(handle, delimiter="\t") if row["single_shot"] == "yes"][:limit]
    rng = random.Random(1)
    for row in rows:
        source = CORPUS / "videos" / row["file"]
        seconds = min(8.0, float(row["technical"].split("f ")[1].split("s")[0]))
        for kind, (filters, crf) in COPIES.items():
            filled = filters.format(x=rng.random(), y=rng.random(), kept=max(0.85 * seconds - 0.7, 1))
            out = folder / f"{source.stem}__{kind}.mp4"
            command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-t", "8", "-i", str(source), "-an"]
            command += ["-vf", f"{filled},scale=trunc(iw/2)*2:trunc(ih/2)*2", "-c:v", "libx264", "-preset", "veryfast"]
            command += ["-crf", str(crf), "-pix_fmt", "yuv420p", "-fps_mode", "vfr"]
            if not out.exists():
                scratch = out.with_name("unfinished.mp4")
                subprocess.run([*command, str(scratch)], check=True)
                scratch.rename(out)


def reelmill(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "jobs.cli", *arguments], cwd=ROOT, text=True, capture_output=True, check=False)
    if done.returncode not in (0, 3):
        raise RuntimeError(done.stderr)
    print(done.stderr.strip().splitlines()[-2])


def origins(dataset: Dataset, clips: ClipSet) -> list[Origin]:
    """Of each clip, in order of clip_id."""
    uri_of = {row["video_id"]: row["uri"] for row in dataset.read(VIDEOS, ["video_id", "uri"]).to_pylist()}
    video_of = {row["clip_id"]: row["video_id"] for row in dataset.read(CLIPS, ["clip_id", "video_id"]).to_pylist()}
    return [Origin.of(uri_of[video_of[name]]) for name in clips.clip_id.to_pylist()]


def report(title: str, found: Callable[[Origin], bool], copies: list[Origin]) -> None:
    print(f"\n{title}")
    hits, total = Counter(), Counter(copy.kind for copy in copies)
    for copy in copies:
        hits[copy.kind] += found(copy)
    for kind, count in total.items():
        print(f"  {kind:<16} {hits[kind]:>3} of {count}")
    counted = [kind for kind in total if kind not in APART]
    print(f"  recall without {', '.join(APART)}: {sum(hits[kind] for kind in counted) / sum(total[kind] for kind in counted):.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "reelmill-copies")
    parser.add_argument("--limit", type=int, help="only so many originals")
    args = parser.parse_args()
    copies = args.cache / "copies"
    copies.mkdir(parents=True, exist_ok=True)
    make_copies(copies, args.limit)
    root = str(args.cache / "dataset")
    reelmill("curate", str(CORPUS / "videos"), str(copies), "--out", root)
    reelmill("dedup", root)

    dataset = Dataset(root)
    clips = read_clips(dataset, dataset.shards())
    origin = origins(dataset, clips)
    links = search(clips.signatures).links
    pairs = set()
    right = wrong = 0
    for one, other, mirrored in zip(links.one.tolist(), links.other.tolist(), links.mirrored.tolist(), strict=True):
        if origin[one].footage == origin[other].footage:
            right += 1
        else:
            wrong += 1
            print("wrong:", origin[one], origin[other])
        pairs |= {(origin[one], origin[other], mirrored), (origin[other], origin[one], mirrored)}
    made = sorted({one for one in origin if one.kind}, key=lambda one: (list(COPIES).index(one.kind), one.footage))
    report("found as a pair with its original", lambda copy: (copy, Origin(copy.footage, ""), copy.kind == "mirrored") in pairs, made)
    print(f"  precision over {right + wrong} pairs of clips: {right / max(right + wrong, 1):.4f}")

    tags = {row["clip_id"]: row for row in dataset.read(tag_table(GROUP)).to_pylist()}
    members: dict[str, set[Origin]] = {}
    kept: dict[str, Origin] = {}
    for name, one in zip(clips.clip_id.to_pylist(), origin, strict=True):
        if cluster := tags[name]["content_duplicate_cluster"]:
            members.setdefault(cluster, set()).add(one)
            if tags[name]["content_duplicate_representative"]:
                kept[cluster] = one
    together = {(one, other) for cluster in members.values() for one in cluster for other in cluster}
    report("in one cluster with its original", lambda copy: (copy, Origin(copy.footage, "")) in together, made)
    mixed = sum(len({one.footage for one in cluster}) > 1 for cluster in members.values())
    print(f"  {len(members)} clusters, {mixed} of them of more than one footage")
    print(f"  kept: {Counter(one.kind or 'the original' for one in kept.values()).most_common()}")


if __name__ == "__main__":
    main()
