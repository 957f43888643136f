"""Real pages for the corpus benchmarks: the HTML of Debian's documentation packages, packed into WARC files.

    python benchmarks/pages.py FOLDER [--documents N] [--shards N]

Sphinx (Python, Linux), DocBook (PostgreSQL) and AsciiDoc (git) pages, taken in a fixed pseudo-random order.
"""

import argparse
import hashlib
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

PACKAGES = ("python3.11-doc", "linux-doc-6.1", "postgresql-doc-15", "git-doc")
CACHE = Path.home() / ".cache/bessemer/benchmarks/pages"


def folder() -> Path:
    """The unpacked packages, downloaded on first use."""
    for package in PACKAGES:
        if not (CACHE / package).is_dir():
            CACHE.mkdir(parents=True, exist_ok=True)
            subprocess.run(["apt-get", "download", package], cwd=CACHE, check=True, stdout=sys.stderr)
            (archive,) = CACHE.glob(f"{package}_*.deb")
            subprocess.run(["dpkg-deb", "-x", archive, CACHE / f"{package}.part"], check=True)
            (CACHE / f"{package}.part").rename(CACHE / package)
            archive.unlink()
    return CACHE


def pages(count: int | None = None) -> Iterator[tuple[str, bytes]]:
    """(url, HTML) of `count` pages in the order of a hash of their names, all where None."""
    root = folder()
    found = [path for path in root.rglob("*.html") if path.is_file() and not path.is_symlink()]
    name = lambda path: path.relative_to(root).as_posix()  # noqa: E731
    for path in sorted(found, key=lambda path: hashlib.sha256(name(path).encode()).digest())[:count]:
        yield f"http://docs.example/{name(path)}", path.read_bytes()


def write(out: Path, found: Iterator[tuple[str, bytes]], shards: int) -> int:
    """Pack pages into `shards` WARC files. Returns how many bytes of HTML they hold."""
    out.mkdir(parents=True, exist_ok=True)
    files = [(out / f"pages-{n:03d}.warc.gz").open("wb") for n in range(shards)]
    writers, size = [WARCWriter(file, gzip=True) for file in files], 0
    for number, (url, html) in enumerate(found):
        head = StatusAndHeaders("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.1")
        writer = writers[number % shards]
        writer.write_record(writer.create_warc_record(url, "response", payload=io.BytesIO(html), http_headers=head))
        size += len(html)
    for file in files:
        file.close()
    return size


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--documents", type=int, default=None)
    parser.add_argument("--shards", type=int, default=4)
    given = parser.parse_args()
    print(write(given.folder, pages(given.documents), given.shards), "bytes of HTML")
