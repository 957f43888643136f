"""What is remembered of each shard, on disk: enough to compare its documents with all others without reading them again.

A sketch is a folder of plain arrays, one file each. For N documents with B bands of R minima:

    ids, sets              UTF-8 and the hashed n-grams (4 bytes each), document after document; ids.ends, sets.ends (N,) where each ends
    minima                 (N, B x R)
    K.keys, K.rows         the records of kind K, sorted by key: a hash, and the document's number in the shard
    url.check, exact.check (N,) 64 more bits of the hash, so that no two documents are ever taken for equal by chance

Kinds are `url` (of the id and the url, where there is one), `exact` (of the normalised text), `near` (one for each band) and `shared` (one
for each distinct long line). Since keys are hashes, the records of all shards in one range of keys are one share of all the work, as small
as one likes.
"""

import bisect
import itertools
import mmap
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from bessemer.corpus import documents as docs
from bessemer.corpus.dedup import lines, near
from bessemer.corpus.dedup.near import U32, DedupConfig
from bessemer.corpus.dedup.words import I64, U64

KINDS = ("url", "exact", "near", "shared")
FILES = ("ids", "ids.ends", "sets", "sets.ends", "minima", "url.check", "exact.check", *(f"{kind}.{of}" for kind in KINDS for of in ("keys", "rows")))
PORTION = 1 << 22  # characters whose words are taken at once, about 25 bytes of memory each
TYPES: dict[str, Any] = {"ids": np.uint8, "sets": np.uint32, "minima": np.uint32, "ends": np.int64}
TYPES |= {"keys": np.uint64, "rows": np.uint32, "check": np.uint64}


def fingerprint(text: str) -> int:
    """128 bits that are equal for texts which differ in case and white space at most (XXH3)."""
    return xxhash.xxh3_128_intdigest(" ".join(text.lower().split()).encode("utf-8", "surrogatepass"))


def units(cfg: DedupConfig) -> list[str]:
    """What is compared besides whole documents: lines, paragraphs, both or nothing."""
    return [unit for unit in lines.UNITS if {"line": cfg.lines, "paragraph": cfg.paragraphs}[unit]]


def write(source: Path, folder: Path, cfg: DedupConfig) -> None:
    """The sketch of one shard, whole or not at all. In memory: a portion of the documents, and 12 bytes a record of the shard."""
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")  # an orphan of a killed run may be at work beside us
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    records: dict[str, list[tuple[U64, U32]]] = {kind: [] for kind in KINDS}
    count, ends = 0, {"ids": 0, "sets": 0}

    def append(name: str, array: NDArray[Any]) -> None:
        with (temporary / name).open("ab") as file:
            file.write(np.ascontiguousarray(array, TYPES[name.split(".")[-1]]).tobytes())

    for name in FILES:
        (temporary / name).touch()
    for names, texts, addresses in portions(source):
        rows = np.arange(count, count + len(texts), dtype=np.uint32)
        count += len(texts)
        append("ids", np.frombuffer(b"".join(names), np.uint8))
        append("ids.ends", ends["ids"] + np.cumsum([len(name) for name in names]))
        ends["ids"] += sum(map(len, names))
        if cfg.exact:
            known = np.array([bool(address) for address in addresses], bool)
            hashes = ("url", map(xxhash.xxh3_128_intdigest, addresses), known), ("exact", map(fingerprint, texts), np.ones_like(known))
            for kind, numbers, of in hashes:
                prints = np.frombuffer(b"".join(number.to_bytes(16, "little") for number in numbers), np.uint64).reshape(-1, 2)
                records[kind].append((prints[of, 0], rows[of]))
                append(f"{kind}.check", prints[:, 1])
        if cfg.near:
            sets, last = near.shingles(texts, cfg.ngram)
            minima = near.minhash(sets, last, cfg.bands * cfg.rows)
            append("sets", sets)
            append("sets.ends", ends["sets"] + last)
            append("minima", minima)
            ends["sets"] += len(sets)
            some = np.diff(last, prepend=0) > 0  # two texts without words have nothing in common
            records["near"].append((near.band_keys(minima[some], cfg.bands).ravel(), np.repeat(rows[some], cfg.bands)))
        if compared := units(cfg):
            found = [lines.hashes(text, compared, cfg.line_length) for text in texts]
            records["shared"].append((np.fromiter(itertools.chain(*found), np.uint64), np.repeat(rows, [len(one) for one in found])))
    for kind, parts in records.items():
        keys = np.concatenate([np.zeros(0, np.uint64), *(key for key, _ in parts)])
        rows = np.concatenate([np.zeros(0, np.uint32), *(row for _, row in parts)])
        order = np.argsort(keys, kind="stable")
        append(f"{kind}.keys", keys[order])
        append(f"{kind}.rows", rows[order])
    try:
        temporary.rename(folder)
    except OSError:  # that orphan was faster, with the same bytes
        shutil.rmtree(temporary)


def portions(source: Path) -> Iterator[tuple[list[bytes], list[str], list[bytes]]]:
    """(ids, texts, addresses) of some documents at a time: a batch, or less where they are long."""
    columns = [name for name in ("id", "text", "url") if name in docs.schema(source).names]
    for batch in docs.batches(source, columns):
        begin, size = 0, 0
        for end, row in enumerate(batch):
            if end > begin and size + len(row["text"]) > PORTION:
                yield _columns(batch[begin:end])
                begin, size = end, 0
            size += len(row["text"])
        yield _columns(batch[begin:])


def _columns(rows: list[docs.Row]) -> tuple[list[bytes], list[str], list[bytes]]:
    # Rows of two files that number their own from 0 are not the same documents: an id alone does not make an address.
    addresses = [f"{row['id']}\n{row['url']}".encode() if row.get("url") else b"" for row in rows]
    return [row["id"].encode() for row in rows], [row["text"] for row in rows], addresses


def mapped(file: Path, kind: Any) -> NDArray[Any]:
    """A file of one array, mapped: only what is looked at is read. (np.memmap takes eight times as long to open one.)"""
    with file.open("rb") as opened:
        if not os.fstat(opened.fileno()).st_size:
            return np.zeros(0, kind)
        return np.frombuffer(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ), kind)


def save(file: Path, array: NDArray[Any]) -> None:
    """Write one array, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    array.tofile(temporary)
    temporary.replace(file)


@dataclass(frozen=True)
class Sketches:
    """The sketches of all shards. A document's place is its number among all documents, in their order."""

    folder: Path
    starts: tuple[int, ...]  # (shards + 1,) the place of each shard's first document, and how many there are

    def shard(self, index: int) -> Path:
        return self.folder / f"{index:05d}"

    def array(self, index: int, name: str) -> NDArray[Any]:
        return mapped(self.shard(index) / name, TYPES[name.split(".")[-1]])

    def count(self, kind: str) -> int:
        """How many records of a kind there are."""
        return sum((self.shard(index) / f"{kind}.rows").stat().st_size // 4 for index in range(len(self.starts) - 1))

    def records(self, kind: str, part: int, parts: int) -> tuple[U64, I64]:
        """(keys, places) of share `part` of `parts` of the records, sorted by key, then by place."""
        low, high = (np.uint64(min((p << 64) // parts, 2**64 - 1)) for p in (part, part + 1))
        keys, places = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
        for index, start in enumerate(self.starts[:-1]):
            known = self.array(index, f"{kind}.keys")
            begin = int(np.searchsorted(known, low))
            end = int(np.searchsorted(known, high)) if part + 1 < parts else len(known)
            keys.append(np.array(known[begin:end]))
            places.append(self.array(index, f"{kind}.rows")[begin:end].astype(np.int64) + start)
        all_keys, all_places = np.concatenate(keys), np.concatenate(places)
        order = np.argsort(all_keys, kind="stable")
        return all_keys[order], all_places[order]

    def take(self, name: str, places: I64, width: int = 1) -> NDArray[Any]:
        """(len(places), width) rows of the array `name`."""
        found = np.zeros((len(places), width), TYPES[name.split(".")[-1]])
        for index, where in self.by_shard(places):
            found[where] = self.array(index, name).reshape(-1, width)[places[where] - self.starts[index]]
        return found

    def by_shard(self, places: I64) -> list[tuple[int, I64]]:
        """(shard, which of the places lie in it), for each shard that holds one of them."""
        shards = np.searchsorted(self.starts, places, "right") - 1
        order = np.argsort(shards, kind="stable")
        cuts = np.flatnonzero(np.diff(shards[order])) + 1
        return [(int(shards[where[0]]), where) for where in np.split(order, cuts) if len(where)]

    def slices(self, name: str, places: I64) -> list[NDArray[Any]]:
        """What each of the documents at `places` has in the array `name`, which is cut up by `name`.ends; mapped, not read."""
        found: list[NDArray[Any]] = [np.zeros(0, TYPES[name])] * len(places)
        for index, where in self.by_shard(places):
            values, ends = self.array(index, name), self.array(index, f"{name}.ends")
            for at, row in zip(where.tolist(), (places[where] - self.starts[index]).tolist(), strict=True):
                found[at] = values[ends[row - 1] if row else 0 : ends[row]]
        return found

    def ids(self, places: I64) -> list[bytes]:
        """The ids of the documents at `places`, in UTF-8."""
        return [one.tobytes() for one in self.slices("ids", places)]

    def ranks(self, places: I64) -> I64:
        """Where each of the sorted, distinct `places` stands in the order of ids, then of places."""
        ids = self.ids(places)
        ranks = np.empty(len(places), np.int64)
        ranks[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
        return ranks


def chosen(files: Sequence[Path], kind: Any, column: str, low: int, high: int) -> NDArray[Any]:
    """The rows with low <= `column` < high of files that are sorted by that column."""
    found = [np.zeros(0, kind)]
    for file in files:
        rows = mapped(file, kind)
        begin, end = (bisect.bisect_left(rows[column], place) for place in (low, high))
        found.append(np.array(rows[begin:end]))
    return np.concatenate(found)
