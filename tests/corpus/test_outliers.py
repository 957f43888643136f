"""Outliers: the language model by hand, bounds against exact quantiles, and planted oddities found among real text."""

import base64
import json
import random
import string
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from bessemer.corpus import documents
from bessemer.corpus.outliers import bounds
from bessemer.corpus.outliers.find import OutliersConfig, judge, measure, measured, sample
from bessemer.corpus.outliers.ngrams import UNKNOWN, Ngrams, tokens, train
from bessemer.corpus.outliers.statistics import NAMES, READ, excerpt, measures
from bessemer.stages.outliers import outliers

GERMAN = """Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt und sollen einander
im Geiste der Brüderlichkeit begegnen. Jeder hat Anspruch auf alle in dieser Erklärung verkündeten Rechte und Freiheiten, ohne
irgendeinen Unterschied, etwa nach Rasse, Hautfarbe, Geschlecht, Sprache, Religion, politischer oder sonstiger Anschauung. """


def library() -> list[str]:
    """Real text that every installation has: the modules of Python's library in pieces of 3000 characters."""
    found = sorted(Path(json.__file__).parent.parent.glob("[a-d]*.py"))
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in found]
    return [text[at : at + 3000] for text in texts for at in range(0, len(text) - 3000, 3000)]


def chance(model: Ngrams, word: int, before: int, first: int) -> float:
    ids = (np.array([one], np.uint64) for one in (word, before, first))
    return float(model.probability(*ids)[0])


def test_probabilities_by_hand() -> None:
    """`a b a c`: 4 words of 3 types over a b c and the unknown, uniformly 1/4 each.

    p(a) = (2 + 3/4) / (4 + 3), p(b) = p(c) = 1.75/7, p(unknown) = 0.75/7. After a stand b and c: p(c | a) = (1 + 2 * 1.75/7) / (2 + 2)
    = 0.375. After b a stands c alone: p(c | b a) = (1 + 0.375) / 2 = 0.6875. Nothing stands after c: p(a | c) = p(a).
    """
    model = train(["a b a c"], seen=1)
    a, b, c = (model.ids[word] for word in "abc")
    assert chance(model, c, a, b) == pytest.approx(0.6875)
    assert chance(model, c, a, c) == pytest.approx(0.375)
    assert chance(model, a, c, b) == pytest.approx(2.75 / 7)
    assert chance(model, UNKNOWN, c, b) == pytest.approx(0.75 / 7)


def test_spelling_by_hand() -> None:
    """`ab` is the one unknown word: line feed, a, b, line feed. Each of these three pairs has count 1.5 of 1 + 256/2 in its row."""
    model = train(["x ab", "x"], seen=2)
    bits, _ = model.surprise(["x", "ab"], model.numbered(["x", "ab"]))
    known = chance(model, UNKNOWN, model.ids["x"], 2)
    assert bits[1] == pytest.approx(-np.log2(known) + 3 * np.log2(129 / 1.5), rel=1e-6)


@pytest.mark.parametrize("bits", [1, 3, 12])
def test_probabilities_sum_to_one_after_any_words_and_in_full_tables(bits: int) -> None:
    chosen = random.Random(0)
    model = train([" ".join(chosen.choices("abcdefgh", k=300)) for _ in range(3)], pair_bits=bits, triple_bits=bits)
    everything = np.array([UNKNOWN, *model.ids.values()], np.uint64)
    for before in everything:
        for first in everything:
            p = model.probability(everything, np.full_like(everything, before), np.full_like(everything, first))
            assert p.sum() == pytest.approx(1, abs=1e-5) and (p > 0).all()


def test_perplexity_ranks_text() -> None:
    """What the model knows less well costs more: boilerplate, text, its words shuffled, another language, random characters."""
    texts = library()
    held, rest = texts[::10], [text for n, text in enumerate(texts) if n % 10]
    notice = "This page was generated on request; do not edit it, for all changes will be lost. "
    model, chosen = train([text + notice if n % 5 == 0 else text for n, text in enumerate(rest)]), random.Random(0)
    value = [measures(text, model)[0] for text in held]
    mixed = [measures(" ".join(chosen.sample(text.split(), len(text.split()))), model)[0] for text in held]
    assert np.mean(np.array(mixed) > value) > 0.9 and np.median(mixed) > 1.3 * np.median(value)
    noise = "".join(chosen.choices(string.ascii_lowercase + "    ", k=3000))
    assert max(value) < measures(GERMAN, model)[0] < measures(noise, model)[0]
    assert measures(notice * 20, model)[0] < min(value)


def test_a_saved_model_says_the_same(tmp_path: Path) -> None:
    model = train(library()[:20])
    model.save(tmp_path / "model")
    text = library()[30]
    assert measures(text, Ngrams.load(tmp_path / "model")) == measures(text, model)


def test_tokens() -> None:
    assert tokens("Don't_ x2, 日本 한é") == ["don", "'", "t_", "x2", ",", "日", "本", "한", "é"]
    assert len(excerpt("a" * 10_000_000)) <= READ + 4 and excerpt("short") == "short"


@pytest.mark.parametrize("text", ["", " \n", "one", "\x00\x00", "!!!", "\ud800", "日" * 500, "a" * 100_000, "1 " * 9])
def test_any_text_is_measured(text: str) -> None:
    found = dict(zip(NAMES, measures(text, train(["a b"])), strict=True))
    assert found["characters"] == len(text)
    assert all(np.isnan(value) or 0 <= value < np.inf for value in found.values())
    assert measures(text, train([])) is not None


def test_bounds_are_those_of_exact_quantiles_and_histograms_add_up() -> None:
    values = np.random.default_rng(0).lognormal(3, 1, (5000, len(NAMES)))
    values[::7, 3] = np.nan
    whole = bounds.histogram(values)
    assert (whole == bounds.histogram(values[:999]) + bounds.histogram(values[999:])).all()
    for (low, middle, high), scaled in zip(bounds.limits(whole, 2.0), bounds.scaled(values).T, strict=True):
        a, b, c = np.nanquantile(scaled, [0.1, 0.5, 0.9])
        assert (low, middle) == pytest.approx((b - 2 * (b - a), b), abs=0.05)
        assert high == pytest.approx(b + 2 * (c - b), abs=0.05) or high == np.inf


def test_what_all_documents_share_bounds_loosely() -> None:
    """A statistic without spread has the least: a tenth of a doubling, of lengths a whole one; times 5, that is 2^0.5 and 2^5."""
    found = bounds.limits(bounds.histogram(np.full((100, len(NAMES)), 8.0)), 5.0)
    named = dict(zip(NAMES, bounds.original(found[:, 2]), strict=True))
    assert named["compression"] == pytest.approx(8 * 2**0.5, rel=0.01)
    assert named["characters"] == pytest.approx(9 * 2**5 - 1, rel=0.01)


def planted(chosen: random.Random, texts: list[str]) -> dict[str, str]:
    words = sorted({word for text in texts for word in text.split() if word.isalpha()})
    return {
        "noise": "".join(chosen.choices(string.ascii_lowercase + "    ", k=3000)),
        "mash": " ".join("".join(chosen.choices("asdfjkl", k=chosen.randint(3, 10))) for _ in range(300)),
        "base64": base64.encodebytes(chosen.randbytes(2000)).decode(),
        "words": "\n".join(words[:500]),
        "german": GERMAN * 3,
        "repeated": "This is the only sentence that the page has. " * 40,
        "spam": " ".join(chosen.choices(["cheap", "watches", "buy", "online", "discount", "best"], k=400)),
        "numbers": "\n".join(f"{chosen.random():.5f},{chosen.random():.5f}" for _ in range(150)),
        "shouting": texts[3].upper(),
    }


def corpus(folder: Path) -> tuple[Path, set[str]]:
    texts = library()
    odd = planted(random.Random(1), texts)
    rows = [{"id": f"text-{n}", "text": text} for n, text in enumerate(texts)] + [{"id": name, "text": text} for name, text in odd.items()]
    random.Random(2).shuffle(rows)
    for index in range(3):
        documents.write(documents.shard(folder, index), rows[index::3])
    documents.write(documents.shard(folder, 3), [])
    return folder, set(odd)


def test_planted_outliers_are_found_shown_and_removed(tmp_path: Path) -> None:
    source, odd = corpus(tmp_path / "in")
    numbers = outliers(source, out=tmp_path / "out", cfg=OutliersConfig(workers=2))
    refused = {row["id"]: row for row in documents.rejected(tmp_path / "out")}
    assert odd <= refused.keys()
    assert len(refused.keys() - odd) <= 0.02 * documents.count(source)
    for row in refused.values():
        assert row["reason"].removeprefix("outlier.") in NAMES
        assert (row["value"] > row["bound"]) == (row["detail"] == "high") and row["value"] != row["bound"]
    assert all(row["perplexity"] > 1 for row in documents.read(tmp_path / "out"))
    shown = [json.loads(line) for line in (tmp_path / "out/outliers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert odd & {row["id"] for row in shown} and max(Counter((row["statistic"], row["side"]) for row in shown).values()) <= 5
    assert sum(n for name, n in numbers.items() if name.startswith("outliers: ")) == numbers["rejected"] == len(refused)


def test_only_the_statistics_asked_for_judge_and_so_many_are_shown(tmp_path: Path) -> None:
    source, _ = corpus(tmp_path / "in")
    outliers(source, out=tmp_path / "out", cfg=OutliersConfig(statistics=("digits",), spread=2.0, examples=1, workers=1))
    refused = list(documents.rejected(tmp_path / "out"))
    assert "numbers" in {row["id"] for row in refused} and {row["reason"] for row in refused} == {"outlier.digits"}
    sides = Counter(row["detail"] for row in refused)
    shown = [json.loads(line) for line in (tmp_path / "out/outliers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sides["high"] > 1 and sorted(row["side"] for row in shown) == sorted(sides)
    assert shown[0]["id"] == "numbers"


def test_a_sample_is_spread_over_all_shards(tmp_path: Path) -> None:
    """Every third of 100 documents in 4 shards is 34: the least stride that leaves 40 or fewer."""
    for index in range(4):
        documents.write(documents.shard(tmp_path, index), [{"id": f"{25 * index + n}", "text": ""} for n in range(25)])
    assert [int(row["id"]) for row in sample(tmp_path, 40)] == list(range(0, 100, 3))


def test_weights_are_multiplied_and_the_result_does_not_depend_on_workers(tmp_path: Path) -> None:
    source, odd = corpus(tmp_path / "in")
    path = documents.shard(source, 0)
    rows = [row | {"weight": 2.0} for row in documents.read(path)]
    documents.write(path, rows, documents.with_fields(documents.schema(path), weight=pa.float64()))
    sums = []
    for workers in (1, 2):
        out = tmp_path / f"out{workers}"
        outliers(source, out=out, cfg=OutliersConfig(action="weight", weight=0.25, workers=workers))
        kept = list(documents.read(out))
        assert len(kept) == documents.count(source)
        twice = {row["id"] for row in rows}
        assert {row["weight"] for row in kept if row["id"] in odd & twice} <= {0.5}
        assert {row["weight"] for row in kept if row["id"] in odd - twice} <= {0.25}
        assert Counter(row["weight"] for row in kept).most_common(2)[0][0] in (1.0, 2.0)
        sums.append([file.read_bytes() for file in sorted(out.glob("*.parquet"))] + [(out / "outliers.jsonl").read_bytes()])
    assert sums[0] == sums[1]


def test_a_reference_says_what_is_usual_text(tmp_path: Path) -> None:
    """Against German as reference, the perplexity of German is low and that of code is high, whatever most documents are."""
    documents.write(documents.shard(tmp_path / "german", 0), [{"id": str(n), "text": GERMAN} for n in range(3)])
    texts = [*library()[:20], GERMAN]
    documents.write(documents.shard(tmp_path / "in", 0), [{"id": str(n), "text": text} for n, text in enumerate(texts)])
    outliers(tmp_path / "in", tmp_path / "german", out=tmp_path / "out", cfg=OutliersConfig(action="weight", workers=1))
    rows = {row["id"]: row["perplexity"] for row in documents.read(tmp_path / "out")}
    assert rows["20"] < 10 < min(value for id, value in rows.items() if id != "20")


def test_only_what_is_missing_is_done_again(tmp_path: Path) -> None:
    source, _ = corpus(tmp_path / "in")
    outliers(source, out=tmp_path / "out", cfg=OutliersConfig(workers=1))
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    times = {path: path.stat().st_mtime_ns for path in before}
    documents.shard(tmp_path / "out", 1).unlink()
    outliers(source, out=tmp_path / "out", cfg=OutliersConfig(workers=1))
    assert {path: path.read_bytes() for path in before} == before
    changed = {path.name for path, at in times.items() if path.stat().st_mtime_ns != at}
    assert "part-00001.parquet" in changed and not {"part-00000.parquet", "measures-00001.npy", "vocabulary.txt"} & changed


def test_a_run_that_was_killed_while_it_saved_a_model_goes_on(tmp_path: Path) -> None:
    source, odd = corpus(tmp_path / "in")
    part = tmp_path / "out" / "run" / "resume" / "model-0.part"
    part.mkdir(parents=True)
    (part / "vocabulary.txt").write_text("half")
    outliers(source, out=tmp_path / "out", cfg=OutliersConfig(workers=1))
    outliers(source, out=tmp_path / "whole", cfg=OutliersConfig(workers=1))
    assert odd <= {row["id"] for row in documents.rejected(tmp_path / "out")}
    for file in sorted((tmp_path / "whole").glob("*.parquet")):
        assert file.read_bytes() == (tmp_path / "out" / file.name).read_bytes()


def test_a_document_that_kills_its_process_is_refused_alone(tmp_path: Path) -> None:
    """As the second attempt at a shard whose third document killed the first one."""
    source = documents.shard(tmp_path / "in", 0)
    documents.write(source, [{"id": str(n), "text": text} for n, text in enumerate(library()[:20])])
    train(library()[20:60]).save(tmp_path / "model")
    measure(source, tmp_path, 0, [tmp_path / "model"], ((2, "parser crashed: SIGSEGV"),), SimpleNamespace(value=0))
    values = np.load(measured(tmp_path, 0))
    assert np.flatnonzero(np.isnan(values[:, 0])).tolist() == [2]
    limits = bounds.limits(bounds.histogram(values), 100.0)
    for action in ("remove", "weight"):
        out = tmp_path / action
        judge(source, out, 0, measured(tmp_path, 0), limits, OutliersConfig(action=action), (), SimpleNamespace(value=0))
        assert [(row["id"], row["reason"]) for row in documents.rejected(out)] == [("2", "crashed")] and documents.count(out) == 19


@pytest.mark.filterwarnings("error")
def test_a_measure_of_zero_is_beyond_all_bounds_without_a_warning() -> None:
    values = np.full((50, len(NAMES)), 8.0)
    values[0, list(NAMES).index("word_length")] = 0.0  # nothing but marks
    limits = bounds.limits(bounds.histogram(values), 5.0)
    assert (np.abs(bounds.beyond(values, limits, NAMES)) > 1).any(1).tolist() == [True] + [False] * 49


def test_an_unknown_statistic_is_named() -> None:
    with pytest.raises(ValueError, match="unknown name 'perplex'; did you mean 'perplexity'"):
        OutliersConfig(statistics=("perplex",))
