"""Texts to documents: plain and Markdown files, JSON Lines, JSON, CSV, parquet, and the WET files of Common Crawl.

What a row lacks or has wrong costs that row, with a reason and its place: the file's name and a byte offset (JSON Lines and WET,
in what is unpacked), a line (CSV), a row (parquet), an item (JSON) from 0 on. Only what is being read is in memory.
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from bessemer.corpus import documents
from bessemer.corpus.documents import Row
from bessemer.corpus.extract.html import decode
from bessemer.corpus.sources import stream, warc
from bessemer.corpus.sources.intake import refused
from bessemer.corpus.sources.places import Piece, SourceConfig

TEXTS = ("text", "content", "body")
JSON_BYTES = 1 << 28  # of a .json file that must be read at once, being one array or one object
BATCH = 64  # parquet rows read at once


@dataclass(frozen=True)
class ReadConfig(SourceConfig):
    """Which columns of the rows make a document."""

    text: str = ""  # column with the text; empty: the first there is of text, content, body
    id: str = "id"  # column with the id; rows without one get a hash of their url, or else of their place and text
    url: str = "url"  # column with the address of origin
    title: str = "title"  # column with the title
    columns: tuple[str, ...] = ()  # more columns to keep, as text; what is no text is written as JSON
    numbers: tuple[str, ...] = ()  # more columns to keep, as numbers

    version: ClassVar[int] = 2
    content: ClassVar[tuple[str, ...]] = (documents.CONTENT,)

    def __post_init__(self) -> None:
        super().__post_init__()
        taken = {*documents.SCHEMA.names, *documents.REASON, "domain"}
        for name in (*self.columns, *self.numbers):
            if name in taken or [*self.columns, *self.numbers].count(name) > 1:
                raise ValueError(f"column {name!r} cannot be kept: a document has a column of that name already")


def schema(cfg: ReadConfig) -> pa.Schema:
    kept = documents.with_fields(documents.SCHEMA, **dict.fromkeys(cfg.columns, pa.string()))
    return documents.with_fields(kept, **dict.fromkeys(cfg.numbers, pa.float64()))


def read(path: Path, piece: Piece, cfg: ReadConfig, skip: dict[int, str], at: Callable[[int], None]) -> Iterator[Row]:
    """A row for each text in a file, or in a piece of it. An `intake.Reader`; a piece that killed its process is refused."""
    if skip:
        cause = next(iter(skip.values()))
        yield refused(piece.file.name, cause.partition(":")[0], cause)
        return
    place = None
    for place, record in READERS[piece.file.kind](path, piece, cfg):
        at(min(max(place - piece.begin, 0), max(piece.file.size - 1, 0)))
        source = piece.file.name if place < 0 else f"{piece.file.name}:{place}"
        yield refused(source, *record) if isinstance(record, tuple) else document(record, source, cfg)
    if place is None and not piece.end:
        yield refused(piece.file.name, "empty", f"no text in a file of {path.stat().st_size} bytes")


# What a file reader yields: a place in the file (-1: all of it), and a record or (reason, detail).
Found = Iterator[tuple[int, Mapping[str, Any] | tuple[str, str]]]


def document(record: Mapping[str, Any], source: str, cfg: ReadConfig) -> Row:
    """The document that a record holds, or its refusal."""
    names = (cfg.text,) if cfg.text else TEXTS
    name = next((name for name in names if name in record), None)
    url = _text(record.get(cfg.url))
    if name is None:
        return refused(source, "no text", f"no {' or '.join(names)} (it has: {', '.join(map(str, record)) or 'nothing'})", url)
    if not isinstance(record[name], str):
        kind = "null" if record[name] is None else type(record[name]).__name__
        return refused(source, "no text", f"{name} is {kind}, not text", url)
    text = _text(record[name]) or ""
    if not text.strip():
        return refused(source, "empty", f"{len(text)} characters of white space", url)
    if (size := len(text.encode("utf-8"))) > cfg.max_bytes:
        return refused(source, "too big", f"{size} bytes; at most {cfg.max_bytes}", url)
    row: Row = {"url": url, "title": _text(record.get(cfg.title)), "text": text, "source": source}
    row["id"] = _text(record.get(cfg.id)) or documents.identifier(url or f"{source}\n{text}")
    for name in cfg.columns:
        row[name] = _text(record.get(name))
    for name in cfg.numbers:
        try:
            row[name] = None if record.get(name) is None else float(record[name])
        except (TypeError, ValueError, OverflowError):
            return refused(source, "wrong type", f"{name} is {str(record[name])[:60]!r}, not a number", url)
    return row


def _text(value: Any) -> str | None:
    """A value as text; what is no character (half a surrogate pair, which JSON can spell) becomes U+FFFD."""
    if value is None or value == "":
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _file(path: Path, piece: Piece, cfg: ReadConfig) -> Found:
    """One text, as it is."""
    with path.open("rb") as file:
        body = stream.whole(stream.unpacked(file), cfg.max_bytes)
    if len(body) > cfg.max_bytes:
        yield -1, ("too big", f"more than {cfg.max_bytes} bytes")
        return
    try:
        yield -1, {cfg.text or "text": decode(body)}
    except ValueError as error:
        yield -1, ("undecodable", str(error))


def _json_lines(path: Path, piece: Piece, cfg: ReadConfig) -> Found:
    with path.open("rb") as file:
        unpacked, begin, end = stream.unpacked(file), piece.begin, piece.end
        if unpacked.packed:  # under the name of a plain file: it is not to be cut, and its first piece is all of it
            if begin:
                return
            end = 0
        if begin:
            file.seek(begin - 1)
        for line in stream.lines(unpacked, 2 * cfg.max_bytes + stream.STEP, begin, end):
            if line.reason:
                yield line.offset, ("too big" if line.reason.startswith("a line") else "damaged", line.reason)
            elif data := line.data.removeprefix(b"\xef\xbb\xbf" if line.offset == 0 else b"").strip():
                yield line.offset, _parsed(data)


def _parsed(data: bytes) -> Mapping[str, Any] | tuple[str, str]:
    """A JSON object, or why it is none."""
    try:
        record = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        return "undecodable", f"not UTF-8: {error.reason} at byte {error.start} of the row"
    except (ValueError, RecursionError) as error:
        return "broken row", f"not JSON: {error}"
    return record if isinstance(record, dict) else ("broken row", f"not an object but {data[:40].decode('utf-8', 'replace')!r}")


def _json(path: Path, piece: Piece, cfg: ReadConfig) -> Found:
    """A .json file: an array of objects, one object, or, as many are, JSON Lines by another name."""
    with path.open("rb") as file:
        first = next((line.data for line in stream.lines(stream.unpacked(file), JSON_BYTES) if line.data.strip()), b"")
        if not first.lstrip(b"\xef\xbb\xbf \t\r").startswith(b"[") and not isinstance(_parsed(first.removeprefix(b"\xef\xbb\xbf")), tuple):
            yield from _json_lines(path, piece, cfg)
            return
        file.seek(0)
        body = stream.whole(stream.unpacked(file), JSON_BYTES)
    if len(body) > JSON_BYTES:
        yield -1, ("too big", f"more than {JSON_BYTES} bytes in one JSON array or object; JSON Lines may be longer")
        return
    try:
        found = json.loads(body.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        yield -1, ("broken row", f"not JSON: {error}")
        return
    for number, record in enumerate(found if isinstance(found, list) else [found]):
        yield number, record if isinstance(record, dict) else ("broken row", f"not an object but {str(record)[:40]!r}")


def _table(path: Path, piece: Piece, cfg: ReadConfig) -> Found:
    """CSV or TSV with a header line. A record that its quotes make too long is refused, and reading goes on at the next line."""
    csv.field_size_limit(cfg.max_bytes)
    troubles: list[tuple[int, tuple[str, str]]] = []
    with path.open("rb") as file:

        def text_lines() -> Iterator[str]:
            for line in stream.lines(stream.unpacked(file), 2 * cfg.max_bytes + stream.STEP):
                if line.reason:
                    troubles.append((rows.line_num, ("damaged", line.reason)))
                else:
                    yield line.data.removeprefix(b"\xef\xbb\xbf" if line.offset == 0 else b"").decode("utf-8", "surrogateescape") + "\n"

        rows = csv.reader(text_lines(), delimiter="\t" if piece.file.kind == ".tsv" else ",")
        try:
            header = next(rows, [])
        except csv.Error as error:
            yield rows.line_num, ("broken row", f"the header: {error}")
            return
        while True:
            try:
                row = next(rows)
            except StopIteration:
                break
            except csv.Error as error:
                yield rows.line_num, ("broken row", str(error))
                continue
            if len(row) != len(header):
                if row:
                    yield rows.line_num, ("broken row", f"{len(row)} fields, where the header names {len(header)}")
            elif any("\udc80" <= character <= "\udcff" for field in row if not field.isascii() for character in field):
                yield rows.line_num, ("undecodable", "not UTF-8")
            else:
                yield rows.line_num, dict(zip(header, row, strict=True))
    yield from troubles


def _parquet(path: Path, piece: Piece, cfg: ReadConfig) -> Found:
    """Row groups that begin within the piece, each on its own: what is damaged costs the rest of its row group."""
    with pq.ParquetFile(path, buffer_size=stream.STEP) as file:
        names = file.schema_arrow.names
        text = next((name for name in ((cfg.text,) if cfg.text else TEXTS) if name in names), None)
        if text is None:
            yield -1, ("no text", f"no column {cfg.text or ' or '.join(TEXTS)} (it has: {', '.join(names)})")
            return
        wanted = [name for name in dict.fromkeys((text, cfg.id, cfg.url, cfg.title, *cfg.columns, *cfg.numbers)) if name in names]
        row = 0
        for number in range(file.num_row_groups):
            group = file.metadata.row_group(number)
            behind = row + group.num_rows
            first = group.column(0)
            begin = first.dictionary_page_offset if first.has_dictionary_page else first.data_page_offset
            if not piece.end or piece.begin <= min(max(begin, 0), piece.file.size - 1) < piece.end:
                try:
                    for batch in file.iter_batches(BATCH, row_groups=[number], columns=wanted):
                        yield from enumerate(_records(batch), row)
                        row += len(batch)
                except (OSError, ValueError, pa.ArrowException) as error:
                    yield row, ("damaged", f"{behind - row} rows of row group {number}: {' '.join(str(error).split())}")
            row = behind


def _records(batch: pa.RecordBatch) -> list[Any]:
    """Rows as dicts; (reason, detail) for one with a value that cannot be read."""
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError) as error:
        if len(batch) == 1:
            return [("undecodable", str(error))]
        return [record for row in range(len(batch)) for record in _records(batch.slice(row, 1))]


def _wet(path: Path, piece: Piece, cfg: ReadConfig) -> Found:
    for page in warc.read(path, cfg.max_bytes):
        if isinstance(page, warc.Problem):
            yield page.offset, ("damaged", page.reason)
        elif page.record != "conversion":
            yield page.offset, ("not text", "a page, no text: the stage `extract` takes it")
        elif len(page.body) > cfg.max_bytes:
            yield page.offset, ("too big", f"more than {cfg.max_bytes} bytes")
        else:
            try:
                yield page.offset, {cfg.text or "text": decode(page.body), cfg.url: page.url}
            except ValueError as error:
                yield page.offset, ("undecodable", str(error))


# Source files: a file is a document, as with .txt.
CODE = (
    *(".py", ".js", ".ts", ".java", ".c", ".h", ".cc", ".cpp", ".hpp", ".cs", ".go", ".rs", ".rb", ".php", ".swift", ".kt", ".scala"),
    *(".pl", ".lua", ".r", ".jl", ".hs", ".ml", ".ex", ".erl", ".clj", ".lisp", ".sh", ".sql", ".f90", ".asm", ".tex"),
)
READERS: dict[str, Callable[[Path, Piece, ReadConfig], Found]] = {
    ".txt": _file,
    ".md": _file,
    ".markdown": _file,
    ".rst": _file,
    **dict.fromkeys(CODE, _file),
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _table,
    ".tsv": _table,
    ".parquet": _parquet,
    ".wet": _wet,
}
CUT = (".jsonl", ".ndjson", ".parquet")  # can be read in pieces
