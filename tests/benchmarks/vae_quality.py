"""How well the autoencoder gives back real video it has never seen, after a stated budget, beside resizing to as many numbers.

    python -m tests.benchmarks.vae_quality [--steps 600] [--videos DIR] [--keep DIR] [--run RUN]

Curates some videos of the corpus, trains the default VAE (4x8x8, 16 channels) on them by the command line, and compares on clips
of other sources, all frames of one window each: PSNR, and SSIM (Wang et al. 2004, Gaussian window of 1.5 pixels), both of 8-bit
RGB and the mean over clips. The default takes about 5 minutes of 2 cores. `bicubic` is the same frames made smaller until they hold
as many numbers as the latents, by area, and enlarged again; `bicubic 8` is made smaller by 8 a side, a quarter fewer numbers.
--run evaluates a run that is there.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
import yaml
from scipy.ndimage import gaussian_filter

from schemas.manifest import read_manifest
from tests.video import psnr_db
from training.checkpoint import load_part
from training.config import TrainConfig, load_config
from training.pixels import read_windows, to_pixels, to_tensor, window_of
from training.plan import prepare, shapes_of
from training.runs import RunFolder
from training.vae import VAE

ROOT = Path(__file__).parents[2]
CORPUS = Path(os.environ.get("REELMILL_CORPUS", ROOT.parent / "shared"))
TRAINED_ON = (
    "cogvideo_in_train.mp4", "dj_video11.mp4", "decord_flipping_a_pancake.mkv", "fastvideo_crush_027.mp4", "gen_cogvideo_1.mp4",
    "gen_cogvideo_3.mp4", "gen_cogvideo_4.mp4", "gen_latte_b421.mp4", "gen_vgen_cat_walking.mp4", "intel_book.mkv",
    "intel_bottle-detection.mp4", "internvid_example1.mp4", "kphotoalbum_movie.avi", "lhotse_bbb_small.mp4",
    "mmaction2_demo_spatiotemporal_det.mp4", "mmaction2_test.avi", "moviepy_video_with_failing_audio.mp4", "nodeopencv_motion.mov",
    "panda_sample_0WjR6cSMi2A.3.mp4", "torchcodec_nasa_13013.mp4", "vgen_ucf_PlayingGuitar_g03_c01.avi", "videollava_sample_demo_9.mp4",
)  # fmt: skip
HELD_OUT = (
    "cogvideo_in_horse.mp4", "finetrainers_hiker.mp4", "imageio_cockatoo.mp4", "mmaction2_demo.mp4", "panda_sample_27JMPcO4byc.33.mp4",
    "tuneavideo_man-surfing.mp4", "vgen_1066674877.mp4", "videollava_sample_demo_3.mp4",
)  # fmt: skip
Again = Callable[[np.ndarray], np.ndarray]
"""Frames uint8 [T, H, W, 3] -> what becomes of them."""


def config(steps: int) -> dict[str, object]:
    data = {"shapes": {"areas": [[128, 72]], "max_frames": 9, "fps": 8}, "windows_per_clip": 4}
    stage = {"name": "vae", "model": "vae", "steps": steps, "max_tokens": 432, "learning_rate": 3e-3, "weight_decay": 0}
    return {"data": data, "stages": [{**stage, "final_learning_rate": 1e-5, "warmup_steps": 20}], "checkpoint_every_steps": 200}


def reelmill(*arguments: object) -> None:
    done = subprocess.run([sys.executable, "-m", "jobs.cli", *map(str, arguments)], cwd=ROOT, text=True, capture_output=True, check=False)
    if done.returncode not in (0, 3):
        raise SystemExit(done.stderr or done.stdout)


def manifest_of(videos: Path, names: tuple[str, ...], folder: Path) -> Path:
    """Curate and cut a manifest of everything."""
    reelmill("curate", *(videos / name for name in names), "--out", folder)
    reelmill("manifest", folder, "--where", "true", "--out", folder / "m.parquet")
    return folder / "m.parquet"


def windows(manifest: Path, settings: TrainConfig) -> list[np.ndarray]:
    """The middle window of each clip in its shape."""
    prepared = prepare({None: read_manifest(manifest)}, settings)[0]
    shapes, found = shapes_of(prepared, settings, settings.stages[0]), []
    for index, row in enumerate(prepared.rows.to_pylist()):
        shape = shapes.of(index)
        found.append(read_windows(row, [(shape, window_of(row["num_frames"], shape, 0, 1))])[0].numpy())
    return found


def by_vae(vae: VAE) -> Again:
    @torch.no_grad()
    def again(frames: np.ndarray) -> np.ndarray:
        return to_pixels(vae.to_video(vae.to_latents(to_tensor(torch.from_numpy(frames))[None]))[0])

    return again


def by_resizing(factor: float) -> Again:
    """Each frame smaller by `factor` a side, and back."""

    def again(frames: np.ndarray) -> np.ndarray:
        height, width = frames.shape[1:3]
        small = max(round(width / factor), 1), max(round(height / factor), 1)
        shrunk = (cv2.resize(frame, small, interpolation=cv2.INTER_AREA) for frame in frames)
        return np.stack([cv2.resize(frame, (width, height), interpolation=cv2.INTER_CUBIC) for frame in shrunk])

    return again


def ssim(frames: np.ndarray, others: np.ndarray) -> float:
    """Mean over positions, frames and channels, without the border that the window overhangs."""

    def smooth(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, (0, 1.5, 1.5, 0), truncate=3.5)

    x, y = frames.astype(np.float64), others.astype(np.float64)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y = smooth(x), smooth(y)
    var_x, var_y, cov = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2, smooth(x * y) - mean_x * mean_y
    index = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return float(index[:, 5:-5, 5:-5].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--videos", type=Path, default=CORPUS / "videos")
    parser.add_argument("--keep", type=Path, help="folder for datasets and run, in place of one that is removed")
    parser.add_argument("--run", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        run = RunFolder(asked.run or folder / "run")
        if asked.run is None:
            train = manifest_of(asked.videos, TRAINED_ON, folder / "train")
            (folder / "vae.yaml").write_text(yaml.safe_dump(config(asked.steps)))
            began = time.monotonic()
            reelmill("train", folder / "vae.yaml", "--manifest", train, "--out", run.path)
            seconds = time.monotonic() - began
            print(f"{asked.steps} steps in {seconds:.0f} s with {os.cpu_count()} cores, {read_manifest(train).rows.num_rows} clips")
        settings = load_config(run.config)
        vae = VAE(settings.vae).eval()
        load_part(run.newest_checkpoint(), "vae", vae)
        clips = windows(manifest_of(asked.videos, HELD_OUT, folder / "held_out"), settings)
    sizes = [frames.size for frames in clips]
    latents = [vae.config.latent_channels * (1 + (f.shape[0] - 1) // 4) * f.shape[1] * f.shape[2] // 64 for f in clips]
    ways = {"vae": by_vae(vae), "bicubic": by_resizing((sum(sizes) / sum(latents)) ** 0.5), "bicubic 8": by_resizing(8)}
    print(f"{len(clips)} clips of {len(HELD_OUT)} other sources; {sum(sizes) / sum(latents):.1f} numbers of pixels to one of latents")
    for name, again in ways.items():
        pairs = [(frames, again(frames)) for frames in clips]
        print(f"{name:10} PSNR {np.mean([psnr_db(*pair) for pair in pairs]):.2f} dB   SSIM {np.mean([ssim(*pair) for pair in pairs]):.4f}")


if __name__ == "__main__":
    main()
