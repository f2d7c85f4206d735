"""The manifest: same rows, same bytes; any change is found."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.manifest import REQUIRED_COLUMNS, ManifestError, read_manifest, write_manifest

EXTRA = pa.array([[("license", "CC0")], [], [("take", "2")]], pa.map_(pa.string(), pa.string()))


@pytest.fixture
def rows() -> pa.Table:
    text = {"clip_id", "video_id", "uri"}
    return pa.table(
        {name: ["b", "a", "c"] if name in text else [1, 2, 3] for name in REQUIRED_COLUMNS}
        | {"motion_mean": [0.1, None, 0.3], "extra": EXTRA}
    )


def freeze(path, rows):
    return write_manifest(path, rows, "motion_mean > 0", {"clips/part-x.parquet": "00"}, {"motion_mean": {"mean": 0.2}})


def test_round_trip(tmp_path, rows):
    digest = freeze(tmp_path / "m.parquet", rows)
    read = read_manifest(tmp_path / "m.parquet")
    assert read.digest == digest
    assert read.rows["clip_id"].to_pylist() == ["a", "b", "c"]
    assert read.rows["motion_mean"].to_pylist() == [None, 0.1, 0.3]
    assert (read.facts.predicate, read.facts.num_rows) == ("motion_mean > 0", 3)
    assert read.facts.shards == {"clips/part-x.parquet": "00"}
    assert pq.read_table(tmp_path / "m.parquet").num_rows == 3, "any Parquet reader can read it"


def test_a_mix_of_captions_is_kept_in_its_order_and_stands_in_the_digest(tmp_path, rows):
    plain = freeze(tmp_path / "plain.parquet", rows)
    digests = set()
    for mix in ({"z": 2.0, "a": 0.5}, {"a": 0.5, "z": 2.0}, {"z": 2.0, "a": 0.6}):
        digests.add(write_manifest(tmp_path / "m.parquet", rows, "motion_mean > 0", {"clips/part-x.parquet": "00"}, {}, mix))
        read = read_manifest(tmp_path / "m.parquet").facts
        assert list(read.captions.items()) == list(mix.items()) and read.schema_version == 2
    assert len(digests | {plain}) == 4
    facts = read_manifest(tmp_path / "plain.parquet").facts
    assert facts.captions == {} and facts.schema_version == 1, "what knows no mixes can read it"


def test_what_clips_were_materialized_from_stands_in_the_digest(tmp_path, rows):
    plain = freeze(tmp_path / "plain.parquet", rows)
    digest = write_manifest(tmp_path / "m.parquet", rows, "true", {}, {}, {"b": 1.0, "a": 2.0}, {"manifest": plain})
    read = read_manifest(tmp_path / "m.parquet")
    assert digest != plain and read.facts.made_from == {"manifest": plain} and read.facts.schema_version == 3
    assert list(read.facts.captions) == ["b", "a"]
    assert read_manifest(tmp_path / "plain.parquet").facts.made_from == {}


def test_lists_and_structs_survive_being_frozen(tmp_path, rows):
    """DuckDB, Arrow and Parquet each have a name of their own for the entries of a list."""
    for name in ("l", "item", "element"):
        entry = pa.struct({"captioner": pa.string(), "weights": pa.list_(pa.field(name, pa.float64()))})
        mix = pa.array([[{"captioner": "a", "weights": [0.5]}], [], None], pa.list_(pa.field(name, entry)))
        digest = freeze(tmp_path / f"{name}.parquet", rows.append_column("captions", mix))
        read = read_manifest(tmp_path / f"{name}.parquet")
        assert read.digest == digest and read.rows["captions"].to_pylist()[1] == [{"captioner": "a", "weights": [0.5]}]


def test_the_order_of_rows_does_not_change_the_bytes(tmp_path, rows):
    freeze(tmp_path / "one.parquet", rows)
    freeze(tmp_path / "two.parquet", rows.take([2, 0, 1]))
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_any_flipped_byte_is_found(tmp_path, rows):
    path = tmp_path / "m.parquet"
    freeze(path, rows)
    whole = path.read_bytes()
    pages = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for position in range(4, pages, 37):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(ManifestError, match="changed after it was frozen"):
            read_manifest(path)


def test_changed_facts_are_found(tmp_path, rows):
    path = tmp_path / "m.parquet"
    freeze(path, rows)
    path.write_bytes(path.read_bytes().replace(b"motion_mean > 0", b"motion_mean > 9"))
    with pytest.raises((ManifestError, OSError)):
        read_manifest(path)


def test_other_files_are_refused(tmp_path, rows):
    (tmp_path / "text").write_text("no manifest at all")
    pq.write_table(rows, tmp_path / "plain.parquet")
    for name in ("text", "plain.parquet"):
        with pytest.raises(ManifestError, match="reelmill manifest"):
            read_manifest(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_manifest(tmp_path / "missing.parquet")
    with pytest.raises(ManifestError, match="start_frame"):
        write_manifest(tmp_path / "x.parquet", rows.drop_columns(["start_frame"]), "", {}, {})
