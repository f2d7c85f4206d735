"""The catalog: its columns, which tables a query reads, captions, and pictures."""

import pytest

from curation.storage import DatasetError
from labeling.catalog import keyframes, open_catalog
from labeling.query import QueryError, count_clips, run_query
from schemas.tables import CLIPS, VIDEOS
from schemas.tags import TAGS, groups
from tests.labeling.sample import CLIPS_PER_VIDEO, NAMES, add_captions, build


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return build(tmp_path_factory.mktemp("catalog") / "dataset")


@pytest.fixture(scope="module")
def catalog(dataset):
    return open_catalog(dataset.root)


def test_columns_are_those_of_clips_videos_and_tags(catalog):
    prefixed = {"video_num_frames", "video_duration_s", "video_width", "video_height", "video_fps"}
    videos = {name for name in VIDEOS.schema.names if f"video_{name}" not in prefixed}
    assert set(catalog.columns) == {*CLIPS.schema.names, "duration_s", *videos, *prefixed, *(tag.name for tag in TAGS)}


def test_result_types_are_those_of_the_tables(catalog):
    rows = run_query(catalog)
    assert {field.name: field.type for field in rows.schema} == {name: column.type for name, column in catalog.columns.items()}


def test_a_clip_and_its_video_keep_their_own_facts(catalog):
    row = run_query(catalog, "duration_s = 2", ["num_frames", "video_num_frames", "duration_s", "video_duration_s"], limit=1)
    assert row.to_pylist() == [{"num_frames": 50, "video_num_frames": 250, "duration_s": 2.0, "video_duration_s": 10.0}]


def test_only_the_tables_that_are_named_are_joined(catalog):
    sql = catalog.select(["motion_mean"])
    assert '"tags_motion"' in sql and '"tags_quality"' not in sql


def test_tags_missing_in_a_shard_are_null(catalog):
    assert count_clips(catalog, "motion_mean IS NULL") == 2 * CLIPS_PER_VIDEO
    assert count_clips(catalog) == len(NAMES) * CLIPS_PER_VIDEO


def test_a_catalog_keeps_to_the_shards_that_were_committed_when_it_was_opened(tmp_path):
    dataset = build(tmp_path / "dataset")
    commit = tmp_path / "dataset" / "videos" / f"part-{1:032x}.parquet"
    commit.rename(tmp_path / "later")
    catalog = open_catalog(dataset.root)
    (tmp_path / "later").rename(commit)
    assert count_clips(catalog) == (len(NAMES) - 2) * CLIPS_PER_VIDEO
    assert len(catalog.digests()) == 2 * (2 + len(groups())) - 1 and not [path for path in catalog.digests() if f"{1:032x}" in path]
    assert count_clips(open_catalog(dataset.root)) == len(NAMES) * CLIPS_PER_VIDEO


def test_captions_are_those_of_one_captioner(tmp_path):
    dataset = build(tmp_path / "dataset")
    with pytest.raises(QueryError, match="reelmill caption"):
        run_query(open_catalog(dataset.root), "caption_dense ILIKE '%dog%'")
    add_captions(dataset, "alpha")
    assert count_clips(open_catalog(dataset.root), "caption_dense ILIKE '%dog%' AND caption_model = 'alpha'") == 2 * CLIPS_PER_VIDEO
    add_captions(dataset, "beta")
    with pytest.raises(QueryError, match="alpha, beta"):
        count_clips(open_catalog(dataset.root), "caption_dense ILIKE '%dog%'")
    chosen = run_query(open_catalog(dataset.root, "beta"), "caption_short IS NOT NULL", ["caption_short"])
    assert set(chosen["caption_short"].to_pylist()) == {"a dog, by beta"}
    with pytest.raises(DatasetError, match="alpha, beta"):
        open_catalog(dataset.root, "gamma")


def test_no_dataset_says_how_to_make_one(tmp_path):
    with pytest.raises(DatasetError, match=r"no dataset at .*nothing: run `reelmill curate"):
        open_catalog(str(tmp_path / "nothing"))


def test_keyframes_are_those_of_the_clips_in_time_order(dataset, catalog):
    chosen = run_query(catalog, "duration_s = 1", ["clip_id"])["clip_id"].to_pylist()[:2]
    found = keyframes(dataset, chosen)
    assert set(found) == set(chosen)
    assert all(len(jpegs) == 3 and all(jpeg.startswith(b"\xff\xd8") for jpeg in jpegs) for jpegs in found.values())


def test_an_empty_dataset_has_no_clips(tmp_path):
    from curation.storage import Dataset

    Dataset(str(tmp_path / "empty")).create()
    assert count_clips(open_catalog(str(tmp_path / "empty"))) == 0
