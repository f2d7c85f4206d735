"""Tensors kept by key in a folder, in shards that are there whole or not at all: content-addressed, so nothing in it is ever stale.

part-<digest of its keys>.safetensors holds the tensors of its keys, and in its header why others could not be made. Writers
need no lock: what two of them make of one key is the same. A key that is in several shards is taken from one that holds it.
"""

import json
import os
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from training.settings import TrainError

_FAILURES = "failures"
_MOST_OPEN = 64  # shards; each is a mapping of its file
_BITS = 60  # of a key that the index keeps; the shard itself knows the whole key


def key_of(*facts: object) -> str:
    """The key of whatever these facts decide: 32 hexadecimal digits."""
    return blake2b(json.dumps(facts).encode(), digest_size=16).hexdigest()


class Cache:
    """Reads the shards of a folder as they were when first asked. May be sent to other processes."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._open: OrderedDict[int, Any] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_open": OrderedDict()}

    def __contains__(self, key: str) -> bool:
        return self._shard_of(key) is not None

    def __len__(self) -> int:
        return len(self._index.prefixes)

    def why_not(self, key: str) -> str | None:
        """Why a key that is not there could not be made, where that was tried."""
        return self._index.failures.get(key)

    def read(self, key: str) -> Tensor:
        """The tensor of a key that is there, mapped from its file. Raises KeyError, and TrainError where the file is damaged."""
        number = self._shard_of(key)
        if number is None:
            raise KeyError(key)
        try:
            return self._shard(number).get_tensor(key)
        except (OSError, SafetensorError) as error:
            raise TrainError(f"{self._paths[number]} is damaged ({error}); remove it and run `reelmill encode` again") from error

    def _shard_of(self, key: str) -> int | None:
        index, prefix = self._index, _prefix(key)
        place = int(np.searchsorted(index.prefixes, prefix))
        return int(index.shards[place]) if place < len(index.prefixes) and index.prefixes[place] == prefix else None

    def _shard(self, number: int) -> Any:
        if number not in self._open:
            self._open[number] = safe_open(self._paths[number], "pt")
            if len(self._open) > _MOST_OPEN:
                self._open.popitem(last=False)
        self._open.move_to_end(number)
        return self._open[number]

    @cached_property
    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.safetensors"))

    @cached_property
    def _index(self) -> "_Index":
        prefixes, failures = [], dict[str, str]()
        for path in self._paths:
            keys, failed = _header(path)
            prefixes.append(np.fromiter(map(_prefix, keys), np.int64, len(keys)))
            failures |= failed
        joined = np.concatenate([np.empty(0, np.int64), *prefixes])
        order = np.argsort(joined, kind="stable")
        shards = np.repeat(np.arange(len(prefixes), dtype=np.int32), [len(part) for part in prefixes])
        return _Index(joined[order], shards[order], failures)


@dataclass(frozen=True, eq=False)
class _Index:
    """Prefixes of all keys, ascending, and the shard of each: int64 and int32, 12 bytes a key; and what could not be made."""

    prefixes: np.ndarray
    shards: np.ndarray
    failures: dict[str, str]


def _prefix(key: str) -> int:
    return int(key[: _BITS // 4], 16)


def _header(path: Path) -> tuple[list[str], dict[str, str]]:
    try:
        with safe_open(path, "pt") as shard:
            return list(shard.keys()), json.loads((shard.metadata() or {}).get(_FAILURES, "{}"))
    except (OSError, SafetensorError, ValueError) as error:
        raise TrainError(f"{path} is damaged ({error}); remove it and run `reelmill encode` again") from error


def write_shard(folder: Path, tensors: Mapping[str, Tensor], failures: Mapping[str, str]) -> None:
    """Write one shard, atomically. The same arguments give the same bytes. Raises TrainError where it cannot be written."""
    name = key_of(sorted({*tensors, *failures}))
    target = folder / f"part-{name}.safetensors"
    scratch = folder / f".{target.name}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        content = save({key: tensors[key].contiguous() for key in sorted(tensors)}, {_FAILURES: json.dumps(failures, sort_keys=True)})
        with scratch.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(scratch, target)
    except (OSError, SafetensorError) as error:
        raise TrainError(f"{target} cannot be written: {error}") from error
    finally:
        with suppress(OSError):
            scratch.unlink()
