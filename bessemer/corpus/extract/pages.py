"""Pages to documents: what is a page worth reading, and what became of each record of a WARC file and of each HTML file."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from bessemer.core import workers
from bessemer.core.config import Count
from bessemer.corpus import documents
from bessemer.corpus.documents import Row
from bessemer.corpus.extract.html import decode, text_of
from bessemer.corpus.sources import remote, stream, warc
from bessemer.corpus.sources.intake import refused
from bessemer.corpus.sources.places import Piece, SourceConfig

SCHEMA = documents.with_fields(documents.SCHEMA, html_bytes=pa.int64(), declared_language=pa.string())
HTML = ("text/html", "application/xhtml+xml")
FILES = (".html", ".htm", ".xhtml")
KINDS = (".warc", ".arc", *FILES)


@dataclass(frozen=True)
class ExtractConfig(SourceConfig):
    """How pages become documents."""

    main_content: bool = True  # leave out navigation, headers, footers and comments
    seconds: Count = 20  # refuse a page whose extraction takes more CPU time than this

    version: ClassVar[int] = 3
    content: ClassVar[tuple[str, ...]] = (documents.CONTENT,)


def read(path: Path, piece: Piece, cfg: ExtractConfig, skip: dict[int, str], at: Callable[[int], None]) -> Iterator[Row]:
    """A row for everything in a WARC file, or for the page that an HTML file is. An `intake.Reader`."""
    alone = piece.file.kind in FILES
    for page in iter([_html_file(path, piece, cfg.max_bytes)]) if alone else warc.read(path, cfg.max_bytes):
        source = piece.file.name if alone else f"{piece.file.name}:{page.offset}"
        if isinstance(page, warc.Problem):
            yield refused(source, "damaged", page.reason)
            continue
        at(page.offset)
        reason, detail = refusal(page, cfg)
        if page.offset in skip:
            reason, detail = skip[page.offset].partition(":")[0], skip[page.offset]
        row: Row = {}
        if not reason:
            row, reason, detail = extracted(page, cfg)
        if reason:
            yield refused(source, reason, detail, url=page.url or None)
        else:
            row |= {"url": page.url or None, "source": source, "html_bytes": len(page.body)}
            yield row | {"id": documents.identifier(page.url or f"{source}\n{row['text']}")}


def extracted(page: warc.Page, cfg: ExtractConfig) -> tuple[Row, str, str]:
    """What a page says, and (reason, detail) where it says nothing that can be read."""
    workers.limit(cfg.seconds)
    try:
        said = text_of(decode(page.body, page.charset), cfg.main_content)
    except ValueError as error:
        return {}, "undecodable", str(error)
    except BaseException as error:  # a panic in a parser's Rust is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        return {}, "parser failed", f"{type(error).__name__}: {error}"
    finally:
        workers.limit(0)
    if not said.text:
        return {}, "empty", f"no text in {len(page.body)} bytes of HTML"
    return {"title": said.title, "text": said.text, "declared_language": said.language or None}, "", ""


def refusal(page: warc.Page, cfg: ExtractConfig) -> tuple[str, str]:
    """(reason, detail) why a page need not be looked at, or ("", "")."""
    if page.record == "conversion":
        return "not html", "a text, no page (WET): the stage `read` takes it"
    if not 200 <= page.status < 300:
        return "http error", f"status {page.status}"
    if page.content_type not in HTML and (page.content_type or page.body.lstrip()[:1] != b"<"):
        return "not html", page.content_type or "no content type"
    if len(page.body) > cfg.max_bytes:
        return "too big", f"more than {cfg.max_bytes} bytes"
    return "", ""


def _html_file(path: Path, piece: Piece, max_bytes: int) -> warc.Page:
    """A file as if a server had sent it; only a remote one's address is known. ValueError where its compression is damaged."""
    url = piece.file.address if remote.is_remote(piece.file.address) else ""
    with path.open("rb") as file:
        return warc.Page(url, 0, 200, HTML[0], "", stream.whole(stream.unpacked(file), max_bytes), "resource")
