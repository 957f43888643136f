"""Token files, their rows and their order: pure functions of the step, hand-worked on a few tokens."""

import itertools
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from bessemer.corpus import documents as store
from bessemer.data import order, tokens
from bessemer.data.tokens import Windows
from bessemer.stages import tokens as stage
from bessemer.stages.tokens import TokensConfig
from bessemer.tokenizer.tokenizer import Tokenizer

DOCUMENTS = [("d0", 6, [1, 2, 3]), ("d1", 2, [4]), ("d2", 12, [5, 6, 7, 8, 9, 10])]  # end of text is 0


def write(folder: Path, split: str, rows: list[tuple[str, int, list[int]]], vocab: int, end_of_text: int = 0) -> tokens.Writer:
    with tokens.Writer(folder, split, vocab, end_of_text) as writer:
        for row in rows:
            writer.add(*row)
    return writer


@pytest.fixture
def file(tmp_path: Path) -> tokens.TokenFile:
    writer = write(tmp_path, "train", DOCUMENTS, vocab=11)
    assert (writer.documents, writer.tokens, writer.bytes) == (3, 13, 20)
    return tokens.load(tmp_path, "train", 11)


def test_a_token_file_holds_documents_one_after_another(file: tokens.TokenFile):
    assert file.ids.tolist() == [1, 2, 3, 0, 4, 0, 5, 6, 7, 8, 9, 10, 0]
    assert file.offsets.tolist() == [0, 4, 6, 13] and file.lengths.tolist() == [6, 2, 12]
    assert list(file.documents) == ["d0", "d1", "d2"] and len(file.documents) == 3
    assert file.documents[1:] == ["d1", "d2"] and file.documents[-1] == "d2"
    assert [file.document_at(t) for t in (0, 3, 4, 5, 6, 12)] == [0, 0, 1, 1, 2, 2]


def test_windows_know_their_documents(file: tokens.TokenFile):
    batch = Windows(file, context=4, batch=1, seed=0).at(np.array([0, 1]))
    assert batch["tokens"].tolist() == [[1, 2, 3, 0], [4, 0, 5, 6]]
    assert batch["targets"].tolist() == [[2, 3, 0, 4], [0, 5, 6, 7]]
    assert batch["at"].tolist() == [[0, 1, 2, 3], [0, 1, 0, 1]]
    assert batch["segment"].tolist() == [[1, 1, 1, 1], [1, 1, 2, 2]]
    late = Windows(file, context=4, batch=1, seed=0).at(np.array([2]))
    assert late["tokens"].tolist() == [[7, 8, 9, 10]] and late["at"].tolist() == [[0, 1, 2, 3]]


def test_every_epoch_reads_every_row_once_in_another_order():
    first, second = (np.concatenate([order.rows(step, 7, 21, seed=3) for step in steps]) for steps in ((0, 1, 2), (3, 4, 5)))
    assert sorted(first) == sorted(second) == list(range(21)) and first.tolist() != second.tolist()
    assert order.rows(1, 7, 21, seed=3).tolist() == first[7:14].tolist()
    assert order.rows(1, 7, 21, seed=4).tolist() != first[7:14].tolist()


def test_a_step_may_span_epochs():
    rows = np.concatenate([order.rows(step, 4, 6, seed=0) for step in range(3)])
    assert sorted(rows[:6]) == sorted(rows[6:]) == list(range(6))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 17, 100, 4096, 99_991])
def test_an_epoch_of_any_length_is_a_permutation(count: int):
    assert sorted(order.shuffled(np.arange(count), count, seed=1)) == list(range(count))


def test_every_order_of_five_rows_is_as_likely_as_any_other():
    """Chi-squared over the 120 orders of 12,000 seeds: its mean is 119, its standard deviation sqrt(2 x 119) = 15.4. Here within four."""
    found = Counter(tuple(order.shuffled(np.arange(5), 5, seed).tolist()) for seed in range(12_000))
    chi = sum((found[each] - 100) ** 2 / 100 for each in itertools.permutations(range(5)))
    assert abs(chi - 119) < 4 * 15.4


def test_an_order_of_billions_is_looked_up_and_never_written_down():
    count = 5_000_000_000
    found = order.shuffled(np.arange(count - 1000, count), count, seed=2)
    assert len(set(found.tolist())) == 1000 and found.min() >= 0 and found.max() < count
    assert abs(found.mean() / count - 0.5) < 4 / math.sqrt(12 * 1000)


def test_which_documents_a_step_read_is_a_lookup(file: tokens.TokenFile):
    source = Windows(file, context=4, batch=1, seed=0)
    named = {int(order.rows(step, 1, 3, 0)[0]): source.documents_at(step) for step in range(3)}
    assert named == {0: ["d0", "d1"], 1: ["d1", "d2"], 2: ["d2"]}


def test_a_damaged_token_file_is_named(file: tokens.TokenFile, tmp_path: Path):
    (tmp_path / "train.bin").write_bytes((tmp_path / "train.bin").read_bytes()[:-2])
    with pytest.raises(ValueError, match="holds 12 tokens of 13"):
        tokens.load(tmp_path, "train", 11)
    with pytest.raises(FileNotFoundError, match=r"holds no val\.bin"):
        tokens.load(tmp_path, "val", 11)
    with pytest.raises(ValueError, match="do not fill one window of 64"):
        Windows(file, context=64, batch=1, seed=0)
    with pytest.raises(FileNotFoundError, match=r"holds no DOMAIN/train\.bin: not a tokens artifact"):
        tokens.domains(tmp_path)
    write(tmp_path / "empty", "train", [], 11)
    with pytest.raises(ValueError, match="no document went to train"):
        tokens.load_all(tmp_path, "train", 11)


def test_large_vocabularies_take_four_bytes(tmp_path: Path):
    write(tmp_path, "val", [("d", 4, [70_000, 3])], vocab=100_000, end_of_text=1)
    assert tokens.load(tmp_path, "val", 100_000).ids.tolist() == [70_000, 3, 1]


def test_a_source_is_a_pure_function_of_the_step(file: tokens.TokenFile):
    one, two = Windows(file, 4, 2, seed=5), Windows(file, 4, 2, seed=5)
    [one(step) for step in range(5)]
    for name, column in one(7).items():
        assert torch.equal(column, two(7)[name])


def test_held_out_rows_come_in_order_and_the_last_batch_may_be_smaller():
    assert [numbers.tolist() for numbers in order.in_order(lambda numbers: numbers, 5, 2)] == [[0, 1], [2, 3], [4]]


def corpus(folder: Path, rows: list[dict], shards: int = 2) -> Path:
    import pyarrow as pa

    for index in range(shards):
        store.write(store.shard(folder, index), pa.Table.from_pylist(rows[index::shards]))
    return folder


def held(out: Path, domain: str, split: str = "train") -> list[str]:
    return (out / domain / f"{split}_documents.txt").read_text().split()


def test_each_input_is_a_domain_with_files_of_its_own(tmp_path: Path, tokenizer_folder: Path, words):
    web = corpus(tmp_path / "web", [{"id": f"w{n}", "text": f"web page {n} ä"} for n in range(40)])
    wiki = corpus(tmp_path / "wiki", [{"id": f"k{n}", "text": f"article {n}"} for n in range(20)])
    numbers = stage.tokens((web, wiki), tokenizer_folder, out=tmp_path / "out", cfg=TokensConfig(held_out=0.3))
    assert tokens.domains(tmp_path / "out") == ["web", "wiki"]
    assert numbers["train_documents"] + numbers["val_documents"] == 60
    for domain, size in (("web", 40), ("wiki", 20)):
        assert numbers[f"{domain}: train_documents"] + numbers[f"{domain}: val_documents"] == size
        file = tokens.load(tmp_path / "out" / domain, "train", words.vocab)
        assert numbers[f"{domain}: train_tokens"] == len(file.ids) and numbers[f"{domain}: train_bytes"] == file.lengths.sum()
        assert [name[0] for name in file.documents] == [domain[0] if domain == "web" else "k"] * len(file.documents)
        ids = file.ids[file.offsets[0] : file.offsets[1]].tolist()
        assert ids[-1] == words.end_of_text and len(words.decode(ids[:-1]).encode()) == file.lengths[0]
    with pytest.raises(ValueError, match=r"two inputs are called alike \(web, web\)"):
        stage.tokens((web, web), tokenizer_folder, out=tmp_path / "x", cfg=TokensConfig())
    with pytest.raises(ValueError, match="documents is empty"):
        stage.tokens((), tokenizer_folder, out=tmp_path / "x", cfg=TokensConfig())
    with pytest.raises(ValueError, match="no training document: held_out is 1"):
        stage.tokens((web,), tokenizer_folder, out=tmp_path / "x", cfg=TokensConfig(held_out=1.0))


def test_a_column_sorts_documents_into_domains(tmp_path: Path, tokenizer_folder: Path):
    rows = [{"id": f"d{n}", "text": f"text {n}", "topic": ("Science & Tech", "arts")[n % 3 == 0]} for n in range(30)]
    source = corpus(tmp_path / "in", rows)
    stage.tokens((source,), tokenizer_folder, out=tmp_path / "out", cfg=TokensConfig(held_out=0.0, domain="topic"))
    assert tokens.domains(tmp_path / "out") == ["Science & Tech", "arts"]
    assert sorted(held(tmp_path / "out", "arts")) == sorted(f"d{n}" for n in range(0, 30, 3))
    with pytest.raises(ValueError, match=r"column id has more than 64 values"):
        stage.tokens(
            (corpus(tmp_path / "many", [{"id": f"d{n}", "text": ""} for n in range(70)]),), tokenizer_folder, out=tmp_path / "x",
            cfg=TokensConfig(domain="id"),
        )  # fmt: skip
    with pytest.raises(ValueError, match="has no column language"):
        stage.tokens((source,), tokenizer_folder, out=tmp_path / "x", cfg=TokensConfig(domain="language"))


@pytest.mark.parametrize("name", ["../up", "run", "", None, "a/b", ".hidden", "a\nb"])
def test_what_cannot_name_a_folder_is_no_domain(tmp_path: Path, tokenizer_folder: Path, name: str | None):
    source = corpus(tmp_path / "in", [{"id": "a", "text": "b", "topic": "fine"}, {"id": "d", "text": "e", "topic": name}])
    with pytest.raises(ValueError, match="column topic: .* cannot be a domain's name"):
        stage.tokens((source,), tokenizer_folder, out=tmp_path / "out", cfg=TokensConfig(domain="topic"))


def test_a_weight_is_the_number_of_copies(tmp_path: Path, tokenizer_folder: Path):
    """Weight 2.25 for 400 documents: 2 copies of each and a third of about 100 (standard deviation sqrt(400 x 1/4 x 3/4) = 8.7)."""
    rows = [{"id": f"d{n}", "text": f"text {n}", "weight": (0.0, 2.25)[n % 2]} for n in range(800)]
    source = corpus(tmp_path / "in", rows)
    numbers = stage.tokens((source,), tokenizer_folder, out=tmp_path / "out", cfg=TokensConfig(held_out=0.0))
    names = held(tmp_path / "out", "in")
    found = Counter(names)
    assert set(found) == {f"d{n}" for n in range(1, 800, 2)} and set(found.values()) == {2, 3}
    assert abs(numbers["train_documents"] - 900) < 4 * 8.7
    assert len(set(names[:400])) == len(set(names[400:800])) == 400  # copies come in rounds
    stage.tokens((source,), tokenizer_folder, out=tmp_path / "half", cfg=TokensConfig(held_out=0.5))
    aside = held(tmp_path / "half", "in", "val")
    assert len(aside) == len(set(aside)) > 100 and not set(aside) & set(held(tmp_path / "half", "in"))
    assert Counter(held(tmp_path / "half", "in")) == {name: n for name, n in found.items() if name not in aside}


def test_a_weight_counts_whichever_shard_has_one(tmp_path: Path, tokenizer_folder: Path):
    """Of documents from elsewhere one file may have the column and another not."""
    source = corpus(tmp_path / "in", [{"id": "d0", "text": "a"}], 1)
    store.shard(source, 0).rename(source / "one.parquet")
    weighted = corpus(tmp_path / "other", [{"id": "d1", "text": "b", "weight": 3.0}], 1)
    store.shard(weighted, 0).rename(source / "two.parquet")
    stage.tokens((source,), tokenizer_folder, out=tmp_path / "out", cfg=TokensConfig(held_out=0.0))
    assert (tmp_path / "out" / "in" / "train_documents.txt").read_text().split() == ["d0", "d1", "d1", "d1"]


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), 101.0, None])
def test_a_weight_that_is_no_number_of_copies_is_refused(tmp_path: Path, tokenizer_folder: Path, weight: float | None):
    source = corpus(tmp_path / "in", [{"id": "d0", "text": "a", "weight": 1.0}, {"id": "d1", "text": "b", "weight": weight}])
    with pytest.raises(ValueError, match="document d1: weight is .* from 0 to 100"):
        stage.tokens((source,), tokenizer_folder, out=tmp_path / "out", cfg=TokensConfig())


def test_a_text_that_its_tokenizer_shortens_is_told_from_ids_that_it_lacks(tmp_path: Path):
    """BERT's leaves out the space of "a b", so the ids stand for one byte less than the text has."""
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n")
    words = Tokenizer.load(tmp_path)
    write(tmp_path, "train", [("shorter", 3, words.encode("a b"))], words.vocab)
    write(tmp_path, "val", [("strange", 3, [5, words.vocab])], words.vocab)
    shorter, strange = (tokens.load(tmp_path, split, words.vocab) for split in tokens.SPLITS)
    assert (words.exact, tokens.surplus(shorter, 0, words), tokens.surplus(strange, 0, words)) == (False, -1, None)
    tokens.check_words(shorter, words)
    with pytest.raises(ValueError, match="document strange was not encoded by this tokenizer"):
        tokens.check_words(strange, words)
