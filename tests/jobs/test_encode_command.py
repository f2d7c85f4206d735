"""`reelmill encode` as a user runs it: from a trained VAE to a run that decodes nothing, killed, and with sources that are gone."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from tests.benchmarks.kill_and_rerun import ROOT
from tests.command import reelmill

VIDEOS = ("decord_flipping_a_pancake.mkv", "gen_latte_b421.mp4", "mmaction2_test.avi", "psd_fades.mp4", "lhotse_bbb_small.mp4")
SHAPES = {"shapes": {"areas": [[32, 16]], "max_frames": 5, "fps": 8}}
VAE = {"latent_channels": 4, "widths": [8, 8, 8]}
DIT = {"width": 32, "depth": 1, "heads": 2, "text_width": 16}


def cli(*arguments, code=0):
    done = reelmill(*arguments)
    assert done.returncode == code, done.stderr
    return done


def write(path, **changes):
    stages = [{"name": "dit", "model": "dit", "steps": 6, "batching": "packed", "max_tokens": 40, "warmup_steps": 2}]
    config = {"threads": 1, "data": SHAPES, "vae": VAE, "dit": DIT, "stages": stages, "sample": {"num_steps": 2}} | changes
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="module")
def given(corpus, tmp_path_factory):
    """Copies of real videos, their manifest, and a run that trained a VAE on them."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "reels").mkdir()
    for name in VIDEOS:
        shutil.copy(corpus / name, folder / "reels" / name)
    cli("curate", folder / "reels", "--out", folder / "dataset", "--max-clip-s", "2")
    cli("manifest", folder / "dataset", "--where", "num_frames > 1", "--out", folder / "m.parquet")
    vae = write(folder / "vae.yaml", stages=[{"name": "vae", "model": "vae", "steps": 4, "max_tokens": 32}])
    cli("train", vae, "--manifest", folder / "m.parquet", "--out", folder / "vae")
    return folder


def config_of(given, path, cache=None):
    return write(path, vae={**VAE, "weights": str(given / "vae")}, data={**SHAPES, "cache": str(cache) if cache else None})


def losses(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["draws_crc32"], line["loss"], line["grad_norm"]) for line in lines]


def latents(cache):
    return {path.name: path.read_bytes() for path in cache.glob("latents/*/*")}


@pytest.fixture(scope="module")
def cached(given):
    """A cache of float32, and the run record that made it."""
    config = config_of(given, given / "cached.yaml", given / "cache")
    done = cli("encode", given / "m.parquet", "--config", config, "--dtype", "float32", "--json")
    return given / "cache", json.loads(done.stdout)


def test_a_run_from_the_cache_is_bitwise_the_run_that_decodes(given, cached, tmp_path):
    config = config_of(given, tmp_path / "decoding.yaml")
    cli("train", config, "--manifest", given / "m.parquet", "--out", tmp_path / "decoding")
    moved = given / "elsewhere"
    (given / "reels").rename(moved)  # nothing of it is needed any more
    try:
        cli("train", given / "cached.yaml", "--manifest", given / "m.parquet", "--out", tmp_path / "cached")
    finally:
        moved.rename(given / "reels")
    assert losses(tmp_path / "cached") == losses(tmp_path / "decoding")
    hashes = [json.loads((tmp_path / name / "sample.json").read_text())["frames_sha256"] for name in ("cached", "decoding")]
    assert hashes[0] == hashes[1]


def test_a_second_run_has_nothing_to_do(given, cached):
    cache, record = cached
    before = latents(cache)
    again = json.loads(cli("encode", given / "m.parquet", "--config", given / "cached.yaml", "--dtype", "float32", "--json").stdout)
    assert record["already_there"] == 0 and again["already_there"] == again["windows"] == record["windows"] > 20
    assert latents(cache) == before and not list(cache.glob("failures.parquet"))


def test_killed_at_any_moment_the_cache_becomes_the_same(given, cached, tmp_path, monkeypatch):
    program = "import sys, training.encoding.latents as e, jobs.cli\ne._MOST_WINDOWS = 4\nsys.exit(jobs.cli.main())"
    config = config_of(given, tmp_path / "c.yaml", tmp_path / "cache")
    arguments = ["encode", str(given / "m.parquet"), "--config", str(config), "--dtype", "float32"]
    kills = 0
    for shards in (1, 4, 7):
        process = subprocess.Popen([sys.executable, "-c", program, *arguments], cwd=ROOT, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list((tmp_path / "cache").glob("latents/*/part-*"))) < shards:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills == 3
    assert subprocess.run([sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True).returncode == 0
    whole = config_of(given, tmp_path / "whole.yaml", tmp_path / "whole")
    arguments[3] = str(whole)
    assert subprocess.run([sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True).returncode == 0
    assert latents(tmp_path / "cache") == latents(tmp_path / "whole") and len(latents(tmp_path / "cache")) > 8
    assert not list((tmp_path / "cache").glob("latents/*/.*"))


def test_sources_that_are_gone_or_changed_are_told_and_tried_again(given, tmp_path):
    config = config_of(given, tmp_path / "c.yaml", tmp_path / "cache")
    gone, other = (given / "reels" / name for name in ("gen_latte_b421.mp4", "psd_fades.mp4"))
    gone.rename(tmp_path / "gone.mp4")
    content = other.read_bytes()
    other.write_bytes(content + b"\0" * 8)
    try:
        done = cli("encode", given / "m.parquet", "--config", config, code=3)
        cli("train", config, "--manifest", given / "m.parquet", "--out", tmp_path / "run", code=3)
    finally:
        (tmp_path / "gone.mp4").rename(gone)
        other.write_bytes(content)
    assert "there is no such file" in done.stderr and "the file at this address is another one now" in done.stderr
    failures = pq.read_table(tmp_path / "cache/failures.parquet").to_pylist()
    assert {Path(row["uri"]).name: row["code"] for row in failures} == {gone.name: "not_found", other.name: "not_found"}
    skipped = json.loads((tmp_path / "run/skipped.json").read_text())
    assert skipped.keys() <= {row["clip_id"] for row in failures} and skipped
    cli("encode", given / "m.parquet", "--config", config)
    assert not (tmp_path / "cache/failures.parquet").exists()


def test_on_dask_the_latents_are_the_same(given, cached, tmp_path):
    config = config_of(given, tmp_path / "c.yaml", tmp_path / "cache")
    cli("encode", given / "m.parquet", "--config", config, "--dtype", "float32", "--engine", "dask", "--workers", "2")
    assert latents(tmp_path / "cache") == latents(cached[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": SHAPES}, "has no data.cache: name the folder"),
        ({"vae": VAE}, "or vae.weights name a run"),
        ({"vae": {**VAE, "weights": "none"}}, "vae.weights: none is not a run"),
        ({"vae": {**VAE, "widths": [8, 8, 16], "weights": "VAE"}}, "has a vae of another shape (vae.widths: [8, 8, 8] -> [8, 8, 16])"),
    ],
)
def test_what_is_missing_is_named(given, tmp_path, changes, message):
    vae = {**VAE, "weights": str(given / "vae")}
    changes = {"vae": vae, "data": {**SHAPES, "cache": str(tmp_path / "cache")}} | changes
    changes = json.loads(json.dumps(changes).replace('"VAE"', json.dumps(str(given / "vae"))))
    config = write(tmp_path / "c.yaml", **changes)
    assert message in cli("encode", given / "m.parquet", "--config", config, code=1).stderr
    assert not (tmp_path / "cache").exists()


def test_training_without_the_latents_says_how_to_make_them_and_leaves_no_run(given, tmp_path):
    config = config_of(given, tmp_path / "c.yaml", tmp_path / "none")
    done = cli("train", config, "--manifest", given / "m.parquet", "--out", tmp_path / "run", code=1)
    assert "`reelmill encode MANIFEST --config CONFIG` makes them" in done.stderr and not (tmp_path / "run").exists()
