"""Features of texts: encoded as training asks for them, or out of a cache that `reelmill encode` filled."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from torch import Tensor

from training.config import TrainConfig
from training.data import Memory
from training.encoding.cache import Cache, key_of
from training.encoding.clip_text_encoder import CONFIG as CLIP_CONFIG
from training.encoding.clip_text_encoder import ClipTextEncoder
from training.encoding.text_encoder import FrozenTextEncoder
from training.plan import Prepared, distinct
from training.settings import TrainError
from training.texts import all_texts

AnyTextEncoder = FrozenTextEncoder | ClipTextEncoder

TextSource = Callable[[str], Tensor]
"""A text -> features [L, W] of its tokens, float32."""

_VERSION = 1  # of how texts become features, beside what the encoder's digest tells
_PLACE = ("uri", "start_frame", "clip_id")


class EncodedTexts:
    """Encodes texts as they are asked for, and keeps what was used last."""

    def __init__(self, encoder: AnyTextEncoder, memory_mb: float):
        self._encoder, self._memory = encoder, Memory(memory_mb * 1e6)

    def __call__(self, text: str) -> Tensor:
        return self._memory.get(text, lambda: self._encoder.encode([text])[0], lambda features: features.nbytes)


@dataclass(frozen=True)
class CachedTexts:
    """Features out of a cache. May be sent to other processes."""

    cache: Cache
    max_tokens: int

    def __call__(self, text: str) -> Tensor:
        key = text_key(text, self.max_tokens)
        if key not in self.cache:
            raise TrainError(f"{self.cache.folder} lacks the text {text[:80]!r}")
        return self.cache.read(key).float()


def text_key(text: str, max_tokens: int) -> str:
    """The key of a text's features. The encoder names the folder."""
    return key_of(_VERSION, text, max_tokens)


def texts_folder(cache: str | Path, encoder: AnyTextEncoder) -> Path:
    """Where a cache keeps the features of this very encoder."""
    return Path(cache) / "texts" / encoder.digest[:16]


def open_encoder(folder: Path, max_tokens: int) -> AnyTextEncoder:
    """The frozen encoder in a folder, which the files there tell. Raises TrainError where it cannot be had.

    A folder published for open_clip and transformers both is taken for open_clip: for transformers it is a whole CLIP, with pictures.
    """
    return (ClipTextEncoder if (folder / CLIP_CONFIG).is_file() else FrozenTextEncoder)(folder, max_tokens)


def open_text_encoder(config: TrainConfig) -> AnyTextEncoder | None:
    """The frozen encoder of a config, if it has one. Raises TrainError where it cannot be had."""
    text = config.text
    return None if text.encoder is None else open_encoder(Path(text.encoder), text.max_tokens)


def open_texts(config: TrainConfig, encoder: AnyTextEncoder | None, of_stages: Sequence[Prepared]) -> TextSource | None:
    """Where a run has the features of its texts from. Raises TrainError where its cache lacks any, or the encoder cannot be used."""
    if encoder is None:
        return None
    if config.data.cache is None:
        texts = EncodedTexts(encoder, config.data.memory_mb)
        texts("")  # what is wrong with the encoder is told before any stage
        return texts
    cache = Cache(texts_folder(config.data.cache, encoder))
    check_texts(of_stages, config, cache)
    return CachedTexts(cache, config.text.max_tokens)


def wanted_texts(of_stages: Sequence[Prepared], config: TrainConfig) -> Iterator[str]:
    """Every text that a run may need, some of them several times: the empty one, its own prompt, and those of rows that are drawn.

    They come in the order in which clips stand in their sources, so that clips which are added bring their texts together.
    """
    yield from ("", config.sample.prompt)
    for prepared in distinct(of_stages):
        drawn = prepared.rows.filter(pa.array(prepared.sampler.drawn()))
        yield from all_texts(drawn.sort_by([(name, "ascending") for name in _PLACE]), config.data.caption_lengths)


def check_texts(of_stages: Sequence[Prepared], config: TrainConfig, cache: Cache) -> None:
    """Raises TrainError where a text that may be needed is not in the cache."""
    keys = (text_key(text, config.text.max_tokens) for text in wanted_texts(of_stages, config))
    if missing := {key for key in keys if key not in cache}:
        raise TrainError(f"data.cache: {cache.folder} lacks {len(missing):,} texts; `reelmill encode MANIFEST --config CONFIG` makes them")
