"""Ids, tables and tag specs."""

import io
from dataclasses import fields

import pyarrow as pa
import pytest

from schemas import ids
from schemas.records import ClipRecord, Failure, KeyframeRecord, VideoRecord
from schemas.tables import CLIPS, FAILURES, KEYFRAMES, VIDEOS, SchemaVersionError, check_version, tag_table, tags_of, to_arrow
from schemas.tags import DIMENSIONS, SCAN_GROUPS, TAGS, WEIGHT_FREE, TagSpec, UnknownTagError, groups, tag


def test_ids_follow_the_content():
    assert ids.video_id(io.BytesIO(b"reel")) == ids.video_id(io.BytesIO(b"reel")) != ids.video_id(io.BytesIO(b"reeL"))
    assert ids.clip_id("v", 1, 12) != ids.clip_id("v", 11, 2), "the parts of an id must not run together"
    assert ids.shard_id(["a", "b"]) == ids.shard_id(["b", "a"]) != ids.shard_id(["ab"])
    assert len({ids.unreadable_id("u"), ids.duplicate_id("u", ""), ids.shard_id(["u"])}) == 3


@pytest.mark.parametrize(
    ("spec", "record", "contract"),
    [
        (
            VIDEOS,
            VideoRecord,
            "video_id uri size_bytes container codec width height rotation fps is_vfr num_frames duration_s "
            "pix_fmt bit_rate has_audio is_hdr",
        ),
        (
            CLIPS,
            ClipRecord,
            "clip_id video_id start_frame num_frames start_s end_s boundary_in boundary_out fps width height crop_x crop_y crop_w crop_h",
        ),
        (KEYFRAMES, KeyframeRecord, "clip_id index time_s jpeg"),
        (FAILURES, Failure, "video_id clip_id uri stage code message retryable"),
    ],
)
def test_tables_hold_the_columns_of_the_data_contract(spec, record, contract):
    assert set(contract.split()) <= set(spec.schema.names)
    assert spec.schema.names == [column.name for column in fields(record)]


def test_null_is_allowed_only_where_the_record_says_so():
    nullable = {column.name for column in FAILURES.schema if column.nullable}
    assert nullable == {"clip_id", "decoded_frames", "decoded_s"}


def test_tag_fields_carry_method_and_version():
    schema = tag_table("quality").schema
    assert schema.names[0] == "clip_id"
    metadata = schema.field("quality_noise").metadata
    assert b"Immerkaer" in metadata[b"method"]
    assert metadata[b"version"] == b"1"


def test_a_newer_table_is_refused():
    newer = VIDEOS.schema.with_metadata({b"reelmill.version": b"99"})
    with pytest.raises(SchemaVersionError, match="update Reelmill"):
        check_version(VIDEOS, newer)
    check_version(VIDEOS, VIDEOS.schema)


def test_rows_that_do_not_fit_are_errors():
    with pytest.raises((pa.ArrowInvalid, pa.ArrowTypeError)):
        to_arrow(KEYFRAMES, [{"clip_id": "c", "index": "first", "time_s": 0.0, "frame": 1, "width": 1, "height": 1, "jpeg": b""}])


def test_the_tag_registry_is_sound():
    assert len(TAGS) >= 100
    least = {"quality": 28, "aesthetics": 22, "naturalness": 22, "motion": 14}
    for dimension, count in least.items():
        assert sum(one.dimension == dimension and one.group in WEIGHT_FREE for one in TAGS) >= count, dimension
    assert len({one.name for one in TAGS}) == len(TAGS)
    for one in TAGS:
        assert one.dimension in DIMENSIONS
        assert one.name.startswith(f"{one.dimension}_") or one.name == "suitability"
        assert one.method
        assert one.low is None or one.high is None or one.low < one.high
    assert set(groups()) > set(SCAN_GROUPS) == set(DIMENSIONS) - {"overall"}
    assert set(WEIGHT_FREE) == {*SCAN_GROUPS, "keyframes", "scores"}


def test_a_tag_table_describes_its_own_tags():
    assert tags_of(tag_table("motion").schema) == tuple(one for one in TAGS if one.group == "motion")
    own = (TagSpec("content_grass", "content", "float32", "share", 0, 1, "none", "a | b", version=3, needs="tags"),)
    assert tags_of(tag_table("grass", own).schema) == own
    assert tags_of(CLIPS.schema) == ()


def test_an_unknown_tag_names_the_nearest():
    with pytest.raises(UnknownTagError, match="quality_sharpness"):
        tag("quality_sharpnes")
