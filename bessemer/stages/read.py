"""Read texts from files: plain, Markdown, JSON Lines, JSON, CSV, parquet and WET, here or remote, to documents."""

from pathlib import Path
from typing import Any

from bessemer.corpus.sources import intake, texts
from bessemer.corpus.sources.texts import ReadConfig


def read(source: Path | None, *, out: Path, cfg: ReadConfig) -> dict[str, float]:
    """The documents in a folder of files, in one, in those that a *.paths list names, or in remote ones (`urls`).

    Writes part-*.parquet (id, url, title, text, source, and the columns asked for) in the order of the files and their rows, and
    rejected/part-*.parquet with a reason and a place for each row and file that is no document. ValueError where nothing is left.
    """
    return intake.apply("read", source, out, texts.read, cfg, tuple(texts.READERS), texts.CUT, texts.schema(cfg))


def estimate(cfg: ReadConfig, step: Any) -> dict[str, float]:
    """Nothing but whether there is anything to read: how much it is shows when files are counted."""
    if not step.inputs.get("source") and not cfg.urls:
        raise ValueError("nothing to read: give source (a folder, a file or a *.paths list) or urls")
    return {}
