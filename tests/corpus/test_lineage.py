"""The funnel and a document's way, through two real stages on hand-made documents."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pytest

from bessemer.core import artifact
from bessemer.core.stage import Stage
from bessemer.corpus import documents, each, lineage
from bessemer.corpus.documents import Row


@dataclass(frozen=True)
class Config:
    workers: int = 1
    content: ClassVar[tuple[str, ...]] = (documents.CONTENT,)


def _measured(cfg: Config) -> each.Batch:
    return lambda rows: [row | {"length": len(row["text"]), "text": row["text"].strip()} for row in rows]


def _judged(cfg: Config) -> each.Batch:
    def work(rows: list[Row]) -> list[Row]:
        for row in rows:
            if row["length"] < 5:
                row |= {"reason": "short", "detail": f"{row['length']} < 5", "value": float(row["length"]), "bound": 5.0}
        return rows

    return work


def measure(documents: Path, *, out: Path, cfg: Config) -> dict[str, float]:
    return each.apply("measure", documents, out, _measured, cfg, {"length": pa.int64()})


def judge(documents: Path, *, out: Path, cfg: Config) -> dict[str, float]:
    return each.apply("judge", documents, out, _judged, cfg, {})


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lineage")
    rows = [
        {"id": documents.identifier(f"http://a.org/{n}"), "url": f"http://a.org/{n}", "title": "", "text": text, "source": f"x.warc.gz:{n}"}
        for n, text in enumerate(["a long text ", "ab", "wörter", "xy"])
    ]
    documents.write(documents.shard(folder / "in", 0), rows)
    first = artifact.make(Stage.of(measure), {"documents": folder / "in"}, Config(), folder / "measure")
    return artifact.make(Stage.of(judge), {"documents": first}, Config(), folder / "judge")


def test_the_funnel_counts_each_stage(judged: Path) -> None:
    first, last = lineage.funnel(artifact.ancestors(judged))
    assert first == lineage.Level("measure", 4, 11 + 2 + 7 + 2, 0, {}) and first.kept == 1.0
    assert last == lineage.Level("judge", 2, 11 + 7, 2, {"short": 2}) and last.kept == 0.5
    assert [(row["url"], row["reason"]) for row in lineage.samples(judged)] == [("http://a.org/1", "short")]


def test_what_documents_are_judged_by_is_no_part_of_their_funnel() -> None:
    """x was read, then scored by a classifier that was trained on y."""
    numbers = {"documents": 1, "text_bytes": 1, "rejected": 0}
    made = {"x": {}, "y": {}, "c": {"examples": "y"}, "s": {"documents": "x", "classifier": "c"}}
    manifests = [
        {"name": name, "key": name, "numbers": {} if name == "c" else numbers, "inputs": {kind: [{"key": key}] for kind, key in inputs.items()}}
        for name, inputs in reversed(made.items())
    ]
    assert [level.name for level in lineage.funnel(manifests)] == ["x", "s"]


def test_a_kept_documents_way(judged: Path) -> None:
    way = lineage.trace(judged, "http://a.org/0")
    assert list(lineage.findings(way)) == [("in", "kept as it was"), ("measure", "length=12, text 12 -> 11 characters"), ("judge", "kept as it was")]
    assert all(row["source"] == "x.warc.gz:0" for _, row in way)


def test_a_refused_documents_way_ends_with_the_reason(judged: Path) -> None:
    found = dict(lineage.findings(lineage.trace(judged, documents.identifier("http://a.org/3"))))
    assert found["judge"] == "refused: short (2 < 5)"
    with pytest.raises(KeyError, match="no document nothing in"):
        lineage.trace(judged, "nothing")


def test_a_document_with_an_id_of_its_own_is_found_by_its_url_too(tmp_path: Path) -> None:
    documents.write(documents.shard(tmp_path / "in", 0), [{"id": "n7", "url": "http://a.org/7", "text": "x"}, {"id": "s3://k", "text": "y"}])
    assert [lineage.trace(tmp_path / "in", name)[0][1]["text"] for name in ("n7", "http://a.org/7", "s3://k")] == ["x", "x", "y"]


def test_show_prints_both(judged: Path) -> None:
    def shown(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "bessemer", "show", str(judged), *words], capture_output=True, text=True)

    assert "short 2" in shown().stdout and "short: http://a.org/1 (2 < 5) 'ab'" in shown().stdout
    one = shown("--document", "http://a.org/3")
    assert "x.warc.gz:3" in one.stdout and "refused: short (2 < 5)" in one.stdout
    none = shown("--document", "f" * 16)
    assert none.returncode == 1 and none.stderr.startswith("error: no document ffff")


def test_counts_by_kind_are_said_without_the_zeros() -> None:
    way = [("mask", {"id": "1", "masked": {"card": 0, "email": 3, "ip": 1}}), ("again", {"id": "1", "masked": {"card": 0, "email": 0, "ip": 0}})]
    assert list(lineage.findings(way)) == [("mask", "masked=email:3 ip:1"), ("again", "masked=none")]
