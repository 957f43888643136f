"""Documents on disk: a folder of parquet shards, part-00000.parquet and so on, one row a document.

Each stage of the corpus reads such a folder and writes another, shard by shard, with what it refused in `rejected/`.
A shard is whole or absent, so a killed stage goes on at the first missing one. The order of documents is the order of
shards, then of rows.

Documents from elsewhere may be any *.parquet files with text columns `id` and `text`; `url`, which the dialogues need, and `title`
are used where they are there.
"""

import contextlib
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from bessemer.core import artifact

Row = dict[str, Any]
SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "url", "title", "text", "source")])
NEEDED = ("id", "text")  # what no document may lack
REJECTED = "rejected"  # the folder beside the shards for what was refused, one row a document with its reason
CONTENT = "content.json"
NOT_CONTENT = ("source",)  # where in which WARC a page lies changes with each crawl, what it says does not
ROW_GROUP, GROUP_BYTES = 1000, 1 << 25  # documents, or bytes of text, that are written at once; fixed, so that the same rows are the same bytes
BATCH = 256  # documents read at once
# Why a document was refused: the rule, in words, and where it is a matter of measure what was measured and what is allowed.
REASON = {"reason": pa.string(), "detail": pa.string(), "value": pa.float64(), "bound": pa.float64()}


def identifier(url: str) -> str:
    """The id of the document at `url`: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def lot(document: str, use: str) -> float:
    """A number from 0 up to 1 that a document's id decides, the same in every corpus.

    Each `use` has its own: were they the same, what one stage dropped would be what the next one wants to drop.
    """
    return xxhash.xxh3_64_intdigest(f"{use} {document}".encode("utf-8", "surrogatepass")) / 2**64


def shard(folder: Path, index: int) -> Path:
    return folder / f"part-{index:05d}.parquet"


def shards(folder: Path, needed: Sequence[str] = ()) -> list[Path]:
    """The parquet files of a folder of documents, by name. FileNotFoundError or ValueError where there is none, one of ours is
    missing, or one lacks a column of `needed`."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder of documents" if folder.exists() else f"{folder} does not exist")
    found = sorted(folder.glob("*.parquet")) or sorted(folder.glob("data/*.parquet"))  # data: of a Hugging Face dataset
    if not found:
        raise ValueError(f"{folder} holds no documents: expected parquet files, as `read` and `extract` make them")
    for index, path in enumerate(path for path in found if re.fullmatch(r"part-\d{5}\.parquet", path.name)):
        if path != shard(path.parent, index):
            raise ValueError(f"{folder}: {shard(folder, index).name} is missing, {path.name} stands in its place")
    for path in found if needed else ():
        with _opened(path, needed):
            pass
    return found


def write(path: Path, rows: Iterable[Row] | pa.Table, schema: pa.Schema = SCHEMA) -> None:
    """Write one shard, whole or not at all, zstd-compressed. The same rows give the same bytes. For a stage's output: Writer."""
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows), schema=schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    with artifact.atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=ROW_GROUP)


def table(path: Path, columns: Sequence[str] | None = None, needed: Sequence[str] = ()) -> pa.Table:
    """One shard as a table, with only the columns asked for. ValueError where it is not parquet or lacks one of them or of `needed`."""
    with _opened(path, columns or needed) as file:
        rows = file.read(columns=None if columns is None else list(columns))
    _refuse_nulls(path, rows)
    return rows


def read(source: Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """Documents of a folder (or of one shard), in order, as dicts of the columns asked for; a batch in memory at a time."""
    for batch in batches(source, columns):
        yield from batch


def batches(source: Path, columns: Sequence[str] | None = None) -> Iterator[list[Row]]:
    """The same, up to BATCH at a time."""
    for path in [source] if source.is_file() else shards(source, columns or ()):
        with _opened(path, columns or ()) as file:
            for batch in file.iter_batches(BATCH, columns=None if columns is None else list(columns)):
                _refuse_nulls(path, batch)
                yield batch.to_pylist()


def schema(path: Path) -> pa.Schema:
    """The columns of a shard. ValueError where it lacks `id` or `text`."""
    with _opened(path, NEEDED) as file:
        return file.schema_arrow.remove_metadata()


def texts(source: Path) -> Iterator[str]:
    """The texts of a folder of documents, in order."""
    return (row["text"] for row in read(source, ["text"]))


def rows(path: Path) -> int:
    """How many documents a shard holds, from its footer alone."""
    return pq.read_metadata(path).num_rows


def count(folder: Path) -> int:
    """How many documents a folder holds."""
    return sum(rows(path) for path in shards(folder))


def size(folder: Path, column: str = "text") -> int:
    """Bytes of a text column (UTF-8), summed over all documents."""
    return sum(pc.sum(pc.binary_length(table(path, [column])[column])).as_py() or 0 for path in shards(folder))


def rejected(folder: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """What a stage refused, in order; nothing where it has no such folder."""
    return read(folder / REJECTED, columns) if (folder / REJECTED).is_dir() else iter(())


class Writer:
    """One shard of a stage's output while it is written: rows come in, whole row groups go to disk, little stays in memory.

    Use it as a context manager. A row with a `reason` goes to rejected/, the others are kept. Leaving the block well puts both files
    in place, the kept ones last: that file says that the shard is done. What the shard says in short (counts, bytes, reasons, a
    digest) goes to run/shards/, so that no later step needs to read the documents again to know.
    """

    def __init__(self, out: Path, index: int, schema: pa.Schema, refused: Mapping[str, pa.DataType] | None = None):
        """`schema` is that of the kept rows; the refused ones have REASON's columns and `refused` besides."""
        self.out, self.index = out, index
        self.schemas = (schema, with_fields(schema, **REASON, **(refused or {})))
        self.files = (shard(out, index), shard(out / REJECTED, index))
        self.pending: tuple[list[Row], list[Row]] = ([], [])
        self.bytes = [0, 0]
        self.digests = (hashlib.sha256(), hashlib.sha256())
        self.numbers: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()

    def __enter__(self) -> "Writer":
        for file in self.files:
            file.parent.mkdir(parents=True, exist_ok=True)
        self.stack = contextlib.ExitStack()
        temporary = [self.stack.enter_context(artifact.atomic(file)) for file in self.files]  # left in reverse order: see below
        self.writers = [pq.ParquetWriter(path, s, compression="zstd") for path, s in zip(temporary, self.schemas, strict=True)]
        return self

    def add(self, row: Row) -> None:
        """Write one row. Its columns are those of the schema; what it lacks is null, what the schema lacks is left out."""
        which = 1 if row.get("reason") else 0
        names = self.schemas[which].names
        said = json.dumps([row.get(name) for name in names if name not in NOT_CONTENT], ensure_ascii=False, default=str)
        self.digests[which].update(said.encode("utf-8", "surrogatepass"))
        text = row.get("text") or ""
        size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
        self.numbers[("documents", "rejected")[which]] += 1
        self.numbers[("text_bytes", "rejected_bytes")[which]] += size
        if which:
            self.reasons[row["reason"]] += 1
        self.pending[which].append(row)
        self.bytes[which] += size
        if len(self.pending[which]) >= ROW_GROUP or self.bytes[which] >= GROUP_BYTES:
            self._flush(which)

    def _flush(self, which: int) -> None:
        if self.pending[which]:
            self.writers[which].write_table(pa.Table.from_pylist(self.pending[which], schema=self.schemas[which]))
        self.pending[which].clear()
        self.bytes[which] = 0

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            for which in (0, 1):
                self._flush(which)
        for writer in self.writers:
            writer.close()
        if kind is None:
            digests = {name: digest.hexdigest() for name, digest in zip(("kept", "rejected"), self.digests, strict=True)}
            _summary(self.out, self.index).parent.mkdir(parents=True, exist_ok=True)
            artifact.write_json(_summary(self.out, self.index), {**self.numbers, "reasons": self.reasons, "digests": digests})
        self.stack.__exit__(kind, error, trace)  # renames: rejected/ first, then the kept


def with_fields(schema: pa.Schema, **fields: pa.DataType) -> pa.Schema:
    """The schema with these columns: at its end, or in place of those of the same name, whose type may be another."""
    for name, kind in fields.items():
        place = schema.get_field_index(name)
        schema = schema.append(pa.field(name, kind)) if place < 0 else schema.set(place, pa.field(name, kind))
    return schema


def finish(stage: str, source: Path | str, folder: Path) -> dict[str, float]:
    """Seal what a stage made of `source`. Returns its counts: documents, bytes of text, rejected in all and by reason.

    content.json gets the hash of what each shard says. A config names it as its stage's `content`: crawling the same pages again
    changes every row's place in the archive, and must not change the key of what is made from them.

    ValueError where no document is left: which stage removed how many, and the commonest reasons.
    """
    found = [json.loads(_summary(folder, index).read_text(encoding="utf-8")) for index in range(len(shards(folder)))]
    totals: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for summary in found:
        totals.update({name: n for name, n in summary.items() if isinstance(n, int)})
        reasons.update(summary["reasons"])
    if not totals["documents"]:
        why = ", ".join(f"{reason} ({n})" for reason, n in reasons.most_common(3)) or "there was nothing to read"
        first = next((row["detail"] for row in rejected(folder, ["detail"]) if row["detail"]), "")
        why += f"; the first: {first}" if first else ""
        raise ValueError(f"{stage}: no document of {source} is left: {reasons.total()} rejected: {why}")
    artifact.write_json(folder / CONTENT, {shard(folder, index).name: summary["digests"] for index, summary in enumerate(found)})
    by_reason = {f"rejected: {reason}": n for reason, n in sorted(reasons.items())}
    numbers: dict[str, float] = {name: totals[name] for name in ("documents", "text_bytes", "rejected", "rejected_bytes")}
    return numbers | by_reason


def _summary(out: Path, index: int) -> Path:
    return out / artifact.RUN / "shards" / f"{index:05d}.json"


@contextlib.contextmanager
def _opened(path: Path, needed: Sequence[str]) -> Iterator[pq.ParquetFile]:
    """A shard to read, its columns checked."""
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            if missing := [name for name in needed if name not in schema.names]:
                raise ValueError(f"{path} has no column {', '.join(missing)} (it has: {', '.join(schema.names)}); needed: {', '.join(needed)}")
            for name in NEEDED:
                if name in schema.names and schema.field(name).type not in (pa.string(), pa.large_string()):
                    raise ValueError(f"{path}: column {name} holds {schema.field(name).type}; text is needed")
            yield file
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a readable parquet file: {str(error).splitlines()[0]}") from None


def _refuse_nulls(path: Path, rows: pa.Table | pa.RecordBatch) -> None:
    for name in NEEDED if path.parent.name != REJECTED else ():  # what was refused may have had no text
        if name in rows.schema.names and rows[name].null_count:
            raise ValueError(f"{path}: column {name} is null in {rows[name].null_count} of {len(rows)} rows; text is needed in each")
