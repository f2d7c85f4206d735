"""CLIP: pictures and texts to unit vectors of one space (Radford et al. 2021), by open_clip.

A model is named in one of two ways:

- `ARCHITECTURE/TAG`, a pair of open_clip's list, such as `ViT-L-14-quickgelu/openai`. Its weights are looked for in the folder of
  models as REPO/open_clip_model.safetensors, REPO being the model's hub repository without its owner (here
  `vit_large_patch14_clip_224.openai`), else as REPO/open_clip_pytorch_model.bin; then in the hub's cache.
- `NAME`, a folder of the folder of models with what open_clip publishes: open_clip_config.json and one of those two files.

OpenAI's weights were trained with QuickGELU, x * sigmoid(1.702 x), so their architecture is the one with `-quickgelu`: loaded into the
plain one they run without complaint and are a little wrong everywhere. Such a pair is refused.
Only tensors are read: safetensors, or pickles through torch's `weights_only` reader, which refuses all that is not a tensor.
"""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from labeling.tagger import TaggerError
from labeling.weights import Models

DEFAULT_CLIP = "ViT-L-14-quickgelu/openai"
"""The model that LAION's aesthetic head was trained on."""

_HUB = "https://huggingface.co/"
_PAGE = "https://github.com/mlfoundations/open_clip"
_CONFIG = "open_clip_config.json"
_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_TEXT_BATCH = 256


@dataclass(frozen=True)
class ClipEmbedder:
    """A CLIP model, loaded when it is first used and once per process. On a GPU pictures are encoded in float16, else all in float32."""

    model: str = DEFAULT_CLIP
    models: Models = Models()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch: int = 32

    @property
    def name(self) -> str:
        return self.model.replace("/", "-")

    @property
    def size(self) -> int:
        """Length of an embedding."""
        return _checkpoint(self.model, self.models).config["embed_dim"]

    @property
    def version(self) -> str:
        """Digest of weights, architecture and preprocessing. Raises TaggerError if the weights are missing, as does all else here."""
        return _checkpoint(self.model, self.models).digest()

    def find(self) -> Path:
        """The weight file, fetched if that is allowed. Raises TaggerError, which says what is missing and how to get it."""
        return _checkpoint(self.model, self.models).weights

    def open(self) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
        """Load the model; the function returned maps pictures, uint8 [H, W, 3] BGR of any sizes, to float32 [N, D] of unit length.

        Pictures are resized and center-cropped to a square as open_clip does for the model.
        """
        clip = self._load()

        def embed(pictures: Sequence[np.ndarray]) -> np.ndarray:
            import torch

            rows = [np.empty((0, self.size), np.float32)]
            for start in range(0, len(pictures), self.batch):
                batch = torch.stack([clip.pixels(picture) for picture in pictures[start : start + self.batch]]).to(clip.device)
                with torch.inference_mode(), torch.autocast(clip.device, torch.float16, enabled=clip.device == "cuda"):
                    rows.append(_unit(clip.network.encode_image(batch)))
            return np.concatenate(rows)

        return embed

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [N, D] of unit length. CLIP reads the first 77 tokens of a text, about 50 words; the rest is cut off."""
        import torch

        clip = self._load()
        rows = [np.empty((0, self.size), np.float32)]
        for start in range(0, len(texts), _TEXT_BATCH):
            tokens = clip.tokenizer(list(texts[start : start + _TEXT_BATCH])).to(clip.device)
            with torch.inference_mode():
                rows.append(_unit(clip.network.encode_text(tokens)))
        return np.concatenate(rows)

    def logit_scale(self) -> float:
        """The inverse temperature that the model learned, by which cosines are multiplied before a softmax; 100 for OpenAI's."""
        return self._load().network.logit_scale.exp().item()

    def _load(self) -> "_Clip":
        import torch

        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda" and not torch.cuda.is_available():
            raise TaggerError("--device cuda: torch sees no GPU here; --device cpu or auto runs without one")
        with _LOADING:
            return _load(self.model, self.models, device)


def _unit(features: Any) -> np.ndarray:
    import torch

    return torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy()


@dataclass(frozen=True)
class _Checkpoint:
    """What open_clip needs to build a model: a name that it knows, its configuration, its preprocessing and its weights."""

    architecture: str
    config: Mapping[str, Any]
    preprocess: Mapping[str, Any]
    weights: Path

    def digest(self) -> str:
        status = self.weights.stat()
        parts = [_file_digest(self.weights, status.st_size, status.st_mtime_ns), self.config, self.preprocess]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


@lru_cache
def _file_digest(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _checkpoint(model: str, models: Models) -> _Checkpoint:
    architecture, slash, tag = model.partition("/")
    return _listed(architecture, tag, models) if slash else _published(model, models)


def _listed(architecture: str, tag: str, models: Models) -> _Checkpoint:
    """A pair of open_clip's list."""
    import open_clip

    config = open_clip.get_model_config(architecture)
    listed = open_clip.get_pretrained_cfg(architecture, tag)
    if config is None or not listed:
        raise TaggerError(f"open_clip knows no model {architecture}/{tag}; an example of one is {DEFAULT_CLIP}")
    if listed.get("quick_gelu", False) != config.get("quick_gelu", False):
        plain = architecture.removesuffix("-quickgelu")
        right = f"{plain}-quickgelu" if listed.get("quick_gelu") else plain
        raise TaggerError(f"the weights {tag!r} were not trained for {architecture} but for {right}/{tag}")
    _check_text(model=f"{architecture}/{tag}", config=config)
    repository, file = os.path.split(listed["hf_hub"])
    folder = repository.split("/")[-1]
    weights = _weights([f"{folder}/{name}" for name in ([file] if file else _FILES)], _HUB + repository, models)
    return _Checkpoint(architecture, config, _preprocess(listed), weights)


def _published(name: str, models: Models) -> _Checkpoint:
    """A folder as open_clip publishes models."""
    path = models.find(f"{name}/{_CONFIG}", _PAGE)
    if path is None:
        where = f"in {models.folder}" if models.folder is not None else "in a folder given with --models DIR"
        raise TaggerError(
            f"no CLIP model {name}: name an ARCHITECTURE/TAG of open_clip, such as {DEFAULT_CLIP}, or have {name}/{_CONFIG} {where}"
        )
    try:
        published = json.loads(path.read_text())
        config, preprocess = published["model_cfg"], _preprocess(published.get("preprocess_cfg", {}))
    except (ValueError, KeyError, AttributeError) as error:
        raise TaggerError(f"{path} is no configuration of open_clip: {error!r}") from error
    _check_text(name, config)
    weights = _weights([f"{name}/{file}" for file in _FILES], _PAGE, models)
    return _Checkpoint(_register(json.dumps(config, sort_keys=True)), config, preprocess, weights)


@lru_cache
def _register(config: str) -> str:
    """Make open_clip know a configuration; returns its name there."""
    import open_clip

    name = f"published-{hashlib.sha256(config.encode()).hexdigest()[:12]}"
    with TemporaryDirectory() as folder:
        path = Path(folder, f"{name}.json")
        path.write_text(config)
        open_clip.add_model_config(path)  # read at once and kept
    return name


def _check_text(model: str, config: Mapping[str, Any]) -> None:
    if any(key.startswith("hf_") for key in config.get("text_cfg", {})):
        raise TaggerError(f"{model} reads text by a tokenizer of its own, which is not supported; take one with CLIP's, as {DEFAULT_CLIP}")


def _preprocess(config: Mapping[str, Any]) -> dict[str, Any]:
    return {f"image_{key}": config[key] for key in ("mean", "std", "interpolation", "resize_mode") if config.get(key) is not None}


def _weights(names: Sequence[str], source: str, models: Models) -> Path:
    """The first of the files that is here; else the first that can be fetched, since a repository need not hold them all."""
    for name in names:
        if found := models.find(name, source):
            return found
    try:
        return models.file(names[0], source)
    except TaggerError:
        for name in names[1:] if models.allow_download else ():
            with suppress(TaggerError):
                return models.file(name, source)
        raise


@dataclass(frozen=True)
class _Clip:
    network: Any
    transform: Any
    tokenizer: Any
    device: str

    def pixels(self, picture: np.ndarray) -> Any:
        """float32 tensor [3, S, S] of uint8 [H, W, 3] BGR."""
        from PIL import Image

        return self.transform(Image.fromarray(np.ascontiguousarray(picture[:, :, ::-1])))


_LOADING = threading.Lock()


@lru_cache
def _load(model: str, models: Models, device: str) -> _Clip:
    import pickle

    import open_clip

    checkpoint = _checkpoint(model, models)
    try:
        network, _, transform = open_clip.create_model_and_transforms(
            checkpoint.architecture, pretrained=str(checkpoint.weights), device=device, load_weights_only=True, **checkpoint.preprocess
        )
    except pickle.UnpicklingError as error:
        raise TaggerError(f"{checkpoint.weights} is refused: it is no plain file of tensors, and reading it could run code") from error
    except Exception as error:  # safetensors, torch and open_clip each have their own for a file that is damaged or of another model
        reason = " ".join(str(error).split())[:200]
        raise TaggerError(f"{checkpoint.weights} does not hold the weights of {model}: {reason}") from error
    return _Clip(network.eval(), transform, open_clip.get_tokenizer(checkpoint.architecture), device)
