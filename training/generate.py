"""Video out of a trained run: settings in, an MP4 and a JSON sidecar out. The same settings give the same frames."""

import json
import os
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from hashlib import sha256
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor, nn

from training.checkpoint import load_average, load_models, load_progress
from training.conditions import Conditions, TextFeatures
from training.config import TrainConfig, TrainError, load_config, nearest
from training.encoding.text_features import EncodedTexts, TextSource
from training.flow import guided, shift_of, solve, step_times
from training.pixels import to_pixels
from training.runs import RunFolder, make_models, reopen_text_encoder
from training.shapes import largest, token_of
from training.tag_bins import UNKNOWN, bin_of


@dataclass(frozen=True)
class SampleSettings:
    """Everything that decides a sample, beside the weights. `tags` are quantiles in [0, 1] by tag name."""

    prompt: str
    seed: int
    width: int
    height: int
    num_frames: int
    fps: float
    num_steps: int
    guidance: float
    tags: dict[str, float]


def default_settings(config: TrainConfig) -> SampleSettings:
    """What a run samples when nothing else is asked for: the largest shape of its last stage, at full length."""
    shapes, sample = config.shapes_of(config.stages[-1]), config.sample
    shape = largest(shapes, token_of(config))
    fps = sample.fps if shapes.fps == "native" else shapes.fps
    return SampleSettings(sample.prompt, config.seed, shape.width, shape.height, shape.frames, fps, sample.num_steps, sample.guidance, {})


@torch.no_grad()
def generate(
    vae: nn.Module, dit: nn.Module, config: TrainConfig, settings: SampleSettings, text_features: TextSource | None = None
) -> np.ndarray:
    """Frames uint8 [T, H, W, 3] of one sample. Raises TrainError where the settings do not fit the models.

    `text_features` is for a dit that reads such.
    """
    check_settings(config, settings)
    shape = (
        1,
        config.vae.latent_channels,
        1 + (settings.num_frames - 1) // config.vae.time_factor,
        settings.height // config.vae.space_factor,
        settings.width // config.vae.space_factor,
    )
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(settings.seed))
    conditions = _conditions(config, settings, text_features)

    def velocity(x_t: Tensor, t: Tensor) -> Tensor:
        with_condition, without = dit(x_t.expand(2, *shape[1:]).unbind(), t.expand(2, shape[2]), conditions)
        return guided(with_condition, without, settings.guidance)[None]

    dit.eval()
    times = step_times(settings.num_steps, shift_of(config.flow, noise[0, 0].numel() // config.dit.patch**2))
    latents = solve(velocity, noise, times, config.sample.solver)
    return to_pixels(vae.eval().to_video(latents)[0])


def check_settings(config: TrainConfig, settings: SampleSettings) -> None:
    """Raises TrainError naming what does not fit the models of a run."""
    side = config.vae.space_factor * config.dit.patch
    if settings.width < side or settings.height < side or settings.width % side or settings.height % side:
        size = f"{settings.width}x{settings.height}"
        raise TrainError(f"a sample's width and height must be multiples of {side}, not {size}")
    if settings.num_frames < 1 or (settings.num_frames - 1) % config.vae.time_factor:
        factor = config.vae.time_factor
        raise TrainError(f"a sample's frames must be 1 + a multiple of {factor}, not {settings.num_frames}")
    known = config.data.condition_tags
    for tag, value in settings.tags.items():
        if tag not in known:
            raise TrainError(f"the run was not trained with the tag {tag!r}; {nearest(tag, known)}")
        if not 0 <= value <= 1:
            raise TrainError(f"the tag {tag} is a quantile from 0 to 1, not {value:g}")


def sample_run(run: Path, out: Path, changes: dict[str, object]) -> SampleSettings:
    """Sample from a run's newest checkpoint into an MP4. `changes` replace its default settings. Raises TrainError."""
    folder = RunFolder(run)
    if not folder.facts.exists():
        raise TrainError(f"{run} is not a run; `reelmill train` makes one")
    config, checkpoint = load_config(folder.config), folder.newest_checkpoint()
    settings = replace(default_settings(config), **changes)  # type: ignore[arg-type]
    check_settings(config, settings)
    trained = checkpoint and load_progress(checkpoint)
    reached = [stage.model for stage in config.stages[: trained.stage]] if trained else []
    now = config.stages[trained.stage].model if trained and trained.step else None
    if checkpoint is None or "dit" not in (*reached, now):
        raise TrainError(f"{run} has no checkpoint of its dit yet; continue it with `reelmill train ... --resume`")
    torch.set_num_threads(config.threads)
    encoder, models = reopen_text_encoder(folder, config), make_models(config)
    load_models(checkpoint, models)
    if now:
        load_average(checkpoint, models[now])
    text_features = encoder and EncodedTexts(encoder, config.data.memory_mb)
    write_sample(out, generate(models["vae"], models["dit"], config, settings, text_features), settings)
    return settings


def write_sample(path: Path, frames: np.ndarray, settings: SampleSettings) -> None:
    """Write frames uint8 [T, H, W, 3] as an MP4, and beside it a JSON file of the settings and a hash of the frames."""
    write_mp4(path, frames, settings.fps)
    facts = {**asdict(settings), "frames_sha256": sha256(frames.tobytes()).hexdigest()}
    path.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n")


def write_mp4(path: Path, frames: np.ndarray, fps: float) -> None:
    """Write uint8 [T, H, W, 3] RGB, of even width and height, as H.264, atomically. Raises TrainError."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(scratch), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": "16"})
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuv420p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        os.replace(scratch, path)
    except OSError as error:
        raise TrainError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        scratch.unlink(missing_ok=True)


def _conditions(config: TrainConfig, settings: SampleSettings, text_features: TextSource | None) -> Conditions:
    """What was asked for, and, second, nothing at all."""
    fps = torch.tensor([settings.fps / config.vae.time_factor]).expand(2)
    quantiles = np.array([settings.tags.get(tag, np.nan) for tag in config.data.condition_tags])
    asked = torch.from_numpy(bin_of(quantiles, config.dit.tag_bins))
    tags, features = torch.stack([asked, torch.full_like(asked, UNKNOWN)]), None
    if text_features:
        prompt, empty = text_features(settings.prompt), text_features("")
        features = TextFeatures((prompt, empty), empty)
    return Conditions((settings.prompt, ""), fps, tags, features)
