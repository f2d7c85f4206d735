"""Content ids. The same bytes get the same id on every machine, so work can be found again after any interruption."""

from collections.abc import Iterable
from hashlib import blake2b
from typing import BinaryIO

ID_BYTES = 16
_READ_BYTES = 1 << 20


def video_id(stream: BinaryIO) -> str:
    """Hash of a file's whole content: 32 hex digits of BLAKE2b. Reads `stream` to its end."""
    digest = blake2b(digest_size=ID_BYTES)
    while chunk := stream.read(_READ_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def unreadable_id(uri: str) -> str:
    """Id of an input whose bytes cannot be read: a hash of its address, which is all that is known of it."""
    return _hash("unreadable", uri)


def duplicate_id(video_id: str, uri: str) -> str:
    """Id of an input as a copy of a content that another input holds."""
    return _hash("duplicate", video_id, uri)


def clip_id(video_id: str, start_frame: int, num_frames: int) -> str:
    """Id of a span of a video; a clip found again by another run keeps its id."""
    return _hash("clip", video_id, start_frame, num_frames)


def shard_id(ids: Iterable[str]) -> str:
    """Name of the shard that holds these content ids; their order does not matter."""
    return _hash("shard", *sorted(ids))


def _hash(*parts: object) -> str:
    return blake2b("\0".join(map(str, parts)).encode(), digest_size=ID_BYTES).hexdigest()
