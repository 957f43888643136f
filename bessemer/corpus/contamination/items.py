"""The items of evaluation sets, whatever files they come in: what each is called and the texts it consists of."""

import csv
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bessemer.core import artifact, jsonl

KINDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")  # each of them but parquet also as .gz
DIALOGUES = ("heldout.jsonl", "choice.jsonl")  # of a dialogues artifact; the other rows are there to be trained on
NAMES = ("id", "task_id", "question_id", "key", "uid")  # fields that may hold an item's own name
ABOUT = (*NAMES, "url", "source", "kind", "entry", "category", "type", "subject", "template", "role", "from")  # fields that hold no text of it


@dataclass(frozen=True)
class Item:
    """One question, problem or text of a benchmark."""

    benchmark: str
    name: str  # file/id, or file/number of the row
    texts: tuple[tuple[str, str], ...]  # (field, text)


def read(paths: Sequence[Path], fields: Sequence[str] = ()) -> Iterator[Item]:
    """Every item of these files or folders, in order. `fields` names those that hold an item's text; none: all with text.

    In a folder the files whose name begins with "train" are left out: a benchmark's own training part may be trained on.
    """
    called = [benchmark(path) for path in paths]
    if twice := [name for name, count in Counter(called).items() if count > 1]:
        raise ValueError(f"benchmarks: two are called {twice[0]}: rename a file or folder")
    for path, name in zip(paths, called, strict=True):
        found = False
        for file in files(path):
            rows = records(file)
            for identifier, row in zip(identifiers(file, rows), rows, strict=True):
                texts = tuple(_texts(row, fields))
                found = found or bool(texts)
                yield Item(name, identifier, texts)
        if not found:
            raise ValueError(f"benchmarks: {path} holds no text" + (f" in the fields {', '.join(fields)}" if fields else ""))


def benchmark(path: Path) -> str:
    """What a benchmark is called: by its artifact or its dataset on the hub, or by its file or folder and the folder that holds it."""
    if manifest := artifact.read_manifest(path):
        return manifest["name"]
    path = path.resolve()
    if path.parent.name == "snapshots":  # in the cache of the Hugging Face hub
        return artifact.name_of(path)
    return f"{path.parent.name}-{_stem(path)}".strip("-")


def files(path: Path) -> list[Path]:
    """The files of a benchmark. FileNotFoundError or ValueError where there is none to read."""
    if not path.exists():
        raise FileNotFoundError(f"benchmarks: {path} does not exist")
    if path.is_file():
        if not _readable(path):
            raise ValueError(f"benchmarks: {path} is none of {', '.join(KINDS)} (or one of them as .gz)")
        return [path]
    if (path / DIALOGUES[0]).is_file():
        return [path / name for name in DIALOGUES if (path / name).is_file()]
    hidden = (artifact.RUN, "rejected")
    inside = (file for file in sorted(path.rglob("*")) if file.is_file() and not set(file.relative_to(path).parts[:-1]) & set(hidden))
    found = [file for file in inside if _readable(file) and file.name != artifact.MANIFEST and not file.name.lower().startswith("train")]
    if not found:
        raise ValueError(f"benchmarks: {path} holds no file of {', '.join(KINDS)} that is not for training")
    return found


def identifiers(file: Path, rows: Sequence[dict[str, Any]]) -> list[str]:
    """What the items of a file are called: by their own names where all have one and no two share it, else by number from 1."""
    for field in NAMES:
        own = [row.get(field) for row in rows]
        if all(isinstance(name, str | int) for name in own) and len(set(map(str, own))) == len(own):
            return [f"{_stem(file)}/{name}" for name in own]
    return [f"{_stem(file)}/{number}" for number in range(1, len(rows) + 1)]


def records(file: Path) -> list[dict[str, Any]]:
    """The rows of a file, as fields and values. A table without a header gets the numbers of its columns as fields."""
    kind = Path(file.name.removesuffix(".gz")).suffix
    try:
        if kind == ".parquet":
            return pq.read_table(file).to_pylist()
        if kind == ".jsonl" and file.suffix != ".gz":
            return jsonl.read(file)
        text = (gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()).decode("utf-8-sig")
        if kind in (".csv", ".tsv"):
            return _table(text, "," if kind == ".csv" else "\t")
        found = [json.loads(line) for line in text.split("\n") if line.strip()] if kind == ".jsonl" else json.loads(text)
    except (pa.ArrowInvalid, UnicodeDecodeError, json.JSONDecodeError, csv.Error, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{file} cannot be read: {str(error).splitlines()[0]}") from None
    if isinstance(found, dict):  # {"examples": [...]}, as some suites are packed
        found = next((value for value in found.values() if isinstance(value, list) and value and isinstance(value[0], dict)), [found])
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise ValueError(f"{file}: its rows are no JSON objects")
    return found


def _table(text: str, separator: str) -> list[dict[str, Any]]:
    csv.field_size_limit(1 << 30)
    rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if row]
    # A header is a row of different short names.
    if rows and len(set(rows[0])) == len(rows[0]) and all(name.replace("_", "").replace(" ", "").isalpha() and len(name) < 30 for name in rows[0]):
        return [dict(zip(rows[0], row, strict=False)) for row in rows[1:]]
    return [{str(number): value for number, value in enumerate(row)} for row in rows]


def _texts(value: Any, fields: Sequence[str], name: str = "") -> Iterator[tuple[str, str]]:
    """(field, text) of every string in a row, those in lists and objects within it too."""
    if isinstance(value, str) and value.strip():
        yield name, value
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            yield from _texts(part, (), f"{name}.{number}")
    elif isinstance(value, dict):
        for key, part in value.items():
            if (key in fields) if fields else key not in ABOUT:
                yield from _texts(part, (), f"{name}.{key}".strip("."))


def _readable(path: Path) -> bool:
    return path.name.endswith((*KINDS, *(f"{kind}.gz" for kind in KINDS[:-1])))


def _stem(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).stem if path.is_file() else path.name
