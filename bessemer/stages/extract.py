"""Extract the main text from crawled pages: WARC files to documents, one parquet shard per WARC file."""

from pathlib import Path
from typing import Any

from bessemer.core import workers
from bessemer.corpus import documents
from bessemer.corpus.extract.pages import ExtractConfig, extract_file
from bessemer.corpus.sources import warc

PACKED_PER_SECOND = 2e6  # bytes of compressed WARC that a core extracts; measured on documentation pages, a fifth of the HTML's size


def extract(crawl: Path, *, out: Path, cfg: ExtractConfig) -> dict[str, float]:
    """Documents of a crawl, of any folder of WARC files, or of one.

    Writes part-*.parquet (id, url, title, text, source, html_bytes), sorted by url within a shard, and rejected/part-*.parquet
    with a reason for every record that is no document. ValueError where nothing is left.
    """
    todo = [
        workers.Job((archive, out, index, cfg), archive.stat().st_size)
        for index, archive in enumerate(warc.files(crawl))
        if not documents.shard(out, index).exists()
    ]
    workers.run(extract_file, todo, cfg.workers, "extract")
    return documents.finish("extract", crawl, out)


def estimate(cfg: ExtractConfig, step: Any) -> dict[str, float]:
    """Known where the crawl exists already; its limits alone do not tell how much it will find."""
    (crawl,) = step.inputs["crawl"]
    if not isinstance(crawl, Path):
        return {}
    size = sum(archive.stat().st_size for archive in warc.files(crawl))
    return {"bytes": size, "seconds": size / (PACKED_PER_SECOND * (cfg.workers or workers.cores()))}
