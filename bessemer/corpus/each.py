"""Do one thing to every document, shard by shard: the shape of most corpus stages.

A stage brings `prepare`, an importable function called once in each process with the stage's config. It returns what is done to a
batch: a list of rows in, a list of rows out, one for one and in order. To change a document, change the row; to add a column, name
it in `fields`; to refuse the document, set `reason` (and `detail`, `value`, `bound`). That is all: reading, writing, all cores,
progress, resuming and surviving a document that crashes or never ends is done here, once.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from bessemer.core import workers
from bessemer.corpus import documents as docs
from bessemer.corpus.documents import Row

Batch = Callable[[list[Row]], list[Row]]
SECONDS = 300  # of CPU time that a batch may take, and then a document of it alone


def apply(label: str, documents: Path, out: Path, prepare: Callable[[Any], Batch], cfg: Any, fields: Mapping[str, pa.DataType]) -> dict[str, float]:
    """Every document of `documents` through `prepare(cfg)`, written to `out` with what was refused in out/rejected.

    `cfg.workers` says how many processes (0: one per core). Returns the counts of `documents.finish`; ValueError where nothing is left.
    """
    todo = [
        workers.Job((source, out, index, prepare, cfg, dict(fields)), docs.rows(source))
        for index, source in enumerate(docs.shards(documents, docs.NEEDED))
        if not docs.shard(out, index).exists()
    ]
    workers.run(shard, todo, cfg.workers, label)
    return docs.finish(label, documents, out)


def shard(
    source: Path,
    out: Path,
    index: int,
    prepare: Callable[[Any], Batch],
    cfg: Any,
    fields: Mapping[str, pa.DataType],
    skip: tuple[tuple[int, str], ...],
    at: Any,
) -> None:
    """Shard `index` of `out`, made of `source`. `at` counts documents.

    A place in `skip` is where an earlier attempt died. At first it may be anywhere in the batch that begins there, so that batch goes
    through one document at a time; a document that dies then too, and again, is refused.
    """
    work, suspects, causes = prepare(cfg), Counter(place for place, _ in skip), dict(skip)
    schema = docs.with_fields(docs.schema(source), **fields)
    with docs.Writer(out, index, schema) as writer:
        start = 0
        for rows in docs.batches(source):
            places = range(start, start + len(rows))
            step = 1 if any(place in suspects for place in places) else len(rows)
            for begin in range(0, len(rows), step):
                at.value = start + begin
                if suspects[start + begin] > 1:
                    done = [{**rows[begin], "reason": "crashed", "detail": causes[start + begin]}]
                else:
                    workers.limit(SECONDS)
                    done = work(rows[begin : begin + step])
                    workers.limit(0)
                assert len(done) == min(step, len(rows) - begin), "a row out for each row in"
                for row in done:
                    writer.add(row)
            start += len(rows)
