"""A file of text as a stream of lines, packed with gzip or zstd or plain, in little memory whatever is in it."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
STEP = 1 << 20
SMALL = 1 << 14  # what is asked of zstd at a time: what precedes a damaged place within one request is lost


class Gunzip:
    """A gzip file, of one member or many, as a stream that ends where damage begins; `gzip.open` would withhold the good bytes before it."""

    packed = True

    def __init__(self, file: BinaryIO):
        self.file, self.member, self.rest, self.damage = file, zlib.decompressobj(31), b"", ""

    def tell(self) -> int:  # fastwarc asks for it
        return 0

    def read(self, size: int = STEP) -> bytes:
        """At most `size` bytes; b"" at the end. `damage` then says whether it was the file's own."""
        while not self.damage:
            packed = self.rest or self.file.read(STEP)
            if not packed:
                self.damage = "" if self.member.eof else "the file ends within a gzip member"
                break
            if self.member.eof:
                packed = packed.lstrip(b"\0")  # padding behind the last member, which gzip ignores too
                self.rest = b""
                if not packed:
                    continue
                self.member = zlib.decompressobj(31)
            try:
                unpacked = self.member.decompress(packed, max(size, 1))
            except zlib.error as error:
                self.damage = str(error)
                break
            self.rest = self.member.unused_data if self.member.eof else self.member.unconsumed_tail
            if unpacked:
                return unpacked
        return b""


class Other:
    """A file as it is, or through zstd."""

    def __init__(self, file: Any, packed: bool):
        self.file, self.packed, self.damage = file, packed, ""

    def tell(self) -> int:
        return 0

    def read(self, size: int = STEP) -> bytes:
        try:
            return b"" if self.damage else bytes(self.file.read(min(size, SMALL if self.packed else size)))
        except (OSError, pa.ArrowException) as error:
            self.damage = " ".join(str(error).split())
            return b""


def unpacked(file: BinaryIO) -> "Gunzip | Other":
    """The stream of what a file holds. What it is packed with is told by its first bytes: names lie."""
    head = file.read(4)
    file.seek(0)
    if head[:2] == GZIP:
        return Gunzip(file)
    if head == ZSTD:
        return Other(pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"), packed=True)
    return Other(file, packed=False)


def whole(stream: "Gunzip | Other", limit: int) -> bytes:
    """All of a stream, cut one byte past `limit`. ValueError where it is damaged."""
    pieces, size = list[bytes](), 0
    while size <= limit and (piece := stream.read(limit + 1 - size)):
        pieces.append(piece)
        size += len(piece)
    if stream.damage:
        raise ValueError(stream.damage)
    return b"".join(pieces)


@dataclass(frozen=True)
class Line:
    """A line without its end. `data` is b"" and `reason` says why where it could not be kept or is cut off."""

    offset: int  # of its first byte, in the unpacked stream
    data: bytes
    reason: str = ""


def lines(stream: "Gunzip | Other", limit: int, begin: int = 0, end: int = 0) -> Iterator[Line]:
    """The lines of a stream, each of at most `limit` bytes; a longer one comes as a reason, not as data. Damage is the last line's reason.

    With `end`, those that begin at begin <= n < end; the stream then stands one byte before `begin`, which tells whether a line begins there.
    """
    inside = begin == 0
    offset, held, size = max(begin - 1, 0), list[bytes](), 0  # of the line under way: where it begins, its pieces, its bytes
    while data := stream.read(STEP):
        parts = data.split(b"\n")
        for number, part in enumerate(parts):
            size += len(part)
            if size <= limit:
                held.append(part)
            else:
                held.clear()
            if number < len(parts) - 1:
                if inside:
                    yield _line(offset, held, size, limit)
                offset, held, size, inside = offset + size + 1, [], 0, True
                if end and offset >= end:
                    return
    if stream.damage:
        yield Line(offset, b"", f"unreadable from here to the end of the file: {stream.damage}")
    elif size and inside:
        yield _line(offset, held, size, limit)


def _line(offset: int, held: list[bytes], size: int, limit: int) -> Line:
    return Line(offset, b"".join(held)) if size <= limit else Line(offset, b"", f"a line of {size} bytes")
