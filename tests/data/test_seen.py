"""Looked up is what was read: every lookup against reading the whole training, on random mixes, documents, epochs and objectives."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from bessemer.core import artifact
from bessemer.corpus import documents as store
from bessemer.data import chat, order, seen, tokens
from bessemer.data.mixture import MixConfig, Mixture, phases
from bessemer.data.pretraining.masked import opened
from bessemer.data.seen import Conversations, Documents
from bessemer.model import weights
from bessemer.stages import find
from bessemer.stages import pretrain as stage
from bessemer.stages.tokens import TokensConfig
from bessemer.tokenizer import bpe, special
from bessemer.train.feed import feed

CONTEXT, CLS = 8, 60_000


@pytest.mark.parametrize("count", [1, 2, 3, 5, 30, 97, 1024, 10**12 + 7])
def test_a_shuffle_runs_backwards(count: int):
    draw = np.random.default_rng(count)
    rows = np.arange(count) if count < 100 else draw.integers(0, count, 200)
    for epoch in (0, 1, 7):
        places = order.places_of(rows, count, epoch, seed=3)
        assert (places // count == epoch).all() and (order.shuffled(places, count, seed=3) == rows).all()


def random_mix(seed: int) -> tuple[Mixture, dict[str, tokens.TokenFile]]:
    """Three domains of documents of 1 to 40 tokens, some ids several times; each token is the number of its document, counted over all.
    One domain may be too short for a row. Weights, caps and annealing of every kind."""
    draw = np.random.default_rng(seed)
    files, begun = {}, 0
    for name in ("a", "b", "c"):
        lengths = draw.integers(1, int(draw.choice([3, 40])), int(draw.integers(1, 30)))
        ids = begun + np.repeat(np.arange(len(lengths)), lengths)
        names = [f"{name}-{begun + number}" for number in range(len(lengths))]
        files[name] = tokens.TokenFile(ids, np.append(0, lengths.cumsum()), np.ones(len(lengths)), names)
        begun += len(lengths)
    sizes = {name: tokens.windows(len(file.ids), CONTEXT) for name, file in files.items()}
    full = [name for name, size in sizes.items() if size]
    weights = {name: float(draw.random()) + 0.1 for name in full} if draw.random() < 0.5 else {}
    anneal = {full[0]: 1.0, full[-1]: 2.0} if draw.random() < 0.7 else {}
    batch = int(draw.integers(1, 9))
    steps = max(1, int(draw.uniform(0.3, 5) * sum(sizes.values())) // batch)
    cfg = MixConfig(weights=weights, temperature=1.0 if weights else 2.0, anneal=anneal)
    return Mixture(files, sizes, phases(cfg, sizes, steps, batch, CONTEXT, 0.3), CONTEXT, batch, seed), files


@pytest.fixture(params=range(16))
def reader(request: pytest.FixtureRequest) -> Documents:
    source, files = random_mix(request.param)
    return Documents(source, list(files))


def everything(reader: Documents) -> list[seen.Part]:
    return [part for step in range(reader.steps) for part in reader.read_at(step)]


def test_a_step_is_what_its_batch_holds(reader: Documents):
    """Every row's parts are the runs of equal tokens in it, the last target included; all names are what documents_at says."""
    for step in range(reader.steps):
        batch, parts = reader.source(step), list(reader.read_at(step))
        for row, (ids, last) in enumerate(zip(batch["tokens"].tolist(), batch["targets"][:, -1].tolist(), strict=True)):
            held = Counter([*ids, last])
            assert {int(part.document.split("-")[1]): part.tokens for part in parts if part.row == row} == held
        assert list(dict.fromkeys(part.document for part in parts)) == reader.source.documents_at(step)


def test_a_document_is_found_wherever_it_was_read_and_nowhere_else(reader: Documents):
    read = everything(reader)
    for domain, file in enumerate(reader.source.files):
        for number, name in enumerate(file.documents if file else ()):
            assert reader.find(name) == {name: [(domain, number)]}
            assert reader.reading([(domain, number)]) == [part for part in read if part.document == name]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("objective", ["masked", "masked with cls", "spans"])
def test_objectives_that_read_less_of_a_window(objective: str, seed: int):
    """Masked rows and spans take no last target; where each document is opened by a cls token, a row's last tokens fall off."""
    source, files = random_mix(seed)
    reader = Documents(source, list(files), objective.split()[0], objective.endswith("cls"))
    for step in range(reader.steps):
        batch, parts = source(step), list(reader.read_at(step))
        ids = batch["tokens"].numpy()
        ids = opened(ids, batch["at"].numpy(), CLS)[0] if objective.endswith("cls") else ids
        for row, held in enumerate(ids.tolist()):
            mine = {int(part.document.split("-")[1]): part.tokens for part in parts if part.row == row}
            assert mine == Counter(token for token in held if token != CLS)
    read = everything(reader)
    for domain, file in enumerate(source.files):
        for number, name in enumerate(file.documents if file else ()):
            assert reader.reading([(domain, number)]) == [part for part in read if part.document == name]


def test_conversations_are_found_in_the_rows_that_they_were_packed_into():
    draw = np.random.default_rng(0)
    lengths = draw.integers(2, 20, 60).tolist()
    encoded = [([number] * length, [1.0] * length) for number, length in enumerate(lengths)]
    context, batch, steps = 15, 4, 40
    rows = chat.ChatRows([one for one in encoded if len(one[0]) <= context + 1], context, batch, seed=5)
    reader = Conversations([f"c{n}" for n in range(60)], lengths, context, steps, batch, 5)
    read = [part for step in range(steps) for part in reader.read_at(step)]
    for step in range(steps):
        found = rows(step)
        for row in range(batch):
            held = Counter(found["tokens"][row][found["segment"][row] > 0].tolist())
            assert {part.document: part.tokens for part in read if (part.step, part.row) == (step, row)} == {f"c{n}": k + 1 for n, k in held.items()}
    assert steps * batch > 3 * rows.count
    for number, length in enumerate(lengths):
        parts = reader.reading([(0, number)])
        assert parts == [part for part in read if part.document == f"c{number}"] and bool(parts) == (length <= context + 1)


@pytest.mark.parametrize("on_disk", [False, True])
def test_ids_are_found_whole_by_their_beginning_and_with_their_copies(on_disk: bool, tmp_path: Path):
    names = ["ab", "b", "abc", "ab", "x1", "x2", "x3", "x4", "x5", "x6", "xb", "ü"]
    documents: Sequence[str] = names
    if on_disk:
        with tokens.Writer(tmp_path, "train", 300, 0) as writer:
            for name in names:
                writer.add(name, 1, [1])
        documents = tokens.load(tmp_path, "train", 300).documents
    assert tokens.numbers_of(documents, "ab") == {"ab": [0, 3]} and tokens.numbers_of(documents, "ü") == {"ü": [11]}
    assert tokens.numbers_of(documents, "a") == {"ab": [0, 3], "abc": [2]} and tokens.numbers_of(documents, "abc") == {"abc": [2]}
    assert list(tokens.numbers_of(documents, "x")) == ["x1", "x2", "x3", "x4", "x5"] and tokens.numbers_of(documents, "c") == {}


TINY = {"width": 16, "depth": 1, "heads": 2, "kv_heads": 2, "head_width": 8, "hidden": 16, "compile": False, "samples": ()}
SETTINGS = {"steps": 40, "batch": 3, "context": 16, "seed": 2, "mix": MixConfig(weights={"x": 1, "y": 2}, anneal={"y": 1.0}), **TINY}
KINDS: dict[str, dict] = {
    "next": {},
    "prefix": {"prefix": True},
    "masked": {"shape": "encoder"},
    "spans": {"shape": "encdec"},
}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer for every objective."""
    folder = tmp_path_factory.mktemp("words")
    bpe.save(bpe.train(["x y and so on. 0123456789 "] * 9, 300, special=special.tokens(masks=True, sentinels=24)), folder)
    return folder


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The source that pretrain trained on, last in this list: nothing is trained, only what was to be read is kept."""
    sources: list[Any] = []
    monkeypatch.setattr(stage, "fit", lambda model, objective, source, *rest: sources.append(source) or iter(()))
    monkeypatch.setattr(stage, "results", lambda out: {})
    return sources


@pytest.fixture
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path, words: Path, trained: list[Any]) -> Path:
    """A checkpoint that the real stage made, of tokens that are really there."""
    for name in ("x", "y"):
        rows = [{"id": f"{name}{n:02}", "text": f"{name} {n} and so on. " * (1 + n % 4), "weight": 2.0 if n == 7 else 1.0} for n in range(20)]
        path = store.shard(tmp_path / name, 0)
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), path)
    inputs = {"documents": (tmp_path / "x", tmp_path / "y"), "tokenizer": words}
    folder = artifact.make(find("tokens"), inputs, TokensConfig(held_out=0.2), tmp_path / "tokens")
    objective = getattr(request, "param", "next")
    cfg = stage.PretrainConfig(**{"objective": objective, **SETTINGS, **KINDS[objective]})
    return artifact.make(find("pretrain"), {"tokens": folder, "tokenizer": words}, cfg, tmp_path / "base")


@pytest.mark.parametrize("checkpoint", KINDS, indirect=True)
def test_a_checkpoint_is_enough_to_know_its_source(checkpoint: Path, trained: list[Any]):
    """The windows that it is looked up in are those that the stage read, for every objective that reads windows; cls is put before
    documents of masked rows alone."""
    [source] = trained
    windows = source if isinstance(source, Mixture) else source.source
    name, reader = seen.opened(checkpoint)
    assert isinstance(reader, Documents) and name.startswith("base-") and reader.steps == 40
    assert reader.source.context == windows.context == (17 if "span" in type(source).__module__ else 16)
    for step in range(40):
        for one, other in zip(reader.source.rows(step), windows.rows(step), strict=True):
            assert (one == other).all()
        parts = list(reader.read_at(step))
        if reader.objective in ("next", "prefix"):
            assert list(dict.fromkeys(part.document for part in parts)) == windows.documents_at(step)
        if reader.objective == "masked":
            for row, segment in enumerate(source(step)["segment"]):  # a document's tokens and its cls; a row may end in a cls alone
                lengths = [length - 1 for length in segment.bincount()[1:].tolist() if length > 1]
                assert [part.tokens for part in parts if part.row == row] == lengths


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_together_read_what_one_would(ranks: int, checkpoint: Path, trained: list[Any]):
    """So what a step read does not depend on how many there are."""
    [source] = trained
    cfg = weights.load_config(checkpoint)
    shares = [feed(source, range(40), (rank, ranks), cfg, torch.device("cpu")) for rank in range(ranks)]
    for step, parts in enumerate(zip(*shares, strict=True)):
        whole = source(step)["tokens"]
        for rank, part in enumerate(parts):
            assert torch.equal(part.batch["tokens"], whole[rank::ranks])


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def test_a_checkpoint_says_who_read_a_document_and_what_a_step_read(checkpoint: Path, trained: list[Any], capsys: pytest.CaptureFixture[str]):
    [source] = trained
    by_step = [source.documents_at(step) for step in range(40)]
    for name in (name for file in source.files if file for name in dict.fromkeys(file.documents)):
        seen.seen(checkpoint, document=name)
        lines = said(capsys).splitlines()
        steps = [int(line.split()[1]) for line in lines[1:-1]]
        assert steps == [step for step, names in enumerate(by_step, 1) if name in names]
        assert lines[0].startswith("base-") and lines[-1].startswith(f"read by {len(steps)} of 40 steps")
        assert ("2 times" in lines[0]) == name.endswith("07")
    seen.seen(checkpoint, step=40)
    lines = said(capsys).splitlines()
    assert "step 40 of 40, 3 rows" in lines[0] and len(lines) == 4 and all(name in "".join(lines) for name in by_step[39])
    assert " y  " in lines[1]  # the anneal's domain
    # A checkpoint that was made of it, and moved together with the tokens, answers the same; one whose tokens changed does not.
    manifest = artifact.ancestors(checkpoint)[0]
    child = checkpoint.parent / "far" / "child"
    child.mkdir(parents=True)
    (child / "manifest.json").write_text(json.dumps({**manifest, "stage": "dpo", "ancestors": [manifest]}))
    (checkpoint.parent / "tokens").rename(child.parent / "tokens")
    seen.seen(child, step=40)
    assert said(capsys).splitlines() == lines
    record = child.parent / "tokens" / "manifest.json"
    record.write_text(record.read_text().replace('"digest": "', '"digest": "0'))
    with pytest.raises(ValueError, match="read .*tokens as tokens, which has changed since"):
        seen.seen(child, step=40)
    (child.parent / "tokens").rename(child.parent / "elsewhere")
    with pytest.raises(FileNotFoundError, match="not there any more"):
        seen.seen(child, step=40)


def test_a_run_that_is_not_finished_is_looked_up_by_what_it_began_with(
    checkpoint: Path, words: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    seen.seen(checkpoint, step=5)
    lines = said(capsys).replace("base-", "late-")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "fit", killed)
    late, inputs = checkpoint.with_name("late"), {"tokens": checkpoint.with_name("tokens"), "tokenizer": words}
    with pytest.raises(KeyboardInterrupt):
        artifact.make(find("pretrain"), inputs, stage.PretrainConfig(**SETTINGS), late)
    for path in (late, late.with_name("late.part")):
        seen.seen(path, step=5)
        assert said(capsys) == lines


def test_what_cannot_be_looked_up_is_said(checkpoint: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    train = tokens.load(tmp_path / "tokens" / "x", "train", 300).documents
    [held_out, *_] = {f"x{n:02}" for n in range(20)} - set(train)
    seen.seen(checkpoint, document=held_out)
    assert "was held out for validation" in said(capsys)
    for wrong, message in (
        ({"document": "z"}, "there is no z in what it read"),
        ({"document": "x0"}, r"several ids begin with x0 \(x0.*, x0.*\): write more"),
        ({"step": 0}, "step 0 is none of base-.*, which has 1 to 40"),
        ({"step": 41}, "step 41 is none"),
        ({}, "name a document or a step, one of them"),
        ({"document": "x01", "step": 1}, "one of them"),
    ):
        with pytest.raises(ValueError, match=message):
            seen.seen(checkpoint, **wrong)
    with pytest.raises(FileNotFoundError, match="not an artifact"):
        seen.seen(tmp_path / "nothing", step=1)
    with pytest.raises(ValueError, match="was made by tokens: looked up is what sft and pretrain read"):
        seen.seen(tmp_path / "tokens", step=1)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["config"]["objective"] = "masked+pair"
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="masked.pair draws the second text of each pair from anywhere"):
        seen.seen(checkpoint, step=1)
