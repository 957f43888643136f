"""Reading WARC: equal to warcio on whole files, and every kind of damage costs only the record it is in."""

import gzip
import io
import random
import zlib
from pathlib import Path

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


def test_files(tmp_path: Path) -> None:
    for name in ("b/2.warc", "a/1.warc.gz", "run/3.warc.gz", "x.txt", "y.warc.gz.open"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert [p.name for p in warc.files(tmp_path)] == ["1.warc.gz", "2.warc"]
    assert warc.files(tmp_path / "b/2.warc") == [tmp_path / "b/2.warc"]
    with pytest.raises(ValueError, match=r"run2 holds no WARC files \(\*.warc, \*.warc.gz\)"):
        (tmp_path / "run2").mkdir()
        warc.files(tmp_path / "run2")
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        warc.files(tmp_path / "nowhere")
