"""Whole runs with a frozen text encoder: from a cache and without one, resumed, sampled from, and refused with another encoder."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
import torch
import yaml

from schemas.manifest import write_manifest
from tests.training.checkpoint_files import assert_equal_tensors
from tests.training.test_training_run import CLIPS, CONFIG, _row, _sample
from tests.training.tiny_encoders import tiny_encoder
from training.checkpoint import list_checkpoints, load_models
from training.config import TrainConfig, load_config
from training.encoding.cache import Cache
from training.encoding.latents import begin_cache, plan_encoding, run_encoding
from training.encoding.text_encoder import FrozenTextEncoder
from training.encoding.text_features import open_text_encoder
from training.encoding.texts import begin_text_cache, plan_texts, run_texts
from training.pixels import read_windows
from training.plan import prepare
from training.runs import load_manifest, make_models, take_vae
from training.settings import TrainError
from training.train import train

VIDEOS = ("gen_latte_b421.mp4", "videoxfun_pose.mp4", "lhotse_bbb_small.mp4")


@dataclass(frozen=True)
class Given:
    """A manifest, a text encoder, a run that trained a VAE, and a config of a dit with its run, which encoded texts as it went."""

    manifest: Path
    encoder: Path
    vae: Path
    config: dict
    run: Path


@pytest.fixture(scope="module")
def given(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Given]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("given")
    rows = [_row(corpus / name, CLIPS[name], index) for index, name in enumerate(VIDEOS)]
    write_manifest(folder / "m.parquet", pa.Table.from_pylist(rows), "true", {}, {})
    plain = {name: part for name, part in CONFIG.items() if name != "balance"}
    vae, dit = ({**stage, "steps": steps} for stage, steps in zip(CONFIG["stages"], (2, 6), strict=True))
    train(_write(folder / "vae.yaml", {**plain, "stages": [vae]}), folder / "m.parquet", folder / "vae")
    encoder = tiny_encoder(folder / "t5")
    config = {
        **plain,
        "text": {"encoder": str(encoder), "max_tokens": 12},
        "vae": {**CONFIG["vae"], "weights": str(folder / "vae")},
        "sample": {"prompt": "clouds at night", "num_steps": 2, "every_steps": 4},
        "stages": [dit],
    }
    result = train(_write(folder / "dit.yaml", config), folder / "m.parquet", folder / "run")
    assert result.steps == 6 and not result.skipped
    yield Given(folder / "m.parquet", encoder, folder / "vae", config, folder / "run")
    torch.use_deterministic_algorithms(False)  # as it was before training in this process


def _write(path: Path, config: dict) -> Path:
    path.write_text(yaml.safe_dump(config))
    return path


def _fill(cache: Path, config: TrainConfig, manifest: Path, texts: bool = True) -> None:
    """What `reelmill encode --dtype float32` does."""
    prepared, models, encoder = prepare({None: load_manifest(manifest)}, config), make_models(config), open_text_encoder(config)
    take_vae(config, models)
    folder = begin_cache(cache, models["vae"], "float32")
    for job in plan_encoding(prepared, config, folder, "float32").jobs:
        assert not run_encoding(job, read_windows).failed
    folder = begin_text_cache(cache, encoder, "float32")
    for job in plan_texts(prepared, config, encoder, folder, "float32").jobs if texts else ():
        run_texts(job)


def _losses(run: Path) -> list[tuple]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["draws_crc32"], line["loss"], line["grad_norm"]) for line in lines]


def _assert_same(run: Path, other: Path) -> None:
    assert _losses(run) == _losses(other)
    assert_equal_tensors(*(list_checkpoints(path / "checkpoints")[-1] for path in (run, other)))
    assert (run / "sample.json").read_bytes() == (other / "sample.json").read_bytes()
    assert (run / "samples/step_00000004.json").read_bytes() == (other / "samples/step_00000004.json").read_bytes()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_from_the_cache_is_bitwise_the_run_that_encodes(
    given: Given, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {**given.config["data"], "cache": str(tmp_path / "cache"), "workers": workers}
    config = _write(tmp_path / "c.yaml", {**given.config, "data": data})
    _fill(tmp_path / "cache", load_config(config), given.manifest)
    monkeypatch.setattr(FrozenTextEncoder, "_network", property(lambda encoder: pytest.fail("the encoder was loaded")))
    train(config, given.manifest, tmp_path / "run")
    _assert_same(tmp_path / "run", given.run)


def test_a_text_that_is_not_in_the_cache_is_told_at_the_start(given: Given, tmp_path: Path) -> None:
    data = {**given.config["data"], "cache": str(tmp_path / "cache")}
    config = _write(tmp_path / "c.yaml", {**given.config, "data": data})
    _fill(tmp_path / "cache", load_config(config), given.manifest, texts=False)
    with pytest.raises(
        TrainError, match="cache/texts/.* lacks 8 texts; `reelmill encode MANIFEST"
    ):  # 2 clips have 3, and the prompt and no text
        train(config, given.manifest, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    _fill(tmp_path / "cache", load_config(config), given.manifest)
    train(config, given.manifest, tmp_path / "run")
    changed = tiny_encoder(tmp_path / "other", seed=1)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**given.config, "data": data, "text": {"encoder": str(changed), "max_tokens": 12}}))
    with pytest.raises(TrainError, match="cache/texts/.* lacks 8 texts"):  # and finds nothing stale
        train(config, given.manifest, tmp_path / "again")
    assert len(list((tmp_path / "cache" / "texts").iterdir())) == 1 and len(Cache(next((tmp_path / "cache" / "texts").iterdir()))) == 8


def test_the_encoder_is_no_part_of_the_checkpoint_and_its_texts_are_learned_from(given: Given) -> None:
    config = load_config(given.run / "config.yaml")
    fresh, trained = make_models(config)["dit"], make_models(config)
    load_models(list_checkpoints(given.run / "checkpoints")[-1], trained)
    assert not [name for name in trained["dit"].state_dict() if name.startswith("text.") and not name.startswith(("text.norm", "text.out"))]
    assert not torch.equal(fresh.text.out.weight, trained["dit"].text.out.weight)
    facts = json.loads((given.run / "run.json").read_text())["text_encoder"]
    assert facts == {"folder": str(given.encoder), "digest": FrozenTextEncoder(given.encoder, 12).digest}


def test_resuming_takes_the_same_encoder_wherever_it_lies_and_no_other(given: Given, tmp_path: Path) -> None:
    run = shutil.copytree(given.run, tmp_path / "run")
    shutil.rmtree(list_checkpoints(run / "checkpoints")[-1])
    moved = shutil.copytree(given.encoder, tmp_path / "moved")
    other = tiny_encoder(tmp_path / "other", seed=1)
    for text, has in (({"encoder": str(other), "max_tokens": 12}, r"\w{12}"), ({"max_tokens": 12}, "none")):
        config = _write(tmp_path / "c.yaml", {**given.config, "text": text})
        with pytest.raises(TrainError, match=rf"started with another text encoder \(.*t5, digest \w{{12}}; this one is {has}\)"):
            train(config, given.manifest, run, resume=True)
    with pytest.raises(TrainError, match="another config \\(text.max_tokens: 12 -> 13\\)"):
        longer = {**given.config, "text": {"encoder": str(moved), "max_tokens": 13}}
        train(_write(tmp_path / "c.yaml", longer), given.manifest, run, resume=True)
    config = _write(tmp_path / "c.yaml", {**given.config, "text": {"encoder": str(moved), "max_tokens": 12}})
    train(config, given.manifest, run, resume=True)
    _assert_same(run, given.run)


def test_a_prompt_is_read_by_the_encoder_of_the_run(given: Given, tmp_path: Path) -> None:
    def sample(name: str, prompt: str) -> str:
        _sample(given.run, tmp_path / name, prompt=prompt, seed=3)
        return json.loads((tmp_path / name).with_suffix(".json").read_text())["frames_sha256"]

    first = sample("a.mp4", "a dog")
    assert sample("b.mp4", "a dog") == first != sample("c.mp4", "a skeleton dances on a wire at noon")
    run = shutil.copytree(given.run, tmp_path / "run")
    other = tiny_encoder(tmp_path / "other", seed=1)
    text = {**yaml.safe_load((run / "config.yaml").read_text()), "text": {"encoder": str(other), "max_tokens": 12}}
    (run / "config.yaml").write_text(yaml.safe_dump(text))
    with pytest.raises(TrainError, match="was started with another text encoder"):
        _sample(run, tmp_path / "d.mp4")


def test_an_encoder_that_cannot_be_used_is_told_before_any_stage(given: Given, tmp_path: Path) -> None:
    broken = shutil.copytree(given.encoder, tmp_path / "broken")
    (broken / "tokenizer.json").unlink()
    config = _write(tmp_path / "c.yaml", {**given.config, "text": {"encoder": str(broken)}})
    with pytest.raises(TrainError, match="text.encoder: .*broken"):
        train(config, given.manifest, tmp_path / "run")
    assert not (tmp_path / "run").exists()
