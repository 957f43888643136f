"""The shape of a corpus stage: every document goes through once, is kept or refused, and one that kills its process takes only itself along."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from bessemer.corpus import documents, each
from bessemer.corpus.documents import Row


@dataclass(frozen=True)
class Config:
    least: int = 3
    workers: int = 2


def counter(cfg: Config) -> each.Batch:
    def work(rows: list[Row]) -> list[Row]:
        for row in rows:
            if row["text"] == "deadly":
                os.kill(os.getpid(), signal.SIGSEGV)
            row["length"] = len(row["text"])
            if row["length"] < cfg.least:
                row |= {"reason": "short", "value": float(row["length"]), "bound": float(cfg.least)}
        return rows

    return work


def corpus(folder: Path, texts: list[list[str]]) -> Path:
    for index, shard in enumerate(texts):
        documents.write(documents.shard(folder, index), [{"id": f"{index}-{n}", "text": text} for n, text in enumerate(shard)])
    return folder


def test_each_document_is_kept_or_refused_with_its_new_column(tmp_path: Path) -> None:
    source = corpus(tmp_path / "in", [["abc", "x", "wörld"], [], ["four"] * 600])
    numbers = each.apply("count", source, tmp_path / "out", counter, Config(), {"length": pa.int64()})
    assert [(row["id"], row["length"]) for row in documents.read(tmp_path / "out")][:3] == [("0-0", 3), ("0-2", 5), ("2-0", 4)]
    assert [(row["id"], row["reason"], row["value"], row["bound"]) for row in documents.rejected(tmp_path / "out")] == [("0-1", "short", 1.0, 3.0)]
    assert numbers == {"documents": 602, "text_bytes": 3 + 6 + 2400, "rejected": 1, "rejected_bytes": 1, "rejected: short": 1}


def test_a_document_that_kills_its_process_is_refused_alone(tmp_path: Path) -> None:
    texts = ["fine"] * 300 + ["deadly"] + ["fine"] * 100 + ["deadly"]
    numbers = each.apply("count", corpus(tmp_path / "in", [texts]), tmp_path / "out", counter, Config(), {"length": pa.int64()})
    assert numbers["documents"] == 400
    refused = list(documents.rejected(tmp_path / "out"))
    assert [(row["id"], row["reason"], row["detail"]) for row in refused] == [(f"0-{n}", "crashed", "parser crashed: SIGSEGV") for n in (300, 401)]


def test_only_missing_shards_are_made(tmp_path: Path) -> None:
    source = corpus(tmp_path / "in", [["first"], ["second"], ["third"]])
    each.apply("count", source, tmp_path / "out", counter, Config(), {"length": pa.int64()})
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("part-*.parquet")}
    seal = (tmp_path / "out" / documents.CONTENT).read_bytes()
    documents.shard(tmp_path / "out", 1).unlink()
    each.apply("count", source, tmp_path / "out", counter, Config(), {"length": pa.int64()})
    changed = {path.name for path, at in before.items() if path.stat().st_mtime_ns != at}
    assert changed == {"part-00001.parquet"} and (tmp_path / "out" / documents.CONTENT).read_bytes() == seal


def test_a_folder_without_texts_is_named(tmp_path: Path) -> None:
    documents.write(documents.shard(tmp_path, 0), [{"id": "1"}], pa.schema([("id", pa.string())]))
    with pytest.raises(ValueError, match="has no column text"):
        each.apply("count", tmp_path, tmp_path / "out", counter, Config(), {})
