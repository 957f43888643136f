"""Pages out of WARC files (ISO 28500), compressed or not, and every damaged place in them named instead of lost.

fastwarc does the parsing. What it leaves to the caller is damage: it stops without a word where a file is cut off, and
stops for good at the first corrupt record. Here a record is handed out only once the bytes behind it are known to be
whole, and after a corrupt one reading goes on at the next place where a record starts.
"""

import mmap
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from bessemer.corpus.sources.stream import ZSTD, unpacked

ARC = b"filedesc:"
GZIP = b"\x1f\x8b\x08"
DAMAGE = (OSError, EOFError, zlib.error)  # what fastwarc and gzip raise at bytes they cannot read
STEP = 1 << 20
HEADERS, USUAL = 1 << 21, 1 << 13  # bytes that the headers of a record may have, and that they hardly ever exceed
NEXT = b"\r\n\r\nWARC/1."  # how another record begins behind one
TYPES = {int(WarcRecordType.response): "response", int(WarcRecordType.resource): "resource", int(WarcRecordType.conversion): "conversion"}


@dataclass(frozen=True)
class Page:
    """What a server answered, its transfer and content encodings undone."""

    url: str
    offset: int  # of the record in the file; in a file that is packed as a whole, in what is unpacked from it
    status: int  # HTTP status; 200 for a resource record, which has none
    content_type: str  # lower case, without parameters; "" where the server named none
    charset: str  # what the server named, or ""
    body: bytes  # at most `max_bytes` + 1 bytes: one more than allowed tells that there was more
    record: str = "response"  # the record's type; a conversion (WET) is text that somebody else took out of a page


@dataclass(frozen=True)
class Problem:
    """A place in a WARC file that holds no readable record."""

    offset: int
    reason: str
    url: str = ""


def read(path: Path, max_bytes: int) -> Iterator[Page | Problem]:
    """Every page of a WARC file in file order, and every damaged place. A body longer than `max_bytes` is cut one byte past it.

    Records that are no pages (warcinfo, request, metadata, revisit) are passed over. OSError where the file cannot be opened.
    """
    size = path.stat().st_size
    if size == 0:
        yield Problem(0, "empty file")
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:9] == ARC or (data[:2] == GZIP[:2] and _starts(data, 0, ARC)):
            yield Problem(0, "an ARC file, which came before WARC: convert it, with `warcio recompress` say")
        elif data[:4] == ZSTD or (data[:2] == GZIP[:2] and _many_in_one(data)):
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
            for record in _records(file):
                if held:
                    yield held
                last, held = record.stream_pos, None
                held = _page(_leniently(file.name, last) if _bare(record) else record, max_bytes)
                # A length that lies runs into the next record. Only where it may have is the exact look worth its time.
                if (not zipped or (held and NEXT in held.body)) and _end(data, last, zipped) is None:
                    reason = "truncated record, or its Content-Length is wrong"
                    break
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
    """A file packed as a whole: nothing behind the first damage can be unpacked, and the record at it is not whole."""
    stream, held, last, reason = unpacked(file), None, 0, ""
    try:
        for record in _records(stream):
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


def _records(stream: Any, quirks: bool = False) -> Iterator[WarcRecord]:
    return iter(ArchiveIterator(stream, auto_decode="all", quirks_mode=quirks, max_header_len=HEADERS))


def _leniently(path: str, offset: int) -> WarcRecord:
    """The record at `offset` again, by the rules that take headers whose lines end in a bare line feed. Not by default: they skip damage."""
    with open(path, "rb") as file:  # noqa: PTH123 (a path as the file object has it)
        file.seek(offset)
        return next(_records(file, quirks=True))


def _bare(record: WarcRecord) -> bool:
    """Whether the lines of a record's headers end in a bare line feed, so that they were taken for one."""
    http = record.http_headers.status_line if record.http_headers is not None else ""
    return "\n" in (http or "") or "\n" in next(iter(record.headers.values()), "")


def _page(record: WarcRecord, max_bytes: int) -> Page | None:
    kind = TYPES.get(int(record.record_type))
    if kind is None or (kind == "response" and record.http_headers is None):
        return None
    status, http = 200, record.http_headers
    if kind == "response":
        line = "" if http.status_code else http.status_line or ""
        found = re.match(r":status: *([0-9]{3})$", line)  # HTTP/2 as some crawlers write it down
        status = int(found[1]) if found else http.status_code or 0
    url = (record.headers.get("WARC-Target-URI") or "").strip("<>")
    # That of a response's WARC header is application/http.
    said = record.http_content_type or ("" if kind == "response" else (record.headers.get("Content-Type") or "").partition(";")[0])
    body = record.reader.read(max_bytes + 1)
    return Page(url, record.stream_pos, status, said.strip().lower(), record.http_charset or "", body, kind)


def _many_in_one(data: mmap.mmap) -> bool:
    """Whether one gzip member holds several records: its offsets say nothing then."""
    try:
        return b"\r\n\r\nWARC/1" in zlib.decompressobj(31).decompress(data[:STEP], STEP)
    except zlib.error:
        return False


def _end(data: mmap.mmap, offset: int, zipped: bool) -> int | None:
    """Where the record at `offset` ends, or None where its bytes are not whole or not as many as it says."""
    if not zipped:
        whole = _length(data[offset : offset + USUAL]) or _length(data[offset : offset + HEADERS])
        if whole is None or offset + whole > len(data):
            return None
        end = offset + whole
        behind = data[end : end + 8]
        if behind.startswith(b"\r\n\r\n"):
            return end + 4
        behind = behind.lstrip(b"\r\n")
        return min(end + 8, len(data)) - len(behind) if not behind or behind.startswith(b"WARC/"[: len(behind)]) else None
    member, start, size = zlib.decompressobj(31), bytearray(), 0
    try:
        for at in range(offset, len(data), STEP):
            piece = data[at : at + STEP]
            while piece and not member.eof:
                unpacked = member.decompress(piece, STEP)  # in steps: a gzip bomb must not fill the memory
                start += unpacked[: HEADERS - len(start)]
                size += len(unpacked)
                piece = member.unconsumed_tail
            if member.eof:
                whole = _length(bytes(start))
                return min(at + STEP, len(data)) - len(member.unused_data) if whole is not None and whole <= size else None
    except zlib.error:
        pass
    return None


def _length(start: bytes) -> int | None:
    """Bytes of a record, its header included, as that says; None where it does not."""
    head = re.search(rb"\r?\n\r?\n", start)
    said = re.search(rb"\ncontent-length:[ \t]*([0-9]{1,18})[ \t]*\r?\n", start[: head.end()], re.IGNORECASE) if head else None
    return head.end() + int(said[1]) if head and said else None


def _next(data: mmap.mmap, offset: int, zipped: bool) -> int | None:
    """The first place at or behind `offset` where a record starts."""
    if not zipped:
        at = offset if data[offset : offset + 5] == b"WARC/" else data.find(b"\r\nWARC/1.", offset)
        return None if at < 0 else at if at == offset else at + 2
    at = data.find(GZIP, offset)
    while at >= 0 and not _starts(data, at, b"WARC/"):
        at = data.find(GZIP, at + 1)
    return None if at < 0 else at


def _starts(data: mmap.mmap, at: int, word: bytes) -> bool:
    """Whether a gzip member at `at` holds something that begins so."""
    try:
        return zlib.decompressobj(31).decompress(data[at : at + 4096], len(word)) == word
    except zlib.error:
        return False
