"""Extract the main text from web pages: WARC files, here or remote, and folders of HTML, to documents with their place of origin."""

from pathlib import Path
from typing import Any

from bessemer.core import workers
from bessemer.corpus.extract import pages
from bessemer.corpus.extract.pages import ExtractConfig
from bessemer.corpus.sources import intake, places

PACKED_PER_SECOND = 2e6  # bytes of compressed WARC that a core extracts; measured on documentation pages, a fifth of the HTML's size


def extract(crawl: Path | None, *, out: Path, cfg: ExtractConfig) -> dict[str, float]:
    """Documents of a crawl, of any folder of WARC or HTML files, of one, of a *.paths list of them, or of remote ones (`urls`).

    Writes part-*.parquet (id, url, title, text, source, html_bytes, declared_language), one for each WARC file, in the order of its records, and
    rejected/part-*.parquet with a reason for every record and file that gave no document. ValueError where nothing is left.
    """
    return intake.apply("extract", crawl, out, pages.read, cfg, pages.KINDS, (), pages.SCHEMA)


def estimate(cfg: ExtractConfig, step: Any) -> dict[str, float]:
    """Known where the crawl exists already; its limits alone do not tell how much it will find."""
    crawl = next(iter(step.inputs.get("crawl", ())), None)
    if crawl is None and not cfg.urls:
        raise ValueError("nothing to extract from: give crawl (an earlier table, a folder, a file or a *.paths list) or urls")
    if not isinstance(crawl, Path) or cfg.urls or places.kind_of(crawl.name, places.LISTS):
        return {}
    size = sum(file.size for file in places.find(crawl, cfg, pages.KINDS, crawl)[0])
    return {"bytes": size, "seconds": size / (PACKED_PER_SECOND * (cfg.workers or workers.cores()))}
