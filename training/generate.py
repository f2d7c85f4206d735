"""Video out of a trained run: settings in, an MP4 and a JSON sidecar out. The same settings give the same frames.

In two passes the first frame of a sample is made before the rest (factorized, as in Emu Video: Girdhar et al. 2023). A video longer
than those of training is made stretch by stretch, each beginning with the last frames of the one before: encoded again, so that they
are what training gave, with a little noise, which hides what the model itself did to them.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn

from training.checkpoint import load_average, load_models, load_progress
from training.conditions import Conditions, TextFeatures
from training.config import Solver, TrainConfig, load_config
from training.controls.source import last_frame_map
from training.encoding.text_features import EncodedTexts, TextSource
from training.flow import guidance_at, guided, point_on_path, shift_of, solve, step_times
from training.parallel import moved
from training.pixels import to_pixels, to_tensor
from training.runs import RunFolder, check_vae, make_models, reopen_text_encoder
from training.settings import TrainError, nearest
from training.shapes import fitting, largest, latent_shape, token_of
from training.steering import Steered, Steering, check_steering
from training.tag_bins import UNKNOWN, bin_of
from training.videos import file_digest, picture_size, read_image, read_video, write_mp4

_SLOWEST, _FASTEST = 0.01, 1000.0  # frames a second


@dataclass(frozen=True)
class SampleSettings:
    """Everything that decides a sample, beside the weights and the files it names.

    `tags` are quantiles in [0, 1] by tag name. The sample begins with `image`, or with the last frames of the video `continues`,
    and ends with `last_image`; with `two_pass` it makes its own first frame before all others. `context_frames` of it are what the
    next stretch of a long sample begins with, at `context_noise`.
    """

    prompt: str
    seed: int
    width: int
    height: int
    num_frames: int
    fps: float
    num_steps: int
    solver: Solver
    guidance: float
    guidance_rescale: float
    guidance_interval: tuple[float, float]
    context_frames: int
    context_noise: float
    two_pass: bool = False
    tags: dict[str, float] = field(default_factory=dict)
    image: str | None = None
    last_image: str | None = None
    continues: str | None = None
    steering: Steering = Steering()

    @property
    def files(self) -> dict[str, str]:
        """The files it names, by what they are for."""
        named = {"image": self.image, "last_image": self.last_image, "continues": self.continues, **self.steering.videos}
        return {name: path for name, path in named.items() if path is not None}


@dataclass(frozen=True)
class Generator:
    """The models of a run, ready to sample.

    `texts` gives features, to a dit that reads such. `preview`, if given, makes video of latents by its `to_video` in place of the vae.
    """

    vae: nn.Module
    dit: nn.Module
    config: TrainConfig
    texts: TextSource | None = None
    preview: nn.Module | None = None

    @torch.no_grad()
    def frames(self, settings: SampleSettings) -> Iterator[np.ndarray]:
        """The frames of a sample, uint8 [H, W, 3] each, as they are made. Raises TrainError where the settings do not fit the models."""
        check_settings(self.config, settings)
        noise, whole = torch.Generator().manual_seed(settings.seed), longest(self.config)
        steered = Steered(settings.steering, self.config, settings.width, settings.height, settings.num_frames, settings.fps)
        context, level = _beginning(settings)
        if settings.two_pass and not len(context):  # what is seen at first is chosen, and then how it moves: a text tells both better
            context = self._stretch(settings, steered, 0, min(whole, settings.num_frames), context, level, noise)[:1]
        done = 0
        while done < settings.num_frames:
            start = done - len(context) if done else 0
            count = min(whole, settings.num_frames - start)
            stretch = self._stretch(settings, steered, start, count, context, level, noise)
            yield from stretch[done - start :]
            done, context, level = start + count, stretch[-settings.context_frames :], settings.context_noise

    def _stretch(
        self, settings: SampleSettings, steered: Steered, start: int, count: int, context: np.ndarray, level: float, noise: torch.Generator
    ) -> np.ndarray:
        """So many frames from `start` on, uint8 [T, H, W, 3], which begin with those of the context at that noise level."""
        vae, device = self.vae.eval(), next(self.dit.parameters()).device
        shape = latent_shape(settings.width, settings.height, count, self.config.vae)
        x = torch.randn(1, *shape, generator=noise).to(device)
        given = vae.to_latents(to_tensor(torch.from_numpy(context))[None].to(device)) if len(context) else x[:, :, :0]
        maps = steered.maps(start, count)
        if settings.last_image is not None and start + count == settings.num_frames:
            image = torch.from_numpy(read_image(Path(settings.last_image), settings.width, settings.height))
            maps["last_frame"] = last_frame_map(vae, to_tensor(image)[None], shape[1])
        latents = self.latents(settings, x, given, level, maps)
        return to_pixels((self.preview or vae).to_video(latents)[0].cpu())

    @torch.no_grad()
    def latents(self, settings: SampleSettings, noise: Tensor, given: Tensor, level: float, maps: Mapping[str, Tensor]) -> Tensor:
        """Latents [1, C, T, H, W] out of noise like them; `maps` steer them, [C', T, H, W] each.

        They begin with those `given` [1, C, K, H, W], K from 0, of which the dit sees what noise at `level` leaves of them.
        """
        config, count = self.config, given.shape[2]
        known = torch.arange(noise.shape[2], device=noise.device) < count
        context = point_on_path(given, noise[:, :, :count], torch.full((1,), level, device=noise.device)).x_t
        conditions = moved(_conditions(config, settings, self.texts, maps), noise.device)
        dit = self.dit.eval()

        def velocity(x_t: Tensor, t: Tensor) -> Tensor:
            levels = torch.where(known, level, t)
            guidance = guidance_at(float(t), settings.guidance, settings.guidance_interval)
            copies = 1 if guidance == 1 else 2
            told = dit(x_t.expand(copies, *x_t.shape[1:]).unbind(), (levels,) * copies, conditions.first(copies))
            towards = told[0][None] if copies == 1 else guided(told[0][None], told[1][None], guidance, settings.guidance_rescale)
            return towards * ~known[:, None, None]

        times = step_times(settings.num_steps, shift_of(config.flow, noise[0, 0].numel() // config.dit.patch**2))
        made = solve(velocity, torch.cat([context, noise[:, :, count:]], dim=2), times, settings.solver)
        return torch.cat([given, made[:, :, count:]], dim=2)  # what is given is decoded without the noise


def default_settings(config: TrainConfig, like: str | None = None) -> SampleSettings:
    """What a run samples when nothing else is asked for: the largest shape of its last stage, at full length.

    The aspect ratio is that of the picture or video `like`, if given; the noise of a context is at most that of training. Raises
    TrainError where `like` cannot be read.
    """
    shapes, sample = config.shapes_of(config.stages[-1]), config.sample
    shape = largest(shapes, token_of(config)) if like is None else fitting(shapes, token_of(config), *picture_size(Path(like)))
    fps = sample.fps if shapes.fps == "native" else shapes.fps
    factor = config.vae.time_factor
    return SampleSettings(
        prompt=sample.prompt,
        seed=config.seed,
        width=shape.width,
        height=shape.height,
        num_frames=longest(config),
        fps=fps,
        num_steps=sample.num_steps,
        solver=sample.solver,
        guidance=sample.guidance,
        guidance_rescale=sample.guidance_rescale,
        guidance_interval=sample.guidance_interval,
        context_frames=1 + factor * ((longest(config) - 1) // factor // 2),
        two_pass=sample.two_pass,
        context_noise=min(sample.context_noise, max((mix.context_noise for mix in config.mixes if mix.continuation), default=0.0)),
    )


def longest(config: TrainConfig) -> int:
    """The most frames that the last stage was trained on at once."""
    return config.shapes_of(config.stages[-1]).max_frames


def check_settings(config: TrainConfig, settings: SampleSettings) -> None:
    """Raises TrainError naming what does not fit the models of a run."""
    side, factor = config.vae.space_factor * config.dit.patch, config.vae.time_factor
    if settings.width < side or settings.height < side or settings.width % side or settings.height % side:
        raise TrainError(f"a sample's width and height must be multiples of {side}, not {settings.width}x{settings.height}")
    for name, count in (("frames", settings.num_frames), ("context frames", settings.context_frames)):
        if count < 1 or (count - 1) % factor:
            raise TrainError(f"a sample's {name} must be 1 + a multiple of {factor}, not {count}")
    if settings.context_frames >= longest(config) > 1:
        raise TrainError(f"context frames must be fewer than the {longest(config)} of a stretch, not {settings.context_frames}")
    if settings.num_steps < 1 or not 0 <= settings.seed < 2**63:
        raise TrainError(f"a sample takes 1 step or more, and a seed from 0 to 2^63 - 1, not {settings.num_steps} and {settings.seed}")
    if not (_SLOWEST <= settings.fps <= _FASTEST):
        raise TrainError(f"a sample has from {_SLOWEST:g} to {_FASTEST:g} frames a second, not {settings.fps:g}")
    if not (math.isfinite(settings.guidance) and settings.guidance >= 0):
        raise TrainError(f"guidance is a number from 0 on, not {settings.guidance:g}")
    if settings.solver not in get_args(Solver):
        raise TrainError(f"there is no solver {settings.solver!r}; {nearest(settings.solver, get_args(Solver))}")
    if settings.prompt and not config.tells("text"):
        raise TrainError("the run was not trained with texts (conditions.text), so it takes no prompt")
    known = config.data.condition_tags if config.tells("tags") else ()
    for tag, value in settings.tags.items():
        if tag not in known:
            raise TrainError(f"the run was not trained with the tag {tag!r}; {nearest(tag, known)}")
        if not 0 <= value <= 1:
            raise TrainError(f"the tag {tag} is a quantile from 0 to 1, not {value:g}")
    check_steering(settings.steering, config)
    _check_frames(config, settings)
    for name, path in settings.files.items():
        if not Path(path).is_file():
            raise TrainError(f"there is no file {path}, which is given as {name}")


def _check_frames(config: TrainConfig, settings: SampleSettings) -> None:
    """Whether the run was trained with the frames that are given, or that a long sample gives itself."""
    if settings.image is not None and settings.continues is not None:
        raise TrainError("a sample begins with an image or continues a video, not both")
    if settings.image is not None and not config.tells("first_frame", "continuation"):
        raise TrainError("the run was not trained to go on from an image (conditions.first_frame)")
    if settings.two_pass and not config.tells("first_frame"):
        raise TrainError("the run was not trained to go on from its own first frame (conditions.first_frame); sample in one pass")
    if settings.continues is not None and not config.tells("continuation"):
        raise TrainError("the run was not trained to continue a video (conditions.continuation)")
    if settings.last_image is not None and not config.tells("last_frame"):
        raise TrainError("the run was not trained to end with an image (conditions.last_frame)")
    goes_on = config.tells("continuation") or (settings.context_frames == 1 and config.tells("first_frame"))
    if settings.num_frames > longest(config) and (longest(config) == 1 or not goes_on):
        raise TrainError(
            f"the run was trained on up to {longest(config)} frames and not to continue its own (conditions.continuation); "
            f"ask for at most as many, not {settings.num_frames}"
        )
    begins = 1 if settings.image is not None else settings.context_frames if settings.continues is not None else 0
    if settings.num_frames <= max(begins, int(settings.last_image is not None)):
        raise TrainError(f"nothing is left to make of {settings.num_frames} frames beside those that are given; ask for more frames")


def open_generator(run: Path) -> Generator:
    """The models of a run's newest checkpoint. Raises TrainError."""
    folder = RunFolder(run)
    if not folder.facts.exists():
        raise TrainError(f"{run} is not a run; `reelmill train` makes one")
    config, checkpoint = load_config(folder.config), folder.newest_checkpoint()
    trained = checkpoint and load_progress(checkpoint)
    reached = [stage.model for stage in config.stages[: trained.stage]] if trained else []
    now = config.stages[trained.stage].model if trained and trained.step else None
    if checkpoint is None or "dit" not in (*reached, now):
        raise TrainError(f"{run} has no checkpoint of its dit yet; continue it with `reelmill train ... --resume`")
    torch.set_num_threads(config.threads)
    encoder, models = reopen_text_encoder(folder, config), make_models(config)
    check_vae(folder, models["vae"])
    load_models(checkpoint, models)
    if now:
        load_average(checkpoint, models[now])
    return Generator(models["vae"], models["dit"], config, encoder and EncodedTexts(encoder, config.data.memory_mb))


def write_sample(path: Path, generator: Generator, settings: SampleSettings) -> None:
    """Write a sample as an MP4, and beside it a JSON file of its settings and hashes of its frames and of files it was given."""
    check_settings(generator.config, settings)
    if path.suffix == ".json":
        raise TrainError(f"{path} is where the settings of a sample go; name the video otherwise, such as {path.with_suffix('.mp4')}")
    files = {name: file_digest(Path(given)) for name, given in settings.files.items()}
    frames_sha256 = write_mp4(path, generator.frames(settings), settings.fps)
    facts = {**asdict(settings), "files_sha256": files, "frames_sha256": frames_sha256}
    path.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n")


def _beginning(settings: SampleSettings) -> tuple[np.ndarray, float]:
    """The frames that a sample begins with, uint8 [T, H, W, 3], T from 0, and the noise to give them."""
    size = (settings.width, settings.height)
    if settings.image is not None:
        return read_image(Path(settings.image), *size), 0.0
    if settings.continues is not None:
        return read_video(Path(settings.continues), *size, settings.fps, settings.context_frames, last=True), settings.context_noise
    return np.empty((0, settings.height, settings.width, 3), np.uint8), 0.0


def _conditions(config: TrainConfig, settings: SampleSettings, texts: TextSource | None, maps: Mapping[str, Tensor]) -> Conditions:
    """What was asked for, and, second, the same without text and tags."""
    fps = torch.tensor([settings.fps / config.vae.time_factor if config.tells("fps") else math.nan]).expand(2)
    quantiles = np.array([settings.tags.get(tag, np.nan) for tag in config.data.condition_tags])
    asked = torch.from_numpy(bin_of(quantiles, config.dit.tag_bins))
    tags, features = torch.stack([asked, torch.full_like(asked, UNKNOWN)]), None
    if texts:
        prompt, empty = texts(settings.prompt), texts("")
        features = TextFeatures((prompt, empty), empty)
    return Conditions((settings.prompt, ""), fps, tags, features, {name: (one, one) for name, one in maps.items()})
