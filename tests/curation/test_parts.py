"""Clips as rows of Parquet: what a part looks like to any reader, and that parts depend on nothing but what was wanted."""

from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import curation.parts
from curation.encode import CutError
from curation.parts import FileForm, Packer, ParquetForm, write_part

NAMES = ("dj_video11.mp4", "gem_anim-1.mov", "mmaction2_test.avi")


def test_any_parquet_reader_finds_the_clips_one_row_group_each_as_they_are(corpus, tmp_path):
    path = write_part(tmp_path, [(f"c{number}", corpus / name) for number, name in enumerate(NAMES)])
    rows = pq.read_table(path).to_pylist()
    assert [(row["clip_id"], row["name"]) for row in rows] == [(f"c{number}", name) for number, name in enumerate(NAMES)]
    for row in rows:
        assert row["media"] == (corpus / row["name"]).read_bytes() and row["num_bytes"] == len(row["media"])
    metadata = pq.read_metadata(path)
    assert metadata.num_row_groups == len(NAMES)
    total = sum((corpus / name).stat().st_size for name in NAMES)
    assert total < path.stat().st_size < total + 5000, "stored as they are, with no copy in the statistics"
    assert list(tmp_path.iterdir()) == [path]
    again = write_part(tmp_path / "..", [(f"c{number}", corpus / name) for number, name in enumerate(NAMES)])
    assert (again.name, again.read_bytes()) == (path.name, path.read_bytes())
    again.unlink()


@given(st.data())
def test_parts_depend_neither_on_the_order_in_which_jobs_end_nor_on_kills(tmp_path_factory, data):
    """Sources of clips of so many bytes, 0 where one cannot be cut; packed in one go, and as jobs end, with a kill between."""
    sizes = data.draw(st.lists(st.lists(st.integers(0, 60), max_size=4), max_size=6), "sizes")
    ends = data.draw(st.permutations(range(len(sizes))), "ends")
    killed = data.draw(st.integers(0, len(sizes)), "killed after")
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curation.parts, "PART_BYTES", 100)
        for order, kill in ((range(len(sizes)), len(sizes)), (ends, killed)):
            form = ParquetForm(tmp_path_factory.mktemp("out"))
            names = [(str(source), f"{source}-{clip}") for source, clips in enumerate(sizes) for clip in range(len(clips))]
            (form.cut_into / "x").mkdir(parents=True)
            for run in (order[:kill], order[kill:]) if kill < len(sizes) else (order,):
                stored = form.stored()
                form.clean(stored)
                wanted = [(source, name, form.cut_into / "x" / name) for source, name in names if name not in stored]
                left = Counter(map(str, order if run == order[:kill] else run))
                packer = Packer(form.folder, wanted)
                packer.advance(left)
                for source in run:
                    for clip, size in enumerate(sizes[source]):
                        if size and f"{source}-{clip}" not in stored:
                            form.cut_into.joinpath("x").mkdir(parents=True, exist_ok=True)
                            (form.cut_into / "x" / f"{source}-{clip}").write_bytes(bytes([source]) * size)
                    left[str(source)] -= 1
                    packer.advance(left)
            form.clean(stored := form.stored())
            assert not form.cut_into.exists() and len(stored) == sum(size > 0 for clips in sizes for size in clips)
            found.append({path.name: path.read_bytes() for path in form.folder.iterdir()})
            parts = [pq.read_table(path, columns=["num_bytes"])["num_bytes"].to_pylist() for path in form.folder.iterdir()]
            assert all(sum(part[:-1]) < 100 for part in parts) and sum(sum(part) < 100 for part in parts) <= 1
    assert found[0] == found[1]


def test_a_clip_larger_than_a_value_may_be_stays_a_file(corpus, tmp_path, monkeypatch):
    form = ParquetForm(tmp_path)
    form.cut_into.mkdir()
    for number, name in enumerate(NAMES):
        (form.cut_into / f"{number}.mp4").write_bytes((corpus / name).read_bytes())
    largest = max(form.cut_into.iterdir(), key=lambda path: path.stat().st_size)
    monkeypatch.setattr(curation.parts, "_MOST_BYTES", largest.stat().st_size - 1)
    packer = Packer(tmp_path, [("s", path.name, path) for path in sorted(form.cut_into.iterdir())])
    packer.advance({})
    assert packer.too_large == [largest] and largest.exists()
    assert len(form.stored()) == len(NAMES) - 1


def test_other_files_in_the_folder_are_not_taken_for_parts(corpus, tmp_path):
    form = ParquetForm(tmp_path)
    part = write_part(tmp_path, [("c", corpus / NAMES[0])])
    assert list(form.stored()) == [NAMES[0]]
    table = pq.read_table(part)
    for damage in (
        lambda path: path.write_bytes(part.read_bytes()[:-20]),
        lambda path: pq.write_table(pa.table({"a": [1]}), path),
        lambda path: pq.write_table(table, path, compression="zstd"),
        lambda path: pq.write_table(pa.concat_tables([table, table]), path, compression="none"),
        lambda path: pq.write_table(table, path, compression="none", write_statistics=False),
        lambda path: path.write_bytes(b""),
    ):
        damage(tmp_path / "other.parquet")
        with pytest.raises(CutError, match="other.parquet"):
            form.stored()
    (tmp_path / "other.parquet").unlink()
    with pytest.raises(CutError, match="cannot write"):
        write_part(tmp_path / "none", [("c", corpus / NAMES[0])])


def test_each_form_knows_its_own(corpus, tmp_path):
    files, parquet = FileForm(tmp_path), ParquetForm(tmp_path)
    assert not files.holds_any() and not parquet.holds_any()
    part = write_part(tmp_path, [("c", corpus / NAMES[0])])
    assert not files.holds_any() and parquet.holds_any()
    part.unlink()
    (parquet.cut_into / "ab").mkdir(parents=True)
    (parquet.cut_into / "ab" / "abc.mp4").write_bytes(b"x")
    assert not files.holds_any() and files.stored() == {} and parquet.holds_any()
    parquet.clean({"abc.mp4"})
    assert not parquet.holds_any()
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / ".abc.1.mp4").write_bytes(b"half")
    files.clean({})
    assert not files.holds_any()
    (tmp_path / "ab" / "abc.mp4").write_bytes(b"x")
    assert files.holds_any() and not parquet.holds_any()
