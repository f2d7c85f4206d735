"""The tables of a dataset as Arrow schemas, and rows as Arrow tables.

A schema's metadata names its table and version, so that a reader can refuse a dataset written by a newer Reelmill.
"""

import json
import types
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Union, get_args, get_origin, get_type_hints

import pyarrow as pa

from schemas.records import CaptionRecord, ClipRecord, Failure, KeyframeRecord, SignatureRecord, VideoRecord
from schemas.tags import TAGS, TagSpec

TABLE_KEY = b"reelmill.table"
VERSION_KEY = b"reelmill.version"
MADE_FROM_KEY = b"reelmill.made_from"


class SchemaVersionError(ValueError):
    """A table was written by a newer version of Reelmill than this one can read."""


@dataclass(frozen=True)
class TableSpec:
    """One table of a dataset. `path` is its folder below the dataset's root."""

    path: str
    version: int
    schema: pa.Schema


def _table(path: str, version: int, columns: Iterable[pa.Field]) -> TableSpec:
    return TableSpec(path, version, pa.schema(columns, metadata={TABLE_KEY: path.encode(), VERSION_KEY: str(version).encode()}))


def _arrow_field(name: str, hint: Any) -> pa.Field:
    nullable = get_origin(hint) in (Union, types.UnionType)
    if nullable:
        hint = next(part for part in get_args(hint) if part is not type(None))
    return pa.field(name, hint.__metadata__[0], nullable=nullable)


def _record_fields(record: type) -> list[pa.Field]:
    hints = get_type_hints(record, include_extras=True)
    return [_arrow_field(column.name, hints[column.name]) for column in fields(record)]


def _tag_field(tag: TagSpec) -> pa.Field:
    facts = {name: json.dumps(value) for name, value in asdict(tag).items() if name not in ("name", "dtype")}
    return pa.field(tag.name, pa.type_for_alias(tag.dtype), metadata=facts)


def tags_of(schema: pa.Schema) -> tuple[TagSpec, ...]:
    """The tags of a tag table as its file describes them, those of plug-in taggers included."""
    found = []
    for column in schema:
        if column.metadata:
            facts = {key.decode(): json.loads(value) for key, value in column.metadata.items() if not key.startswith(b"PARQUET:")}
            found.append(TagSpec(name=column.name, dtype=_DTYPES[column.type], **facts))
    return tuple(found)


_DTYPES: dict[pa.DataType, Any] = {pa.type_for_alias(name): name for name in ("float32", "int32", "bool", "string")}

VIDEOS = _table("videos", 1, _record_fields(VideoRecord))
CLIPS = _table("clips", 1, _record_fields(ClipRecord))
KEYFRAMES = _table("keyframes", 1, _record_fields(KeyframeRecord))
SIGNATURES = _table("signatures", 1, _record_fields(SignatureRecord))
FAILURES = _table("failures", 1, _record_fields(Failure))


def tag_table(group: str, tags: Sequence[TagSpec] | None = None) -> TableSpec:
    """Table of one tag group: clip_id and a nullable column per tag. Its version is the sum of its tags' versions.

    `tags` are those of a plug-in's group; all others are in the registry.
    """
    members = [tag for tag in TAGS if tag.group == group] if tags is None else tags
    if not members:
        raise KeyError(f"no tag belongs to group {group!r}")
    columns = [pa.field("clip_id", pa.string(), nullable=False), *map(_tag_field, members)]
    return _table(f"tags/{group}", sum(tag.version for tag in members), columns)


def caption_table(captioner: str) -> TableSpec:
    """Table of one captioner's captions: a row for each clip that it has captioned."""
    return _table(f"captions/{captioner}", 1, _record_fields(CaptionRecord))


def caption_stage(captioner: str) -> str:
    """The stage of a captioner's rows in failures/."""
    return f"caption:{captioner}"


def embedding_table(model: str, size: int) -> TableSpec:
    """Table of an image encoder's embeddings: a row per keyframe, of unit length, `size` numbers each."""
    columns = [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("index", pa.int32(), nullable=False),  # that of the keyframe
        pa.field("embedding", pa.list_(pa.float16(), size), nullable=False),
    ]
    return _table(f"embeddings/{model}", 1, columns)


def to_arrow(spec: TableSpec, rows: Iterable[dict[str, Any]]) -> pa.Table:
    """Rows as an Arrow table of exactly the table's schema. Raises pa.ArrowInvalid where a value does not fit its column."""
    return pa.Table.from_pylist(list(rows), schema=spec.schema)


def written_version(schema: pa.Schema) -> int:
    """The table version that a schema read from a file carries; 0 where it carries none."""
    return int((schema.metadata or {}).get(VERSION_KEY, b"0"))


def made_from(schema: pa.Schema) -> str:
    """What a file says it was made from beside its shard's own rows: versions of a model or of other tables; "" for nothing."""
    return (schema.metadata or {}).get(MADE_FROM_KEY, b"").decode()


def check_version(spec: TableSpec, schema: pa.Schema) -> None:
    """Raises SchemaVersionError where `schema`, read from a file, is newer than `spec`."""
    written = written_version(schema)
    if written > spec.version:
        raise SchemaVersionError(
            f"table {spec.path} has version {written}; this Reelmill reads up to {spec.version}: update Reelmill to read this dataset"
        )
