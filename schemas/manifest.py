"""The manifest: one Parquet file that freezes a selection of clips for training.

Its footer holds, beside the rows, where they came from and a digest over both. The digest covers the stored data pages
byte for byte and the facts as canonical JSON, so any change to either is found, without depending on how a version of
Arrow lays out memory.
"""

import json
import os
import re
import struct
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA_VERSION = 3  # 1 knows no mix of captions, 2 no origin; a manifest without them is still written so, and Reelmill of then reads it
REQUIRED_COLUMNS = (
    "clip_id", "video_id", "uri", "start_frame", "num_frames", "start_s", "end_s", "fps",
    "width", "height", "crop_x", "crop_y", "crop_w", "crop_h",
)  # fmt: skip
_FACTS_KEY = b"reelmill.manifest"
_DIGEST_KEY = b"reelmill.digest"
_MAGIC = b"PAR1"


class ManifestError(ValueError):
    """A file that is not a manifest, was changed after it was frozen, or is of a newer version."""


@dataclass(frozen=True)
class ManifestFacts:
    """What a manifest says of itself."""

    predicate: str
    shards: Mapping[str, str]  # dataset-relative path of each file it was cut from -> its SHA-256
    num_rows: int
    tag_statistics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # tag -> count, nulls, mean, quantiles …
    captions: Mapping[str, float] = field(default_factory=dict)  # captioner -> weight of a mix, the predicate's first
    made_from: Mapping[str, str] = field(default_factory=dict)  # of materialized clips: digest of the source manifest, settings
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class Manifest:
    """A manifest as read: the selected rows, what the file says of them, and the digest that names it."""

    rows: pa.Table
    facts: ManifestFacts
    digest: str


def write_manifest(
    path: str | Path,
    rows: pa.Table,
    predicate: str,
    shards: Mapping[str, str],
    tag_statistics: Mapping[str, Mapping[str, Any]],
    captions: Mapping[str, float] = MappingProxyType({}),
    made_from: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Freeze `rows` into `path`, atomically, and return the digest. The same arguments give the same bytes.

    Rows are stored in order of clip_id. Raises ManifestError where a column that training needs is missing.
    """
    if missing := [name for name in REQUIRED_COLUMNS if name not in rows.column_names]:
        raise ManifestError(f"a manifest needs the columns {', '.join(missing)}")
    rows = rows.sort_by("clip_id").replace_schema_metadata(None)
    described = {"predicate": predicate, "shards": dict(shards), "num_rows": rows.num_rows, "tag_statistics": tag_statistics}
    facts = _canonical(described, captions, made_from)
    target = Path(path)
    scratch = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with pa.OSFile(str(scratch), "wb") as sink, pq.ParquetWriter(sink, rows.schema, compression="zstd") as writer:
            writer.write_table(rows)
            sink.flush()
            digest = _digest(scratch.read_bytes(), rows.schema, facts)
            writer.add_key_value_metadata({_FACTS_KEY: facts.encode(), _DIGEST_KEY: digest.encode()})
        os.replace(scratch, target)
    finally:
        scratch.unlink(missing_ok=True)
    return digest


def read_manifest(path: str | Path, columns: list[str] | None = None) -> Manifest:
    """Read a manifest and check its digest. Raises FileNotFoundError, or ManifestError where it is not what was frozen."""
    data = Path(path).read_bytes()
    if not (len(data) > 12 and data[:4] == data[-4:] == _MAGIC):
        raise ManifestError(f"{path} is not a Parquet file; `reelmill manifest` writes manifests")
    parquet = pq.ParquetFile(pa.BufferReader(data))
    metadata = parquet.metadata.metadata or {}
    if _FACTS_KEY not in metadata or _DIGEST_KEY not in metadata:
        raise ManifestError(f"{path} is a Parquet file but not a manifest; `reelmill manifest` writes manifests")
    facts, digest = metadata[_FACTS_KEY].decode(), metadata[_DIGEST_KEY].decode()
    described = json.loads(facts)
    if described["schema_version"] > SCHEMA_VERSION:
        raise ManifestError(
            f"{path} is a manifest of version {described['schema_version']}; this Reelmill reads up to {SCHEMA_VERSION}: update it"
        )
    footer_bytes = struct.unpack("<I", data[-8:-4])[0]
    if _digest(data[: len(data) - 8 - footer_bytes], parquet.schema_arrow, facts) != digest:
        raise ManifestError(f"{path} was changed after it was frozen: its content does not match digest {digest}")
    return Manifest(parquet.read(columns=columns).replace_schema_metadata(None), ManifestFacts(**described), digest)


def _canonical(described: Mapping[str, Any], captions: Mapping[str, float], made_from: Mapping[str, str]) -> str:
    """Facts as JSON with sorted keys, but for the mix of captions, whose order means something."""
    origin = {"made_from": dict(made_from)} if made_from else {}
    version = 3 if made_from else 2 if captions else 1
    described = json.loads(json.dumps({**described, **origin, "schema_version": version}, sort_keys=True))
    return json.dumps({**described, "captions": dict(captions)} if captions else described)


def _digest(pages: bytes, schema: pa.Schema, facts: str) -> str:
    # Arrow names the entries of maps and lists differently once they have been through Parquet; the names say nothing.
    layout = [(column.name, re.sub(r"\blist<\w+: ", "list<element: ", re.sub(r" \('[^']*'\)", "", str(column.type)))) for column in schema]
    return sha256(pages + json.dumps([layout, facts]).encode()).hexdigest()
