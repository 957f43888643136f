"""Clean documents by rules: normalise the text, refuse what is no text worth learning from, and say by which rule."""

from pathlib import Path

from bessemer.core import workers
from bessemer.corpus import documents as docs
from bessemer.corpus.rules import CleanConfig, clean_shard


def clean(documents: Path, *, out: Path, cfg: CleanConfig) -> dict[str, float]:
    """The documents that pass every rule, shard by shard, with a column `words`.

    rejected/ keeps each refused document with the bound it broke and its own measure. ValueError where nothing is left.
    """
    todo = [
        workers.Job((source, out, index, cfg), docs.rows(source))
        for index, source in enumerate(docs.shards(documents, docs.NEEDED))
        if not docs.shard(out, index).exists()
    ]
    workers.run(clean_shard, todo, cfg.workers, "clean")
    return docs.finish("clean", documents, out)
