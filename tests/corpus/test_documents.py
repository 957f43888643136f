"""Documents on disk: round trip, determinism, order, seals, and what is said about folders that are none."""

import datetime
import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bessemer.corpus import documents
from bessemer.corpus.dedup.near import DedupConfig
from bessemer.corpus.filters.text import CleanConfig
from bessemer.stages.clean import clean
from bessemer.stages.dedup import dedup
from bessemer.stages.tokenizer import TokenizerConfig, tokenizer
from bessemer.stages.tokens import TokensConfig, tokens


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


def written(folder: Path, rows: list[documents.Row], index: int = 0) -> Path:
    with documents.Writer(folder, index, documents.SCHEMA) as writer:
        for one in rows:
            writer.add(one)
    return folder


def test_the_seal_covers_what_is_said_and_not_where_it_was_found(tmp_path: Path) -> None:
    def sealed(name: str, **changed: str) -> bytes:
        documents.finish("clean", tmp_path, written(tmp_path / name, [row(1) | changed]))
        return (tmp_path / name / documents.CONTENT).read_bytes()

    first = sealed("a")
    assert sealed("b", source="b.warc.gz:77") == first
    assert sealed("c", text="other text") != first
    assert sealed("d", title="some", text="texttext") != sealed("e", title="sometext", text="text")


def test_a_writer_sorts_rows_into_kept_and_refused_and_holds_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "ROW_GROUP", 4)
    rows = [row(n) | ({"reason": "odd", "detail": "so it is", "value": float(n), "bound": 0.5} if n % 2 else {}) for n in range(21)]
    written(tmp_path, rows)
    assert list(documents.read(tmp_path)) == [row(n) for n in range(0, 21, 2)]
    assert [(r["id"], r["value"], r["bound"]) for r in documents.rejected(tmp_path)] == [(row(n)["id"], n, 0.5) for n in range(1, 21, 2)]
    assert pq.ParquetFile(documents.shard(tmp_path, 0)).metadata.num_row_groups == 3
    monkeypatch.setattr(documents, "GROUP_BYTES", 1)
    written(tmp_path / "small", rows)
    assert pq.ParquetFile(documents.shard(tmp_path / "small", 0)).metadata.num_row_groups == 11


def test_a_stages_own_column_replaces_one_of_another_type() -> None:
    """A whole-number weight from elsewhere would cut 1.22 copies to 1."""
    schema = pa.schema([("id", pa.string()), ("weight", pa.int64()), ("text", pa.string())])
    assert documents.with_fields(schema, weight=pa.float64(), words=pa.int64()) == pa.schema(
        [("id", pa.string()), ("weight", pa.float64()), ("text", pa.string()), ("words", pa.int64())]
    )


def test_a_writer_that_fails_leaves_no_shard(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="midway"), documents.Writer(tmp_path, 0, documents.SCHEMA) as writer:
        writer.add(row(1))
        raise RuntimeError("midway")
    assert not documents.shard(tmp_path, 0).exists() and not documents.shard(tmp_path / documents.REJECTED, 0).exists()


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
    refused = [row(n) | {"reason": "short" if n else "long"} for n in range(3)]
    written(tmp_path, refused)
    with pytest.raises(ValueError, match=r"clean: no document of there is left: 3 rejected: short \(2\), long \(1\)"):
        documents.finish("clean", Path("there"), tmp_path)
    written(tmp_path, [row(7, "größer")], 1)
    assert documents.finish("clean", Path("there"), tmp_path) == {
        "documents": 1,
        "text_bytes": 8,
        "rejected": 3,
        "rejected_bytes": 27,
        "rejected: long": 1,
        "rejected: short": 2,
    }


PROSE = "The mill stands by the river and grinds the corn of the whole valley, as it has done for some two hundred years now. "


def test_a_dataset_from_elsewhere_goes_the_whole_way(tmp_path: Path) -> None:
    """Other file names, no title, long ids, a date: clean, dedup, tokenizer, tokens."""
    rows = [{"id": f"<urn:uuid:{n}>", "text": PROSE + f"Number {n * n}.", "date": datetime.datetime(2024, 1, 1)} for n in range(60)]
    (tmp_path / "set" / "data").mkdir(parents=True)
    for part, some in enumerate((rows[:30], rows[30:])):
        pq.write_table(pa.Table.from_pylist(some), tmp_path / "set" / "data" / f"train-{part:05d}-of-00002.parquet")
    assert list(documents.read(tmp_path / "set")) == rows
    clean(tmp_path / "set", out=tmp_path / "clean", cfg=CleanConfig(workers=1))
    dedup(tmp_path / "clean", out=tmp_path / "dedup", cfg=DedupConfig(workers=1, near=False, lines=False))
    assert [row["id"] for row in documents.read(tmp_path / "dedup")] == [row["id"] for row in rows]
    (tmp_path / "tokenizer").mkdir()
    tokenizer((tmp_path / "dedup",), out=tmp_path / "tokenizer", cfg=TokenizerConfig(vocab=300))
    (tmp_path / "tokens").mkdir()
    numbers = tokens((tmp_path / "dedup",), tmp_path / "tokenizer", out=tmp_path / "tokens", cfg=TokensConfig(held_out=0.5))
    assert 15 <= numbers["val_documents"] <= 45 and numbers["val_documents"] + numbers["train_documents"] == 60


def test_rejected_documents_and_our_own_gaps_are_still_seen(tmp_path: Path) -> None:
    for name in ("b.parquet", "a.parquet", "rejected/c.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"id": [name], "text": ["some text"]}), tmp_path / name)
    assert [path.name for path in documents.shards(tmp_path)] == ["a.parquet", "b.parquet"]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"text": ["x"]}, r"b\.parquet has no column id \(it has: text\); needed: id, text"),
        ({"id": ["1"], "body": ["x"]}, r"b\.parquet has no column text \(it has: id, body\); needed: id, text"),
        ({"id": [1], "text": ["x"]}, r"b\.parquet: column id holds int64; text is needed"),
        ({"id": ["1", "2"], "text": ["x", None]}, r"b\.parquet: column text is null in 1 of 2 rows; text is needed in each"),
    ],
)
@pytest.mark.parametrize("stage", ["clean", "dedup", "read"])
def test_what_a_document_must_have_is_said_in_one_line(tmp_path: Path, stage: str, columns: dict[str, list[str]], said: str) -> None:
    pq.write_table(pa.table({"id": ["0"], "text": ["some text"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table(columns), tmp_path / "b.parquet")
    run = {
        "clean": lambda: clean(tmp_path, out=tmp_path / "out", cfg=CleanConfig(workers=1)),
        "dedup": lambda: dedup(tmp_path, out=tmp_path / "out", cfg=DedupConfig(workers=1)),
        "read": lambda: list(documents.read(tmp_path, ["id", "text"])),
    }
    with pytest.raises(ValueError, match=said) as error:
        run[stage]()
    assert "\n" not in str(error.value)
