"""Documents on disk: a folder of parquet shards, part-00000.parquet and so on, one row a document.

Each stage of the corpus reads such a folder and writes another, shard by shard, with what it refused in `rejected/`.
A shard is whole or absent, so a killed stage goes on at the first missing one. The order of documents is the order of
shards, then of rows, which `extract` sorts by url.

Documents from elsewhere may be any *.parquet files with text columns `id` and `text`; `url`, which the dialogues need, and `title`
are used where they are there.
"""

import contextlib
import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bessemer.core import artifact

SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "url", "title", "text", "source")])
NEEDED = ("id", "text")  # what no document may lack
REJECTED = "rejected"  # the folder beside the shards for what was refused, one row a document with its reason
CONTENT = "content.json"
NOT_CONTENT = ("source",)  # where in which WARC a page lies changes with each crawl, what it says does not
ROW_GROUP = 1000  # documents; fixed, so that the same rows are the same bytes


def identifier(url: str) -> str:
    """The id of the document at `url`: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def shard(folder: Path, index: int) -> Path:
    return folder / f"part-{index:05d}.parquet"


def shards(folder: Path, needed: Sequence[str] = ()) -> list[Path]:
    """The parquet files of a folder of documents, by name. FileNotFoundError or ValueError where there is none, one of ours is
    missing, or one lacks a column of `needed`."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder of documents" if folder.exists() else f"{folder} does not exist")
    found = sorted(folder.glob("*.parquet")) or sorted(folder.glob("data/*.parquet"))  # data: of a Hugging Face dataset
    if not found:
        raise ValueError(f"{folder} holds no documents: expected part-00000.parquet and so on, or other parquet files")
    for index, path in enumerate(path for path in found if re.fullmatch(r"part-\d{5}\.parquet", path.name)):
        if path != shard(path.parent, index):
            raise ValueError(f"{folder}: {shard(folder, index).name} is missing, {path.name} stands in its place")
    for path in found if needed else ():
        with _opened(path, needed):
            pass
    return found


def write(path: Path, rows: Iterable[dict[str, Any]] | pa.Table, schema: pa.Schema = SCHEMA) -> None:
    """Write one shard, whole or not at all, zstd-compressed. The same rows give the same bytes."""
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


def read(source: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Documents of a folder (or of one shard), in order, as dicts of the columns asked for; a thousand in memory at a time."""
    for path in [source] if source.is_file() else shards(source, columns or ()):
        with _opened(path, columns or ()) as file:
            for batch in file.iter_batches(ROW_GROUP, columns=None if columns is None else list(columns)):
                _refuse_nulls(path, batch)
                yield from batch.to_pylist()


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


def seal(folder: Path) -> None:
    """Write content.json, the hash of what each shard says. A config names it as its stage's `content`: crawling the same
    pages again changes every row's place in the archive, and must not change the key of what is made from them."""
    hashes = {}
    for path in itertools.chain(shards(folder), sorted((folder / REJECTED).glob("part-*.parquet"))):
        digest = hashlib.sha256()
        for row in read(path):
            said = json.dumps([v for k, v in row.items() if k not in NOT_CONTENT], ensure_ascii=False, default=str)
            digest.update(said.encode("utf-8", "surrogatepass"))
        hashes[path.relative_to(folder).as_posix()] = digest.hexdigest()
    artifact.write_json(folder / CONTENT, hashes)


def finish(stage: str, source: Path, folder: Path) -> dict[str, float]:
    """Seal what a stage made of `source`. Returns its counts: documents, bytes of text, rejected in all and by reason.

    ValueError where no document is left: which stage removed how many, and the commonest reasons.
    """
    reasons = Counter(row["reason"] for row in rejected(folder, ["reason"]))
    kept = count(folder)
    if not kept:
        why = ", ".join(f"{reason} ({n})" for reason, n in reasons.most_common(3)) or "there was nothing to read"
        raise ValueError(f"{stage}: no document of {source} is left: {reasons.total()} rejected: {why}")
    seal(folder)
    by_reason = {f"rejected: {reason}": n for reason, n in sorted(reasons.items())}
    return {"documents": kept, "text_bytes": size(folder), "rejected": reasons.total(), **by_reason}


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
    for name in NEEDED:
        if name in rows.schema.names and rows[name].null_count:
            raise ValueError(f"{path}: column {name} is null in {rows[name].null_count} of {len(rows)} rows; text is needed in each")
