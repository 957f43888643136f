"""Classifiers: trained from any kind of labelled rows, calibrated, the same on every run; and documents kept, dropped and weighted by them."""

import csv
import gzip
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from bessemer.core import config, jsonl
from bessemer.corpus import documents
from bessemer.corpus.classify import linear, measure
from bessemer.corpus.classify import score as scores
from bessemer.corpus.classify.examples import gather
from bessemer.corpus.classify.features import Hasher
from bessemer.corpus.classify.linear import Linear
from bessemer.corpus.classify.score import ScoreConfig
from bessemer.stages.classifier import ClassifierConfig, classifier, ranks
from bessemer.stages.score import score

WORDS = {"sea": "ship sail wave harbour storm anchor", "kitchen": "flour butter oven salt pan dough", "court": "judge law jury claim verdict oath"}
BOTH = ["the", "of", "and", "to", "in", "was", "it", "for", "on", "with", "that", "as", "at", "by", "from", "this"]
Pair = tuple[str, str]


def texts(classes: tuple[str, ...] = ("kitchen", "sea"), each: int = 60, own: float = 0.3, seed: int = 0) -> list[Pair]:
    """(class, text) of 20 words, of which about a share `own` tells the class."""
    draw = np.random.default_rng(seed)
    pairs = [(name, draw.random(20) < own, draw.choice(WORDS[name].split(), 20), draw.choice(BOTH, 20)) for _ in range(each) for name in classes]
    return [(name, " ".join(np.where(which, mine, any_))) for name, which, mine, any_ in pairs]


def trained(folder: Path, pairs: list[Pair], cfg: ClassifierConfig | None = None) -> tuple[Path, dict[str, float]]:
    folder.mkdir()
    jsonl.write(folder / "rows.jsonl", [{"text": text, "label": name} for name, text in pairs])
    (folder / "model").mkdir()
    return folder / "model", classifier((folder / "rows.jsonl",), out=folder / "model", cfg=cfg or ClassifierConfig(bits=12))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("shared") / "a", texts())[0]


def test_three_topics_are_learned(tmp_path: Path) -> None:
    _, numbers = trained(tmp_path / "a", texts(("court", "kitchen", "sea"), 100), ClassifierConfig(bits=14, held_out=0.2))
    assert numbers["examples"] == 300 and numbers["held_out"] == 60 and numbers["held_out: sea"] == 20
    assert numbers["accuracy"] > 0.95 and numbers["f1_weighted"] > 0.95 and numbers["f1: court"] > 0.9 and numbers["auc"] > 0.99


def test_scores_are_as_often_right_as_they_say(tmp_path: Path) -> None:
    """Texts of 20 words, k of the sea and 20 - k of the kitchen, labelled "sea" with probability 1 / (1 + exp((10 - k) / 2))."""
    draw = np.random.default_rng(1)
    pairs, true = [], []
    for k in draw.integers(5, 16, 5000):
        chance = 1 / (1 + math.exp((10 - k) / 2))
        words = [*draw.choice(WORDS["sea"].split(), k), *draw.choice(WORDS["kitchen"].split(), 20 - k)]
        pairs.append(("sea" if draw.random() < chance else "kitchen", " ".join(words)))
        true.append(chance)
    folder, numbers = trained(tmp_path / "a", pairs, ClassifierConfig(bits=14, held_out=0.5))
    assert numbers["calibration_error"] < 0.05 and numbers["accuracy"] > np.maximum(true, 1 - np.array(true)).mean() - 0.05
    model = Linear.load(folder)
    assert np.abs([model.probabilities(text)[1] - chance for (_, text), chance in zip(pairs, true, strict=True)]).mean() < 0.1


def test_features_by_hand() -> None:
    """ "A b, a": words a a b and a comma, their beginnings, and the pairs ab b, ,a: 3 + 3 + 3 features, of which a and ^a come twice."""
    places, values = Hasher(20, 100)("A b, a")
    twice, norm = 1 + math.log(2), math.sqrt(7 + 2 * (1 + math.log(2)) ** 2)
    assert len(places) == 9 and (np.diff(places) > 0).all() and places.max() < 1 << 20
    assert sorted(values) == pytest.approx([1 / norm] * 7 + [twice / norm] * 2)
    assert [len(part) for part in Hasher(20, 100)("")] == [0, 0]


def test_features_know_no_addresses_and_only_the_beginning() -> None:
    hasher = Hasher(20, 12)
    for one, other in (("@anna hello", "@bert hello"), ("http://a.b c", "@ c"), ("Twelve chars and more", "Twelve chars")):
        assert all(np.array_equal(a, b) for a, b in zip(hasher(one), hasher(other), strict=True))


def test_features_do_not_depend_on_what_was_read_before(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [text for _, text in texts()]
    fresh = [Hasher(18, 1000)(text) for text in pairs]
    monkeypatch.setattr("bessemer.corpus.classify.features.CACHE", 25)  # forgets all words again and again
    small = Hasher(18, 1000)
    assert all(np.array_equal(a, b) for text, known in zip(pairs, fresh, strict=True) for a, b in zip(small(text), known, strict=True))


def test_probabilities_equal_scikit_learn(tmp_path: Path) -> None:
    """The same matrix into LogisticRegression, its decision values divided by the temperature."""
    for classes in (("kitchen", "sea"), ("court", "kitchen", "sea")):
        jsonl.write(tmp_path / "rows.jsonl", [{"text": text, "label": name} for name, text in texts(classes)])
        hasher = Hasher(16, 1000)
        found = gather((tmp_path / "rows.jsonl",), (), "text", "label", 10**6, hasher)
        model, chosen = linear.train(found.classes, found.rows, found.labels, ranks(found)[0], hasher)
        places, values = (np.concatenate(parts) for parts in zip(*found.rows, strict=True))
        rows = csr_matrix((values, places, np.cumsum([0, *(len(row[0]) for row in found.rows)])), shape=(len(found.labels), 1 << 16))
        rows = rows[:, np.flatnonzero(np.bincount(places, minlength=1 << 16) > 1)]
        same = LogisticRegression(C=chosen["strength"], max_iter=1000, tol=1e-6).fit(rows, found.labels)
        logits = same.decision_function(rows) / chosen["temperature"]
        expected = linear.softmax(np.stack([0 * logits, logits], 1) if logits.ndim == 1 else logits)
        assert np.abs(np.array([model.of(row) for row in found.rows]) - expected).max() < 0.01


def test_calibration_error_by_hand() -> None:
    """Ranges of 1/15: 0.99 and 0.95 lie in the last (mean 0.97, half right), 0.5 alone (right): (2 * 0.47 + 0.5) / 3."""
    assert measure.calibration_error(np.array([0.99, 0.95, 0.5]), np.array([True, False, True])) == pytest.approx((2 * 0.47 + 0.5) / 3)
    assert measure.calibration_error(np.array([1.0, 1.0]), np.array([True, True])) == 0.0


def test_numbers_by_hand() -> None:
    """Truth b b a a; b's chances 0.9 0.4 0.6 0.1: one of each class is right; 3 of the 4 pairs (b, a) are in order."""
    chance = np.array([0.9, 0.4, 0.6, 0.1])
    found = measure.numbers(["a", "b"], np.array([1, 1, 0, 0]), np.stack([1 - chance, chance], 1))
    assert (found["accuracy"], found["auc"], found["f1_weighted"], found["precision: b"], found["recall: a"]) == (0.5, 0.75, 0.5, 0.5, 0.5)


def test_equal_texts_are_held_out_together(tmp_path: Path) -> None:
    pairs = texts(each=20) * 3
    jsonl.write(tmp_path / "rows.jsonl", [{"text": text, "label": name} for name, text in pairs])
    found = gather((tmp_path / "rows.jsonl",), (), "text", "label", 10**6, Hasher(12, 1000))
    rank, of = ranks(found)
    assert list(of) == [20, 20] and sorted(rank) == sorted([*range(20)] * 6)
    assert len({(text, place) for (_, text), place in zip(pairs, rank, strict=True)}) == 40


def test_every_kind_of_input_gives_the_same_classifier(tmp_path: Path) -> None:
    pairs = sorted(texts())
    rows = [{"id": f"{n}", "text": text, "label": name} for n, (name, text) in enumerate(pairs)]
    jsonl.write(tmp_path / "rows.jsonl", rows)
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "label", "text"])
        writer.writeheader()
        writer.writerows(rows)
    pq.write_table(pa.Table.from_pylist(rows).drop(["id"]), tmp_path / "rows.parquet")
    documents.write(documents.shard(tmp_path / "labelled", 0), pa.Table.from_pylist(rows))
    for name in ("rows.jsonl", "rows.csv"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    (tmp_path / "excel.csv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "rows.csv").read_bytes())  # with a byte order mark
    for name in ("kitchen", "sea"):
        documents.write(documents.shard(tmp_path / name, 0), [row for row in rows if row["label"] == name])
    weights = set()
    files = ("rows.jsonl", "rows.csv", "rows.parquet", "rows.jsonl.gz", "rows.csv.gz", "excel.csv")
    sources: list[tuple[tuple[str, ...], tuple[str, ...]]] = [((name,), ()) for name in (*files, "labelled")]
    for at, (names, classes) in enumerate([*sources, (("kitchen", "sea"), ()), (("kitchen", "sea"), ("kitchen", "sea"))]):
        (tmp_path / f"out{at}").mkdir()
        classifier(tuple(tmp_path / name for name in names), out=tmp_path / f"out{at}", cfg=ClassifierConfig(bits=12, classes=classes))
        weights.add((tmp_path / f"out{at}" / "weights.safetensors").read_bytes())
        assert json.loads((tmp_path / f"out{at}" / "config.json").read_text())["classes"] == ["kitchen", "sea"]
    assert len(weights) == 1


def test_a_class_is_called_by_its_folder_or_file(tmp_path: Path) -> None:
    names = ("web.clean", "web.raw", "v1.rows.jsonl.gz")
    for name in names[:2]:
        documents.write(documents.shard(tmp_path / name, 0), [{"id": f"{n}", "text": text} for n, (_, text) in enumerate(texts())])
    (tmp_path / names[2]).write_bytes(gzip.compress(b'{"text": "a"}\n'))
    assert gather(tuple(tmp_path / name for name in names), (), "text", "label", 10, Hasher(8, 100)).classes == ["v1.rows", "web.clean", "web.raw"]


def test_a_limit_takes_about_so_many_of_each_class(tmp_path: Path) -> None:
    jsonl.write(tmp_path / "rows.jsonl", [{"text": text, "label": name} for name, text in texts(each=1000)])
    found = gather((tmp_path / "rows.jsonl",), (), "text", "label", 200, Hasher(10, 1000))
    assert all(150 < count < 250 for count in np.bincount(found.labels))


@pytest.mark.parametrize(
    ("rows", "cfg", "said"),
    [
        ([("sea", f"text {n}") for n in range(50)], {}, r"all of one class \(sea\); two are needed"),
        ([], {}, r"all of one class \(none\); two are needed"),
        ([*texts(), ("court", "a"), ("court", "b"), ("court", "b")], {}, "class court has 2 different texts; 5 are needed"),
        ([*texts(), *[("court", "")] * 9], {}, "class court has 1 different texts"),
        ([("ab"[n % 2], f"{n}" * 9) for n in range(10)], {"bits": 24}, "no two examples have a word in common"),
        (texts(), {"text": "body"}, r"rows.jsonl: row 1 has no text in column body \(it has: text, label\)"),
        ([*texts(), ("", "a text")], {}, "rows.jsonl: row 121 has no label in column label"),
        (texts(), {"classes": ("a", "b")}, "2 names for 1 inputs"),
        (texts(), {"label": "topic"}, r"all of one class \(rows\)"),
    ],
)
def test_examples_that_teach_nothing_are_named(tmp_path: Path, rows: list[Pair], cfg: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        trained(tmp_path / "a", rows, ClassifierConfig(**{"bits": 12, **cfg}))  # type: ignore[arg-type]


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"text,label\n\xff\xfe,1\n")
    (tmp_path / "x.parquet").write_bytes(b"no parquet, but long enough")
    (tmp_path / "x.txt").write_text("text")
    (tmp_path / "x.jsonl").write_text('{"text": "a", "label": "b"}\n\n[1]\n')
    (tmp_path / "y.jsonl").write_text('{"text": "a", "label": "b"}\n{"text"\n')
    packed = bytearray(gzip.compress(b"text,label\n" + b"some text,1\n" * 300))
    (tmp_path / "cut.csv.gz").write_bytes(packed[:-20])
    packed[10:14] = b"\xff" * 4  # no kind of block
    (tmp_path / "damaged.csv.gz").write_bytes(packed)
    (tmp_path / "no.jsonl.gz").write_text("{}")
    for name in ("cut.csv.gz", "damaged.csv.gz", "no.jsonl.gz"):
        with pytest.raises(ValueError, match=f"{name} is not (CSV|JSONL) in UTF-8"):
            classifier((tmp_path / name,), out=tmp_path, cfg=ClassifierConfig())
    for name, said in (
        ("x.jsonl", "x.jsonl:3: a row is a JSON object"),
        ("y.jsonl", "y.jsonl:2: not JSON"),
        ("x.csv", "not CSV in UTF-8"),
        ("x.parquet", "not a readable parquet"),
        ("x.txt", "examples are folders of documents or"),
    ):
        with pytest.raises(ValueError, match=said):
            classifier((tmp_path / name,), out=tmp_path, cfg=ClassifierConfig())
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        classifier((tmp_path / "nowhere",), out=tmp_path, cfg=ClassifierConfig())


def test_hostile_texts_are_examples_and_documents_like_others(tmp_path: Path, model: Path) -> None:
    odd = ["", "\x00", "\ud800 lone", "word " * 2_000_000, "x" * 10_000_000, "123 !?", "😀"]
    folder, _ = trained(tmp_path / "a", texts() + [("sea", text.encode("utf-8", "replace").decode()) for text in odd])
    for text in odd:
        for path in (folder, model):
            chances = Linear.load(path).probabilities(text)
            assert np.isfinite(chances).all() and chances.sum() == pytest.approx(1.0)


def test_a_damaged_classifier_is_said_to_be_one(tmp_path: Path, model: Path) -> None:
    whole = {path.name: path.read_bytes() for path in model.iterdir()}
    for name, content, said in (
        ("weights.safetensors", whole["weights.safetensors"][:-100], "is no whole classifier"),
        ("weights.safetensors", b"", "is no whole classifier"),
        ("config.json", whole["config.json"][:20], "is no whole classifier"),
        ("config.json", whole["config.json"].replace(b"12", b"13"), r"weights of shape \(4096, 2\)"),
        ("config.json", b"{}", "is no whole classifier: 'classes'"),
    ):
        for file, right in whole.items():
            (tmp_path / file).write_bytes(content if file == name else right)
        with pytest.raises(ValueError, match=said):
            Linear.load(tmp_path)
    (tmp_path / "weights.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"is no classifier: it has no weights\.safetensors"):
        Linear.load(tmp_path)


def corpus(folder: Path, pairs: list[Pair]) -> Path:
    rows = [{"id": f"{name}-{n}", "text": text} for n, (name, text) in enumerate(pairs)]
    documents.write(documents.shard(folder, 0), rows[:50])
    documents.write(documents.shard(folder, 1), rows[50:])
    return folder


def test_documents_below_and_above_the_bounds_are_refused(tmp_path: Path, model: Path) -> None:
    source = corpus(tmp_path / "in", texts(seed=2))
    for name, cfg in (("sea", ScoreConfig(of="sea", min=0.5)), ("kitchen", ScoreConfig(of="sea", max=0.5))):
        score(source, model, out=tmp_path / name, cfg=cfg)
        kept, refused = list(documents.read(tmp_path / name)), list(documents.rejected(tmp_path / name))
        assert len(kept) + len(refused) == 120 and all(cfg.min <= row["quality"] <= cfg.max for row in kept)
        assert sum(row["id"].startswith(name) for row in kept) > 0.95 * len(kept) > 50
        for row in refused:
            assert (row["reason"], row["value"], row["bound"]) == ("quality", row["quality"], 0.5)
            assert row["detail"] == f"sea {row['quality']:.3f}" and (row["value"] < 0.5) == (name == "sea")


def test_topics_are_named_and_chosen(tmp_path: Path, model: Path) -> None:
    source = corpus(tmp_path / "in", texts(seed=2))
    score(source, model, out=tmp_path / "all", cfg=ScoreConfig(name="topic"))
    rows = list(documents.read(tmp_path / "all"))
    assert np.mean([row["id"].startswith(row["topic"]) for row in rows]) > 0.95 and all(0.5 <= row["topic_score"] <= 1 for row in rows)
    score(source, model, out=tmp_path / "sea", cfg=ScoreConfig(name="topic", keep=("sea",)))
    assert [row["id"] for row in documents.read(tmp_path / "sea")] == [row["id"] for row in rows if row["topic"] == "sea"]


def test_a_draw_keeps_each_score_as_often_as_gpt3_did() -> None:
    """At alpha 9: score 1 always, 0.9 with 1.1**-9 = 0.424, 0.5 with 1.5**-9 = 0.026, 0 with 2**-9; of 4,000 ids, within 4 deviations."""
    cfg = ScoreConfig(of="sea", sample=9)
    for value in (1.0, 0.9, 0.5, 0.0):
        kept, chance = sum(not scores.refusal(f"{n}", "sea", value, cfg) for n in range(4000)), (2 - value) ** -9
        assert abs(kept - 4000 * chance) <= 4 * math.sqrt(4000 * chance * (1 - chance))
    lomax = np.random.default_rng(0).pareto(9, 100_000)  # what their code drew
    assert np.mean(lomax > 1 - 0.9) == pytest.approx(1.1**-9, abs=0.01)


def test_weights_of_two_classifiers_multiply(tmp_path: Path, model: Path) -> None:
    source = corpus(tmp_path / "in", texts(seed=2))
    score(source, model, out=tmp_path / "a", cfg=ScoreConfig(of="sea", weight=(0.5, 3.0)))
    first = list(documents.read(tmp_path / "a"))
    assert all(row["weight"] == pytest.approx(0.5 + 2.5 * row["quality"]) for row in first)
    score(tmp_path / "a", model, out=tmp_path / "b", cfg=ScoreConfig(name="food", of="kitchen", weight=(0.0, 2.0)))
    for before, row in zip(first, documents.read(tmp_path / "b"), strict=True):
        assert row["weight"] == pytest.approx(before["weight"] * 2 * row["food"]) and row["food"] == pytest.approx(1 - row["quality"], abs=1e-6)


def test_any_number_of_workers_gives_the_same_bytes(tmp_path: Path, model: Path) -> None:
    source = corpus(tmp_path / "in", texts(seed=2))
    for workers in (1, 2):
        score(source, model, out=tmp_path / str(workers), cfg=ScoreConfig(of="sea", sample=3, weight=(0.0, 1.0), workers=workers))
    for path in sorted((tmp_path / "1").rglob("*.parquet")):
        assert path.read_bytes() == (tmp_path / "2" / path.relative_to(tmp_path / "1")).read_bytes()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"of": "see"}, "score.of: unknown name 'see'; did you mean 'sea'"),
        ({"name": "topic", "keep": ["court"]}, "score.keep: unknown name 'court'"),
        ({"name": "length", "of": "sea"}, "already has a column length: give score.name another"),
        ({"name": "text", "of": "sea"}, "name 'text' cannot be a new column"),
        ({"of": "sea", "weight": [1.0]}, r"weight \(1.0,\) is not two numbers"),
        ({"of": "sea", "keep": ["sea"]}, "use min and max"),
        ({"of": "sea", "min": 1.5}, "less than or equal to 1"),
        ({"of": "sea", "min": 1.0}, "no document of .* is left: 3 rejected"),
    ],
)
def test_wrong_wishes_are_named(tmp_path: Path, model: Path, values: dict[str, object], said: str) -> None:
    documents.write(documents.shard(tmp_path / "in", 0), pa.table({"id": ["1", "2", "3"], "text": ["the law"] * 3, "length": [7] * 3}))
    with pytest.raises(ValueError, match=said):
        score(tmp_path / "in", model, out=tmp_path / "out", cfg=config.parse(ScoreConfig, values, "score"))
