"""Labelled texts for a classifier: rows with a label, or one folder of documents a class."""

import csv
import gzip
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from bessemer.core import artifact, jsonl
from bessemer.corpus import documents
from bessemer.corpus.classify.features import Features, Hasher

Example = tuple[str, str]  # text, label


@dataclass(frozen=True)
class Examples:
    """Labelled texts as features."""

    classes: list[str]
    labels: np.ndarray  # (N,) index into classes
    hashes: np.ndarray  # (N,) of the texts: equal for equal texts
    rows: list[Features]


def gather(sources: tuple[Path, ...], names: tuple[str, ...], text: str, label: str, limit: int, hasher: Hasher) -> Examples:
    """All examples of `sources`, or about `limit` of each class, chosen by the hash of their text. In memory: 8 bytes a feature.

    `names` are the classes of the sources, one each; without them a source's rows have labels, or its own name is the class.
    """
    if names and len(names) != len(sources):
        raise ValueError(f"classifier.classes: {len(names)} names for {len(sources)} inputs; one for each is needed, or none at all")
    named = list(zip(sources, names or [""] * len(sources), strict=True))
    counts = Counter(said for source, name in named for _, said in read(source, name, text, label))
    classes = sorted(counts)
    at = {said: index for index, said in enumerate(classes)}
    labels, hashes, rows = [], [], []
    for source, name in named:
        for content, said in read(source, name, text, label):
            key = xxhash.xxh3_64_intdigest(content.encode("utf-8", "surrogatepass"))
            if key * counts[said] >= limit << 64:
                continue
            labels.append(at[said])
            hashes.append(key)
            rows.append(hasher(content))
    return Examples(classes, np.array(labels, np.int64), np.array(hashes, np.uint64), rows)


def read(source: Path, name: str, text: str, label: str) -> Iterator[Example]:
    """The examples of one source: a CSV or JSONL file, also as .gz, a parquet file or a folder of documents.

    The class is `name` where one is given, else the row's column `label`, else the name of the artifact, folder or file.
    """
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist")
    rows = _tables(source, text, label, name) if source.is_dir() or source.suffix == ".parquet" else _lines(source)
    own = name or (artifact.name_of(source) if source.is_dir() else Path(source.name.removesuffix(".gz")).stem)
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get(text), str):
            raise ValueError(f"{source}: row {number} has no text in column {text} (it has: {', '.join(map(str, row))})")
        if not name and label in row and row[label] in (None, ""):
            raise ValueError(f"{source}: row {number} has no label in column {label}")
        yield row[text], str(row[label]) if not name and label in row else own


def _tables(source: Path, text: str, label: str, name: str) -> Iterator[documents.Row]:
    for path in documents.shards(source) if source.is_dir() else [source]:
        try:
            labelled = not name and label in pq.read_schema(path).names
        except pa.ArrowInvalid:
            labelled = False  # no parquet: reading it says so
        yield from documents.read(path, [text, label] if labelled else [text])


def _lines(source: Path) -> Iterator[documents.Row]:
    """One at a time."""
    kind = Path(source.name.removesuffix(".gz")).suffix
    if kind not in (".csv", ".jsonl"):
        raise ValueError(f"{source}: examples are folders of documents or .parquet, .jsonl or .csv files (the last two also as .gz)")
    csv.field_size_limit(sys.maxsize)
    ends = "" if kind == ".csv" else "\n"  # what a line ends with: in a field of CSV any sign may stand
    packed = source.suffix == ".gz"
    with gzip.open(source, "rt", encoding="utf-8-sig", newline=ends) if packed else source.open(encoding="utf-8-sig", newline=ends) as file:
        try:
            yield from csv.DictReader(file) if kind == ".csv" else jsonl.rows(file, source)
        except (UnicodeDecodeError, csv.Error, EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{source} is not {kind[1:].upper()} in UTF-8: {error}") from None
