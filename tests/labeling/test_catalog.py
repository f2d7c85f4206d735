"""The catalog: its columns, which tables a query reads, captions, and pictures."""

import json

import pytest

from curation.storage import DatasetError
from labeling.catalog import keyframes, open_catalog
from labeling.query import QueryError, count_clips, run_query
from schemas.tables import CLIPS, VIDEOS, caption_table, tag_table
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
    assert count_clips(open_catalog(dataset.root), "caption_dense ILIKE '%dog%' AND caption_model = 'alpha'") == 2 * CLIPS_PER_VIDEO - 1
    add_captions(dataset, "beta")
    with pytest.raises(QueryError, match="choose one with --captions, of alpha, beta"):
        count_clips(open_catalog(dataset.root), "caption_dense ILIKE '%dog%'")
    chosen = run_query(open_catalog(dataset.root, "beta"), "caption_short IS NOT NULL", ["caption_short"])
    assert set(chosen["caption_short"].to_pylist()) == {"a dog, by beta"}
    with pytest.raises(DatasetError, match="alpha, beta"):
        open_catalog(dataset.root, "gamma")


def test_facts_of_captions_are_prefixed_and_texts_are_not(tmp_path):
    dataset = build(tmp_path / "dataset")
    add_captions(dataset, "alpha")
    catalog = open_catalog(dataset.root)
    texts = {"caption_short", "caption_medium", "caption_dense", "subject", "action", "scene", "camera", "style", "lighting"}
    facts = {"reason", "language", "model", "prompt_version", "frames", "frame_side", "requests"}
    facts |= {"tokens_in", "tokens_out", "seconds", "cost"}
    named = {name for name, column in catalog.columns.items() if column.tables == ("captions",)}
    assert named == {*texts, "camera_agrees", *(f"caption_{name}" for name in facts)}
    (row,) = run_query(catalog, "caption_reason = 'refusal'", ["caption_frames", "caption_short", "caption_tokens_in"]).to_pylist()
    assert row == {"caption_frames": [0, 12, 24], "caption_short": None, "caption_tokens_in": 1000}
    rows = run_query(catalog)
    assert {field.name: field.type for field in rows.schema} == {name: column.type for name, column in catalog.columns.items()}


def test_a_mix_gives_the_columns_of_its_first_and_the_captions_of_all(tmp_path):
    dataset = build(tmp_path / "dataset")
    first, second = add_captions(dataset, "alpha"), add_captions(dataset, "it's", shard=1)
    add_captions(dataset, "gamma", caption_short=None)
    catalog = open_catalog(dataset.root, {"gamma": 0.5, "it's": 2.0, "alpha": 1e-7})
    rows = run_query(catalog, "true", ["clip_id", "caption_model", "captions"])
    assert rows.schema.field("captions").type == catalog.columns["captions"].type
    found = {row["clip_id"]: row for row in rows.to_pylist()}
    dense = "a dog runs <i>fast</i>"
    alpha = {"captioner": "alpha", "weight": 1e-7, "caption_short": "a dog, by alpha", "caption_medium": "a brown dog runs, by alpha"}
    gamma = {"captioner": "gamma", "weight": 0.5, "caption_short": None, "caption_medium": "a brown dog runs, by gamma"}
    assert [found[clip]["captions"] for clip in first[:-1]] == [
        [gamma | {"caption_dense": dense}, alpha | {"caption_dense": dense}],
    ] * (2 * CLIPS_PER_VIDEO - 1)
    assert found[first[-1]]["captions"] == [] and found[first[-1]]["caption_model"] == "gamma"
    assert [one["captioner"] for one in found[second[0]]["captions"]] == ["it's"] and found[second[0]]["caption_model"] is None
    assert sum(row["captions"] == [] for row in found.values()) == 2 + 2 * CLIPS_PER_VIDEO
    files = {path for path in catalog.digests() if path.startswith("captions/")}
    assert {path.split("/")[1] for path in files} == {"alpha", "it's", "gamma"} and len(files) == 3
    assert "captions" not in open_catalog(dataset.root, "alpha").columns
    with pytest.raises(DatasetError, match="no captions by 'beta'"):
        open_catalog(dataset.root, {"alpha": 1.0, "beta": 1.0})


def test_caption_similarity_is_that_of_the_captions_chosen(tmp_path):
    dataset, spec = build(tmp_path / "dataset"), tag_table("clip_captions")
    for captioner in ("alpha", "two words"):
        add_captions(dataset, captioner)
    for shard in dataset.shards():
        digest = dataset.digest_part(caption_table("two words"), shard)
        dataset.write_part(spec, shard, dataset.read_part(spec, shard), json.dumps({"captions": f"two words {digest}", "embedder": "e 1"}))
    everything = len(NAMES) * CLIPS_PER_VIDEO
    assert count_clips(open_catalog(dataset.root, "two words"), "content_caption_similarity <= 1") == everything
    command = f"reelmill tag {dataset.root} --group clip_captions --captions alpha --models"
    for captions in ("alpha", {"alpha": 1.0, "two words": 1.0}):
        catalog = open_catalog(dataset.root, captions)
        assert not [path for path in catalog.digests() if "clip_captions" in path]
        with pytest.raises(QueryError, match=f"measured for the captions by two words; for those by alpha, run `{command}"):
            count_clips(catalog, "content_caption_similarity > 0")
    with pytest.raises(QueryError, match="by two words: choose them with --captions two words"):
        count_clips(open_catalog(dataset.root), "content_caption_similarity > 0")


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
