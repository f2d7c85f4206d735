"""The text half of a CLIP, small and random but of the real architecture and in open_clip's own files, against open_clip itself."""

import json
import shutil
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.labeling.clip_model import CONFIG, write_clip
from tests.training.tiny_encoders import tiny_encoder
from training.config import TrainConfig
from training.encoding.cache import Cache
from training.encoding.clip_text_encoder import ClipTextEncoder
from training.encoding.text_encoder import FrozenTextEncoder
from training.encoding.text_features import CachedTexts, open_encoder, open_text_encoder, text_key
from training.encoding.texts import TextJob, begin_text_cache, run_texts
from training.runs import make_models
from training.settings import TrainError

TEXTS = ("a man flips a pancake", "", "Dogs!", "clouds over mountains, " * 40)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip")).parent


@pytest.fixture
def copy(clip: Path, tmp_path: Path) -> Path:
    return shutil.copytree(clip, tmp_path / "copy")


def _weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "open_clip_model.safetensors")


def _save(folder: Path, weights: dict[str, Tensor]) -> None:
    save_file(weights, folder / "open_clip_model.safetensors")


def _configure(folder: Path, **changes: Any) -> None:
    config = {**CONFIG, **changes}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))


def test_features_are_those_that_open_clip_pools(clip: Path) -> None:
    """Its tokens, its last hidden states of all of them after the last norm, and of the end mark its embedding of the text."""
    import open_clip

    whole, seen = open_clip.CLIP(**CONFIG).eval(), []
    whole.load_state_dict(_weights(clip))
    whole.ln_final.register_forward_hook(lambda module, given, states: seen.append(states))
    ids = open_clip.SimpleTokenizer()(list(TEXTS))
    with torch.no_grad():
        embeddings = whole.encode_text(ids)
    encoder = ClipTextEncoder(clip, 77)
    features = encoder.encode(TEXTS)
    assert [len(text) for text in features] == [int(row.argmax()) + 1 for row in ids] == [7, 2, 4, 77]  # up to the end mark
    for text, states, embedding in zip(features, seen[0], embeddings, strict=True):
        assert text.shape[1] == encoder.width == 32 and text.dtype == torch.float32 and not text.requires_grad
        assert torch.allclose(text, states[: len(text)], atol=1e-5)
        assert torch.allclose(text[-1] @ whole.text_projection, embedding, atol=1e-5)


def test_a_text_is_cut_and_still_ends(clip: Path) -> None:
    cut, whole = (ClipTextEncoder(clip, most).encode(TEXTS) for most in (16, 77))
    assert [len(text) for text in cut] == [7, 2, 4, 16] and all(map(torch.equal, cut[:3], whole))
    assert torch.allclose(cut[3][:15], whole[3][:15], atol=1e-5) and not torch.allclose(cut[3][15], whole[3][15], atol=1e-3)


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_both_layouts_of_weights_are_read_and_pictures_are_not_needed(copy: Path, half: bool) -> None:
    """As models with `custom_text` have them, such as in a run of one's own; and published in half precision."""
    wanted = ClipTextEncoder(copy, 20).encode(TEXTS)
    weights = {name: value for name, value in _weights(copy).items() if not name.startswith("visual.")}
    renamed = {f"text.{name}": value.half() if half else value for name, value in weights.items() if name != "logit_scale"}
    _save(copy, renamed)
    _configure(copy, custom_text=True, vision_cfg={"timm_model_name": "convnext_base", "image_size": 256})
    found = ClipTextEncoder(copy, 20).encode(TEXTS)
    assert all(torch.allclose(ours, theirs, atol=0.02 if half else 0) for ours, theirs in zip(found, wanted, strict=True))
    assert all(text.dtype == torch.float32 for text in found)


def test_what_the_config_says_of_the_model_and_its_tokenizer_counts(copy: Path) -> None:
    quick = ClipTextEncoder(copy, 20).encode(["Dogs, and a cat!"])[0]
    _configure(copy, quick_gelu=False)
    assert not torch.allclose(ClipTextEncoder(copy, 20).encode(["Dogs, and a cat!"])[0], quick, atol=1e-5)
    _configure(copy, text_cfg={**CONFIG["text_cfg"], "tokenizer_kwargs": {"clean": "canonicalize"}})
    bare, plain = ClipTextEncoder(copy, 20).encode(["Dogs, and a cat!", "dogs and a cat"])
    assert torch.equal(bare, plain) and len(bare) == len(quick) - 2  # without the comma and the mark


def test_the_files_in_a_folder_tell_the_encoder(clip: Path, tmp_path: Path) -> None:
    t5 = tiny_encoder(tmp_path / "t5")
    assert isinstance(open_encoder(t5, 16), FrozenTextEncoder) and isinstance(open_encoder(clip, 16), ClipTextEncoder)
    shutil.copytree(clip, t5, dirs_exist_ok=True)  # published for both, as LAION's are
    both = open_encoder(t5, 16)
    assert isinstance(both, ClipTextEncoder) and both.digest == ClipTextEncoder(clip, 16).digest
    config = TrainConfig(
        text={"encoder": str(clip), "max_tokens": 16}, dit={"text_width": 16}, stages=[{"name": "vae", "model": "vae", "steps": 1}]
    )
    encoder = open_text_encoder(config)
    assert isinstance(encoder, ClipTextEncoder) and encoder.max_tokens == 16
    assert make_models(config)["dit"].text.out.weight.shape == (16, 32)


def test_features_are_cached_as_those_of_any_encoder(clip: Path, tmp_path: Path) -> None:
    encoder = open_encoder(clip, 16)
    folder = begin_text_cache(tmp_path / "cache", encoder, "float32")
    assert run_texts(TextJob(TEXTS, folder, "float32", clip, encoder.digest, 16)) == 4
    cached = CachedTexts(Cache(folder), 16)
    assert text_key(TEXTS[0], 16) in cached.cache and all(map(torch.equal, map(cached, TEXTS), encoder.encode(TEXTS)))


def test_the_digest_is_of_config_and_weights_alone(clip: Path, copy: Path) -> None:
    digests = [ClipTextEncoder(clip, 16).digest]
    (copy / "README.md").write_text("A model.")
    (copy / "config.json").write_text("{}")  # of transformers
    assert ClipTextEncoder(copy, 32).digest == digests[0]
    weights = _weights(copy)
    weights["ln_final.weight"][0] *= 1.000001
    _save(copy, weights)
    digests.append(ClipTextEncoder(copy, 16).digest)
    _configure(copy, quick_gelu=False)
    assert len({*digests, ClipTextEncoder(copy, 16).digest}) == 3


def test_the_width_is_known_without_reading_weights(copy: Path) -> None:
    (copy / "open_clip_model.safetensors").write_bytes(b"")
    assert ClipTextEncoder(copy, 16).width == 32


def test_threads_share_an_encoder_and_nothing_is_fetched(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    encoder, texts = ClipTextEncoder(clip, 16), [f"dogs run {i} times" for i in range(40)]
    with ThreadPoolExecutor(4) as pool:
        shared = list(pool.map(lambda text: encoder.encode([text])[0], texts))
    assert all(map(torch.equal, shared, encoder.encode(texts)))


def _pickled(folder: Path) -> None:
    torch.save(_weights(folder), folder / "open_clip_pytorch_model.bin")
    (folder / "open_clip_model.safetensors").unlink()


def _without_layer(folder: Path) -> None:
    _save(folder, {name: value for name, value in _weights(folder).items() if not name.startswith("transformer.resblocks.0.mlp")})


def _narrower(folder: Path) -> None:
    _configure(folder, text_cfg={**CONFIG["text_cfg"], "width": 64})


def _written(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content)


def _text(**changes: object) -> Callable[[Path], None]:
    return lambda folder: _configure(folder, text_cfg={**CONFIG["text_cfg"], **changes})


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_pickled, "has no open_clip_model.safetensors; take its safetensors weights \\(pickled ones are not loaded\\)"),
        (
            lambda folder: (folder / "open_clip_config.json").write_text("{"),
            "open_clip_config.json is not that of a model known to open_clip",
        ),
        (lambda folder: (folder / "open_clip_config.json").write_text("{}"), "is not that of a model known to open_clip \\('model_cfg'\\)"),
        (_text(number=7), "is not that of a model known to open_clip .*'number'"),
        (_text(tokenizer_kwargs={"clean": "up"}), "is not that of a model known to open_clip .*Invalid clean function"),
        (
            _text(hf_tokenizer_name="bert-base-uncased"),
            "in another way than CLIP \\(hf_tokenizer_name: bert-base-uncased\\)",
        ),
        (_text(embed_cls=True), "reads texts in another way than CLIP \\(embed_cls: True\\)"),
        (_text(context_length=15), "text.max_tokens: 16 are more than the 15 that"),
        (_without_layer, "lacks 4 weights, transformer.resblocks.0.mlp.c_fc.weight first"),
        (_narrower, "cannot be used as one \\(.*size mismatch.*\\); take both its files anew"),
        (
            lambda folder: (folder / "open_clip_model.safetensors").write_bytes(b"x" * 20),
            "cannot be used as one \\(.*\\); take both its files anew",
        ),
    ],
)
def test_what_is_missing_or_wrong_is_named(copy: Path, harm: Callable[[Path], None], message: str) -> None:
    harm(copy)
    with pytest.raises(TrainError, match=message) as raised:
        open_encoder(copy, 16).encode([""])
    assert "\n" not in str(raised.value)
