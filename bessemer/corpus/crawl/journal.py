"""What a crawl has fetched, as a file of WARC records that survives a kill, and the sorted WARC files made of it at the end.

Records are appended in the order in which pages arrive. After a kill the last one may be torn: opening cuts it off. At the end
the records are copied, as they are, into WARC files sorted by URL, so that two crawls of the same pages give the same files in the
same order, whatever arrived first. Only dates differ, and they stand in the WARC header, which is stored and not deflated: so each
record has the same length and offset in every crawl.
"""

import hashlib
import io
import mmap
import os
import struct
import time
import uuid
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from warcio.archiveiterator import ArchiveIterator
from warcio.recordloader import ArcWarcRecord
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from bessemer.core.artifact import atomic

GZIP_HEAD = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # no time, no name
STEP = 1 << 16


@dataclass(frozen=True)
class Answer:
    """What a server sent: the body as it came, its Content-Encoding not undone."""

    url: str
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")

    def decoded(self, limit: int) -> bytes | None:
        """The body with its gzip or deflate encoding undone; None where more than `limit` bytes come out or it is broken."""
        encoding = self.header("Content-Encoding").strip().lower()
        if encoding in ("", "identity"):
            return self.body if len(self.body) <= limit else None
        if encoding not in ("gzip", "x-gzip", "deflate"):
            return None
        for window in (47, -15):  # some servers send deflate without its zlib head
            try:
                plain = zlib.decompressobj(window).decompress(self.body, limit + 1)
                return plain if len(plain) <= limit else None
            except zlib.error:
                continue
        return None


class Journal:
    """Append-only store of answers by URL. Opening an existing file finds every whole record and drops a torn last one."""

    def __init__(self, path: Path):
        self.path = path
        path.touch()
        self.places = _scan(path)  # url -> (offset, length)
        self.size = max((offset + length for offset, length in self.places.values()), default=0)
        os.truncate(path, self.size)
        self.file = path.open("r+b")
        self.file.seek(self.size)

    def __contains__(self, url: str) -> bool:
        return url in self.places

    def append(self, answer: Answer) -> None:
        """OSError where the disk is full; the journal stays readable."""
        packed = _record(answer)
        try:
            self.file.write(packed)
            self.file.flush()  # a killed process has lost nothing that reached the kernel
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from None
        self.places[answer.url] = (self.size, len(packed))
        self.size += len(packed)

    def read(self, url: str) -> Answer:
        with self.path.open("rb") as file:
            offset, length = self.places[url]
            file.seek(offset)
            record = next(iter(ArchiveIterator(io.BytesIO(file.read(length)))))
            headers = tuple((str(name), str(value)) for name, value in record.http_headers.headers)
            return Answer(url, int(record.http_headers.get_statuscode()), headers, record.raw_stream.read())

    def settle(self, folder: Path, urls: Iterable[str], shard_bytes: int) -> int:
        """Copy the records of `urls` into folder/crawl-00000.warc.gz and on, each started anew past `shard_bytes`. The number of files."""
        wanted = sorted(set(urls) & self.places.keys())
        shards: list[list[str]] = [[]]
        size = 0
        for url in wanted:
            if shards[-1] and size + self.places[url][1] > shard_bytes:
                shards.append([])
                size = 0
            shards[-1].append(url)
            size += self.places[url][1]
        with self.path.open("rb") as source:
            for number, shard in enumerate(shards):
                path = folder / f"crawl-{number:05d}.warc.gz"
                with atomic(path) as temporary, temporary.open("wb") as target:
                    target.write(_warcinfo(path.name))
                    for url in shard:
                        offset, length = self.places[url]
                        source.seek(offset)
                        target.write(source.read(length))
        return len(shards)

    def close(self) -> None:
        self.file.close()


def _record(answer: Answer) -> bytes:
    """A WARC/1.1 response record as a gzip member of its own."""
    # The body is whole here, so what the server said about its transfer no longer holds.
    kept = [(k, v) for k, v in answer.headers if k.lower() not in ("transfer-encoding", "content-length", "connection", "keep-alive")]
    phrase = HTTPStatus(answer.status).phrase if answer.status in HTTPStatus._value2member_map_ else "Unknown"
    http = StatusAndHeaders(f"{answer.status} {phrase}", [*kept, ("Content-Length", str(len(answer.body)))], protocol="HTTP/1.1")
    identity = uuid.uuid5(uuid.NAMESPACE_URL, f"{answer.url} {hashlib.sha256(answer.body).hexdigest()}")
    writer = WARCWriter(io.BytesIO(), gzip=False, warc_version="WARC/1.1")
    head = {"WARC-Record-ID": f"<urn:uuid:{identity}>", "WARC-Date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    return _member(writer.create_warc_record(answer.url, "response", io.BytesIO(answer.body), http_headers=http, warc_headers_dict=head))


def _warcinfo(name: str) -> bytes:
    record = WARCWriter(io.BytesIO(), gzip=False, warc_version="WARC/1.1").create_warcinfo_record(
        name, {"software": "bessemer", "format": "WARC 1.1"}
    )
    record.rec_headers.replace_header("WARC-Record-ID", f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, name)}>")
    record.rec_headers.replace_header("WARC-Date", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    return _member(record)


def _member(record: ArcWarcRecord) -> bytes:
    """A record as one gzip member: the WARC header in a stored block (RFC 1951, 3.2.4), the rest deflated."""
    buffer = io.BytesIO()
    WARCWriter(buffer, gzip=False, warc_version="WARC/1.1").write_record(record)
    whole = buffer.getvalue()
    cut = whole.index(b"\r\n\r\n") + 4
    stored = b"\x00" + struct.pack("<HH", cut, cut ^ 0xFFFF) + whole[:cut]
    deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
    deflated = deflate.compress(whole[cut:]) + deflate.flush()
    return GZIP_HEAD + stored + deflated + struct.pack("<II", zlib.crc32(whole), len(whole) & 0xFFFFFFFF)


def _scan(path: Path) -> dict[str, tuple[int, int]]:
    """Offset and length of each whole record, up to the first that is not."""
    places: dict[str, tuple[int, int]] = {}
    size = path.stat().st_size
    if not size:
        return places
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        offset = 0
        while offset < size:
            member, start, at = zlib.decompressobj(31), b"", offset
            try:
                while not member.eof and at < size:
                    unpacked = member.decompress(data[at : at + STEP])
                    start = start or unpacked
                    at += STEP
            except zlib.error:
                break
            if not member.eof:
                break
            end = min(at, size) - len(member.unused_data)
            # The header is a stored block, so the first piece holds all of it.
            fields = dict(line.split(": ", 1) for line in start.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:])
            places[fields["WARC-Target-URI"]] = (offset, end - offset)
            offset = end
    return places
