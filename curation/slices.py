"""Media that lies in a Parquet file, addressed by where its bytes are: `parquet:///folder/part.parquet#4711+88123`.

That is 88,123 bytes from byte 4,711 on, the one value of an uncompressed column chunk, which Parquet stores as it is, behind
its length in four bytes. So one clip costs one open and reads of what the decoder asks for, whatever else the file holds: no
footer is parsed and nothing is kept between reads. `curation.parts` writes such files.
"""

import io
import os
import re
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.records import FailureCode

_ADDRESS = re.compile(r"parquet://(/.+)#([0-9]{1,18})\+([0-9]{1,18})", re.DOTALL | re.ASCII)
_SCHEME = "parquet://"
_MAGIC = b"PAR1"
_PREFIX = struct.Struct("<I")  # Parquet's plain encoding of a value of bytes: its length goes before it


class SliceError(Exception):
    """An address in a Parquet file at which no media lies; `code` is one of the failure codes."""

    def __init__(self, code: FailureCode, message: str):
        super().__init__(message)
        self.code, self.message = code, message


@dataclass(frozen=True, slots=True)
class Slice:
    """Bytes of a Parquet file on the local file system."""

    path: Path
    offset: int
    num_bytes: int

    @property
    def uri(self) -> str:
        return f"{_SCHEME}{self.path}#{self.offset}+{self.num_bytes}"

    def open(self) -> "SliceReader":
        """The bytes as a file that ends where they end. Raises SliceError, or OSError as opening a file does."""
        if not stat.S_ISREG(self.path.stat().st_mode):
            raise SliceError(FailureCode.UNREADABLE, "not a regular file")
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._check(descriptor)
            return SliceReader(descriptor, self.offset, self.num_bytes)
        except BaseException:
            os.close(descriptor)
            raise

    def _check(self, descriptor: int) -> None:
        size, length = os.fstat(descriptor).st_size, len(_MAGIC)
        if size < 2 * length or os.pread(descriptor, length, 0) != _MAGIC or os.pread(descriptor, length, size - length) != _MAGIC:
            raise SliceError(FailureCode.NOT_MEDIA, f"{self.path} is not a whole Parquet file")
        if self.num_bytes == 0:
            raise SliceError(FailureCode.EMPTY, "the address names no bytes")
        before = self.offset - _PREFIX.size
        if before < length or self.offset + self.num_bytes > size - length:
            raise SliceError(FailureCode.NOT_FOUND, f"{self.path} has {size} bytes, and no media where the address says")
        if _PREFIX.unpack(os.pread(descriptor, _PREFIX.size, before))[0] != self.num_bytes:
            raise SliceError(FailureCode.NOT_FOUND, f"no media begins where the address says in {self.path}: it is another file now")


def parse_slice(uri: str) -> Slice | None:
    """What a URI of the scheme `parquet` addresses, or None for any other. Raises SliceError where it is none that can be."""
    if not uri.startswith(_SCHEME):
        return None
    if not (match := _ADDRESS.fullmatch(uri)) or "\0" in uri:
        raise SliceError(FailureCode.NOT_FOUND, "an address in a Parquet file reads parquet:///PATH#OFFSET+BYTES")
    return Slice(Path(match[1]), int(match[2]), int(match[3]))


class SliceReader(io.RawIOBase):
    """A part of an open file, read by position, so that it shares no state with any other reader. Closes the descriptor."""

    def __init__(self, descriptor: int, offset: int, num_bytes: int):
        super().__init__()
        self._descriptor, self._offset, self._num_bytes, self._position = descriptor, offset, num_bytes, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self._num_bytes - self._position))
        count = os.preadv(self._descriptor, [view[:wanted]], self._offset + self._position) if wanted else 0
        self._position += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._num_bytes}[whence]
        if start + offset < 0:
            raise ValueError("a position before the first byte")
        self._position = start + offset
        return self._position

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()
