"""A whole run on real clips: trained, killed, resumed bitwise, stopped, sampled from, and refused where it must be."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import av
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
import yaml

from curation.frames import decode, open_media, video_stream
from schemas.manifest import write_manifest
from tests.training.checkpoint_files import assert_equal_tensors, tensors_of
from training.checkpoint import list_checkpoints
from training.generate import default_settings, open_generator, write_sample
from training.ranks import Ranks
from training.settings import TrainError
from training.steering import Steering
from training.train import train

CLIPS = {
    "decord_flipping_a_pancake.mkv": "a man flips a pancake",
    "mmaction2_test.avi": "a person puts on make-up",
    "gen_latte_b421.mp4": "clouds over mountains",
    "lhotse_bbb_small.mp4": None,
    "videoxfun_pose.mp4": "a skeleton dances",
}
CONFIG = {
    "threads": 1,
    "data": {"shapes": {"areas": [[32, 16]], "max_frames": 5, "fps": 8}, "condition_tags": ["motion_mean"]},
    "balance": {"tag": "motion_mean", "edges": [2.0], "shares": [0.5, 0.5]},
    "vae": {"latent_channels": 4, "widths": [8, 8, 8]},
    "dit": {"width": 32, "depth": 1, "heads": 2, "text_width": 16},
    "stages": [
        {"name": "vae", "model": "vae", "steps": 6, "max_tokens": 32, "warmup_steps": 2},
        {"name": "dit", "model": "dit", "steps": 8, "batching": "packed", "max_tokens": 40, "micro_batches": 2, "warmup_steps": 2},
    ],
    "sample": {"every_steps": 4, "num_steps": 3},
    "audit": {"every_steps": 3, "tags": ["fps", "caption_short"]},
    "checkpoint_every_steps": 2,
}


@dataclass(frozen=True)
class Given:
    """A config, a manifest, and a run of both that nothing disturbed."""

    config: Path
    manifest: Path
    run: Path


def _manifest(corpus: Path, path: Path, videos: Iterable[str]) -> Path:
    """A manifest of the beginnings of some videos, whole as clips."""
    rows = [_row(corpus / name, CLIPS[name], index) for index, name in enumerate(videos)]
    write_manifest(path, pa.Table.from_pylist(rows), "true", {}, {})
    return path


def _sample(run: Path, out: Path, **changes: object) -> None:
    generator = open_generator(run)
    write_sample(out, generator, replace(default_settings(generator.config), **changes))


@pytest.fixture(scope="module")
def given(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Given:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("given")
    _manifest(corpus, folder / "m.parquet", CLIPS)
    (folder / "c.yaml").write_text(yaml.safe_dump(CONFIG))
    result = train(folder / "c.yaml", folder / "m.parquet", folder / "run")
    assert result.steps == 14 and result.sample and not result.skipped
    return Given(folder / "c.yaml", folder / "m.parquet", folder / "run")


def _row(path: Path, caption: str | None, index: int) -> dict[str, object]:
    with open_media(str(path)) as container:
        times_s = []
        for picture in decode(container, video_stream(container)):
            times_s.append(picture.time_s)
            width, height = picture.frame.width, picture.frame.height
            if len(times_s) == 49:
                break
    num_frames = min(48, len(times_s) - 1)
    span = {"start_frame": 0, "num_frames": num_frames, "start_s": 0.0, "end_s": times_s[num_frames]}
    shape = {"width": width, "height": height, "crop_x": 0, "crop_y": 0, "crop_w": width, "crop_h": height}
    facts = {"clip_id": path.name, "video_id": path.name, "uri": str(path), "fps": num_frames / times_s[num_frames]}
    mix = [{"captioner": name, "weight": weight, "caption_short": f"{caption}, {name}"} for name, weight in (("a", 0.7), ("b", 0.3))]
    texts = {
        "caption_dense": caption and f"{caption}, which is seen at length",
        "caption_short": caption,
        "captions": mix if caption else [],
    }
    return {**facts, **span, **shape, "motion_mean": float(index), **texts}


def _start(given: Given, out: Path, *options: str) -> subprocess.Popen:
    """Train in a process of its own, with a pause after each step to be hit in."""
    program = (
        "import sys, time\nfrom pathlib import Path\nimport training.train as t\nfrom training.config import TrainError\n"
        "step = t.train_step\n"
        "def slow(*a):\n    done = step(*a)\n    time.sleep(0.15)\n    return done\n"
        "t.train_step = slow\n"
        "try:\n    t.train(sys.argv[1], sys.argv[2], Path(sys.argv[3]), '--resume' in sys.argv)\n"
        "except TrainError as error:\n    sys.exit(str(error))\n"
    )
    command = [sys.executable, "-c", program, str(given.config), str(given.manifest), str(out), *options]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True)


def _wait_for_step(process: subprocess.Popen, run: Path, step: int) -> None:
    for _ in range(600):
        metrics = run / "metrics.jsonl"
        if metrics.exists() and len(metrics.read_text().splitlines()) >= step:
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    raise AssertionError(f"step {step} was not reached")


def _metrics(run: Path) -> list[dict]:
    timed = ("tflops", "samples_per_s", "tokens_per_s", "data_share", "memory_gb")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in timed} for line in lines]


def _audits(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "audit.jsonl").read_text().splitlines()]


def _assert_same(run: Path, other: Path) -> None:
    assert _metrics(run) == _metrics(other)
    assert (run / "audit.jsonl").read_text() == (other / "audit.jsonl").read_text()
    ours, theirs = list_checkpoints(run / "checkpoints"), list_checkpoints(other / "checkpoints")
    assert [path.name for path in ours] == [path.name for path in theirs]
    assert (ours[-1] / "progress.json").read_bytes() == (theirs[-1] / "progress.json").read_bytes()
    assert_equal_tensors(ours[-1], theirs[-1])
    assert (run / "sample.json").read_bytes() == (other / "sample.json").read_bytes()


def test_a_run_leaves_what_it_promises(given: Given) -> None:
    metrics = _metrics(given.run)
    assert [line["step"] for line in metrics] == list(range(1, 15))
    assert {"loss", "psnr_db", "lr", "grad_norm"} <= metrics[0].keys()
    assert yaml.safe_load((given.run / "config.yaml").read_text())["dit"]["max_text_bytes"] == 128
    facts = json.loads((given.run / "run.json").read_text())
    (told,) = facts["data"]
    assert len(told["manifest_digest"]) == 64 and [value["natural_share"] for value in told["balance"]["values"]] == [0.4, 0.6, 0]
    assert [path.name for path in list_checkpoints(given.run / "checkpoints")] == ["step_00000012", "step_00000014"]
    made = sorted(path.name for path in (given.run / "samples").glob("*.mp4"))
    assert made == ["step_00000006_reconstruction.mp4", "step_00000010.mp4"]
    assert list((given.run / "tensorboard").iterdir())


def test_every_few_steps_and_at_the_end_of_a_stage_a_run_is_audited(given: Given) -> None:
    audits, metrics = _audits(given.run), _metrics(given.run)
    assert [(line["stage"], line["step"]) for line in audits[::3]] == [("vae", 3), ("vae", 6), ("dit", 9), ("dit", 12), ("dit", 14)]
    assert [line["facet"] for line in audits[:3]] == ["motion_mean", "fps", "caption_short"]
    for line in audits:
        since = 0 if line["stage"] == "vae" else 6
        assert line["samples"] == sum(step["samples"] for step in metrics[since : line["step"]])
        assert sum(value["planned_share"] for value in line["values"]) == pytest.approx(1)
        assert sum(value["realized_share"] for value in line["values"]) == pytest.approx(1)
        assert line["unit"] == "clips" and line["off"] is None
    last = audits[3]  # steps 4 to 6 of the vae, whose batches are of equal size
    losses = sum(value["mean_loss"] * value["window_samples"] for value in last["values"] if value["window_samples"])
    taken = sum(value["window_samples"] for value in last["values"])
    trained = [(step["reconstruction"], step["samples"]) for step in metrics[3:6]]
    assert losses / taken == pytest.approx(sum(loss * samples for loss, samples in trained) / sum(samples for _, samples in trained))


def test_the_audit_names_the_bin_of_clips_that_cannot_be_read(given: Given, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = pa.parquet.read_table(given.manifest).to_pylist()[2]
    rows = [{**row, "clip_id": f"c{i}", "motion_mean": i % 2 * 3.0} for i in range(16)]
    for unreadable in rows[1::4]:  # half of those above the edge
        unreadable["uri"] = str(tmp_path / "gone.mp4")
    write_manifest(tmp_path / "m.parquet", pa.Table.from_pylist(rows), "true", {}, {})
    stages = [{**CONFIG["stages"][0], "steps": 30, "max_tokens": 160}]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**CONFIG, "stages": stages, "audit": {"every_steps": 15}}))
    result = train(tmp_path / "c.yaml", tmp_path / "m.parquet", tmp_path / "run")
    assert len(result.skipped) == 4
    last = _audits(tmp_path / "run")[-1]
    shares = {value["value"]: (value["planned_share"], value["realized_share"]) for value in last["values"]}
    assert last["facet"] == "motion_mean" and last["js_bits"] > 5 * last["chance_js_bits"]
    assert shares["[2, inf)"][0] == pytest.approx(0.5) and shares["[2, inf)"][1] == pytest.approx(1 / 3, abs=0.05)
    assert "audit: motion_mean [2, inf) is 3" in capsys.readouterr().err


def test_the_sample_is_a_video_of_the_size_asked_for(given: Given) -> None:
    with av.open(str(given.run / "sample.mp4")) as container:
        frames = list(container.decode(video=0))
        assert container.streams.video[0].average_rate == 8
    assert len(frames) == 5 and (frames[0].width, frames[0].height) == (32, 16)
    assert json.loads((given.run / "sample.json").read_text())["num_steps"] == 3


@pytest.mark.parametrize("step", [4, 9])
def test_killed_and_resumed_is_bitwise_the_same(given: Given, tmp_path: Path, step: int) -> None:
    process = _start(given, tmp_path / "run")
    _wait_for_step(process, tmp_path / "run", step)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "run" / "sample.mp4").exists()
    result = train(given.config, given.manifest, tmp_path / "run", resume=True)
    assert result.steps == 14
    _assert_same(tmp_path / "run", given.run)


def test_resuming_at_any_step_and_with_other_workers_is_bitwise_the_same(given: Given, tmp_path: Path) -> None:
    every = {**CONFIG, "checkpoint_every_steps": 1, "keep_checkpoints": 14}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(every))
    train(tmp_path / "c.yaml", given.manifest, tmp_path / "whole")
    assert _metrics(tmp_path / "whole") == _metrics(given.run)
    for step in range(1, 14):
        run = tmp_path / f"from_{step}"
        shutil.copytree(tmp_path / "whole", run)
        for later in list_checkpoints(run / "checkpoints")[step:]:
            shutil.rmtree(later)
        workers = 2 if step == 7 else 0
        (tmp_path / "c.yaml").write_text(yaml.safe_dump({**every, "data": {**CONFIG["data"], "workers": workers}}))
        train(tmp_path / "c.yaml", given.manifest, run, resume=True)
        _assert_same(run, tmp_path / "whole")


@pytest.mark.slow
def test_one_two_and_four_ranks_take_the_same_steps(given: Given, tmp_path: Path) -> None:
    """Real runs by torchrun, one of them killed and continued on another number of ranks; sums may round differently."""
    stages = [{**stage, "micro_batches": 4, "steps": 5, "max_tokens": 32} for stage in CONFIG["stages"]]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**CONFIG, "stages": stages}))
    alone = _torchrun(given, tmp_path, 1)
    assert len({line["draws_crc32"] for line in alone}) == 10
    for ranks in (2, 4):
        together = _torchrun(given, tmp_path, ranks)
        assert [_order(line) for line in together] == [_order(line) for line in alone]
        assert [line["loss"] for line in together] == pytest.approx([line["loss"] for line in alone], rel=1e-3)
    for left in list_checkpoints(tmp_path / "of_2" / "checkpoints")[-1:]:
        shutil.rmtree(left)
    assert [_order(line) for line in _torchrun(given, tmp_path, 4, "of_2", "--resume")] == [_order(line) for line in alone]


def _order(line: dict) -> tuple:
    return tuple(line[name] for name in ("stage", "step", "draws_crc32", "samples", "carried_samples"))


def _torchrun(given: Given, folder: Path, ranks: int, name: str = "", *options: str) -> list[dict]:
    """A run by so many ranks, into folder/of_<ranks> unless it has a name; its metrics."""
    out = folder / (name or f"of_{ranks}")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m", "jobs.cli", "train"]
    arguments = [str(folder / "c.yaml"), "--manifest", str(given.manifest), "--out", str(out), *options]
    done = subprocess.run([*command, *arguments], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return _metrics(out)


def test_ranks_that_cannot_share_a_step_are_told(given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.train.join_ranks", lambda *_: nullcontext(Ranks(0, 4)))
    with pytest.raises(TrainError, match="4 ranks cannot share the 1 micro_batches of vae equally"):
        train(given.config, given.manifest, tmp_path / "run")


def test_sigterm_saves_the_step_and_says_how_to_go_on(given: Given, tmp_path: Path) -> None:
    process = _start(given, tmp_path / "run")
    _wait_for_step(process, tmp_path / "run", 3)
    process.terminate()
    said = process.communicate()[1]
    assert process.returncode == 1 and "which is saved; continue with --resume" in said
    steps = len(_metrics(tmp_path / "run"))
    assert list_checkpoints(tmp_path / "run" / "checkpoints")[-1].name == f"step_{steps:08d}"
    train(given.config, given.manifest, tmp_path / "run", resume=True)
    _assert_same(tmp_path / "run", given.run)


def test_a_run_is_not_overwritten_nor_resumed_with_something_else(given: Given, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="holds a run already; continue it with --resume, or choose another --out"):
        train(given.config, given.manifest, given.run)
    changed = tmp_path / "changed.yaml"
    changed.write_text(yaml.safe_dump({**CONFIG, "seed": 7}))
    with pytest.raises(TrainError, match="another config \\(seed: 0 -> 7\\)"):
        train(changed, given.manifest, given.run, resume=True)
    other = tmp_path / "other.parquet"
    write_manifest(other, pa.parquet.read_table(given.manifest).slice(1), "other", {}, {})
    with pytest.raises(TrainError, match="started from another manifest"):
        train(given.config, other, given.run, resume=True)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("x")
    with pytest.raises(TrainError, match="exists and is not a run"):
        train(given.config, given.manifest, tmp_path / "notes")


def test_an_epoch_may_be_balanced_by_tokens_and_a_run_keeps_its_order(given: Given, tmp_path: Path) -> None:
    """Shares are then of the tokens of the last stage, which the shapes of the clips give; and another order is not resumed."""
    stages = [{**stage, "steps": 1} for stage in CONFIG["stages"]]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**CONFIG, "balance": {**CONFIG["balance"], "unit": "tokens"}, "stages": stages}))
    train(tmp_path / "c.yaml", given.manifest, tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    (told,), (plain,) = facts["data"], json.loads((given.run / "run.json").read_text())["data"]
    assert told["balance"]["unit"] == "tokens" and told["order_key"] != plain["order_key"]
    (tmp_path / "run" / "run.json").write_text(json.dumps({**facts, "data": [{**told, "order_key": "0" * 32}]}))
    with pytest.raises(TrainError, match="another order"):
        train(tmp_path / "c.yaml", given.manifest, tmp_path / "run", resume=True)


def test_manifests_that_are_none(given: Given, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="there is no manifest"):
        train(given.config, tmp_path / "none.parquet", tmp_path / "run")
    (tmp_path / "text.parquet").write_text("no manifest, but long enough to look at")
    with pytest.raises(TrainError, match="not a Parquet file"):
        train(given.config, tmp_path / "text.parquet", tmp_path / "run")
    data = bytearray(given.manifest.read_bytes())
    data[100] ^= 1
    (tmp_path / "changed.parquet").write_bytes(data)
    with pytest.raises(TrainError, match="was changed"):
        train(given.config, tmp_path / "changed.parquet", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_a_number_stops_the_run(given: Given, tmp_path: Path) -> None:
    wild = tmp_path / "wild.yaml"
    stages = [{**CONFIG["stages"][0], "learning_rate": 1e30, "final_learning_rate": 1e30}, CONFIG["stages"][1]]
    wild.write_text(yaml.safe_dump({**CONFIG, "stages": stages}))
    with pytest.raises(TrainError, match="gave loss .*lower the learning rate. Newest checkpoint: "):
        train(wild, given.manifest, tmp_path / "run")


def test_sampling_is_deterministic_and_follows_its_settings(given: Given, tmp_path: Path) -> None:
    def sample(name: str, **changes: object) -> str:
        _sample(given.run, tmp_path / name, num_steps=2, **changes)
        return json.loads((tmp_path / name).with_suffix(".json").read_text())["frames_sha256"]

    first = sample("a.mp4", prompt="a cat", seed=3)
    assert sample("b.mp4", prompt="a cat", seed=3) == first
    assert sample("c.mp4", prompt="a cat", seed=4) != first
    assert sample("d.mp4", prompt="a cat", seed=3, tags={"motion_mean": 1.0}) != first
    sample("e.mp4", width=16, height=32, num_frames=1)
    with av.open(str(tmp_path / "e.mp4")) as container:
        frames = list(container.decode(video=0))
    assert len(frames) == 1 and (frames[0].width, frames[0].height) == (16, 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 30}, "multiples of 8, not 30x16"),
        ({"num_frames": 6}, "1 \\+ a multiple of 4, not 6"),
        ({"num_frames": 9}, "trained on up to 5 frames and not to continue its own"),
        ({"image": "a.png"}, "was not trained to go on from an image \\(conditions.first_frame\\)"),
        ({"steering": Steering(camera={"pan": 0.1})}, "was not trained with camera"),
        ({"solver": "eular"}, "did you mean 'euler'"),
        ({"tags": {"motion_men": 0.5}}, "did you mean 'motion_mean'"),
        ({"tags": {"motion_mean": 2.0}}, "quantile from 0 to 1"),
    ],
)
def test_samples_that_cannot_be_made(given: Given, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(TrainError, match=message):
        _sample(given.run, tmp_path / "x.mp4", **changes)


def test_what_is_not_a_run_cannot_be_sampled(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="is not a run"):
        _sample(tmp_path, tmp_path / "x.mp4")


def test_checkpoints_hold_no_pickled_code(given: Given) -> None:
    oldest = list_checkpoints(given.run / "checkpoints")[0]
    assert {path.suffix for path in oldest.iterdir()} == {".safetensors", ".json"}
    names = tensors_of(oldest)
    assert {name.partition(".")[0] for name in names} == {"vae", "dit", "average", "optimizer"}
    assert {name.rpartition(".")[2] for name in names if name.startswith("optimizer.")} == {"step", "exp_avg", "exp_avg_sq"}
