"""Crawled pages to documents, one WARC file to one shard: what is a page worth reading, and what became of each record."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from bessemer.core import workers
from bessemer.core.config import Count, Whole, runtime
from bessemer.corpus import documents
from bessemer.corpus.extract.html import decode, text_of
from bessemer.corpus.sources import warc

SCHEMA = documents.SCHEMA.append(pa.field("html_bytes", pa.int64()))
HTML = ("text/html", "application/xhtml+xml")


@dataclass(frozen=True)
class ExtractConfig:
    """How pages become documents."""

    main_content: bool = True  # leave out navigation, headers, footers and comments
    max_bytes: Count = 10_000_000  # refuse a page with more HTML than this
    seconds: Count = 20  # refuse a page whose extraction takes more CPU time than this
    workers: Whole = runtime(0)  # processes; 0: one per core

    content: ClassVar[tuple[str, ...]] = (documents.CONTENT,)


def extract_file(archive: Path, out: Path, index: int, cfg: ExtractConfig, skip: tuple[tuple[int, str], ...], at: Any) -> None:
    """One WARC file to shard `index` of `out`, and what was refused to its twin in rejected/. `at` follows the reading."""
    with documents.Writer(out, index, SCHEMA) as writer:
        for page, row in rows(archive, cfg, dict(skip), at):
            writer.add(row)
            at.value = page.offset


def rows(archive: Path, cfg: ExtractConfig, skip: dict[int, str], at: Any) -> Iterator[tuple[warc.Page | warc.Problem, dict[str, Any]]]:
    """A row for everything in a WARC file: a document, or what was refused and why."""
    for page in warc.read(archive, cfg.max_bytes):
        head = {"id": documents.identifier(page.url), "url": page.url, "source": f"{archive.name}:{page.offset}"}
        if isinstance(page, warc.Problem):
            yield page, {**head, "reason": "damaged", "detail": page.reason}
            continue
        at.value = page.offset
        reason, detail = refusal(page, cfg)
        if page.offset in skip:
            reason, detail = skip[page.offset].partition(":")[0], skip[page.offset]
        if not reason:
            workers.limit(cfg.seconds)
            try:
                title, text = text_of(decode(page.body, page.charset), cfg.main_content)
            except ValueError as error:
                reason, detail = "undecodable", str(error)
            except BaseException as error:  # a panic in resiliparse's Rust is no Exception
                if isinstance(error, KeyboardInterrupt | SystemExit):
                    raise
                reason, detail = "parser failed", f"{type(error).__name__}: {error}"
            workers.limit(0)
        if not reason and not text:
            reason, detail = "empty", f"no text in {len(page.body)} bytes of HTML"
        if reason:
            yield page, {**head, "reason": reason, "detail": detail}
        else:
            yield page, {**head, "title": title, "text": text, "html_bytes": len(page.body)}


def refusal(page: warc.Page, cfg: ExtractConfig) -> tuple[str, str]:
    """(reason, detail) why a page need not be looked at, or ("", "")."""
    if not 200 <= page.status < 300:
        return "http error", f"status {page.status}"
    if page.content_type not in HTML and (page.content_type or page.body.lstrip()[:1] != b"<"):
        return "not html", page.content_type or "no content type"
    if len(page.body) > cfg.max_bytes:
        return "too big", f"more than {cfg.max_bytes} bytes"
    return "", ""
