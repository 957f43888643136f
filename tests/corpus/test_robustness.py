"""What the web does to a corpus stage: each bad thing is refused with a reason and counted, the stage ends well, nothing else is lost."""

import gzip
import io
import json
import os
import random
import zlib
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from bessemer.corpus import documents
from bessemer.corpus.sources import intake, texts
from bessemer.corpus.sources.places import File, Piece, SourceConfig
from bessemer.stages.extract import ExtractConfig, extract
from bessemer.stages.read import ReadConfig, read

PROSE = "This sentence is about nothing in particular, but it is long enough to be content. "
HTML = (("Content-Type", "text/html"),)


def record(url: str, body: bytes, headers: tuple[tuple[str, str], ...] = HTML, status: str = "200 OK") -> bytes:
    buffer = io.BytesIO()
    writer = WARCWriter(buffer, gzip=True)
    http = StatusAndHeaders(status, list(headers), protocol="HTTP/1.1")
    writer.write_record(writer.create_warc_record(url, "response", io.BytesIO(body), http_headers=http))
    return buffer.getvalue()


def page(words: str = PROSE * 3, title: str = "T") -> bytes:
    return f"<!DOCTYPE html><html><head><title>{title}</title></head><body><main><p>{words}</p></main></body></html>".encode()


def good(n: int) -> bytes:
    return record(f"http://example.org/good/{n}", page(f"Page {n}. {PROSE * 3}"))


def bomb(size: int) -> bytes:
    press = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(press.compress(bytes(1 << 22)) for _ in range(size >> 22)) + press.flush()


def told(out: Path) -> Counter[str]:
    return Counter(row["reason"] for row in documents.rejected(out))


def test_a_folder_of_pages_with_everything_wrong_in_it(tmp_path: Path) -> None:
    """Between any two bad records stands a good one, and each of the good ones comes out: 24 in all."""
    packed = (*HTML, ("Content-Encoding", "gzip"))
    noise = random.Random(0).randbytes(3000)
    corrupt = bytearray(good(99))
    corrupt[len(corrupt) // 2] ^= 0xFF
    bad: list[tuple[str, bytes]] = [
        ("damaged", bytes(corrupt)),
        ("too big", record("http://example.org/bomb", bomb(200_000_000), packed)),
        ("too big", record("http://example.org/nested", gzip.compress(bomb(200_000_000)), (*HTML, ("Content-Encoding", "gzip, gzip")))),
        ("damaged", record("http://example.org/not-gzip", b"plain", packed)),
        ("damaged", record("http://example.org/chunks", b"zz\r\n<p>x", (*HTML, ("Transfer-Encoding", "chunked")))),
        ("too big", record("http://example.org/line", page("word " * 800_000))),
        ("undecodable", record("http://example.org/binary", b"\xff\xfe" + b"\x00\xd8" * 2000)),
        ("empty", record("http://example.org/empty", b"")),
        ("empty", record("http://example.org/no-words", page(""))),
        ("not html", record("http://example.org/picture", b"\x89PNG" + noise, (("Content-Type", "image/png"),))),
        ("not html", record("http://example.org/untyped", noise, ())),
        ("http error", record("http://example.org/gone", page(), status="404 Not Found")),
        ("http error", record("http://example.org/zero", page(), status="0 ")),
        ("http error", record("http://example.org/loop", b"", status="302 Found")),
    ]
    fine = [
        record("http://example.org/a b/ü日本", page()),
        record("http://example.org/" + "x" * 65_536, page()),
        record("http://example.org/untyped-page", page(), ()),
        record("http://example.org/headers", page(), (*HTML, ("X", "y" * 1_000_000))),
        record("http://example.org/latin", page().replace(b"nothing", "Größe".encode("latin-1")), (("Content-Type", "text/html; charset=utf-8"),)),
        record("http://example.org/good/0", page()),  # again
        record("http://example.org/nul", page().replace(b"nothing", b"no\0thing")),
    ]
    folder = tmp_path / "in"
    (folder / "folder.warc.gz").mkdir(parents=True)
    (folder / "folder.warc.gz" / "inner.html").write_bytes(page())
    (folder / "a.warc.gz").write_bytes(b"".join(good(n) + data for n, (_, data) in enumerate(bad)) + b"".join(fine))
    (folder / "cut.warc.gz").write_bytes(good(20) + good(21)[:-40])
    (folder / "empty.warc.gz").write_bytes(b"")
    (folder / "no.warc.gz").write_bytes(b"no gzip at all")
    (folder / "b.html").write_bytes(page())
    (folder / "c.htm.gz").write_bytes(gzip.compress(page())[:-10])
    (folder / "d.html").write_bytes(b"")
    (folder / "style.css").write_text("p {}")
    expected = Counter(reason for reason, _ in bad) + Counter({"damaged": 3, "unreadable file": 1, "empty": 1})
    numbers = extract(folder, out=tmp_path / "out", cfg=ExtractConfig(max_bytes=2_000_000, workers=2))
    assert told(tmp_path / "out") == expected and numbers["rejected"] == expected.total()
    rows = list(documents.read(tmp_path / "out"))
    urls = Counter(row["url"] for row in rows)
    assert {f"http://example.org/good/{n}" for n in (*range(len(bad)), 20)} <= urls.keys() and urls["http://example.org/good/0"] == 2
    assert numbers["documents"] == len(rows) == 14 + 7 + 1 + 2 and numbers["passed_over"] == 1 and numbers["files"] == 8
    assert "Größe" in next(row["text"] for row in rows if row["url"] == "http://example.org/latin")
    assert sorted(row["source"] for row in rows if not row["url"]) == ["b.html", "folder.warc.gz/inner.html"]


def test_a_folder_of_texts_with_everything_wrong_in_it(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"{PROSE} {n}"}).encode() for n in range(100)]
    body = b"\n".join(lines) + b"\n"
    squeezed = gzip.compress(body)
    files = {
        "whole.jsonl": body,
        "empty.jsonl": b"",
        "blank.jsonl.gz": gzip.compress(b"\n\n"),
        "cut.jsonl.gz": squeezed[: len(squeezed) // 2],
        "renamed.jsonl.gz": body,  # no gzip, and read all the same
        "packed.jsonl": squeezed,
        "noise.jsonl.gz": b"\x1f\x8b\x08\x00" + random.Random(1).randbytes(500),
        "bomb.jsonl.gz": bomb(100_000_000),
        "bomb.txt.gz": bomb(100_000_000),
        "line.jsonl": b'{"text": "' + b"x" * 10_000_000 + b'"}\n' + lines[0],
        "noise.parquet": random.Random(2).randbytes(5000),
        "empty.parquet": b"",
        "short.parquet": b"PAR1PAR1",
        "noise.csv": b"text\n" + bytes(range(128, 256)),
        "deep.json": b"[" * 200_000,
        "noise.txt": b"\xff\xfe" + b"\x00\xd8" * 2000,
        "binary.json": bytes(range(256)),
        "latin.txt": "Größe und Gewicht, façade, naïveté".encode("latin-1"),
    }
    folder = tmp_path / "in"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "dir.parquet").mkdir()
    (folder / "dangling.txt").symlink_to(folder / "nowhere.txt")
    os.mkfifo(folder / "pipe.txt")
    numbers = read(folder, out=tmp_path / "out", cfg=ReadConfig(max_bytes=1_000_000, workers=2))
    where = Counter(row["source"].partition(":")[0] for row in documents.read(tmp_path / "out"))
    cut = where.pop("cut.jsonl.gz")
    assert where == {"whole.jsonl": 100, "renamed.jsonl.gz": 100, "packed.jsonl": 100, "line.jsonl": 1, "latin.txt": 1} and 20 < cut < 80
    refused = [(row["source"].partition(":")[0], row["reason"]) for row in documents.rejected(tmp_path / "out")]
    expected = {
        "broken row": ["binary.json", "deep.json"],
        "damaged": ["cut.jsonl.gz", "noise.jsonl.gz"],
        "empty": ["blank.jsonl.gz", "empty.jsonl"],
        "too big": ["bomb.jsonl.gz", "bomb.txt.gz", "line.jsonl"],
        "undecodable": ["noise.csv", "noise.txt"],
        "unreadable file": ["empty.parquet", "noise.parquet", "short.parquet"],
    }
    assert sorted(refused) == sorted((name, reason) for reason, names in expected.items() for name in names)
    assert numbers["files"] == len(files) and numbers["documents"] == 302 + cut and numbers["rejected"] == 14


def test_every_single_flipped_byte_of_a_parquet_file_is_survived(tmp_path: Path) -> None:
    """Neither a crash of the process nor an exception: rows, or a reason."""
    pq.write_table(pa.table({"text": [f"{PROSE}{n}" for n in range(40)]}), tmp_path / "a.parquet", row_group_size=10)
    whole = (tmp_path / "a.parquet").read_bytes()
    piece = Piece(File(str(tmp_path / "a.parquet"), "a.parquet", len(whole), ".parquet"))
    for at in range(0, len(whole), 7):
        (tmp_path / "a.parquet").write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        rows = list(intake._rows(piece, tmp_path, texts.read, ReadConfig(), {}, lambda place: None))
        assert rows and all(row.get("reason") or row["text"] for row in rows), at


def test_a_file_that_vanishes_costs_only_itself(tmp_path: Path) -> None:
    """It was there when the files were counted, and is gone when its turn comes."""
    for name in ("a.txt", "b.txt", "c.txt"):
        (tmp_path / name).write_text(PROSE)
    files, _ = intake.places.find(tmp_path, SourceConfig(), (".txt",), tmp_path)
    (tmp_path / "b.txt").unlink()
    rows = [row for file in files for row in intake._rows(Piece(file), tmp_path, texts.read, ReadConfig(), {}, lambda place: None)]
    assert [(row["source"], row.get("reason")) for row in rows] == [("a.txt", None), ("b.txt", "unreadable file"), ("c.txt", None)]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_costs_only_itself(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(PROSE)
    (tmp_path / "a.txt").chmod(0)
    numbers = read(tmp_path, out=tmp_path / "out", cfg=ReadConfig(workers=1))
    assert numbers["documents"] == 1 and numbers["rejected: unreadable file"] == 1


def test_what_kills_a_process_costs_only_its_file(tmp_path: Path) -> None:
    """A place that an earlier attempt died at is not read again; the files gathered with it are."""
    for name in ("a.txt", "b.txt", "c.txt"):
        (tmp_path / name).write_text(PROSE)
    files, _ = intake.places.find(tmp_path, SourceConfig(), (".txt",), tmp_path)

    class At:
        value = 0

    size = files[0].size
    arguments = ("a.txt", tuple(map(Piece, files)), tmp_path / "out", 0, texts.read, ReadConfig(), documents.SCHEMA)
    intake.shard(*arguments, ((size, "parser crashed: SIGSEGV"),), At())
    assert [row["source"] for row in documents.read(tmp_path / "out")] == ["a.txt", "c.txt"]
    assert [(row["source"], row["reason"]) for row in documents.rejected(tmp_path / "out")] == [("b.txt", "parser crashed")]


def test_a_whole_corpus_of_rubbish_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"x")
    (tmp_path / "b.jsonl").write_bytes(b"{")
    with pytest.raises(ValueError, match=r"read: no document of .* is left: 2 rejected: unreadable file \(1\), broken row \(1\)"):
        read(tmp_path, out=tmp_path / "out", cfg=ReadConfig(workers=1))
