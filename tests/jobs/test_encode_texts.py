"""`reelmill encode` with a frozen text encoder, as a user runs it: texts beside latents, trained from, and killed on the way."""

import json
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pytest
import torch
import yaml
from typer.testing import CliRunner

from jobs.cli import app
from schemas.manifest import write_manifest
from tests.benchmarks.kill_and_rerun import ROOT
from tests.training.test_training_run import CLIPS, _row
from tests.training.tiny_encoders import tiny_encoder
from training.settings import TrainError

VIDEOS = ("gen_latte_b421.mp4", "videoxfun_pose.mp4")
WANTED = 8  # two captioners' short text and a long one of each clip, the prompt, and the empty text
SHAPES = {"shapes": {"areas": [[32, 16]], "max_frames": 5, "fps": 8}}
VAE = {"latent_channels": 4, "widths": [8, 8, 8]}
DIT = {"width": 32, "depth": 1, "heads": 2, "text_width": 16}


def cli(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


@pytest.fixture(scope="module")
def given(corpus, tmp_path_factory):
    """A manifest of real clips with captions, a run that trained a VAE on them, and a tiny text encoder."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("given")
    rows = [_row(corpus / name, CLIPS[name], index) for index, name in enumerate(VIDEOS)]
    write_manifest(folder / "m.parquet", pa.Table.from_pylist(rows), "true", {}, {})
    stages = [{"name": "vae", "model": "vae", "steps": 2, "max_tokens": 32}]
    (folder / "vae.yaml").write_text(yaml.safe_dump({"threads": 1, "data": SHAPES, "vae": VAE, "dit": DIT, "stages": stages}))
    assert cli("train", folder / "vae.yaml", "--manifest", folder / "m.parquet", "--out", folder / "vae").exit_code == 0
    tiny_encoder(folder / "t5")
    yield folder
    torch.use_deterministic_algorithms(False)  # as it was before training in this process


def config_of(given, path, cache, encoder="t5", **changes):
    stages = [{"name": "dit", "model": "dit", "steps": 3, "batching": "packed", "max_tokens": 40}]
    config = {"threads": 1, "data": {**SHAPES, "cache": str(cache)}, "vae": {**VAE, "weights": str(given / "vae")}, "dit": DIT}
    config |= {"text": {"encoder": str(given / encoder)}, "stages": stages, "sample": {"num_steps": 2, "prompt": "a film"}}
    path.write_text(yaml.safe_dump(config | changes))
    return path


def encode(given, config):
    done = cli("encode", given / "m.parquet", "--config", config, "--json")
    assert done.exit_code == 0
    return json.loads(done.stdout), done.stderr


def files(cache):
    return {path.name: path.read_bytes() for path in cache.glob("texts/*/*")}


def test_texts_are_encoded_beside_latents_and_trained_from(given, tmp_path):
    cache = tmp_path / "cache"
    config = config_of(given, tmp_path / "c.yaml", cache)
    record, said = encode(given, config)
    assert record["windows"] == 4 and record["texts"]["bytes"] == sum(map(len, files(cache).values())) - len(files(cache)["encoder.json"])
    assert record["texts"] | {"bytes": 0} == {"wanted": WANTED, "already_there": 0, "bytes": 0, "cache": str(*cache.glob("texts/*"))}
    assert "8 texts, 0 already there, 8 to encode" in said and "8/8 texts" in said and "8 texts, " in said.splitlines()[-1]
    assert json.loads(next(cache.glob("runs/*.json")).read_text()) == record
    before = files(cache)
    again, _ = encode(given, config)
    assert again["texts"]["already_there"] == WANTED and files(cache) == before and len(list(cache.glob("runs/*.json"))) == 1
    assert cli("train", config, "--manifest", given / "m.parquet", "--out", tmp_path / "run").exit_code == 0
    assert cli("sample", tmp_path / "run", "--prompt", "another film", "--out", tmp_path / "s.mp4").exit_code == 0
    assert json.loads((tmp_path / "run/run.json").read_text())["text_encoder"]["folder"] == str(given / "t5")


def test_killed_at_any_moment_the_cache_becomes_the_same(given, tmp_path, monkeypatch):
    program = "import sys, training.encoding.texts as e, jobs.cli\ne._MOST_TEXTS = 1\nsys.exit(jobs.cli.main())"
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    configs = [config_of(given, folder.with_suffix(".yaml"), folder) for folder in (killed, whole)]
    command = [sys.executable, "-c", program, "encode", str(given / "m.parquet"), "--config", str(configs[0]), "--workers", "1"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list(killed.glob("texts/*/part-*"))) < 2:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    (next(killed.glob("texts/*")) / ".part-left").write_text("half a shard")
    monkeypatch.setattr("training.encoding.texts._MOST_TEXTS", 1)
    for config in configs:
        encode(given, config)
    assert files(killed) == files(whole) and len(files(whole)) == WANTED + 1


def test_an_encoder_that_is_missing_is_named_before_anything_is_made(given, tmp_path):
    config = config_of(given, tmp_path / "c.yaml", tmp_path / "cache", encoder="t7")
    with pytest.raises(TrainError, match="text.encoder: there is no folder .*t7; give that of a downloaded text encoder"):
        encode(given, config)
    assert not (tmp_path / "cache").exists()


def test_without_an_encoder_there_are_latents_alone(given, tmp_path):
    record, _ = encode(given, config_of(given, tmp_path / "c.yaml", tmp_path / "cache", text={}))
    assert "texts" not in record and not (tmp_path / "cache/texts").exists()
