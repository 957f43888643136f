"""Files of any kind to documents, shard by shard: the shape of the stages that stand at the beginning of a corpus.

A stage brings a reader: `reader(path, piece, cfg, skip, at)` yields a row for everything in a piece of a file, a document or, with a
`reason`, what was refused. It calls `at(place)` with how far it is. Dealing out files, fetching remote ones, all cores, progress,
resuming and surviving a file that cannot be read is done here, once.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from zlib import error as ZlibError

import pyarrow as pa

from bessemer.core import log, workers
from bessemer.core.artifact import RUN
from bessemer.corpus import documents
from bessemer.corpus.documents import Row
from bessemer.corpus.sources import places, remote
from bessemer.corpus.sources.places import Piece, SourceConfig

Reader = Callable[[Path, Piece, Any, dict[int, str], Callable[[int], None]], Iterator[Row]]
UNREADABLE = (OSError, ValueError, EOFError, NotImplementedError, pa.ArrowException, ZlibError)
NAMED = 5  # files passed over that are named


def apply(
    label: str, source: Path | None, out: Path, reader: Reader, cfg: SourceConfig, kinds: Sequence[str], cut: Sequence[str], schema: pa.Schema
) -> dict[str, float]:
    """Everything that `cfg` and `source` name, through `reader`, written to `out` with what was refused in out/rejected.

    `kinds` are the endings of the files that the reader knows, `cut` those of them that can be read in pieces. Returns the counts of
    `documents.finish`, the number of files, and of those in a folder that are of no kind we know. ValueError where nothing is left.
    """
    files, passed = places.find(source, cfg, kinds, out / RUN / "resume")
    if passed:
        some = ", ".join(passed[:NAMED]) + (" ..." if len(passed) > NAMED else "")
        log.say(f"{label}: {len(passed)} files of another kind than {', '.join(kinds)} are passed over: {some}")
    schema = documents.with_fields(schema, domain=pa.string()) if cfg.domain else schema
    dealt = places.shards(files, cfg.shard_bytes, cut)
    todo = [
        workers.Job((pieces[0].file.name, pieces, out, index, reader, cfg, schema), sum(map(_size, pieces)))
        for index, pieces in enumerate(dealt)
        if not documents.shard(out, index).exists()
    ]
    workers.run(shard, todo, cfg.workers, label)
    said = source or Path(f"{len(cfg.urls)} addresses")
    return documents.finish(label, said, out) | {"files": len(files), "passed_over": len(passed)}


def shard(
    name: str,
    pieces: tuple[Piece, ...],
    out: Path,
    index: int,
    reader: Reader,
    cfg: SourceConfig,
    schema: pa.Schema,
    skip: tuple[tuple[int, str], ...],
    at: Any,
) -> None:
    """Shard `index` of `out`. `at` counts bytes through all its pieces; a place in `skip` is where an earlier attempt died."""
    base = 0
    with documents.Writer(out, index, schema) as writer:
        for piece in pieces:
            size = _size(piece)
            here = {place - base: cause for place, cause in skip if base <= place and (place < base + size or len(pieces) == 1)}

            def reached(place: int, base: int = base) -> None:
                at.value = base + place

            reached(0)
            for row in _rows(piece, out / RUN / "resume", reader, cfg, here, reached):
                writer.add(row)
            base += size


def _rows(piece: Piece, scratch: Path, reader: Reader, cfg: SourceConfig, skip: dict[int, str], at: Callable[[int], None]) -> Iterator[Row]:
    """The rows of one piece. What makes the file unreadable from some place on is the last of them."""
    try:
        with remote.local(piece.file.address, scratch, cfg.retries, cfg.timeout) as path:
            for row in reader(path, piece, cfg, skip, at):
                yield row | {"domain": cfg.domain} if cfg.domain else row
    except remote.Unreachable as error:
        yield refused(piece.file.name, "unreachable", str(error))
    except UNREADABLE as error:
        if remote.disk_is_full(error):
            raise
        said = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
        yield refused(piece.file.name, "unreadable file", said or type(error).__name__)


def refused(source: str, reason: str, detail: str, url: str | None = None) -> Row:
    """The row of something at `source` that is no document."""
    said = detail[:1000].encode("utf-8", "replace").decode()  # it may quote what is no character
    return {"id": documents.identifier(url or source), "url": url, "source": source, "reason": reason, "detail": said}


def _size(piece: Piece) -> int:
    """Bytes of a piece as far as known, and at least one, so that each piece of a shard has places of its own."""
    return max((piece.end or piece.file.size) - piece.begin, 1)
