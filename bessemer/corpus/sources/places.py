"""Which files are read: those of a folder, one file, a list of many, remote addresses; and how they are dealt out to shards.

An address is a path on this machine, `https://...`, `http://...` or `s3://bucket/key`; an s3 address that ends in `/` is all below it.
A file called *.paths or *.paths.gz, here or remote, is a list: one address a line, as Common Crawl publishes them.
"""

import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from bessemer.core.artifact import MANIFEST, RUN
from bessemer.core.config import Count, Positive, Whole, runtime
from bessemer.corpus import documents
from bessemer.corpus.sources import remote

LISTS = (".paths",)
PACKED = (".gz", ".zst")
ALONE = (".warc", ".arc", ".wet")  # a file of these is a shard of its own
OURS = (RUN, documents.REJECTED, MANIFEST, documents.CONTENT)  # bookkeeping beside an artifact's own files
LINE = 10_000  # bytes an address may have


@dataclass(frozen=True)
class SourceConfig:
    """What is read, and how remote files are fetched."""

    urls: tuple[str, ...] = ()  # remote files to read: https:// or s3:// addresses, or *.paths lists of such
    prefix: str = ""  # put before each path in a list, say https://data.commoncrawl.org/; empty: the list's own host or folder
    files: Whole = 0  # read only so many of the files, evenly spread; 0: all
    glob: str = "**/*"  # which files of a folder
    domain: str = ""  # written into a column `domain` of each document; empty: no such column
    max_bytes: Count = 10_000_000  # refuse a page or a text longer than this
    shard_bytes: Count = 1 << 26  # small files are gathered, and long ones cut where that is possible, into shards of this size
    retries: Whole = runtime(5)  # of a remote file, each from where the last one broke off
    timeout: Positive = runtime(60.0)  # seconds without an answer, or at less than 1 kB/s, after which a try is given up
    workers: Whole = runtime(0)  # processes; 0: one per core

    def __post_init__(self) -> None:
        for url in self.urls:
            if not remote.is_remote(url):
                raise ValueError(f"{url!r} is no address of a remote file; it must start with https://, http:// or s3://")
        if not self.glob or self.glob.startswith("/"):
            raise ValueError(f"glob {self.glob!r} is no pattern below the folder; **/*.html is one")


@dataclass(frozen=True)
class File:
    """One file to read."""

    address: str  # of a file here its absolute path: on a cluster it is read from another folder than ours
    name: str  # what lineage calls it: the path below the folder that was given, the line of the list, or the address
    size: int = 0  # bytes, 0 where unknown
    kind: str = field(default="", compare=False)  # its ending, without that of a compression


@dataclass(frozen=True)
class Piece:
    """A part of a file: the records that begin at bytes begin <= n < end. The whole of it where `end` is 0."""

    file: File
    begin: int = 0
    end: int = 0


def find(source: Path | None, cfg: SourceConfig, kinds: Sequence[str], scratch: Path) -> tuple[list[File], list[str]]:
    """The files to read, in order, and the names of those in a folder that are of no kind we read.

    `scratch` is a folder for lists that must be downloaded. ValueError, FileNotFoundError or OSError where there is nothing to read.
    """
    found: list[File] = []
    passed: list[str] = []
    if source is not None and not source.exists():
        raise FileNotFoundError(f"{source} does not exist")
    if source is not None and source.is_dir():
        for path in sorted(source.glob(cfg.glob), key=lambda path: path.relative_to(source).as_posix()):
            below = path.relative_to(source)
            if not path.is_file() or any(part.startswith(".") for part in below.parts) or ((source / MANIFEST).exists() and below.parts[0] in OURS):
                continue
            name = os.fsencode(below.as_posix()).decode("utf-8", "replace")  # names are bytes, and may be no text
            if kind_of(name, kinds):
                found.append(File(str(path.absolute()), name, path.stat().st_size, kind_of(name, kinds)))
            elif not (source / MANIFEST).exists():
                passed.append(name)
        # Of a dataset on the hub that has parquet files only they are the documents; what else lies in the cache depends on who used it before.
        repository = source.resolve().parent
        if repository.name == "snapshots" and repository.parent.name.startswith("datasets--") and any(file.kind == ".parquet" for file in found):
            passed += [file.name for file in found if file.kind != ".parquet"]
            found = [file for file in found if file.kind == ".parquet"]
    for address in [*([str(source)] if source is not None and not source.is_dir() else []), *cfg.urls]:
        found += _named(address, cfg, kinds, scratch)
    if not found:
        known = ", ".join(f"*{kind}" for kind in kinds)
        raise ValueError(f"{source} holds no file to read ({known})" if source else "nothing to read: give a file or folder, or urls")
    return [found[n * len(found) // cfg.files] for n in range(cfg.files)] if 0 < cfg.files < len(found) else found, passed


def _named(address: str, cfg: SourceConfig, kinds: Sequence[str], scratch: Path) -> Iterator[File]:
    """The files that an address, of a file or of a list, stands for."""
    if remote.is_remote(address) and urlsplit(address).scheme == "s3" and address.endswith("/"):
        for name, size in remote.below(address):
            if kind := kind_of(name, kinds):
                yield File(name, name, size, kind)
    elif kind_of(address, LISTS):
        with remote.local(address, scratch, cfg.retries, cfg.timeout) as path:
            for number, line in enumerate(_lines(path, address), 1):
                parts = urlsplit(address)
                if remote.is_remote(line):
                    whole = line
                elif cfg.prefix:
                    whole = cfg.prefix + line
                elif remote.is_remote(address):
                    whole = f"{parts.scheme}://{parts.netloc}/{line.lstrip('/')}"
                else:
                    whole = str(Path(address).parent / line)
                yield _one(whole, whole if remote.is_remote(whole) and not cfg.prefix else line, kinds, f"{address}:{number}: ")
    else:
        yield _one(address, address if remote.is_remote(address) else os.fsencode(Path(address).name).decode("utf-8", "replace"), kinds)


def _one(address: str, name: str, kinds: Sequence[str], place: str = "") -> File:
    kind = kind_of(address, kinds)
    if not kind:
        raise ValueError(f"{place}{address!r} is of no kind that is read here ({', '.join(f'*{kind}' for kind in (*kinds, *LISTS))})")
    if remote.is_remote(address):
        return File(address, name, 0, kind)
    path = Path(address).absolute()
    return File(str(path), name, path.stat().st_size if path.is_file() else 0, kind)


def kind_of(name: str, kinds: Sequence[str]) -> str:
    """The ending of a file's name or address that is among `kinds`, a compression's ending left away; "" where none is."""
    name = (urlsplit(name).path if remote.is_remote(name) else name).lower()
    name = next((name.removesuffix(packed) for packed in PACKED if name.endswith(packed)), name)
    return next((kind for kind in kinds if name.endswith(kind)), "")


def _lines(path: Path, address: str) -> list[str]:
    """The addresses in a list; blank lines and # comments left away."""
    data = path.read_bytes()
    try:
        lines = (zlib.decompress(data, 31) if data[:2] == b"\x1f\x8b" else data).decode("utf-8").splitlines()
    except (zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{address} is no list of addresses: {error}") from None
    for number, line in enumerate(lines, 1):
        if len(line) > LINE or "\0" in line:
            raise ValueError(f"{address}:{number}: {line[:60]!r}... is no address")
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def shards(files: Sequence[File], size: int, cut: Sequence[str]) -> list[tuple[Piece, ...]]:
    """The files dealt out to shards, in order: small ones together up to `size` bytes, long plain ones whose kind is in `cut` in pieces."""
    dealt: list[tuple[Piece, ...]] = []
    gathered: list[Piece] = []
    room = size
    for file in files:
        whole = file.kind in ALONE or (file.size == 0 and remote.is_remote(file.address))
        cuttable = file.kind in cut and not file.address.lower().endswith(PACKED)
        if (whole or file.size > room) and gathered:
            dealt.append(tuple(gathered))
            gathered, room = [], size
        if whole or file.size > size:
            step = size if cuttable and not whole else max(file.size, 1)
            ends = range(step, file.size + step, step) if file.size > step else ()
            dealt += [(Piece(file, end - step, end),) for end in ends] or [(Piece(file),)]
        else:
            gathered.append(Piece(file))
            room -= file.size
    return [*dealt, tuple(gathered)] if gathered else dealt
