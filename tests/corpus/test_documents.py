"""Documents on disk: round trip, determinism, order, seals, and what is said about folders that are none."""

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bessemer.corpus import documents


def row(n: int, text: str = "some text") -> dict[str, str]:
    url = f"http://example.org/{n}"
    return {"id": documents.identifier(url), "url": url, "title": f"Page {n}", "text": text, "source": f"a.warc.gz:{n}"}


def test_identifier_is_the_start_of_sha256() -> None:
    assert documents.identifier("http://example.org/") == hashlib.sha256(b"http://example.org/").hexdigest()[:16]


def test_rows_come_back_in_order_over_shards_and_row_groups(tmp_path: Path) -> None:
    rows = [row(n, f"text {n} ä\n  日本") for n in range(2500)]
    documents.write(documents.shard(tmp_path, 0), rows[:2100])
    documents.write(documents.shard(tmp_path, 1), rows[2100:])
    assert list(documents.read(tmp_path)) == rows
    assert list(documents.read(tmp_path, ["id", "text"])) == [{"id": r["id"], "text": r["text"]} for r in rows]
    assert documents.count(tmp_path) == 2500
    assert documents.size(tmp_path) == sum(len(r["text"].encode()) for r in rows)


def test_same_rows_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        documents.write(documents.shard(tmp_path / name, 0), [row(n) for n in range(1500)])
    assert documents.shard(tmp_path / "a", 0).read_bytes() == documents.shard(tmp_path / "b", 0).read_bytes()


def test_a_failed_write_leaves_no_shard(tmp_path: Path) -> None:
    with pytest.raises((pa.ArrowInvalid, pa.ArrowTypeError)):
        documents.write(documents.shard(tmp_path, 0), [{"id": 3, "url": object()}])  # type: ignore[dict-item]
    assert not documents.shard(tmp_path, 0).exists()


def test_seal_covers_what_is_said_and_not_where_it_was_found(tmp_path: Path) -> None:
    def sealed(name: str, **changed: str) -> bytes:
        documents.write(documents.shard(tmp_path / name, 0), [row(1) | changed])
        documents.seal(tmp_path / name)
        return (tmp_path / name / documents.CONTENT).read_bytes()

    first = sealed("a")
    assert sealed("b", source="b.warc.gz:77") == first
    assert sealed("c", text="other text") != first
    assert sealed("d", title="some", text="texttext") != sealed("e", title="sometext", text="text")


def test_bad_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        documents.shards(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no documents"):
        documents.shards(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileNotFoundError, match="is not a folder of documents"):
        documents.shards(tmp_path / "file")
    documents.write(documents.shard(tmp_path, 1), [row(1)])
    with pytest.raises(ValueError, match=r"part-00000.parquet is missing, part-00001.parquet"):
        documents.shards(tmp_path)


def test_bad_shards_are_named(tmp_path: Path) -> None:
    path = documents.shard(tmp_path, 0)
    path.write_bytes(b"no parquet at all, but long enough to be one")
    with pytest.raises(ValueError, match=r"part-00000.parquet is not a readable parquet file"):
        list(documents.read(tmp_path))
    with pytest.raises(ValueError, match=r"part-00000.parquet is not a readable parquet file"):
        documents.table(path)
    pq.write_table(pa.table({"n": [1, 2]}), path)
    with pytest.raises(ValueError, match=r"has no column text \(it has: n\)"):
        list(documents.read(tmp_path, ["text"]))


def test_finish_counts_by_reason_and_refuses_an_empty_corpus(tmp_path: Path) -> None:
    refused = pa.schema([("id", pa.string()), ("reason", pa.string())])
    documents.write(documents.shard(tmp_path, 0), [])
    documents.write(
        documents.shard(tmp_path / documents.REJECTED, 0), [{"id": str(n), "reason": "short" if n else "long"} for n in range(3)], refused
    )
    with pytest.raises(ValueError, match=r"clean: no document of there is left: 3 rejected: short \(2\), long \(1\)"):
        documents.finish("clean", Path("there"), tmp_path)
    documents.write(documents.shard(tmp_path, 0), [row(1)])
    assert documents.finish("clean", Path("there"), tmp_path) == {
        "documents": 1,
        "text_bytes": 9,
        "rejected": 3,
        "rejected: long": 1,
        "rejected: short": 2,
    }
