"""From what a user names to a list of videos: files, folders, globs, fsspec URLs and lists with a `uri` column.

`find` only lists; `identify` reads each file once for its content id. Nothing is opened as media here.
"""

import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.csv as pacsv
import pyarrow.json as pajson
import pyarrow.parquet as pq
from fsspec.core import url_to_fs

from curation.frames import MediaError, local_path, open_bytes
from curation.slices import SliceError, parse_slice
from schemas.ids import duplicate_id, unreadable_id, video_id
from schemas.records import FailureCode

EXTENSIONS = frozenset(
    {
        "3g2", "3gp", "asf", "avi", "dv", "f4v", "flv", "gif", "h264", "h265", "hevc", "ivf", "m2ts", "m2v", "m4v", "mjpeg", "mkv", "mov",
        "mp4", "mpe", "mpeg", "mpg", "mts", "mxf", "nut", "obu", "ogm", "ogv", "rm", "rmvb", "ts", "vob", "webm", "wmv", "y4m",
    }
)  # fmt: skip
"""What counts as a video in a folder or glob, by extension. A file named outright is always taken."""
_LISTS = {".csv": pacsv.read_csv, ".jsonl": pajson.read_json, ".parquet": pq.read_table}


class SourceError(Exception):
    """Something named as a source that cannot be listed; the message says what and why."""


@dataclass(frozen=True, slots=True)
class Found:
    """A video as listed: its address, and further columns where it came from a list."""

    uri: str
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Listing:
    """All videos named by a user, each once and in order of address, and how many other files their folders held."""

    videos: list[Found]
    ignored: int


@dataclass(frozen=True, slots=True)
class Source:
    """A video whose content is known by its hash, or whose bytes could not be read (`problem`)."""

    uri: str
    content_id: str
    size_bytes: int = 0
    fingerprint: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)
    problem: tuple[FailureCode, str] | None = None
    duplicate_of: str | None = None  # address of the input that holds this content's row in videos/

    @property
    def key(self) -> str:
        """Id of this input among all others; copies of one content differ in it."""
        return duplicate_id(self.content_id, self.uri) if self.duplicate_of else self.content_id


def find(names: Iterable[str]) -> Listing:
    """List the videos that `names` stand for. Raises SourceError for a name that stands for nothing."""
    videos: dict[str, Found] = {}
    ignored = 0
    for name in names:
        for found in _expand(name):
            if found is None:
                ignored += 1
            else:
                videos.setdefault(found.uri, found)
    return Listing([videos[uri] for uri in sorted(videos)], ignored)


def _expand(name: str) -> Iterator[Found | None]:
    """Videos behind one name; None for each file that is not one by its extension."""
    try:
        if part := parse_slice(name):
            part.open().close()
            yield Found(name)
            return
        path = local_path(name)
        yield from _expand_local(path) if path else _expand_remote(name)
    except (OSError, ImportError, ValueError, SliceError) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"cannot list {name}: {error}") from error


def _expand_local(path: Path) -> Iterator[Found | None]:
    if path.is_dir():
        yield from (_if_video(entry) for entry in sorted(path.rglob("*")) if not entry.is_dir())
    elif path.suffix.lower() in _LISTS and path.is_file():
        yield from _read_list(str(path), path.parent)
    elif path.exists() or path.is_symlink():
        yield Found(str(path.absolute()))
    elif any(mark in str(path) for mark in "*?["):
        base = Path(path.anchor) if path.is_absolute() else Path()
        matches = sorted(base.glob(str(path.relative_to(path.anchor))))
        if not matches:
            raise SourceError(f"nothing matches {path}")
        for match in matches:
            yield from _expand_local(match) if match.is_dir() else [_if_video(match)]
    else:
        raise SourceError(f"no such file or folder: {path}")


def _if_video(path: Path) -> Found | None:
    return Found(str(path.absolute())) if path.suffix.lower().lstrip(".") in EXTENSIONS else None


def _expand_remote(url: str) -> Iterator[Found | None]:
    filesystem, path = url_to_fs(url)
    if Path(path).suffix.lower() in _LISTS and filesystem.isfile(path):
        yield from _read_list(url, None)
        return
    if any(mark in path for mark in "*?["):
        names = filesystem.glob(path)
    elif filesystem.isdir(path):
        names = filesystem.find(path)
    elif filesystem.exists(path):
        yield Found(filesystem.unstrip_protocol(path))
        return
    else:
        raise SourceError(f"nothing at {url}")
    for name in sorted(names):
        yield Found(filesystem.unstrip_protocol(name)) if name.rsplit(".", 1)[-1].lower() in EXTENSIONS else None


def _read_list(name: str, folder: Path | None) -> Iterator[Found]:
    """Rows of a list with a `uri` column; relative paths count from the list's own folder. Other columns are kept as text."""
    with fsspec.open(f"file://{Path(name).absolute()}" if folder is not None else name, "rb") as stream:
        table = _LISTS[Path(name).suffix.lower()](stream)
    if "uri" not in table.column_names:
        raise SourceError(f"{name} has no column `uri` (it has {', '.join(table.column_names)})")
    for row in table.to_pylist():
        uri = str(row.pop("uri") or "")
        if not uri:
            raise SourceError(f"{name} has a row without a uri")
        if (path := local_path(uri)) and folder is not None:
            uri = str((folder / path).absolute())
        yield Found(uri, {column: str(value) for column, value in row.items() if value is not None})


def identify(found: Found, known: Mapping[str, tuple[str, str]] | None = None) -> Source:
    """Read a video's bytes for its content id. `known` maps addresses to (fingerprint, content id) and spares the reading."""
    try:
        info = _stat(found.uri)
        fingerprint, size = info["fingerprint"], info["size"]
        if known and found.uri in known and known[found.uri][0] == fingerprint:
            return Source(found.uri, known[found.uri][1], size, fingerprint, found.extra)
        with open_bytes(found.uri) as stream:
            return Source(found.uri, video_id(stream), size, fingerprint, found.extra)
    except FileNotFoundError:
        problem = FailureCode.NOT_FOUND, "there is no such file"
    except SliceError as error:
        problem = error.code, error.message
    except (OSError, ImportError, ValueError) as error:
        problem = FailureCode.UNREADABLE, str(getattr(error, "strerror", None) or error)
    return Source(found.uri, unreadable_id(found.uri), extra=found.extra, problem=problem)


def check_content(uri: str, content_id: str, fingerprint: str) -> None:
    """Raises MediaError where other bytes are at an address than those it was curated from; "" for what cannot be told."""
    if not fingerprint:
        return
    source = identify(Found(uri), {uri: (fingerprint, content_id)})
    if source.problem:
        raise MediaError(*source.problem)
    if source.content_id != content_id:
        raise MediaError(FailureCode.NOT_FOUND, "the file at this address is another one now")


def _stat(uri: str) -> dict[str, Any]:
    part = parse_slice(uri)
    if path := part.path if part else local_path(uri):
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise OSError("not a regular file")
        return {"size": part.num_bytes if part else status.st_size, "fingerprint": f"{status.st_size}-{status.st_mtime_ns}"}
    filesystem, name = url_to_fs(uri)
    info = filesystem.info(name)
    state = next((str(info[key]) for key in ("ETag", "etag", "LastModified", "mtime", "created") if info.get(key)), "")
    return {"size": info.get("size") or 0, "fingerprint": f"{info.get('size')}-{state}" if state else ""}


def mark_duplicates(sources: Iterable[Source], holders: Mapping[str, str]) -> list[Source]:
    """Name, for every copy of a content, the input that holds its row: one of `holders` (content id -> address), else the first."""
    holders = dict(holders)
    marked = []
    for source in sorted(sources, key=lambda source: source.uri):
        holder = holders.setdefault(source.content_id, source.uri)
        marked.append(source if holder == source.uri else replace(source, duplicate_of=holder))
    return marked
