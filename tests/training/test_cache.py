"""The content-addressed cache: what is written is found, by anyone, whole or not at all."""

import os
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.encoding.cache import Cache, key_of, write_shard
from training.settings import TrainError


def test_what_is_written_is_found_in_any_shard_and_process(tmp_path: Path) -> None:
    tensors = {key_of(i): torch.full((2, i + 1), float(i)) for i in range(20)}
    keys = list(tensors)
    write_shard(tmp_path, {key: tensors[key] for key in keys[:13]}, {key_of("bad"): "a.mp4: corrupt"})
    write_shard(tmp_path, {key: tensors[key] for key in keys[13:]}, {})
    cache = Cache(tmp_path)
    assert len(cache) == 20 and key_of(20) not in cache and key_of("bad") not in cache
    assert cache.why_not(key_of("bad")) == "a.mp4: corrupt" and cache.why_not(key_of(20)) is None
    for reader in (cache, ForkingPickler.loads(bytes(ForkingPickler.dumps(cache)))):
        assert all(key in reader and reader.read(key).equal(tensor) for key, tensor in tensors.items())
    with pytest.raises(KeyError):
        cache.read(key_of(20))


def test_a_second_try_takes_the_place_of_a_failure(tmp_path: Path) -> None:
    write_shard(tmp_path, {key_of(1): torch.ones(1)}, {key_of(2): "not_found"})
    write_shard(tmp_path, {key_of(2): torch.ones(2)}, {})
    cache = Cache(tmp_path)
    assert key_of(2) in cache and cache.read(key_of(2)).equal(torch.ones(2))


def test_the_same_content_gives_the_same_file_whatever_the_order(tmp_path: Path) -> None:
    tensors = {key_of(i): torch.rand(3, generator=torch.Generator().manual_seed(i)) for i in range(5)}
    write_shard(tmp_path / "a", tensors, {})
    write_shard(tmp_path / "b", dict(reversed(tensors.items())), {})
    (first,), (second,) = (list((tmp_path / name).iterdir()) for name in "ab")
    assert first.name == second.name and first.read_bytes() == second.read_bytes()
    umask = os.umask(0)
    os.umask(umask)
    assert first.stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_cache_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert len(Cache(tmp_path / "none")) == 0 and key_of(1) not in Cache(tmp_path / "none")


def test_damage_is_told_with_the_way_out(tmp_path: Path) -> None:
    write_shard(tmp_path, {key_of(1): torch.ones(1000)}, {})
    (shard,) = tmp_path.iterdir()
    shard.write_bytes(shard.read_bytes()[:500])
    with pytest.raises(TrainError, match="is damaged .*remove it and run `reelmill encode` again"):
        len(Cache(tmp_path))


def test_what_a_killed_writer_left_is_not_read(tmp_path: Path) -> None:
    write_shard(tmp_path, {key_of(1): torch.ones(1)}, {})
    (tmp_path / ".part-half.safetensors.123").write_bytes(b"half")
    assert len(Cache(tmp_path)) == 1


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrainError, match="cannot be written"):
        write_shard(tmp_path / "file", {key_of(1): torch.ones(1)}, {})


@given(st.lists(st.one_of(st.integers(), st.floats(allow_nan=False), st.text()), min_size=1), st.integers(0, 100))
def test_keys_differ_where_any_fact_does(facts: list, place: int) -> None:
    place %= len(facts)
    other = [*facts[:place], [facts[place]], *facts[place + 1 :]]
    assert key_of(*facts) == key_of(*facts) != key_of(*other) and len(key_of(*facts)) == 32
