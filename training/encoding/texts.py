"""Filling a cache of text features: a manifest and a frozen encoder come in, one shard of features after the other goes out.

As with latents, what is wanted is cut into shards before it is known what is there already.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from threading import Lock

import torch
from torch import Tensor

from training.config import TrainConfig
from training.encoding.cache import Cache, write_shard
from training.encoding.latents import DTypeName, open_folder
from training.encoding.text_features import AnyTextEncoder, open_encoder, text_key, texts_folder, wanted_texts
from training.plan import Prepared
from training.settings import TrainError

_MOST_TEXTS, _MOST_BYTES = 1024, 256 << 20  # of a shard, which is what a kill may cost
_opening = Lock()


@dataclass(frozen=True)
class TextJob:
    """One shard to be made: picklable, and with the same outcome wherever it runs. `digest` is that of the encoder in its folder."""

    texts: tuple[str, ...]
    folder: Path
    dtype: DTypeName
    encoder: Path
    digest: str
    max_tokens: int


@dataclass(frozen=True)
class TextEncoding:
    """All that is to do for a manifest: `wanted` texts, of which `there` are in the cache, and the jobs for the others."""

    wanted: int
    there: int
    jobs: tuple[TextJob, ...]


def begin_text_cache(cache: Path, encoder: AnyTextEncoder, dtype: DTypeName) -> Path:
    """The folder for features of this encoder. Raises TrainError where it holds another dtype."""
    return open_folder(texts_folder(cache, encoder), {"encoder": encoder.digest, "dtype": dtype}, {}, "texts")


def plan_texts(of_stages: Sequence[Prepared], config: TrainConfig, encoder: AnyTextEncoder, folder: Path, dtype: DTypeName) -> TextEncoding:
    """Every text that a run may need and that is not in the cache yet."""
    cache = Cache(folder)
    wanted = {text_key(text, encoder.max_tokens): text for text in wanted_texts(of_stages, config)}
    most_bytes = encoder.max_tokens * encoder.width * getattr(torch, dtype).itemsize
    jobs = []
    for shard in _shards(list(wanted), min(_MOST_TEXTS, max(_MOST_BYTES // most_bytes, 1))):
        if missing := tuple(wanted[key] for key in shard if key not in cache):
            jobs.append(TextJob(missing, folder, dtype, encoder.folder.absolute(), encoder.digest, encoder.max_tokens))
    return TextEncoding(len(wanted), sum(key in cache for key in wanted), tuple(jobs))


def _shards(keys: Sequence[str], size: int) -> Iterator[list[str]]:
    rest = iter(keys)
    while shard := list(islice(rest, size)):
        yield shard


def run_texts(job: TextJob) -> int:
    """Make one shard; gives how many texts it holds. Raises TrainError where it cannot be made or written."""
    with _opening:
        encoder = _open(job.encoder, job.max_tokens, job.digest)
    tensors: dict[str, Tensor] = {}
    for text in job.texts:
        features = encoder.encode([text])[0].to(getattr(torch, job.dtype))
        if not features.isfinite().all():
            raise TrainError(f"{job.dtype} cannot hold the features of {text[:80]!r} by {job.encoder}; say --dtype bfloat16 or float32")
        tensors[text_key(text, job.max_tokens)] = features
    write_shard(job.folder, tensors, {})
    return len(tensors)


@lru_cache(maxsize=1)
def _open(folder: Path, max_tokens: int, digest: str) -> AnyTextEncoder:
    """The encoder of this process. It must be the one that was asked for, wherever the process runs."""
    encoder = open_encoder(folder, max_tokens)
    if encoder.digest != digest:
        digests = f"digest {encoder.digest[:16]}, not {digest[:16]}"
        raise TrainError(f"text.encoder: {folder} is here of {digests}; all workers must see the same")
    return encoder
