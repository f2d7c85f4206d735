"""Latents once and for all: what is wanted, what is made, what is found again, and what can never be stale."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from curation.frames import MediaError
from schemas.manifest import read_manifest, write_manifest
from schemas.records import FailureCode
from tests.video import write_video
from training.config import TrainConfig
from training.data import SkippedClip
from training.encoding.cache import Cache
from training.encoding.latents import Encoding, begin_cache, plan_encoding, run_encoding
from training.latents import CachedLatents, check_latents, encode, encoder_digest, latent_key
from training.pixels import Window, read_windows, window_of
from training.plan import Prepared, prepare, shapes_of
from training.settings import TrainError
from training.shapes import Shape
from training.vae import VAE

CONFIG = TrainConfig(
    data={"shapes": {"areas": [[32, 16]], "max_frames": 5, "fps": 5}, "windows_per_clip": 2},
    vae={"latent_channels": 4, "widths": [8, 8, 8], "weights": "somewhere"},
    dit={"width": 32, "depth": 1, "heads": 2, "text_width": 16},
    stages=[{"name": "dit", "model": "dit", "steps": 1}],
)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = np.zeros((90, 32, 64, 3), np.uint8)
    frames[:] = 2 * np.arange(90, dtype=np.uint8)[:, None, None, None]
    return write_video(tmp_path_factory.mktemp("video") / "v.mp4", frames, "libx264", options={"g": "30"})


@pytest.fixture
def vae() -> VAE:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return VAE(CONFIG.vae).eval()


def _row(video: Path, number: int, **changes: object) -> dict[str, object]:
    row = {"clip_id": f"c{number}", "video_id": "v", "uri": str(video), "start_frame": 20 * number, "num_frames": 21 + number}
    row |= {"start_s": 0.8 * number, "end_s": 0.8 * number + (21 + number) / 25, "fps": 25.0, "width": 64, "height": 32}
    return row | {"crop_x": 0, "crop_y": 0, "crop_w": 64, "crop_h": 32} | changes


def _prepared(folder: Path, rows: list[dict[str, object]], config: TrainConfig = CONFIG, **facts: object) -> Prepared:
    write_manifest(folder / "m.parquet", pa.Table.from_pylist(rows), "true", {}, {}, **facts)
    return prepare({None: read_manifest(folder / "m.parquet")}, config)[0]


def _plan(prepared: Prepared, folder: Path, config: TrainConfig = CONFIG) -> Encoding:
    return plan_encoding((prepared,) * len(config.stages), config, folder, "float32")


def test_cached_latents_are_those_encoded_in_training(video: Path, vae: VAE, tmp_path: Path) -> None:
    prepared = _prepared(tmp_path, [_row(video, n) for n in range(3)])
    folder = begin_cache(tmp_path / "cache", vae, "float32")
    plan = _plan(prepared, folder)
    assert (plan.wanted, plan.there, sum(job.num_windows for job in plan.jobs)) == (5, 0, 5)  # c0 is as long as its window
    assert [report.failed for report in (run_encoding(job, read_windows) for job in plan.jobs)] == [()]
    shapes, cached = shapes_of(prepared, CONFIG, CONFIG.stages[0]), CachedLatents(Cache(folder), prepared.origin)
    check_latents(prepared, shapes, CONFIG.data, Cache(folder))
    for index, row in enumerate(prepared.rows.to_pylist()):
        shape = shapes.of(index)
        for number in range(2):
            window = window_of(row["num_frames"], shape, number, 2)
            latents = cached(row, shape, window)
            assert latents.dtype == torch.float32 and latents.equal(encode(vae, read_windows(row, [(shape, window)])[0]))
    assert (again := _plan(prepared, folder)).there == again.wanted == 5 and not again.jobs


def test_a_window_that_two_balances_want_is_encoded_once(video: Path, vae: VAE, tmp_path: Path) -> None:
    folder, rows = begin_cache(tmp_path / "cache", vae, "float32"), [_row(video, n) for n in range(3)]
    config = CONFIG.model_copy(update={"stages": (CONFIG.stages[0], CONFIG.stages[0].model_copy(update={"name": "again"}))})
    plan = plan_encoding([_prepared(tmp_path, rows), _prepared(tmp_path, rows)], config, folder, "float32")
    assert plan.wanted == sum(job.num_windows for job in plan.jobs) > 0


def test_clips_that_are_added_cost_only_themselves_and_one_decode_each(video: Path, vae: VAE, tmp_path: Path) -> None:
    folder = begin_cache(tmp_path / "cache", vae, "float16")
    reads = []

    def read(row: dict, wanted: list) -> list[Tensor]:
        reads.append((row["clip_id"], len(wanted)))
        return read_windows(row, wanted)

    for job in _plan(_prepared(tmp_path, [_row(video, 0), _row(video, 2)]), folder).jobs:
        run_encoding(job, read)
    before = {path.name: path.read_bytes() for path in folder.glob("part-*")}
    plan = _plan(_prepared(tmp_path, [_row(video, n) for n in range(4)]), folder)
    assert (plan.wanted, plan.there) == (7, 3)
    for job in plan.jobs:
        run_encoding(job, read)
    assert reads == [("c0", 1), ("c2", 2), ("c1", 2), ("c3", 2)]
    assert all((folder / name).read_bytes() == content for name, content in before.items()) and len(Cache(folder)) == 7


def test_shards_are_cut_alike_whatever_is_there(video: Path, vae: VAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a run that was killed leaves the files of one that was not."""
    monkeypatch.setattr("training.encoding.latents._MOST_WINDOWS", 4)
    prepared = _prepared(tmp_path, [_row(video, n % 4, clip_id=f"c{n}") for n in range(8)])
    whole, killed = (begin_cache(tmp_path / name, vae, "float32") for name in ("whole", "killed"))
    for job in _plan(prepared, whole).jobs:
        run_encoding(job, read_windows)
    jobs = _plan(prepared, killed).jobs
    assert len(jobs) == 4 and all(job.num_windows <= 5 for job in jobs)
    for number in (2, 0):
        run_encoding(jobs[number], read_windows)
    assert len(_plan(prepared, killed).jobs) == 2
    for job in _plan(prepared, killed).jobs:
        run_encoding(job, read_windows)
    for path in whole.iterdir():
        assert (killed / path.name).read_bytes() == path.read_bytes()
    assert len(list(killed.iterdir())) == len(list(whole.iterdir()))


def test_what_cannot_be_read_is_told_skipped_and_tried_again(video: Path, vae: VAE, tmp_path: Path) -> None:
    rows = [_row(video, 0), _row(tmp_path / "later.mp4", 1), _row(video, 2, num_frames=60, end_s=4.0)]  # c2 ends after the source
    prepared, folder = _prepared(tmp_path, rows), begin_cache(tmp_path / "cache", vae, "float32")
    (job,) = _plan(prepared, folder).jobs
    failed = run_encoding(job, read_windows).failed
    assert {clip.row["clip_id"]: clip.error.code for clip in failed} == {"c1": FailureCode.NOT_FOUND, "c2": FailureCode.TRUNCATED}
    shapes, cache = shapes_of(prepared, CONFIG, CONFIG.stages[0]), Cache(folder)
    check_latents(prepared, shapes, CONFIG.data, cache)  # tried, so training may begin
    late = prepared.rows.to_pylist()[2]
    first, last = (window_of(60, shapes.of(2), number, 2) for number in range(2))
    assert CachedLatents(cache, "")(late, shapes.of(2), first).shape == (4, 2, 2, 4)  # a window that is there is had
    with pytest.raises(SkippedClip, match="v.mp4: truncated: "):
        CachedLatents(cache, "")(late, shapes.of(2), last)
    (tmp_path / "later.mp4").write_bytes(video.read_bytes())
    (job,) = _plan(prepared, folder).jobs
    assert {clip.row["clip_id"] for clip in job.clips} == {"c1", "c2"}
    assert [clip.row["clip_id"] for clip in run_encoding(job, read_windows).failed] == ["c2"]


def test_windows_that_were_never_encoded_stop_a_run_before_it_begins(video: Path, vae: VAE, tmp_path: Path) -> None:
    prepared = _prepared(tmp_path, [_row(video, n) for n in range(3)])
    shapes = shapes_of(prepared, CONFIG, CONFIG.stages[0])
    with pytest.raises(TrainError, match="lacks 5 of 5 windows; `reelmill encode"):
        check_latents(prepared, shapes, CONFIG.data, Cache(tmp_path / "none"))


def test_rows_that_are_never_drawn_are_not_encoded(video: Path, vae: VAE, tmp_path: Path) -> None:
    balance = {"tag": "codec", "shares": {"h264": 1.0}}
    config = TrainConfig(**{**CONFIG.model_dump(), "balance": balance})
    rows = [_row(video, n, codec=codec) for n, codec in enumerate(["h264", "vp9", "h264"])]
    prepared = _prepared(tmp_path, rows, config)
    plan = _plan(prepared, begin_cache(tmp_path / "cache", vae, "float32"), config)
    assert [clip.row["clip_id"] for job in plan.jobs for clip in job.clips] == ["c0", "c2"]


SHAPE, WINDOW = Shape(32, 16, 5, 5.0, 5.0), Window(3.0, 5.0, 5)


def test_everything_that_decides_a_latent_is_in_its_key(video: Path) -> None:
    row = _row(video, 0)
    keys = [
        latent_key(row, SHAPE, WINDOW, ""),
        latent_key({**row, "clip_id": "c1"}, SHAPE, WINDOW, ""),
        latent_key({**row, "crop_y": 2}, SHAPE, WINDOW, ""),
        latent_key(row, replace(SHAPE, width=16), WINDOW, ""),
        latent_key(row, replace(SHAPE, height=8), WINDOW, ""),
        latent_key(row, SHAPE, replace(WINDOW, start=4.0), ""),
        latent_key(row, SHAPE, replace(WINDOW, stride=4.0), ""),
        latent_key(row, SHAPE, replace(WINDOW, frames=1), ""),
        latent_key(row, SHAPE, WINDOW, '{"codec": "h264"}'),
    ]
    assert len(set(keys)) == len(keys)
    assert latent_key({**row, "uri": "moved.mp4"}, SHAPE, WINDOW, "") == keys[0]


def test_materialized_clips_have_latents_of_their_own(video: Path, tmp_path: Path) -> None:
    made_from = {"manifest": "m", "settings": '{"codec": "h264", "crf": 30}'}
    assert _prepared(tmp_path, [_row(video, 0)], made_from=made_from).origin == made_from["settings"]


def test_another_encoder_finds_nothing_stale(vae: VAE, tmp_path: Path) -> None:
    folder = begin_cache(tmp_path, vae, "float32")
    digest = encoder_digest(vae)
    with torch.no_grad():
        vae.decoder[0].conv.weight.add_(1)
    assert encoder_digest(vae) == digest  # the decoder makes no latents
    for change in (lambda: vae.encoder[0].conv.weight[0, 0, 0, 0, 0].add_(1e-6), lambda: vae.latent_std[0].mul_(1.001)):
        with torch.no_grad():
            change()
        assert begin_cache(tmp_path, vae, "float32") != folder and encoder_digest(vae) != digest
        digest = encoder_digest(vae)


def test_numbers_are_not_mixed_in_one_folder(vae: VAE, tmp_path: Path) -> None:
    begin_cache(tmp_path, vae, "float16")
    with pytest.raises(TrainError, match="holds latents as float16; say --dtype float16"):
        begin_cache(tmp_path, vae, "float32")


def test_a_reader_that_breaks_down_fails_its_clip_alone(video: Path, vae: VAE, tmp_path: Path) -> None:
    def read(row: dict, wanted: list) -> list[Tensor]:
        if row["clip_id"] == "c1":
            raise MediaError(FailureCode.CRASHED, "the decoder process was killed by SIGSEGV")
        return read_windows(row, wanted)

    folder = begin_cache(tmp_path / "cache", vae, "float32")
    (job,) = _plan(_prepared(tmp_path, [_row(video, n) for n in range(3)]), folder).jobs
    assert [clip.error.code for clip in run_encoding(job, read).failed] == [FailureCode.CRASHED] and len(Cache(folder)) == 3
