"""Where documents come from: every kind of file, lists, S3 and https servers that fail; each row kept, or refused with its place."""

import csv
import gzip
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from bessemer.core import config, recipe
from bessemer.corpus import documents
from bessemer.corpus.sources import places, remote, stream
from bessemer.corpus.sources.places import File, Piece, SourceConfig
from bessemer.stages import find
from bessemer.stages.extract import ExtractConfig, extract
from bessemer.stages.read import ReadConfig, read

Rows = list[dict[str, Any]]


def go(source: Path | None, out: Path, **fields: Any) -> tuple[dict[str, float], Rows, Rows]:
    """Read; the numbers, what was kept and what was refused."""
    numbers = read(source, out=out, cfg=config.parse(ReadConfig, {"workers": 1} | fields, "read"))
    return numbers, list(documents.read(out)), list(documents.rejected(out))


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def told(rows: Rows) -> list[tuple[str, str]]:
    return [(row["source"], row["reason"]) for row in rows]


# Kinds of files


def test_each_kind_of_file_gives_the_same_documents(tmp_path: Path) -> None:
    """Two texts, written down in every way there is; 12 files, hence 22 documents, the plain files holding one each."""
    texts = ['Grüße, Welt.\nZweite Zeile, mit "Zeichen".', "日本語の文書"]
    rows = [{"text": text, "id": f"n{n}"} for n, text in enumerate(texts)]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.jsonl").write_bytes(lines)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines))
    with pa.CompressedOutputStream(str(folder / "c.jsonl.zst"), "zstd") as packed:
        packed.write(lines)
    (folder / "d.ndjson").write_bytes(b"\xef\xbb\xbf" + lines.replace(b"\n", b"\r\n"))
    (folder / "e.json").write_text(json.dumps(rows, indent=2))
    (folder / "f.json").write_bytes(lines)
    with (folder / "g.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "text"], *([row["id"], row["text"]] for row in rows)])
    pq.write_table(pa.table({"body": texts, "id": ["n0", "n1"], "other": [1, 2]}), folder / "h.parquet")
    buffer = io.BytesIO()
    writer = WARCWriter(buffer, gzip=True)
    for text in texts:
        writer.write_record(writer.create_warc_record("http://a.test/", "conversion", io.BytesIO(text.encode()), warc_content_type="text/plain"))
    (folder / "i.warc.wet.gz").write_bytes(buffer.getvalue())
    (folder / "sub" / "j.txt").write_bytes(texts[0].encode("utf-16"))
    (folder / "sub" / "k.md").write_text("# Head\n\n* " + texts[1])
    (folder / "l.tsv").write_text("text\tid\n" + texts[1] + "\tn1\n" + texts[1] + "\tn1\n")
    (folder / "m.pdf").write_bytes(b"%PDF")
    (folder / ".hidden.txt").write_text("not read")
    numbers, kept, refused = go(folder, tmp_path / "out")
    assert refused == [] and numbers["documents"] == 22 and (numbers["files"], numbers["passed_over"]) == (12, 1)
    found: dict[str, list[str]] = {}
    for row in kept:
        found.setdefault(re.sub(r":\d+$", "", row["source"]), []).append(row["text"])
    assert found.pop("sub/j.txt") == [texts[0]] and found.pop("sub/k.md") == ["# Head\n\n* " + texts[1]] and found.pop("l.tsv") == [texts[1]] * 2
    assert len(found) == 9 and all(value == texts for value in found.values())
    assert {row["id"] for row in kept if row["source"].startswith(("a", "g", "h"))} == {"n0", "n1"}


def test_columns_by_name_and_ids(tmp_path: Path) -> None:
    rows = [
        {"text": "not this", "inhalt": "one", "key": 7, "url": "http://a.test/", "score": 0.5, "meta": {"b": 1, "a": [2]}},
        {"inhalt": "two", "url": "http://a.test/2", "score": None, "meta": "plain"},
        {"inhalt": "three", "score": "1e3"},
        {"inhalt": "four", "score": "many"},
        {"text": "no such"},
    ]
    fields = {"text": "inhalt", "id": "key", "columns": ["meta"], "numbers": ["score"], "domain": "test"}
    _, kept, refused = go(jsonl(tmp_path / "a.jsonl", rows), tmp_path / "out", **fields)
    assert [(row["text"], row["url"], row["meta"], row["score"]) for row in kept] == [
        ("one", "http://a.test/", '{"a": [2], "b": 1}', 0.5),
        ("two", "http://a.test/2", "plain", None),
        ("three", None, None, 1000.0),
    ]
    assert {row["domain"] for row in kept} == {"test"}
    assert [row["id"] for row in kept[:2]] == ["7", documents.identifier("http://a.test/2")] and len(kept[2]["id"]) == 16
    assert [row["reason"] for row in refused] == ["wrong type", "no text"]
    with pytest.raises(ValueError, match="column 'source' cannot be kept"):
        ReadConfig(columns=("source",))
    with pytest.raises(ValueError, match="column 'x' cannot be kept"):
        ReadConfig(columns=("x",), numbers=("x",))


def test_equal_places_in_two_folders_have_ids_of_their_own(tmp_path: Path) -> None:
    ids = [go(jsonl(tmp_path / name / "a.jsonl", [{"text": name}]), tmp_path / f"out-{name}")[1][0]["id"] for name in ("one", "two")]
    assert ids[0] != ids[1]


def test_bad_rows_are_refused_with_their_byte_and_the_rest_is_read(tmp_path: Path) -> None:
    rows = [
        b'{"text": "good"}', b'{"text": "cut', b"[1, 2]", b'{"text": null}', b'{"text": 5}', b'{"other": "x"}', b'{"text": " \\n"}',
        b'{"text": "\xff\xfe"}', b"", b'{"text": "half \\ud83d pair"}', b'{"text": "\\u0000"}', b"[" * 100_000, b'{"text": ' + b"9" * 5000 + b"}",
        b'{"text": "' + b"x" * 3000 + b'"}', b'{"text": "' + b"y" * 3_000_000 + b'"}', b'{"text": "last"}',
    ]  # fmt: skip
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(rows))
    _, kept, refused = go(tmp_path / "a.jsonl", tmp_path / "out", max_bytes=2000)
    assert [row["text"] for row in kept] == ["good", "half \ufffd pair", "\0", "last"]
    reasons = ["broken row", "broken row", "no text", "no text", "no text", "empty", "undecodable", "broken row", "broken row", "too big", "too big"]
    assert [row["reason"] for row in refused] == reasons
    starts = [sum(len(row) + 1 for row in rows[:n]) for n in range(len(rows))]
    assert [int(row["source"].split(":")[1]) for row in refused] == [starts[n] for n in (1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 14)]


@pytest.mark.parametrize("step", [1, 7, 64, 100_000])
def test_a_long_file_is_cut_and_nothing_is_lost_or_read_twice(tmp_path: Path, step: int) -> None:
    rows = [{"text": "w" * (n % 40), "id": str(n)} for n in range(1, 60)]
    path = jsonl(tmp_path / "a.jsonl", rows)
    whole = [line.offset for line in stream.lines(stream.unpacked(path.open("rb")), 10_000)]
    size, parts = path.stat().st_size, []
    for begin in range(0, size, step):
        with path.open("rb") as file:
            unpacked = stream.unpacked(file)
            file.seek(max(begin - 1, 0))
            parts += [line.offset for line in stream.lines(unpacked, 10_000, begin, begin + step)]
    assert parts == whole and len(whole) == 59


def test_shards_do_not_depend_on_workers_and_a_long_file_has_several(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    jsonl(folder / "big.jsonl", [{"text": f"row {n} " * 20, "id": str(n)} for n in range(1000)])
    pq.write_table(pa.table({"text": [f"p{n} " * 50 for n in range(2000)]}), folder / "p.parquet", row_group_size=100, compression="none")
    for n in range(30):
        (folder / f"{n:02d}.txt").write_text(f"small {n}")
    made = {}
    for workers in (1, 3):
        out = tmp_path / f"out{workers}"
        go(folder, out, shard_bytes=50_000, workers=workers)
        made[workers] = {path.name: path.read_bytes() for path in documents.shards(out)}
    assert made[1] == made[3] and len(made[1]) > 8
    kept = list(documents.read(tmp_path / "out1"))
    assert len(kept) == len({row["id"] for row in kept}) == 3030
    assert [row["id"] for row in kept if row["source"].startswith("big")] == [str(n) for n in range(1000)]


def test_a_damaged_row_group_costs_its_rows_alone(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [f"text number {n}" for n in range(300)]}), tmp_path / "a.parquet", row_group_size=100, compression="zstd")
    with pq.ParquetFile(tmp_path / "a.parquet") as file:
        at = file.metadata.row_group(1).column(0).data_page_offset
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[at : at + 60] = b"\xff" * 60
    (tmp_path / "a.parquet").write_bytes(data)
    _, kept, refused = go(tmp_path / "a.parquet", tmp_path / "out")
    assert [row["source"] for row in kept] == [f"a.parquet:{n}" for n in (*range(100), *range(200, 300))]
    assert told(refused) == [("a.parquet:100", "damaged")] and refused[0]["detail"].startswith("100 rows of row group 1")


def test_parquet_with_invalid_utf8_wrong_types_and_no_text(tmp_path: Path) -> None:
    text = pa.array([b"good", b"\xff\xfe", b"fine"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": text}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"words": ["x"]}), tmp_path / "c.parquet")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "d.parquet")
    _, kept, refused = go(tmp_path, tmp_path / "out", glob="*.parquet")
    assert [row["text"] for row in kept] == ["good", "fine"]
    assert told(refused) == [
        ("a.parquet:1", "undecodable"), ("b.parquet:0", "no text"), ("b.parquet:1", "no text"), ("c.parquet", "no text"), ("d.parquet", "empty"),
    ]  # fmt: skip


def test_a_csv_with_an_open_quote_loses_one_record(tmp_path: Path) -> None:
    lines = ["id,text", "1,one", "2,two,and more", '3,"never closed', *(f"{n},filler {'x' * 50}" for n in range(4, 30)), "", "30,last"]
    (tmp_path / "a.csv").write_bytes("\n".join(lines).encode() + b"\n31,\xff")
    _, kept, refused = go(tmp_path / "a.csv", tmp_path / "out", max_bytes=200)
    assert {"1", "30"} <= {row["id"] for row in kept} and len(kept) >= 24
    assert [row["reason"] for row in refused] == ["broken row", "broken row", "undecodable"]


def test_what_is_no_character_in_names_and_headers_costs_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    jsonl(folder / "a.jsonl", [{"\ud800": "x"}, {"text": "fine"}])
    (folder / "b.csv").write_bytes("Größe,x\n1,2\n".encode("latin-1"))
    (folder / os.fsdecode(b"c\xff.txt")).write_text("name")
    (folder / os.fsdecode(b"d\xff.exe")).write_text("passed over")
    numbers, kept, refused = go(folder, tmp_path / "out")
    assert [(row["text"], row["source"]) for row in kept] == [("fine", "a.jsonl:16"), ("name", "c\ufffd.txt")]
    assert [row["detail"] for row in refused] == [f"no text or content or body (it has: {keys})" for keys in ("?", "Gr??e, x")]
    assert numbers["passed_over"] == 1


def test_a_table_whose_header_cannot_be_read_costs_only_itself(tmp_path: Path) -> None:
    jsonl(tmp_path / "in" / "a.jsonl", [{"text": "fine"}])
    (tmp_path / "in" / "mac.csv").write_bytes(b"id,text\r1,one\r2,two\r")  # lines that end as on a Macintosh of 1999
    _, kept, refused = go(tmp_path / "in", tmp_path / "out")
    assert [row["text"] for row in kept] == ["fine"]
    assert told(refused) == [("mac.csv:1", "broken row")] and refused[0]["detail"].startswith("the header: new-line character")


def test_files_that_are_texts_need_no_column(tmp_path: Path) -> None:
    jsonl(tmp_path / "in" / "a.jsonl", [{"inhalt": "row"}])
    (tmp_path / "in" / "b.md").write_text("file")
    buffer = io.BytesIO()
    writer = WARCWriter(buffer, gzip=True)
    writer.write_record(writer.create_warc_record("http://a.test/", "conversion", io.BytesIO(b"record"), warc_content_type="text/plain"))
    (tmp_path / "in" / "c.warc.wet.gz").write_bytes(buffer.getvalue())
    _, kept, refused = go(tmp_path / "in", tmp_path / "out", text="inhalt")
    assert [row["text"] for row in kept] == ["row", "file", "record"] and refused == []


def test_padding_behind_a_gzip_file_is_no_damage(tmp_path: Path) -> None:
    line = b'{"text": "fine"}\n'
    for name, data in {"a.jsonl.gz": gzip.compress(line) * 2 + bytes(2 << 20), "b.jsonl.gz": gzip.compress(line) + bytes(5) + b"junk"}.items():
        (tmp_path / name).write_bytes(data)
    _, kept, refused = go(tmp_path, tmp_path / "out", glob="*.gz")
    assert [row["source"] for row in kept] == ["a.jsonl.gz:0", "a.jsonl.gz:17", "b.jsonl.gz:0"]
    assert told(refused) == [("b.jsonl.gz:17", "damaged")]


# What is named


def test_lists_prefixes_and_a_share_of_the_files(tmp_path: Path) -> None:
    for n in range(10):
        jsonl(tmp_path / "deep" / f"{n}.jsonl", [{"text": f"file {n}"}])
    listed = "# all of them\n\n" + "".join(f"deep/{n}.jsonl\n" for n in range(10))
    (tmp_path / "all.paths.gz").write_bytes(gzip.compress(listed.encode()))
    numbers, kept, _ = go(tmp_path / "all.paths.gz", tmp_path / "out")
    assert numbers["files"] == 10 and [row["text"] for row in kept] == [f"file {n}" for n in range(10)]
    _, kept, _ = go(tmp_path / "all.paths.gz", tmp_path / "some", files=4)
    assert [row["text"] for row in kept] == ["file 0", "file 2", "file 5", "file 7"]
    assert kept[0]["source"] == "deep/0.jsonl:0", "in whatever folder the list lies"
    (tmp_path / "bad.paths").write_text("deep/0.jsonl\ndeep/1.exe\n")
    with pytest.raises(ValueError, match=r"bad\.paths:2: '.*deep/1\.exe' is of no kind that is read here"):
        go(tmp_path / "bad.paths", tmp_path / "bad")
    (tmp_path / "binary.paths").write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match=r"binary\.paths is no list of addresses"):
        go(tmp_path / "binary.paths", tmp_path / "bad")


def test_a_file_that_is_listed_but_missing_costs_only_itself(tmp_path: Path) -> None:
    jsonl(tmp_path / "0.jsonl", [{"text": "here"}])
    (tmp_path / "all.paths").write_text("0.jsonl\ngone.jsonl\n")
    _, kept, refused = go(tmp_path / "all.paths", tmp_path / "out")
    assert [row["text"] for row in kept] == ["here"]
    assert [(row["reason"], row["detail"]) for row in refused] == [("unreadable file", "No such file or directory")]


def test_what_cannot_be_read_at_all_is_said_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to read: give a file or folder, or urls"):
        go(None, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        go(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "x.exe").write_text("x")
    with pytest.raises(ValueError, match=r"'.*x\.exe' is of no kind that is read here \(\*\.txt"):
        go(tmp_path / "x.exe", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty holds no file to read \(\*\.txt"):
        go(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(ValueError, match="'ftp://a.test/x.jsonl' is no address of a remote file"):
        config.parse(ReadConfig, {"urls": ["ftp://a.test/x.jsonl"]}, "read")
    with pytest.raises(ValueError, match="is no pattern below the folder"):
        SourceConfig(glob="/etc/*")


@pytest.mark.parametrize("name", ["read", "extract"])
def test_a_recipe_that_names_nothing_to_read_fails_before_any_work(tmp_path: Path, name: str) -> None:
    (tmp_path / "r.toml").write_text(f"[{name}]\n")
    with pytest.raises(ValueError, match=f"{name}: nothing to "):
        recipe.load(tmp_path / "r.toml", find)
    (tmp_path / "r.toml").write_text(f'[{name}]\nurls = ["https://a.test/a.jsonl", "s3://a/b.warc.gz"]\n')
    assert [step.estimate for step in recipe.load(tmp_path / "r.toml", find)] == [{}]


def test_a_recipe_reads_a_folder(tmp_path: Path) -> None:
    jsonl(tmp_path / "in" / "a.jsonl", [{"text": "one"}])
    (tmp_path / "r.toml").write_text(f'[notes]\nstage = "read"\nsource = "{tmp_path / "in"}"\n')
    made = recipe.run(recipe.load(tmp_path / "r.toml", find), tmp_path / "store")
    assert list(documents.texts(made["notes"])) == ["one"]


def test_files_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task of a cluster runs in another folder than the stage."""
    jsonl(tmp_path / "in" / "a.jsonl", [{"text": "one"}])
    (tmp_path / "all.paths").write_text("in/a.jsonl\n")
    monkeypatch.chdir(tmp_path)
    for source in ("in", "in/a.jsonl", "all.paths"):
        (file,), _ = places.find(Path(source), SourceConfig(), [".jsonl"], tmp_path)
        assert file.address == str(tmp_path / "in" / "a.jsonl")


def test_files_are_gathered_and_cut_by_size_alone() -> None:
    files = [File(f"{n}.txt", f"{n}.txt", 40, ".txt") for n in range(5)] + [
        File("a.jsonl", "a.jsonl", 250, ".jsonl"), File("b.jsonl.gz", "b.jsonl.gz", 250, ".jsonl"), File("c.warc.gz", "c.warc.gz", 5, ".warc"),
        File("https://a.test/d.jsonl", "d", 0, ".jsonl"), File("e.txt", "e.txt", 0, ".txt"),
    ]  # fmt: skip
    a, b, c, d, e = files[5:]
    assert places.shards(files, 100, (".jsonl",)) == [
        (Piece(files[0]), Piece(files[1])), (Piece(files[2]), Piece(files[3])), (Piece(files[4]),),
        (Piece(a, 0, 100),), (Piece(a, 100, 200),), (Piece(a, 200, 300),), (Piece(b),), (Piece(c),), (Piece(d),), (Piece(e),),
    ]  # fmt: skip


def test_the_folder_of_an_artifact_is_read_without_its_bookkeeping(tmp_path: Path) -> None:
    source = tmp_path / "made"
    documents.write(documents.shard(source, 0), [{"id": "1", "text": "kept"}])
    documents.write(documents.shard(source / documents.REJECTED, 0), [{"id": "2", "text": "refused"}])
    (source / "manifest.json").write_text("{}")
    (source / documents.CONTENT).write_text("{}")
    numbers, kept, _ = go(source, tmp_path / "out")
    assert [row["text"] for row in kept] == ["kept"] and numbers["passed_over"] == 0


# Servers


class Server:
    """Files over HTTP with ranges, or as an S3 bucket. `spoil` may answer a request in another way: it returns True where it has."""

    def __init__(self, files: dict[str, bytes], spoil: Callable[[BaseHTTPRequestHandler, int], bool] = lambda handler, turn: False):
        self.asked: list[tuple[str, str]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                path, query = unquote(urlsplit(self.path).path), parse_qs(urlsplit(self.path).query)
                server.asked.append((path, self.headers.get("Range", "")))
                if spoil(self, sum(asked[0] == path for asked in server.asked)):
                    self.close_connection = True
                elif "list-type" in query:
                    self.listing(path.strip("/"), query.get("prefix", [""])[0])
                elif path in files:
                    self.file(files[path])
                else:
                    self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

            def file(self, data: bytes) -> None:
                found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
                if not found:
                    self.answer(200, data)
                    return
                begin, end = int(found[1]), min(int(found[2] or len(data)), len(data) - 1)
                self.answer(206, data[begin : end + 1], {"Content-Range": f"bytes {begin}-{end}/{len(data)}"})

            def listing(self, bucket: str, prefix: str) -> None:
                keys = [path.removeprefix(f"/{bucket}/") for path in sorted(files) if path.startswith(f"/{bucket}/{prefix}")]
                items = "".join(f"<Contents><Key>{key}</Key><Size>{len(files[f'/{bucket}/{key}'])}</Size></Contents>" for key in keys)
                self.answer(200, f"<ListBucketResult><Name>{bucket}</Name><IsTruncated>false</IsTruncated>{items}</ListBucketResult>".encode())

            def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
                self.send_response(status)
                for name, value in (
                    {"Content-Length": str(len(body)), "ETag": '"1"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"} | (headers or {})
                ).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    monkeypatch.setattr(remote, "PAUSE", 0.01)
    servers: list[Server] = []

    def start(*args: Any) -> Server:
        servers.append(Server(*args))
        return servers[-1]

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


def half(handler: BaseHTTPRequestHandler, data: bytes, status: int = 200, headers: dict[str, str] | None = None) -> bool:
    """Promise `data` and send half of it."""
    handler.send_response(status)
    for name, value in ({"Content-Length": str(len(data)), "ETag": '"1"'} | (headers or {})).items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(data[: len(data) // 2])
    return True


BODY = bytes(range(256)) * 5000


def test_a_download_goes_on_where_the_connection_broke_off(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve({"/a": BODY}, lambda handler, turn: turn == 1 and half(handler, BODY))
    remote.download(f"{server.url}/a", tmp_path / "a", retries=2, timeout=5)
    assert (tmp_path / "a").read_bytes() == BODY
    assert server.asked == [("/a", ""), ("/a", f"bytes={len(BODY) // 2}-")]


def test_a_connection_that_breaks_off_behind_the_last_byte_costs_one_more_try(serve: Callable[..., Server], tmp_path: Path) -> None:
    def unfinished(handler: Any, turn: int) -> bool:
        if turn == 1:  # all of it, but not the chunk that says so
            handler.send_response(200)
            for name, value in {"Transfer-Encoding": "chunked", "ETag": '"1"'}.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(f"{len(BODY):x}\r\n".encode() + BODY + b"\r\n")
        elif turn == 2:
            handler.answer(416, b"")
        return turn < 3

    server = serve({"/a": BODY}, unfinished)
    remote.download(f"{server.url}/a", tmp_path / "a", retries=2, timeout=5)
    assert (tmp_path / "a").read_bytes() == BODY
    assert server.asked == [("/a", ""), ("/a", f"bytes={len(BODY)}-"), ("/a", "")]


def test_a_file_that_changed_in_between_is_fetched_anew(serve: Callable[..., Server], tmp_path: Path) -> None:
    """RFC 9110, 13.1.5: where If-Range no longer holds, the whole file comes, not a range."""
    new = BODY[::-1]

    def changed(handler: Any, turn: int) -> bool:
        return half(handler, BODY) if turn == 1 else handler.answer(200, new, {"ETag": '"2"'}) or True

    server = serve({}, changed)
    remote.download(f"{server.url}/a", tmp_path / "a", retries=2, timeout=5)
    assert (tmp_path / "a").read_bytes() == new


def drip(handler: BaseHTTPRequestHandler, turn: int) -> bool:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    with_end = time.monotonic() + 8
    while time.monotonic() < with_end:
        try:
            handler.wfile.write(b"x")
        except OSError:
            break
        time.sleep(0.2)
    return True


@pytest.mark.parametrize(
    ("spoil", "reason", "tries"),
    [
        (lambda handler, turn: handler.answer(404, b"") or True, "HTTP 404", 1),
        (lambda handler, turn: handler.answer(403, b"") or True, "HTTP 403", 1),
        (lambda handler, turn: handler.answer(503, b"") or True, r"HTTP 503 \(3 tries\)", 3),
        (lambda handler, turn: half(handler, BODY[:1000], headers={"ETag": ""}), r"broke off at 500 of 1000 bytes \(3 tries\)", 3),
        (lambda handler, turn: time.sleep(1.5) or True, r"timeout \(3 tries\)", 3),
        (lambda handler, turn: handler.wfile.write(b"SSH-2.0-OpenSSH\r\n") and True, "3 tries", 3),
        (lambda handler, turn: handler.answer(302, b"", {"Location": handler.path}) or True, "infinite loop", None),
        (drip, r"slower than 1000 bytes a second \(3 tries\)", 3),
    ],
)
def test_a_server_that_fails_is_given_up_with_its_reason(
    serve: Callable[..., Server], tmp_path: Path, spoil: Any, reason: str, tries: int | None
) -> None:
    server = serve({}, spoil)
    began = time.monotonic()
    with pytest.raises(remote.Unreachable, match=reason):
        remote.download(f"{server.url}/a", tmp_path / "a", retries=2, timeout=0.5)
    assert tries is None or len(server.asked) == tries
    assert time.monotonic() - began < 20


def test_a_file_without_end_is_cut_off(serve: Callable[..., Server], tmp_path: Path) -> None:
    def endless(handler: BaseHTTPRequestHandler, turn: int) -> bool:
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(bytes(1 << 16))
        except OSError:
            return True

    server = serve({}, endless)
    with pytest.raises(remote.Unreachable, match="more than 5000000 bytes"):
        remote.download(f"{server.url}/a", tmp_path / "a", retries=2, timeout=5, largest=5_000_000)
    assert (tmp_path / "a").stat().st_size < 20_000_000


def test_remote_files_a_list_of_them_and_one_that_is_missing(serve: Callable[..., Server], tmp_path: Path) -> None:
    files = {f"/data/{n}.jsonl.gz": gzip.compress(json.dumps({"text": f"file {n}"}).encode()) for n in range(3)}
    files["/cc/all.paths.gz"] = gzip.compress(b"data/0.jsonl.gz\ndata/1.jsonl.gz\ndata/gone.jsonl.gz\ndata/2.jsonl.gz\n")
    server = serve(files)
    numbers, kept, refused = go(None, tmp_path / "out", urls=[f"{server.url}/cc/all.paths.gz"], retries=0)
    assert [row["text"] for row in kept] == ["file 0", "file 1", "file 2"] and numbers["files"] == 4
    assert kept[0]["source"] == f"{server.url}/data/0.jsonl.gz:0"
    assert [(row["reason"], row["detail"]) for row in refused] == [("unreachable", f"{server.url}/data/gone.jsonl.gz: HTTP 404 Not Found")]
    (tmp_path / "here.paths").write_text(f"data/2.jsonl.gz\n{server.url}/data/1.jsonl.gz\n")
    _, kept, _ = go(tmp_path / "here.paths", tmp_path / "prefixed", prefix=server.url + "/")
    assert [(row["text"], row["source"]) for row in kept] == [("file 2", "data/2.jsonl.gz:0"), ("file 1", f"{server.url}/data/1.jsonl.gz:0")]
    assert not list((tmp_path / "out").rglob("run/resume/*")), "what was fetched is gone again"
    with pytest.raises(remote.Unreachable, match=r"none\.paths: HTTP 404"):
        go(None, tmp_path / "none", urls=[f"{server.url}/none.paths"], retries=0)


def warc(count: int) -> bytes:
    buffer = io.BytesIO()
    writer = WARCWriter(buffer, gzip=True)
    for n in range(count):
        http = StatusAndHeaders("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.1")
        body = io.BytesIO(f"<html><body><main><p>Page {n} {'has words enough to be kept. ' * 20}</main>".encode())
        writer.write_record(writer.create_warc_record(f"http://example.org/{n}", "response", body, http_headers=http))
    return buffer.getvalue()


def test_a_remote_page_knows_its_address(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve({"/a.html": b"<html><body><main><p>" + b"Words enough to be kept, and then some more. " * 10 + b"</main>"})
    extract(None, out=tmp_path / "out", cfg=ExtractConfig(urls=(f"{server.url}/a.html",), workers=1))
    (row,) = documents.read(tmp_path / "out")
    assert row["url"] == row["source"] == f"{server.url}/a.html" and row["id"] == documents.identifier(row["url"])


def test_s3_files_folders_and_failures(serve: Callable[..., Server], tmp_path: Path) -> None:
    """The first three requests for a.warc.gz get half of it: a second try of the whole and a range are needed."""
    files = {
        "/bucket/crawl/a.warc.gz": warc(3),
        "/bucket/crawl/b.warc.gz": warc(2),
        "/bucket/crawl/notes.xyz": b"x",
        "/bucket/all.paths": b"crawl/b.warc.gz\n",
    }

    def cut(handler: BaseHTTPRequestHandler, turn: int) -> bool:
        return handler.command == "GET" and handler.path.endswith("/a.warc.gz") and turn < 4 and half(handler, files["/bucket/crawl/a.warc.gz"])

    server = serve(files, cut)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {"AWS_ENDPOINT_URL": server.url, "AWS_EC2_METADATA_DISABLED": "true"}
    addresses = ["s3://bucket/crawl/", "s3://bucket/crawl/gone.warc.gz", "s3://bucket/all.paths"]
    command = [sys.executable, "-m", "bessemer", "extract", "--retries", "3", "--urls", *addresses]
    done = subprocess.run([*command, "--out", str(tmp_path / "out")], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    numbers = json.loads(done.stdout[: done.stdout.index("}") + 1])
    assert numbers["documents"] == 7 and numbers["rejected: unreachable"] == 1 and numbers["files"] == 4
    assert {row["source"].rpartition(":")[0] for row in documents.read(tmp_path / "out")} == {
        "s3://bucket/crawl/a.warc.gz",
        "s3://bucket/crawl/b.warc.gz",
    }
    assert [row["detail"] for row in documents.rejected(tmp_path / "out")] == ["s3://bucket/crawl/gone.warc.gz: no such object"]
    assert ("/bucket/crawl/a.warc.gz", "") in server.asked
