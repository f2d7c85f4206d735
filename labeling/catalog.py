"""A dataset opened for SQL: one relation of clips, with everything that is known of each in its row.

A Dataset comes in; out goes a `Catalog`, which knows the columns a predicate may name and makes the SQL that joins just
the tables they live in. The tables stay lazy Arrow datasets in a DuckDB that can reach nothing else, and the JPEGs of
keyframes are read only by `keyframes`.
"""

import json
import os
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from curation.storage import Dataset, DatasetError
from schemas.tables import CLIPS, KEYFRAMES, VIDEOS, TableSpec, caption_table, made_from, tag_table, tags_of, written_version
from schemas.tags import DIMENSIONS, TAGS, TagSpec

if TYPE_CHECKING:
    import duckdb

# Facts of the file that would be taken for facts of the clip.
_VIDEO_PREFIXED = frozenset({"num_frames", "duration_s", "width", "height", "fps"})
# A caption begins with its texts; from `reason` on, its row tells of the caption and not of the clip.
_CAPTION = caption_table("").schema.names
_CAPTION_PREFIXED = frozenset(_CAPTION[_CAPTION.index("reason") :]) - {"camera_agrees"}
_MIXED = ("caption_short", "caption_medium", "caption_dense")
_CAPTION_GROUP = "clip_captions"
_ORDER = ("uri", "video_id", "start_frame")


@dataclass(frozen=True)
class Limits:
    """What one query may use, so that a wrong or hostile predicate ends with an error and not with the machine."""

    seconds: float = 600.0
    memory: str = "4GB"
    threads: int = 0  # 0: as many as there are cores


@dataclass(frozen=True)
class Column:
    """One column of the relation `clips`: its name there, and the SQL that gives it from the joined tables."""

    name: str
    tables: tuple[str, ...]  # aliases of those it is made from
    sql: str
    type: pa.DataType


@dataclass(frozen=True)
class Catalog:
    """A dataset open for queries. `tables` maps the alias of each joined table to its spec."""

    dataset: Dataset
    tables: Mapping[str, TableSpec]
    columns: Mapping[str, Column]
    captions: Mapping[str, float]  # captioner -> weight; the caption columns are those of the first
    shards: frozenset[str]
    connection: "duckdb.DuckDBPyConnection"

    def select(self, names: Iterable[str]) -> str:
        """SQL of the relation with (at least) the columns `names`: tables that hold none of them are not read."""
        columns = [self.columns[name] for name in dict.fromkeys([*_ORDER, *names])]
        wanted = {alias for column in columns for alias in column.tables} - {"c", "v"}
        joins = [f"LEFT JOIN {quoted(alias)} ON {quoted(alias)}.clip_id = c.clip_id" for alias in self.tables if alias in wanted]
        listed = ", ".join(f"{column.sql} AS {quoted(column.name)}" for column in columns)
        return " ".join([f"SELECT {listed} FROM c JOIN v ON v.video_id = c.video_id", *joins])

    @property
    def order(self) -> str:
        """SQL of the order in which clips are listed: by file, then by time."""
        return ", ".join(_ORDER)

    @property
    def tags(self) -> list[TagSpec]:
        """The tags of the dataset, those of plug-in taggers last."""
        names = [tag.name for tag in TAGS]
        found = [tag for alias, spec in self.tables.items() if alias.startswith("tags_") for tag in tags_of(spec.schema)]
        return sorted(found, key=lambda tag: names.index(tag.name) if tag.name in names else len(names))

    def digests(self) -> dict[str, str]:
        """Dataset-relative path -> SHA-256 of every file that a query reads."""
        found = self.dataset.digests(self.tables.values())
        return {path: digest for path, digest in found.items() if _shard_of(path) in self.shards}


def open_catalog(root: str, captions: str | Mapping[str, float] | None = None, limits: Limits | None = None) -> Catalog:
    """Open the dataset at `root`, with the captions of one captioner (by default of the only one there is) or of a mix.

    A mix, captioner -> weight, gives the caption columns of its first, and a column `captions` with those of all.
    Raises DatasetError where there is no dataset or no such captioner, SchemaVersionError where a newer Reelmill wrote it.
    """
    dataset = open_dataset(root)
    if captions is None or isinstance(captions, str):
        chosen = choose_captioner(dataset, captions)
        captions = {chosen: 1.0} if chosen else {}
    for name in captions:
        choose_captioner(dataset, name)
    # Clips first: what another process commits meanwhile is then in the later tables only, and joins to nothing.
    tables = {"c": CLIPS, "v": VIDEOS, **{f"tags_{group}": spec for group, spec in tag_tables(dataset).items()}}
    if captions_compared(dataset) - {next(iter(captions), None)}:
        tables.pop(f"tags_{_CAPTION_GROUP}", None)
    aliases = {name: "captions" if number == 0 else f"captions_{number}" for number, name in enumerate(captions)}
    tables |= {alias: caption_table(name) for name, alias in aliases.items()}
    limits = limits or Limits()
    connection = _connect(limits)
    shards = frozenset(dataset.files(CLIPS))
    for alias, spec in tables.items():
        connection.register(alias, dataset.scan(spec))
    connection.execute(f"SET max_execution_time = {round(1000 * limits.seconds)}")
    connection.execute("SET lock_configuration = true")
    further = set(aliases.values()) - {"captions"}
    columns = {column.name: column for alias, spec in tables.items() if alias not in further for column in _columns(alias, spec)}
    if further:
        columns["captions"] = _mixed(captions, aliases)
    return Catalog(dataset, tables, columns, captions, shards, connection)


def open_dataset(root: str) -> Dataset:
    """The dataset at `root`. Raises DatasetError where there is none."""
    dataset = Dataset(root)
    if not dataset.exists():
        raise DatasetError(f"no dataset at {root}: run `reelmill curate SOURCE --out {root}`")
    return dataset


def tag_tables(dataset: Dataset) -> dict[str, TableSpec]:
    """Group -> table of the tag groups of a dataset, in order of name: Reelmill's own, and plug-in groups as their files describe them."""
    ours, found = {tag.group for tag in TAGS}, {}
    for group in dataset.tag_groups():
        if group in ours:
            found[group] = tag_table(group)
        elif tags := _plugin_tags(dataset, group):
            found[group] = tag_table(group, tags)
    return found


def _plugin_tags(dataset: Dataset, group: str) -> tuple[TagSpec, ...]:
    """Tags of a group that is not in the registry, of its newest file; none where that is not a plug-in tagger's."""
    bare = TableSpec(f"tags/{group}", sys.maxsize, pa.schema([]))
    schemas = [schema for shard in dataset.files(bare) if (schema := dataset.part_schema(bare, shard))]
    try:
        newest = tags_of(max(schemas, key=written_version, default=pa.schema([])))
    except (KeyError, TypeError, ValueError):
        return ()
    return tuple(tag for tag in newest if tag.name.startswith(DIMENSIONS) and tag.name not in {ours.name for ours in TAGS})


def caption_columns() -> list[str]:
    """Names that captions have in the relation `clips`."""
    return [column.name for column in _columns("captions", caption_table(""))]


def keyframes(dataset: Dataset, clip_ids: Collection[str]) -> dict[str, list[bytes]]:
    """JPEGs of the keyframes of some clips, in time order. Files that hold none of the clips are not read past their ids."""
    found: list[dict[str, object]] = []
    chosen = pc.field("clip_id").isin(pa.array(sorted(clip_ids), pa.string()))
    for fragment in dataset.scan(KEYFRAMES).get_fragments():
        if fragment.count_rows(filter=chosen):
            found += fragment.to_table(columns=["clip_id", "index", "jpeg"], filter=chosen).to_pylist()
    jpegs: dict[str, list[bytes]] = {}
    for row in sorted(found, key=lambda row: (row["clip_id"], row["index"])):
        jpegs.setdefault(row["clip_id"], []).append(row["jpeg"])
    return jpegs


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def captions_compared(dataset: Dataset) -> set[str]:
    """Whose captions the group clip_captions was measured for, as its files say (see `labeling.tagging.made_from_what`)."""
    spec = tag_table(_CAPTION_GROUP)
    texts = [made_from(schema) for shard in dataset.files(spec) if (schema := dataset.part_schema(spec, shard))]
    return {json.loads(text)["captions"].rsplit(" ", 1)[0] for text in texts if text}


def choose_captioner(dataset: Dataset, name: str | None) -> str | None:
    """The captioner of that name, by default the only one there is. Raises DatasetError where there is none of that name."""
    there = dataset.captioners()
    if name is not None and name not in there:
        raise DatasetError(f"{dataset.root} has no captions by {name!r}; it has captions by {', '.join(there) or 'no one'}")
    return name or (there[0] if len(there) == 1 else None)


def _mixed(captions: Mapping[str, float], aliases: Mapping[str, str]) -> Column:
    """The column `captions`: a list of the captioners that have a caption of the clip, in the order given, with their captions."""
    entries = []
    for name, alias in aliases.items():
        texts = ", ".join(f"{quoted(text)} := {quoted(alias)}.{quoted(text)}" for text in _MIXED)
        there = f"coalesce({', '.join(f'{quoted(alias)}.{quoted(text)}' for text in _MIXED)}) IS NOT NULL"
        entry = f"struct_pack(captioner := {_literal(name)}, weight := {captions[name]!r}::DOUBLE, {texts})"
        entries.append(f"CASE WHEN {there} THEN {entry} END")
    kind = pa.list_(pa.struct({"captioner": pa.string(), "weight": pa.float64(), **dict.fromkeys(_MIXED, pa.string())}))
    return Column("captions", tuple(aliases.values()), f"list_filter([{', '.join(entries)}], lambda one: one IS NOT NULL)", kind)


def _columns(alias: str, spec: TableSpec) -> list[Column]:
    here = [
        Column(_name_in_view(alias, field.name), (alias,), f"{quoted(alias)}.{quoted(field.name)}", field.type) for field in spec.schema
    ]
    if alias == "c":
        return [*here, Column("duration_s", ("c",), "c.end_s - c.start_s", pa.float64())]
    return [column for column in here if column.name not in ("clip_id", "video_id")]  # those of the clip itself


def _name_in_view(alias: str, name: str) -> str:
    if alias == "v" and name in _VIDEO_PREFIXED:
        return f"video_{name}"
    return f"caption_{name}" if alias == "captions" and name in _CAPTION_PREFIXED else name


def _connect(limits: Limits) -> "duckdb.DuckDBPyConnection":
    import duckdb

    connection = duckdb.connect(":memory:", config={"threads": limits.threads or os.cpu_count() or 1})
    for setting in (
        f"memory_limit = '{limits.memory}'",
        "temp_directory = ''",
        "autoinstall_known_extensions = false",
        "autoload_known_extensions = false",
        "allow_community_extensions = false",
        "python_enable_replacements = false",
        "python_scan_all_frames = false",
        "enable_external_access = false",
    ):
        connection.execute(f"SET {setting}")
    return connection


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _shard_of(path: str) -> str:
    return path.rsplit("/", 1)[-1].removeprefix("part-").removesuffix(".parquet")
