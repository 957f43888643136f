"""Pages out of WARC files (ISO 28500), compressed or not, and every damaged place in them named instead of lost.

fastwarc does the parsing. What it leaves to the caller is damage: it stops without a word where a file is cut off, and
stops for good at the first corrupt record. Here a record is handed out only once the bytes behind it are known to be
whole, and after a corrupt one reading goes on at the next place where a record starts.
"""

import mmap
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from bessemer.core.artifact import RUN

GZIP = b"\x1f\x8b\x08"
DAMAGE = (OSError, EOFError, zlib.error)  # what fastwarc and gzip raise at bytes they cannot read
STEP = 1 << 20


@dataclass(frozen=True)
class Page:
    """What a server answered, its transfer and content encodings undone."""

    url: str
    offset: int  # of the record in the file; in a file that is gzipped as a whole, in what is unpacked from it
    status: int  # HTTP status; 200 for a resource record, which has none
    content_type: str  # lower case, without parameters; "" where the server named none
    charset: str  # what the server named, or ""
    body: bytes  # at most `max_bytes` + 1 bytes: one more than allowed tells that there was more


@dataclass(frozen=True)
class Problem:
    """A place in a WARC file that holds no readable record."""

    offset: int
    reason: str
    url: str = ""


def files(source: Path) -> list[Path]:
    """The WARC files below a folder, sorted, or the one that `source` is. FileNotFoundError, ValueError where there is none."""
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist")
    if source.is_file():
        return [source]
    found = sorted(path for path in source.rglob("*.warc*") if path.name.endswith((".warc", ".warc.gz")) and path.relative_to(source).parts[0] != RUN)
    if not found:
        raise ValueError(f"{source} holds no WARC files (*.warc, *.warc.gz)")
    return found


def read(path: Path, max_bytes: int) -> Iterator[Page | Problem]:
    """Every page of a WARC file in file order, and every damaged place. A body longer than `max_bytes` is cut one byte past it.

    Records that are no pages (warcinfo, request, metadata, revisit) are passed over.
    """
    size = path.stat().st_size
    if size == 0:
        yield Problem(0, "empty file")
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:2] == GZIP[:2] and _many_in_one(data):
            yield from _sequential(file, max_bytes)
        else:
            yield from _recovering(file, data, max_bytes)


def _recovering(file: BinaryIO, data: mmap.mmap, max_bytes: int) -> Iterator[Page | Problem]:
    """Read from the start; after damage, go on at the next record."""
    zipped = data[:2] == GZIP[:2] or data.find(b"WARC/", 0, STEP) < 0
    start = _next(data, 0, zipped)
    if start != 0:
        yield Problem(0, "no WARC record in the file" if start is None else "unreadable bytes up to the next record")
    while start is not None:
        file.seek(start)
        last, held, reason = None, None, "truncated record"
        try:
            # Records of all types, since any of them may be the last whole one.
            for record in ArchiveIterator(file, auto_decode="all"):
                if held:
                    yield held
                last, held = record.stream_pos, None
                held = _page(record, max_bytes)
        except DAMAGE as error:
            reason = f"corrupt record: {error}"
        # All before `last` were followed by another record. `last` itself is whole only if its bytes are.
        end = None if last is None else _end(data, last, zipped)
        if last is None or end is None:
            at = start if last is None else last
            yield Problem(at, reason)
            start = _next(data, at + 1, zipped)
            continue
        if held:
            yield held
        elif reason != "truncated record":
            yield Problem(last, reason)
        start = _next(data, end, zipped)
        if start != end and end < len(data):
            yield Problem(end, f"unreadable bytes up to {'the end of the file' if start is None else 'the next record'}")


def _sequential(file: BinaryIO, max_bytes: int) -> Iterator[Page | Problem]:
    """A file gzipped as a whole: nothing behind the first damage can be unpacked, and the record at it is not whole."""
    stream, held, last, reason = _Unpacked(file), None, 0, ""
    try:
        for record in ArchiveIterator(stream, auto_decode="all"):  # type: ignore[arg-type]
            if held:
                yield held
            last, held = record.stream_pos, None
            held = _page(record, max_bytes)
    except DAMAGE as error:
        reason = str(error)
    if reason := reason or stream.damage:
        yield Problem(last, f"corrupt from here to the end of the file: {reason}")
    elif held:
        yield held


class _Unpacked:
    """A gzip file as a stream that ends where the damage begins; `gzip.open` would withhold the good bytes before it."""

    def __init__(self, file: BinaryIO):
        self.file, self.member, self.rest, self.damage = file, zlib.decompressobj(31), b"", ""

    def tell(self) -> int:
        return 0

    def read(self, size: int = STEP) -> bytes:
        """At most `size` bytes; b"" at the end. `damage` then says whether it was the file's own."""
        while not self.damage:
            packed = self.rest or self.file.read(STEP)
            if not packed:
                self.damage = "" if self.member.eof else "the file ends within a gzip member"
                break
            if self.member.eof:
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


def _page(record: WarcRecord, max_bytes: int) -> Page | None:
    if record.record_type == WarcRecordType.response and record.http_headers is not None:
        status = record.http_headers.status_code or 0
    elif record.record_type == WarcRecordType.resource:
        status = 200
    else:
        return None
    url = (record.headers.get("WARC-Target-URI") or "").strip("<>")
    kind = record.http_content_type or (record.headers.get("Content-Type") or "").partition(";")[0]
    body = record.reader.read(max_bytes + 1)
    return Page(url, record.stream_pos, status, kind.strip().lower(), record.http_charset or "", body)


def _many_in_one(data: mmap.mmap) -> bool:
    """Whether one gzip member holds several records: its offsets say nothing then."""
    try:
        return b"\r\n\r\nWARC/1" in zlib.decompressobj(31).decompress(data[:STEP], STEP)
    except zlib.error:
        return False


def _end(data: mmap.mmap, offset: int, zipped: bool) -> int | None:
    """Where the record at `offset` ends, or None where its bytes are not whole."""
    if not zipped:
        head = data.find(b"\r\n\r\n", offset)
        fields = [line.partition(b":") for line in data[offset:head].split(b"\r\n")]
        length = [value for name, _, value in fields if name.strip().lower() == b"content-length"]
        if head < 0 or not length or not length[0].strip().isdigit():
            return None
        end = head + 4 + int(length[0])
        return None if end > len(data) else end + 4 if data[end : end + 4] == b"\r\n\r\n" else end
    member = zlib.decompressobj(31)
    try:
        for at in range(offset, len(data), STEP):
            piece = data[at : at + STEP]
            while piece and not member.eof:
                member.decompress(piece, STEP)  # in steps: a gzip bomb must not fill the memory
                piece = member.unconsumed_tail
            if member.eof:
                return min(at + STEP, len(data)) - len(member.unused_data)
    except zlib.error:
        pass
    return None


def _next(data: mmap.mmap, offset: int, zipped: bool) -> int | None:
    """The first place at or behind `offset` where a record starts."""
    if not zipped:
        at = offset if data[offset : offset + 5] == b"WARC/" else data.find(b"\r\nWARC/1.", offset)
        return None if at < 0 else at if at == offset else at + 2
    at = data.find(GZIP, offset)
    while at >= 0:
        try:
            if zlib.decompressobj(31).decompress(data[at : at + 4096], 5) == b"WARC/":
                return at
        except zlib.error:
            pass
        at = data.find(GZIP, at + 1)
    return None
