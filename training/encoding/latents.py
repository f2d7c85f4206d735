"""Filling a cache of latents: a manifest and a trained VAE come in, one shard of latents after the other goes out.

What is wanted follows from manifest and config alone, and is cut into shards before it is known what is there already. So
a run that was killed goes on with the same shards, and one over more clips makes only what is new.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from curation.frames import MediaError
from training.autoencoding.pretrained import AnyVAE, make_vae
from training.config import StageConfig, TrainConfig, VAEConfig
from training.encoding.cache import Cache, write_shard
from training.latents import encode, encoder_digest, latents_folder, windows_by_key
from training.pixels import Window
from training.plan import Prepared, distinct, shapes_of
from training.settings import TrainError
from training.shapes import Shape, latent_shape

DTypeName = Literal["float32", "float16", "bfloat16"]
Reader = Callable[[Mapping[str, Any], Sequence[tuple[Shape, Window]]], Sequence[Tensor]]
"""(row, windows) -> pixels uint8 [T, H, W, 3] of each, as `read_windows` gives them. Raises MediaError."""

_ROW = (
    "clip_id", "video_id", "uri", "fingerprint", "source_uri", "start_frame", "num_frames", "start_s",
    "width", "height", "crop_x", "crop_y", "crop_w", "crop_h",
)  # fmt: skip
_MOST_WINDOWS, _MOST_BYTES = 128, 256 << 20  # of a shard, which is what a kill may cost
_FACTS, _WEIGHTS = "encoder.json", "vae.safetensors"


@dataclass(frozen=True)
class WantedWindow:
    """One window by its key."""

    key: str
    shape: Shape
    window: Window


@dataclass(frozen=True)
class WantedClip:
    """A clip, its row of the manifest, and the windows that are wanted of it: one decode makes them all."""

    row: dict[str, Any]
    windows: tuple[WantedWindow, ...]


@dataclass(frozen=True)
class EncodeJob:
    """One shard to be made: picklable, and with the same outcome wherever it runs."""

    clips: tuple[WantedClip, ...]
    folder: Path

    @property
    def num_windows(self) -> int:
        return sum(len(clip.windows) for clip in self.clips)


@dataclass(frozen=True)
class FailedClip:
    """A clip of which at least one window could not be encoded, and the last reason."""

    row: dict[str, Any]
    error: MediaError


@dataclass(frozen=True)
class EncodeReport:
    """What came of a job."""

    windows: int
    failed: tuple[FailedClip, ...]


@dataclass(frozen=True)
class Encoding:
    """All that is to do for a manifest: `wanted` windows, of which `there` are in the cache, and the jobs for the others."""

    wanted: int
    there: int
    jobs: tuple[EncodeJob, ...]


def begin_cache(cache: Path, vae: AnyVAE, dtype: DTypeName) -> Path:
    """The folder for latents of this encoder, with its weights beside them. Raises TrainError where it holds another dtype."""
    folder = latents_folder(cache, vae)
    told = vae.config.model_dump(mode="json", exclude={"weights", "perceptual", "adversarial"})
    facts, state = {"encoder": encoder_digest(vae), "dtype": dtype, "vae": told}, vae.state_dict()  # none of what is pretrained
    return open_folder(folder, facts, {_WEIGHTS: save({name: value.contiguous() for name, value in state.items()})}, "latents")


def open_folder(folder: Path, facts: Mapping[str, Any], files: Mapping[str, bytes], what: str) -> Path:
    """A folder of a cache, made with these files where it is not there. Raises TrainError where it holds numbers of another `dtype`."""
    try:
        there = json.loads((folder / _FACTS).read_text())
    except FileNotFoundError:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            _write(folder / name, content)
        _write(folder / _FACTS, json.dumps(facts, indent=1).encode())  # last: with it the folder is one
        return folder
    if there["dtype"] != facts["dtype"]:
        raise TrainError(f"{folder} holds {what} as {there['dtype']}; say --dtype {there['dtype']}, or choose another --out")
    return folder


def plan_encoding(of_stages: Sequence[Prepared], config: TrainConfig, folder: Path, dtype: DTypeName) -> Encoding:
    """Everything that stages of the dit may draw and that is not in the cache yet; what failed before is tried again."""
    cache = Cache(folder)
    pairs = [(stage, data) for stage, data in zip(config.stages, of_stages, strict=True) if stage.model == "dit"]
    clips, wanted = list[WantedClip](), set[str]()
    for prepared in distinct(data for _, data in pairs):
        for clip in _wanted_clips(prepared, config, [stage for stage, data in pairs if data is prepared]):
            if new := tuple(window for window in clip.windows if window.key not in wanted):  # as of one manifest, balanced otherwise
                clips.append(WantedClip(clip.row, new))
                wanted |= {window.key for window in new}
    jobs = []
    for shard in _shards(clips, config, dtype):
        missing = [WantedClip(clip.row, tuple(w for w in clip.windows if w.key not in cache)) for clip in shard]
        if missing := [clip for clip in missing if clip.windows]:
            jobs.append(EncodeJob(tuple(missing), folder))
    return Encoding(len(wanted), sum(key in cache for key in wanted), tuple(jobs))


def _wanted_clips(prepared: Prepared, config: TrainConfig, stages: Iterable[StageConfig]) -> Iterator[WantedClip]:
    """By source and place in it. A row that no epoch draws is left out."""
    count, drawn = config.data.windows_per_clip, prepared.sampler.drawn()
    shapes_by_stage = [shapes_of(prepared, config, stage) for stage in stages]
    names = [name for name in _ROW if name in prepared.rows.column_names]
    rows = [entry for entry in enumerate(prepared.rows.select(names).to_pylist()) if drawn[entry[0]]]
    for index, row in sorted(rows, key=lambda entry: (entry[1]["uri"], entry[1]["start_frame"], entry[1]["clip_id"])):
        windows = {}
        for shape in {shapes.of(index): None for shapes in shapes_by_stage}:
            for key, window in windows_by_key(row, shape, count, prepared.origin).items():
                windows[key] = WantedWindow(key, shape, window)
        yield WantedClip(row, tuple(windows.values()))


def _shards(clips: Iterable[WantedClip], config: TrainConfig, dtype: DTypeName) -> Iterator[list[WantedClip]]:
    vae, number_bytes = config.vae, getattr(torch, dtype).itemsize
    shard: list[WantedClip] = []
    windows = size = 0
    for clip in clips:
        shard.append(clip)
        windows += len(clip.windows)
        size += sum(math.prod(latent_shape(w.shape.width, w.shape.height, w.shape.frames, vae)) for w in clip.windows) * number_bytes
        if windows >= _MOST_WINDOWS or size >= _MOST_BYTES:
            yield shard
            shard, windows, size = [], 0, 0
    if shard:
        yield shard


def run_encoding(job: EncodeJob, read: Reader) -> EncodeReport:
    """Make one shard. Raises TrainError where it cannot be written."""
    vae, dtype = _encoder(job.folder)
    tensors: dict[str, Tensor] = {}
    reasons: dict[str, str] = {}
    failed: list[FailedClip] = []
    for clip in job.clips:
        contents, error = _read(clip, read)
        for window in clip.windows:
            if window.key in contents:
                tensors[window.key] = encode(vae, contents[window.key]).to(dtype)
            elif error:
                reasons[window.key] = f"{clip.row['uri']}: {error.code.value}: {error}"
        if error:
            failed.append(FailedClip(clip.row, error))
    write_shard(job.folder, tensors, reasons)
    return EncodeReport(job.num_windows, tuple(failed))


def _read(clip: WantedClip, read: Reader) -> tuple[dict[str, Tensor], MediaError | None]:
    """The pixels of each window by key: of all in one decode, or, where that fails, of those that can be had alone."""
    groups, error = [clip.windows], None
    contents: dict[str, Tensor] = {}
    while groups:
        windows = groups.pop()
        try:
            found = read(clip.row, [(window.shape, window.window) for window in windows])
            contents |= {window.key: pixels for window, pixels in zip(windows, found, strict=True)}
        except MediaError as caught:
            error = caught
            groups += [(window,) for window in windows] if len(windows) > 1 else []
    return contents, error


@lru_cache(maxsize=1)
def _encoder(folder: Path) -> tuple[AnyVAE, torch.dtype]:
    facts = json.loads((folder / _FACTS).read_text())
    vae = make_vae(VAEConfig(**facts["vae"]))
    vae.load_state_dict(load_file(folder / _WEIGHTS))
    return vae.eval(), getattr(torch, facts["dtype"])


def _write(path: Path, content: bytes) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_bytes(content)
    os.replace(scratch, path)
