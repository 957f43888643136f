"""datatrove's side of benchmarks/corpus.py; runs in datatrove's own environment.

    python datatrove_pipeline.py WARCS OUT SHARDS WORKERS

WARC -> trafilatura -> Gopher repetition -> Gopher quality -> C4 -> FineWeb -> MinHash (14 x 8, 5-grams): FineWeb's own order and
settings, without the stages that download models (language) or block lists (URLs). The time limit of a page is raised from one second
to thirty, so that a busy machine loses it no page.
"""

import json
import sys
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.readers import JsonlReader, WarcReader
from datatrove.pipeline.writers.jsonl import JsonlWriter


def main(warcs: str, out: str, shards: int, workers: int) -> None:
    def stage(name: str, pipeline: list, tasks: int = shards) -> LocalPipelineExecutor:
        return LocalPipelineExecutor(pipeline=pipeline, tasks=tasks, workers=min(workers, tasks), logging_dir=f"{out}/logs/{name}")

    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    filters = [GopherRepetitionFilter(), GopherQualityFilter(), C4QualityFilter(filter_no_terminal_punct=False), FineWebQualityFilter()]
    stage(
        "filter",
        [WarcReader(warcs, glob_pattern="*.warc.gz"), Trafilatura(favour_precision=True, timeout=30), *filters, JsonlWriter(f"{out}/filtered")],
    ).run()
    stage("signatures", [JsonlReader(f"{out}/filtered"), MinhashDedupSignature(output_folder=f"{out}/signatures", config=config)]).run()
    stage("buckets", [MinhashDedupBuckets(f"{out}/signatures", f"{out}/buckets", config=config)], tasks=config.num_buckets).run()
    stage("cluster", [MinhashDedupCluster(f"{out}/buckets", f"{out}/remove", config=config)], tasks=1).run()
    stage("dedup", [JsonlReader(f"{out}/filtered"), MinhashDedupFilter(f"{out}/remove"), JsonlWriter(f"{out}/final")]).run()
    stats = json.loads(Path(out, "logs/filter/stats.json").read_text())
    counts = {row["name"]: row["stats"].get("forwarded", row["stats"].get("total", 0)) for row in stats}
    print(json.dumps({k: v["total"] if isinstance(v, dict) else v for k, v in counts.items()}, ensure_ascii=True))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
