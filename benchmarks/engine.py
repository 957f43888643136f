"""The same shard function on three engines: our processes, Ray tasks, Daft (native runner).

    python benchmarks/engine.py [--documents 2000] [--shards 8] [--rounds 3]     (needs: pip install 'ray<2.60' daft)

Each filters the text of Debian's documentation pages by the web preset, shard by shard, from parquet to parquet. Prints CPU seconds of
the whole process tree with and without a document that crashes its process, and what became of the other documents then.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import corpus
import pages

from bessemer.corpus import documents as docs
from bessemer.corpus import each
from bessemer.corpus.documents import Row
from bessemer.corpus.extract.html import decode, text_of
from bessemer.corpus.filters.rules import FilterConfig
from bessemer.corpus.filters.rules import prepare as filters

DEADLY = "this document crashes the process that reads it"


def prepare(cfg: FilterConfig) -> each.Batch:
    work = filters(cfg)

    def judge(rows: list[Row]) -> list[Row]:
        if any(row["text"] == DEADLY for row in rows):
            os.abort()
        return work(rows)

    return judge


def on_processes(source: Path, out: Path, cfg: FilterConfig) -> None:
    import engine  # a worker elsewhere imports this file by its name, it has another __main__

    each.apply("filter", source, out, engine.prepare, cfg, {})


def on_daft(source: Path, out: Path, cfg: FilterConfig) -> None:
    os.environ |= {"DO_NOT_TRACK": "1", "DAFT_PROGRESS_BAR": "0"}
    import daft

    @daft.cls(use_process=True, max_concurrency=2)
    class Shard:
        @daft.method.batch(return_dtype=daft.DataType.int64(), batch_size=1)
        def go(self, index: daft.Series) -> list[int]:
            for n in index.to_pylist():
                each.shard(docs.shard(source, n), out, n, prepare, cfg, {}, (), type("At", (), {"value": 0})())
            return index.to_pylist()

    names = list(range(len(docs.shards(source))))
    daft.from_pydict({"shard": names}).into_partitions(len(names)).select(Shard().go(daft.col("shard"))).collect()


ENGINES = {"processes": on_processes, "ray": on_processes, "daft": on_daft}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--run", nargs=3, metavar=("ENGINE", "SOURCE", "OUT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        engine, source, out = given.run
        os.environ |= {"BESSEMER_CLUSTER": "local", "RAY_memory_monitor_refresh_ms": "0"} if engine == "ray" else {}
        ENGINES[engine](Path(source), Path(out), FilterConfig(preset="web"))
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:  # a crashed run may still be writing
        store = Path(temporary)
        rows = [{"id": docs.identifier(url), "url": url, "text": text_of(decode(html)).text} for url, html in pages.pages(given.documents)]
        for name, extra in (("sound", []), ("deadly", [{"id": "deadly", "url": "", "text": DEADLY}])):
            for index in range(given.shards):
                docs.write(docs.shard(store / name, index), rows[index :: given.shards] + (extra if index == 0 else []))
        print("| engine | CPU-s | wall s | with a deadly document |\n|---|---|---|---|")
        for engine in ENGINES:
            costs = []
            for turn in range(given.rounds):
                command = [sys.executable, __file__, "--run", engine, str(store / "sound"), str(store / f"{engine}-{turn}")]
                costs.append(corpus.measured(command, store / "log"))
            cpu, wall = corpus.spread([c.cpu for c in costs], "{:.1f}"), corpus.spread([c.wall for c in costs], "{:.1f}")
            try:
                corpus.measured([sys.executable, __file__, "--run", engine, str(store / "deadly"), str(store / f"{engine}-deadly")], store / "log")
                there = sum(docs.rows(path) for path in (store / f"{engine}-deadly" / docs.REJECTED).glob("*.parquet"))
                there += docs.count(store / f"{engine}-deadly")
                ending = f"{there} of {given.documents + 1} accounted for"
            except SystemExit:
                ending = "the whole run fails"
            print(f"| {engine} | {cpu} | {wall} | {ending} |", flush=True)


if __name__ == "__main__":
    main()
