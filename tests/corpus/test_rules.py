"""Cleaning: normalisation, each rule on hand-counted text, and the stage that keeps what it refuses."""

import dataclasses
import inspect
from collections import Counter
from pathlib import Path

import pytest

from bessemer.corpus import documents
from bessemer.corpus.filters import rules
from bessemer.corpus.filters.rules import CleanConfig, Document, normalised
from bessemer.stages.clean import clean

PROSE = (
    "The quick brown fox jumps over the lazy dog while nobody looks.\n"
    "Later it returns home, tells its children about the day, and falls asleep.\n"
    "In the morning everything starts anew with a walk along the river.\n"
)


def document(text: str, title: str = "Title") -> Document:
    return Document(title, text, normalised(text))


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("a\r\nb\rc\u2028d\x85e", "a\nb\nc\nd\ne"),
        ("e\u0301 \u212b", "é Å"),
        ("zero\u200bwidth \ufeffmark so\u00adft", "zerowidth mark soft"),
        ("bell\x07 nul\x00 esc\x1b[0m", "bell nul esc[0m"),
        ("trailing  \t\n  kept indent\xa0\xa0x \n\n\n", "trailing\n  kept indent  x"),
        ("می\u200cخواهم 👩\u200d💻", "می\u200cخواهم 👩\u200d💻"),  # joiners are part of the spelling
        ("\n\n  first line keeps its indent", "  first line keeps its indent"),
    ],
)
def test_normalised(raw: str, clean: str) -> None:
    assert normalised(raw) == clean
    assert normalised(clean) == clean


MEASURED = [
    ("words", "one two-three, four.five 6", 4),  # inner punctuation joins, outer does not count
    ("mean_word", "abc abcde", 4.0),
    ("alphabetic", "abc 12 3.5 x1", 0.5),
    ("symbols", "# a b ... c… d", 3 / 4),
    ("bullets", "• a\n- b\n* c\nd - e\n\n", 3 / 4),
    ("ellipses", "a...\nb…\nc\nd.. .", 2 / 4),
    ("repeated_lines", "a\nb\na\n\n  a\n", 2 / 4),
    ("repeated_text", "aaa\nb\naaa\n", 3 / 7),
    ("repeated_grams", " ".join(str(n) for n in range(30)), 0.0),
    ("repeated_grams", "word " * 30, 20 / 21),  # 21 sequences of 10, one of them distinct
    ("repeated_grams", " ".join(map(str, [*range(20), *range(20)])), 11 / 31),  # 31 sequences, the last 11 seen before
    ("unreadable", "ab\ufffd\x00", 0.5),
    ("notices", "Please enable JavaScript to view this\ntext\nWe use cookies here\nmore", 0.5),
    ("error_page", "404 Not Found\nnginx", 1.0),
    ("error_page", "The page was not found", 1.0),
    ("error_page", "HTTP status 404 means that there is no such page.\n", 0.0),
]


@pytest.mark.parametrize(("name", "text", "value"), MEASURED)
def test_measures(name: str, text: str, value: float) -> None:
    assert getattr(rules, name)(document(text)) == pytest.approx(value)


def test_a_long_page_about_errors_is_no_error_page() -> None:
    text = "404 Not Found\n" + PROSE
    assert rules.error_page(document(text)) == 1.0
    assert rules.error_page(document("404 Not Found\n" + PROSE * 5)) == 0.0


@pytest.mark.parametrize("measure", rules.MEASURES)
def test_measures_survive_the_empty_document(measure: object) -> None:
    assert measure(document("", "")) == 0.0  # type: ignore[operator]


BREAKERS = {
    "max_unreadable": PROSE + "\ufffd" * 20,
    "max_error_page": "500 Internal Server Error\n" + PROSE,
    "min_words": "too short",
    "max_words": PROSE * 30,
    "max_notices": PROSE + "Lorem ipsum dolor sit amet\nPlease enable JavaScript\n",
    "min_mean_word": "a b c d e f " * 10,
    "max_mean_word": "x" * 400 + " " + " ".join(f"{'y' * 30}{n}" for n in range(20)),
    "min_alphabetic": " ".join(f"{n}.{n * 7}" for n in range(100)),
    "max_symbols": PROSE + "# " * 30,
    "max_bullets": "\n".join(f"• item number {n} of this list" for n in range(20)),
    "max_ellipses": "\n".join(f"teaser number {n} of this list ..." for n in range(20)),
    "max_repeated_lines": "\n".join(["same old line"] * 15 + [f"fresh line number {n} is longer than those" for n in range(5)]),
    "max_repeated_text": "\n".join([PROSE.replace("\n", " ")] * 4 + [f"f{n}" for n in range(5)]),
    "max_repeated_grams": " ".join(["to be or not to be that is the question of"] * 20),
}


@pytest.mark.parametrize("bound", BREAKERS)
def test_each_bound_refuses_its_kind(bound: str) -> None:
    cfg = CleanConfig(max_words=1000)
    found = rules.broken(document(BREAKERS[bound]), cfg)
    assert found and found[0] == bound
    assert found[2] == getattr(cfg, bound) and (found[1] < found[2] if bound.startswith("min") else found[1] > found[2])


def test_every_bound_has_its_measure_and_its_test() -> None:
    bounds = {field.name for field in dataclasses.fields(CleanConfig) if field.name[:4] in ("min_", "max_")}
    assert bounds == set(BREAKERS)
    assert {bound[4:] for bound in bounds} == {measure.__name__ for measure in rules.MEASURES}


def test_the_defaults_keep_documentation() -> None:
    """Signatures, docstrings and source code: what the bounds of Gopher throw away."""
    for module in (dataclasses, inspect):
        signatures = [
            f"function {name}{inspect.signature(f)}\n    {inspect.getdoc(f)}"
            for name, f in inspect.getmembers(module, inspect.isfunction)
            if f.__doc__ and not name.startswith("_")
        ]
        assert rules.broken(document("\n\n".join(signatures)), CleanConfig()) is None
    assert rules.broken(document(inspect.getsource(dataclasses)), CleanConfig()) is None


# The stage


def corpus(folder: Path) -> Path:
    number = 0
    for index in range(2):
        rows = []
        for text in (PROSE, *BREAKERS.values(), PROSE + "more\r\n"):
            url = f"http://example.org/{number:03}"
            rows.append({"id": documents.identifier(url), "url": url, "title": "T", "text": text, "source": f"a:{number}"})
            number += 1
        documents.write(documents.shard(folder, index), rows)
    return folder


CFG = CleanConfig(max_words=1000, workers=2)


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_kept_and_refused_make_the_whole(tmp_path: Path) -> None:
    numbers = clean(corpus(tmp_path / "in"), out=tmp_path / "out", cfg=CFG)
    rows, refused = list(documents.read(tmp_path / "out")), list(documents.rejected(tmp_path / "out"))
    assert sorted(r["id"] for r in rows + refused) == sorted(r["id"] for r in documents.read(tmp_path / "in"))
    assert numbers["documents"] == len(rows) == 4 and numbers["rejected"] == len(refused)
    assert Counter(r["reason"] for r in refused) == dict.fromkeys(BREAKERS, 2)
    assert {key: n for key, n in numbers.items() if key.startswith("rejected:")} == {f"rejected: {name}": 2 for name in BREAKERS}
    assert [row["text"] for row in rows[:2]] == [PROSE.strip(), PROSE + "more"]
    assert [row["words"] for row in rows[:2]] == [37, 38]
    originals = {r["id"]: r["text"] for r in documents.read(tmp_path / "in")}
    assert all(r["text"] == originals[r["id"]] for r in refused), "a refused document is kept as it came"
    short = next(r for r in refused if r["reason"] == "min_words")
    assert (short["value"], short["bound"], short["detail"]) == (2.0, 20.0, "2 < 20")


def test_same_bytes_with_one_worker_or_two_and_after_a_lost_shard(tmp_path: Path) -> None:
    source = corpus(tmp_path / "in")
    clean(source, out=tmp_path / "one", cfg=dataclasses.replace(CFG, workers=1))
    clean(source, out=tmp_path / "two", cfg=CFG)
    made = files(tmp_path / "one")
    assert files(tmp_path / "two") == made
    kept = documents.shard(tmp_path / "two", 0).stat().st_mtime_ns
    documents.shard(tmp_path / "two", 1).unlink()
    clean(source, out=tmp_path / "two", cfg=CFG)
    assert files(tmp_path / "two") == made
    assert documents.shard(tmp_path / "two", 0).stat().st_mtime_ns == kept


def test_an_empty_corpus_names_the_rules(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"clean: no document of .*in is left: 32 rejected: min_words \(\d+\)"):
        clean(corpus(tmp_path / "in"), out=tmp_path / "out", cfg=dataclasses.replace(CFG, min_words=70, max_words=71, max_unreadable=1.0))
