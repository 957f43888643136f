"""Reading WARC: equal to warcio on whole files, and every kind of damage costs only the record it is in."""

import gzip
import io
import random
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pyarrow as pa
import pytest
from warcio.archiveiterator import ArchiveIterator
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from bessemer.corpus.sources import warc

LIMIT = 1_000_000


def record(url: str, body: bytes, headers: tuple[tuple[str, str], ...] = (("Content-Type", "text/html"),), status: str = "200 OK") -> bytes:
    """One WARC record, not compressed."""
    buffer = io.BytesIO()
    writer = WARCWriter(buffer, gzip=False, warc_version="1.1")
    http = StatusAndHeaders(status, list(headers), protocol="HTTP/1.1")
    writer.write_record(writer.create_warc_record(url, "response", io.BytesIO(body), http_headers=http))
    return buffer.getvalue()


def body(n: int) -> bytes:
    # Incompressible, so that a flipped byte is in the body and not in a header.
    return b"<p>%d " % n + random.Random(n).randbytes(600).hex().encode()


def five() -> list[bytes]:
    return [record(f"http://example.org/{n}", body(n)) for n in range(5)]


def members(records: list[bytes]) -> list[bytes]:
    return [gzip.compress(r, mtime=0) for r in records]


def read(tmp_path: Path, data: bytes, limit: int = LIMIT) -> tuple[list[int], list[warc.Problem]]:
    """(numbers of the pages read, problems); each page must come with its own body."""
    path = tmp_path / "x.warc.gz"
    path.write_bytes(data)
    found = list(warc.read(path, limit))
    pages = [page for page in found if isinstance(page, warc.Page)]
    for page in pages:
        assert page.body == body(int(page.url.rpartition("/")[2]))
    return [int(page.url.rpartition("/")[2]) for page in pages], [problem for problem in found if isinstance(problem, warc.Problem)]


@pytest.mark.parametrize("packed", [True, False])
def test_whole_file_as_warcio_reads_it(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / "a.warc"
    with path.open("wb") as file:
        writer = WARCWriter(file, gzip=packed, warc_version="1.1")
        writer.write_record(writer.create_warcinfo_record("a.warc", {"software": "test"}))
        for n in range(20):
            http = StatusAndHeaders("200 OK" if n % 2 else "404 Not Found", [("Content-Type", "Text/HTML; charset=Latin-1")], protocol="HTTP/1.1")
            writer.write_record(writer.create_warc_record(f"http://example.org/{n}", "response", io.BytesIO(body(n)), http_headers=http))
            writer.write_record(writer.create_warc_record(f"http://example.org/{n}", "request", io.BytesIO(b"GET / HTTP/1.1\r\n\r\n")))
    expected = []
    with path.open("rb") as file:
        reader = ArchiveIterator(file)
        for r in reader:
            if r.rec_type == "response":
                url, status, content = r.rec_headers.get_header("WARC-Target-URI"), int(r.http_headers.get_statuscode()), r.content_stream().read()
                expected.append((url, reader.get_record_offset(), status, content))
    found = list(warc.read(path, LIMIT))
    assert [(p.url, p.offset, p.status, p.body) for p in found if isinstance(p, warc.Page)] == expected
    assert len(found) == 20
    assert {(p.content_type, p.charset.lower()) for p in found if isinstance(p, warc.Page)} == {("text/html", "latin-1")}


def test_encodings_are_undone(tmp_path: Path) -> None:
    html = b"<p>hello</p>" * 100
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(html[i : i + 500]), html[i : i + 500]) for i in range(0, len(html), 500)) + b"0\r\n\r\n"
    sent = {"gzip": gzip.compress(html), "deflate": zlib.compress(html)}
    records = [record(f"http://example.org/{k}", v, (("Content-Type", "text/html"), ("Content-Encoding", k))) for k, v in sent.items()]
    records.append(record("http://example.org/chunked", chunked, (("Content-Type", "text/html"), ("Transfer-Encoding", "chunked"))))
    (tmp_path / "a.warc.gz").write_bytes(b"".join(members(records)))
    assert [p.body if isinstance(p, warc.Page) else p for p in warc.read(tmp_path / "a.warc.gz", LIMIT)] == [html] * 3


def test_an_encoding_that_lies_costs_one_page(tmp_path: Path) -> None:
    records = five()
    records[2] = record("http://example.org/2", body(2), (("Content-Type", "text/html"), ("Content-Encoding", "gzip")))
    pages, problems = read(tmp_path, b"".join(members(records)))
    assert pages == [0, 1, 3, 4]
    assert len(problems) == 1 and problems[0].offset == len(b"".join(members(records)[:2]))


@pytest.mark.parametrize("cut", [1, 8, 200, 500])
def test_truncated_last_record_is_reported(tmp_path: Path, cut: int) -> None:
    packed = members(five())
    pages, problems = read(tmp_path, b"".join(packed)[:-cut])
    assert pages == [0, 1, 2, 3]
    assert [p.offset for p in problems] == [len(b"".join(packed[:4]))]


@pytest.mark.parametrize("cut", [5, 300, 1000])
def test_truncated_plain_file_is_reported(tmp_path: Path, cut: int) -> None:
    plain = five()
    pages, problems = read(tmp_path, b"".join(plain)[:-cut])
    assert pages == [0, 1, 2, 3]
    assert [p.offset for p in problems] == [len(b"".join(plain[:4]))]


@pytest.mark.parametrize("damaged", range(5))
@pytest.mark.parametrize("where", ["magic", "header", "body", "checksum", "length"])
def test_a_corrupt_member_costs_only_itself(tmp_path: Path, damaged: int, where: str) -> None:
    packed = [bytearray(m) for m in members(five())]
    size = len(packed[damaged])
    packed[damaged][{"magic": 0, "header": 12, "body": size // 2, "checksum": size - 7, "length": size - 2}[where]] ^= 0xFF
    pages, problems = read(tmp_path, b"".join(packed))
    assert pages == [n for n in range(5) if n != damaged]
    assert [p.offset for p in problems] == [len(b"".join(packed[:damaged]))]


def test_every_single_flipped_byte_loses_at_most_one_page(tmp_path: Path) -> None:
    packed = b"".join(members(five()))
    for at in range(0, len(packed), 97):
        data = bytearray(packed)
        data[at] ^= 0x55
        pages, problems = read(tmp_path, bytes(data))
        # gzip's time and system fields may hold anything
        assert pages == [0, 1, 2, 3, 4] or (len(pages) == 4 and len(problems) == 1), at


def test_a_corrupt_plain_record_costs_only_itself(tmp_path: Path) -> None:
    plain = five()
    plain[2] = b"XXXX" + plain[2][4:]
    pages, problems = read(tmp_path, b"".join(plain))
    assert pages == [0, 1, 3, 4]
    assert [p.offset for p in problems] == [len(b"".join(plain[:2]))]


def test_junk_before_between_and_behind(tmp_path: Path) -> None:
    packed = members(five())
    pages, problems = read(tmp_path, b"junk" + packed[0] + b"\0" * 50 + b"".join(packed[1:]) + b"\x1f\x8b\x08junk")
    assert pages == [0, 1, 2, 3, 4]
    assert len(problems) == 3


def test_a_file_gzipped_as_a_whole(tmp_path: Path) -> None:
    plain = b"".join(five())
    packed = gzip.compress(plain, mtime=0)
    assert read(tmp_path, packed) == ([0, 1, 2, 3, 4], [])
    pages, problems = read(tmp_path, packed[: len(packed) // 2])
    assert pages == list(range(len(pages))) and 1 <= len(pages) <= 3
    assert len(problems) == 1 and "corrupt from here to the end" in problems[0].reason


def test_a_file_packed_with_zstd(tmp_path: Path) -> None:
    """As a whole, and a frame for each record."""
    for parts in ([b"".join(five())], five()):
        packed = b"".join(pa.Codec("zstd").compress(part, asbytes=True) for part in parts)
        assert read(tmp_path, packed) == ([0, 1, 2, 3, 4], [])
        pages, problems = read(tmp_path, packed[:-20])
        assert pages == list(range(len(pages))) and len(pages) < 5
        assert len(problems) == 1 and "corrupt from here to the end" in problems[0].reason


def test_what_is_no_warc_is_one_problem(tmp_path: Path) -> None:
    for data in (b"", b"<html>hello</html>", gzip.compress(b"hello"), b"\x1f\x8b", bytes(100_000)):
        pages, problems = read(tmp_path, data)
        assert pages == [] and len(problems) == 1


def test_a_gzip_bomb_is_cut_at_the_limit(tmp_path: Path) -> None:
    """200 MB of zeros in 200 KB: as the record's own compression, and as the page's."""
    bomb = bytes(200_000_000)
    inner = record("http://example.org/9", gzip.compress(bomb, 1), (("Content-Type", "text/html"), ("Content-Encoding", "gzip")))
    records = [*five()[:2], record("http://example.org/8", bomb), inner, *five()[2:]]
    (tmp_path / "a.warc.gz").write_bytes(b"".join(gzip.compress(r, 1) for r in records))
    found = list(warc.read(tmp_path / "a.warc.gz", 10_000))
    assert [(p.url[-1], len(p.body)) if isinstance(p, warc.Page) else p for p in found if p.url[-1] in "89"] == [("8", 10_001), ("9", 10_001)]
    assert [p.url[-1] for p in found] == list("0189234")


def lying(length: int) -> bytes:
    """Record 2 with another Content-Length than is true."""
    whole = record("http://example.org/2", body(2))
    said = int(whole.partition(b"Content-Length: ")[2].partition(b"\r")[0])
    return whole.replace(b"Content-Length: %d\r\n" % said, b"Content-Length: %d\r\n" % (said + length), 1)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("length", [40, 700, 100_000, 10**15])
def test_a_record_that_says_it_is_longer_takes_nothing_from_the_next(tmp_path: Path, packed: bool, length: int) -> None:
    records = [*five()[:2], lying(length), *five()[3:]]
    records = members(records) if packed else records
    pages, problems = read(tmp_path, b"".join(records))
    assert pages == [0, 1, 3, 4]
    assert [(p.offset, "Content-Length is wrong" in p.reason) for p in problems] == [(len(b"".join(records[:2])), True)]


def test_a_length_that_covers_the_next_record_exactly_is_found(tmp_path: Path) -> None:
    """Nothing would look odd to the parser: record 2 ends where record 3 does."""
    pages, problems = read(tmp_path, b"".join(members([*five()[:2], lying(len(five()[3])), *five()[3:]])))
    assert pages == [0, 1, 3, 4] and len(problems) == 1


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("length", [b"-5", b"ten", b"9" * 30, b""])
def test_a_length_that_is_no_number_costs_one_page(tmp_path: Path, packed: bool, length: bytes) -> None:
    bad = re.sub(rb"(?m)^Content-Length: [0-9]+\r\n", b"Content-Length: %s\r\n" % length if length else b"", five()[2], count=1)
    records = [*five()[:2], bad, *five()[3:]]
    (tmp_path / "a.warc.gz").write_bytes(b"".join(members(records) if packed else records))
    found = list(warc.read(tmp_path / "a.warc.gz", LIMIT))
    assert [p.url[-1] for p in found if isinstance(p, warc.Page) and p.status == 200] == list("0134")
    assert len(found) == 5  # a problem, or a page without an answer in it


@pytest.mark.parametrize(
    ("http", "status"),
    [
        (b"HTTP/2 200\r\ncontent-type: text/html\r\n\r\n<p>x", 200),
        (b":status: 200\r\ncontent-type: text/html\r\n\r\n<p>x", 200),
        (b"HTTP/1.1 200 OK\r\n:path: /\r\nContent-Type: text/html\r\n\r\n<p>x", 200),
        (b"HTTP/1.1 200 OK\nContent-Type: text/html\n\n<p>x", 200),
        (b"HTTP/1.1 0 \r\nContent-Type: text/html\r\n\r\n<p>x", 0),
        (b"<p>no answer at all", 0),
        (b"", 0),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1_000_000 + b"\r\nContent-Type: text/html\r\n\r\n<p>x", 200),
    ],
)
def test_strange_answers(tmp_path: Path, http: bytes, status: int) -> None:
    head = b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://example.org/s\r\nContent-Type: application/http\r\nContent-Length: %d\r\n\r\n"
    records = [*five()[:2], head % len(http) + http + b"\r\n\r\n", *five()[2:]]
    (tmp_path / "a.warc.gz").write_bytes(b"".join(members(records)))
    found = [p for p in warc.read(tmp_path / "a.warc.gz", LIMIT) if isinstance(p, warc.Page)]
    assert [p.url[-1] for p in found] == list("01s234")
    assert found[2].status == status and (status == 0 or (found[2].content_type, found[2].body) == ("text/html", b"<p>x"))


@pytest.mark.parametrize("packed", [True, False])
def test_headers_with_bare_line_feeds(tmp_path: Path, packed: bool) -> None:
    head = b"WARC/1.0\nWARC-Type: response\nWARC-Target-URI: http://example.org/s\nContent-Type: application/http\nContent-Length: %d\n\n"
    http = b"HTTP/1.1 200 OK\nContent-Type: text/html\n\n<p>x"
    records = [*five()[:2], head % len(http) + http + b"\n\n", *five()[2:]]
    (tmp_path / "a.warc.gz").write_bytes(b"".join(members(records) if packed else records))
    assert [p.url[-1] for p in warc.read(tmp_path / "a.warc.gz", LIMIT)] == list("01s234")


@pytest.mark.parametrize("url", ["http://example.org/a b", "http://example.org/日本", "http://example.org/" + "x" * 65_536])
def test_strange_urls_are_kept(tmp_path: Path, url: str) -> None:
    (tmp_path / "a.warc.gz").write_bytes(gzip.compress(record(url, b"<p>x")))
    (page,) = warc.read(tmp_path / "a.warc.gz", LIMIT)
    assert page.url == url


def test_texts_of_others_are_told_apart_and_revisits_left_out(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    writer = WARCWriter(buffer, gzip=True)
    writer.write_record(writer.create_warc_record("http://example.org/t", "conversion", io.BytesIO("Grüße".encode()), warc_content_type="text/plain"))
    http = StatusAndHeaders("304 Not Modified", [], protocol="HTTP/1.1")
    writer.write_record(writer.create_revisit_record("http://example.org/r", "sha1:X", "http://example.org/t", "2020-01-01T00:00:00Z", http))
    (tmp_path / "a.warc.wet.gz").write_bytes(buffer.getvalue())
    (page,) = warc.read(tmp_path / "a.warc.wet.gz", LIMIT)
    assert isinstance(page, warc.Page) and (page.record, page.content_type, page.body.decode()) == ("conversion", "text/plain", "Grüße")


@pytest.mark.parametrize("packed", [True, False])
def test_arc_files_are_named(tmp_path: Path, packed: bool) -> None:
    arc = b"filedesc://old.arc 0.0.0.0 19990101000000 text/plain 76\n1 0 InternetArchive\nURL IP-address Archive-date Content-type Archive-length\n"
    (tmp_path / "old.arc.gz").write_bytes(gzip.compress(arc) if packed else arc)
    (problem,) = warc.read(tmp_path / "old.arc.gz", LIMIT)
    assert isinstance(problem, warc.Problem) and "an ARC file" in problem.reason


MEASURE = """
import resource, sys
from pathlib import Path
from bessemer.corpus.sources import warc
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(*[len(page.body) for page in warc.read(Path(sys.argv[1]), 1_000_000)], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("headers", [b"gzip", b"gzip, gzip"])
def test_a_bomb_within_a_page_is_never_unpacked_as_a_whole(tmp_path: Path, headers: bytes) -> None:
    """500 MB behind one or two content encodings, in a record of half a megabyte and of 2 kB."""
    press = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(press.compress(bytes(1 << 24)) for _ in range(30)) + press.flush()
    bomb = gzip.compress(bomb) if b"," in headers else bomb
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: %s\r\n\r\n" % headers + bomb
    head = b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a.test/\r\nContent-Type: application/http\r\nContent-Length: %d\r\n\r\n"
    (tmp_path / "a.warc.gz").write_bytes(gzip.compress(head % len(http) + http + b"\r\n\r\n"))
    said = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path / "a.warc.gz")], capture_output=True, text=True, check=True).stdout.split()
    assert said[0] == "1000001" and int(said[1]) < 50_000  # kB
