"""Filters: every rule just inside and just outside its bound on hand-counted text, presets and overrides, sequences of words against
a naive count, and the stage that keeps what it refuses."""

import dataclasses
import inspect
import random
from collections import Counter
from pathlib import Path

import pytest

from bessemer.core import config
from bessemer.corpus import documents
from bessemer.corpus.filters import grams
from bessemer.corpus.filters.page import Page
from bessemer.corpus.filters.rules import PRESETS, SETS, FilterConfig, bounds_of, broken
from bessemer.corpus.filters.table import Table
from bessemer.stages.filter import filter

PROSE = (
    "The quick brown fox jumps over the lazy dog while nobody looks at the river and the old mill beside it.\n"
    "Later it returns home, tells its children about the day that they have missed, and falls asleep with a full belly.\n"
    "In the morning everything starts anew with a walk along the river, where the miller waits to be paid for his corn.\n"
    "Nobody knows how long this has gone on, but the oldest of them say that it was so when they were young.\n"
    "When the winter comes, the fox stays in its den and dreams of warmer days and of dogs that never wake up.\n"
)


def padded(text: str, length: int) -> str:
    """With one more word, so that the text has so many characters."""
    return f"{text} {'z' * (length - len(text) - 1)}"


def common(n: int, times: int, length: int) -> str:
    """A sequence of n two-letter words (3 n - 1 characters) so many times, with other words between."""
    words = " ".join(("ab", "cd", "ef", "gh")[:n])
    return padded(" ".join(f"{words} q{k}" for k in range(times)), length)


def twice(n: int, length: int) -> str:
    """A sequence of n words with 20 - n letters (19 characters with spaces) twice, one word between."""
    letters = 20 - n
    words = " ".join(chr(97 + k) * (letters // n + (k < letters % n)) for k in range(n))
    return f"{words} {'z' * (length - 40)} {words}"


def lines(count: int, line: str, others: int, other: str) -> str:
    return "\n".join([line] * count + [other] * others)


# Rule: (text just inside, its value; text just outside, its value). The bound is that of the paper.
CASES = {
    "gopher_quality.min_words": ("word " * 50, 50, "word " * 49 + ". ! ,", 49),  # marks are no words
    "gopher_quality.max_words": ("w " * 100_000, 100_000, "w " * 100_001, 100_001),
    "gopher_quality.min_mean_word": ("abc " * 50, 3, "abc " * 49 + "ab", 2.98),
    "gopher_quality.max_mean_word": ("a" * 10, 10, "a" * 10 + " " + "a" * 11, 10.5),
    "gopher_quality.max_hashes": ("# " * 10 + "word " * 90, 0.1, "# " * 11 + "word " * 89, 0.11),
    "gopher_quality.max_ellipses": ("... " * 5 + "… " * 5 + "word " * 90, 0.1, "... " * 11 + "word " * 89, 0.11),
    "gopher_quality.max_bullet_lines": (lines(9, " • a", 1, "b"), 0.9, lines(10, "- a", 0, ""), 1),
    "gopher_quality.max_ellipsis_lines": (lines(3, "a... ", 7, "b"), 0.3, lines(4, "a…", 6, "b"), 0.4),
    "gopher_quality.min_alphabetic": ("word " * 80 + "12 " * 20, 0.8, "word " * 79 + "12 " * 21, 0.79),
    "gopher_quality.min_stop_words": ("the end of it", 2, "the The THE", 1),
    "gopher_repetition.max_repeated_paragraphs": ("\n\n".join("abcdefgaaa"), 0.3, "\n\n".join("abcdefaaaa"), 0.4),
    "gopher_repetition.max_repeated_paragraph_text": (
        f"{'x' * 20}\n\n{'x' * 20}\n\n{'y' * 56}",
        0.2,
        f"{'x' * 20}\n\n{'x' * 20}\n\n{'y' * 55}",
        20 / 99,
    ),
    "gopher_repetition.max_repeated_lines": ("\n".join("abcdefgaaa"), 0.3, "\n".join("abcdefaaaa"), 0.4),
    "gopher_repetition.max_repeated_line_text": (f"{'x' * 20}\n{'x' * 20}\n{'y' * 58}", 0.2, f"{'x' * 20}\n{'x' * 20}\n{'y' * 57}", 20 / 99),
    "gopher_repetition.max_top_2_gram": (common(2, 4, 100), 0.2, common(2, 4, 99), 20 / 99),
    "gopher_repetition.max_top_3_gram": (common(3, 9, 400), 0.18, common(3, 9, 399), 72 / 399),
    "gopher_repetition.max_top_4_gram": (common(4, 16, 1100), 0.16, common(4, 16, 1099), 176 / 1099),
    **{f"gopher_repetition.max_repeated_{n}_grams": (twice(n, 100), (20 - n) / 100, twice(n, 99), (20 - n) / 99) for n in range(5, 11)},
    "c4.min_sentences": ("One two three. Four!\n" * 2 + "Is it one?", 5, "One two three. Four!\n" * 2, 4),
    "c4.max_lorem_ipsum": ("Lorem ipsum", 0, "Here is Lorem Ipsum.", 1),  # the first line goes for want of an end mark
    "c4.max_curly_brackets": ("Some javascript { here.", 0, "Some code { is here.", 1),
    "fineweb.min_punctuated_lines": (lines(3, "a.", 22, "b"), 0.12, lines(2, "a.", 23, "b"), 0.08),
    "fineweb.max_short_lines": (lines(67, "a" * 30, 33, "b" * 31), 0.67, lines(68, "a" * 30, 32, "b" * 31), 0.68),
    "fineweb.max_repeated_text": (f"{'x' * 10}\n{'x' * 10}\n{'y' * 980}", 0.01, f"{'x' * 10}\n{'x' * 10}\n{'y' * 979}", 10 / 999),
    "fineweb.max_newlines": ("a b c d e\nf g\nh i\nj", 0.3, "a b c d\ne\nf g\nh i\nj", 0.4),
    "code.max_lines": ("\n" * 99_999, 100_000, "\n" * 100_000, 100_001),
    "code.max_line": ("a" * 1000 + "\n", 1000, "a" * 1001, 1001),
    "code.max_mean_line": ("a" * 199 + "\n", 100, "a" * 201 + "\n", 101),
    "code.min_alphanumeric": ("1---", 0.25, "1----", 0.2),
    "code.min_alphabetic": ("a1--", 0.25, "a1---", 0.2),
    "code.max_generated": ("\n" * 5 + "# Automatically generated", 0, "\n" * 4 + "# Automatically generated", 1),
    "code.max_encoded": ("QUJD" * 16 + "-" * 64, 0.5, "QUJD" * 16 + "-" * 63, 64 / 127),
    "readable.max_unreadable": ("a" * 99 + "\ufffd", 0.01, "a" * 98 + "\x00", 1 / 99),
    "readable.max_error_page": ("HTTP status 404 means that there is no such page.", 0, "404 Not Found\nnginx", 1),
    "readable.max_notices": (lines(1, "We use cookies", 4, "a"), 0.2, lines(1, "Please enable JavaScript", 3, "a"), 0.25),
}


def measured(rule: str, text: str) -> float:
    name, _, rest = rule.partition(".")
    rules = SETS[name]
    return dict(rules.measure(Page(text, Table()), rules.bounds))[rest]


def reasons(text: str, cfg: FilterConfig) -> list[str]:
    return [rule for rule, _, _ in broken(Page(text, Table()), bounds_of(cfg))]


@pytest.mark.parametrize("rule", CASES)
def test_each_rule_at_its_bound(rule: str) -> None:
    inside, value, outside, other = CASES[rule]
    assert measured(rule, inside) == pytest.approx(value)
    assert measured(rule, outside) == pytest.approx(other)
    cfg = FilterConfig(rules=(rule.partition(".")[0],))
    assert rule not in reasons(inside, cfg) and rule in reasons(outside, cfg)


def test_every_rule_has_its_case() -> None:
    line_rules = {"c4.min_end_marks", "c4.min_line_words", "c4.max_word_length"}  # see the next test
    assert {f"{name}.{rule}" for name, rules in SETS.items() for rule in rules.bounds} == CASES.keys() | line_rules


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("It ends with a mark.", "It ends with a mark."),
        ('  "It is so!" ', '"It is so!"'),
        ("It ends with none", None),
        ("It goes on ...", None),
        ("Two words.", None),
        (f"A {'w' * 1000} is long.", f"A {'w' * 1000} is long."),
        (f"A {'w' * 1001} is long.", None),
        ("JavaScript must be on.", None),
        ("Read our privacy policy here.", None),
        ("Stated by some[1][edit] and others[citation needed].", "Stated by some and others."),
    ],
)
def test_c4_keeps_and_drops_lines(line: str, kept: str | None) -> None:
    page = Page(f"The first line stays.\n{line}\n", Table())
    bound = bounds_of(FilterConfig(rules=("c4",), bounds={"c4.min_sentences": 0}))
    assert not list(broken(page, bound))
    assert page.text.split("\n") == ["The first line stays.", *([kept] if kept else [])]
    assert page.lines_removed == (kept is None)


def test_c4_as_fineweb_uses_it_keeps_lines_without_end_marks() -> None:
    page = Page("One line of many words\n" * 5 + "short\n", Table())
    assert not list(broken(page, {"c4": {**SETS["c4"].bounds, "min_end_marks": 0}}))
    assert (page.text.count("\n"), page.lines_removed) == (4, 1)


def test_sequences_of_words_are_counted_as_a_naive_loop_counts_them() -> None:
    for seed in range(30):
        dice = random.Random(seed)
        words = [dice.choice(["a", "bb", "ccc", "dddd", "ee"][: 2 + seed % 4]) for _ in range(dice.choice([3, 10, 60]))]
        found = Table().read(words)
        for n in (2, 3, 4, 5, 10):
            sequences = [tuple(words[k : k + n]) for k in range(len(words) - n + 1)]
            if sequences:
                best, times = Counter(sequences).most_common(1)[0]  # of equally common ones the first
                assert grams.top(found, n, 0, len(words)) == (len(" ".join(best)) * times, times)
            seen, at, characters = set(), 0, 0
            while at < len(sequences):
                again = sequences[at] in seen
                characters += len("".join(sequences[at])) if again else 0
                seen.add(sequences[at])
                at += n if again else 1
            if sequences:
                assert grams.repeated(found, n) == characters <= grams.repeated_at_most(found, n) <= grams.repeated_at_most(found, max(n - 1, 1))


def test_a_table_that_starts_anew_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    text = PROSE.split()
    expected = Table().read(text)
    monkeypatch.setattr(Table, "ROOM", 3)
    table = Table()
    for _ in range(3):
        again = table.read(text)
        assert (again.ids == expected.ids).all() and (again.bits == expected.bits).all()
        table.read(["other", "words", "in", "between"])


# Presets, overrides


def test_the_papers_bounds_refuse_documentation_and_the_preset_keeps_it() -> None:
    for module in (dataclasses, inspect):
        signatures = [
            f"function {name}{inspect.signature(f)}\n    {inspect.getdoc(f)}"
            for name, f in inspect.getmembers(module, inspect.isfunction)
            if f.__doc__ and not name.startswith("_")
        ]
        assert not reasons("\n\n".join(signatures), FilterConfig(preset="documentation"))
    source = inspect.getsource(dataclasses)
    assert not reasons(source, FilterConfig(preset="documentation")) and not reasons(source, FilterConfig(preset="code"))
    assert "gopher_quality.min_alphabetic" in reasons(source, FilterConfig(preset="web"))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_keep_prose_and_refuse_rubbish(preset: str) -> None:
    cfg = config.parse(FilterConfig, {"preset": preset}, "filter")
    assert not reasons(PROSE, cfg)
    assert reasons("\ufffd\x00{|}~ " * 300 if preset != "web" else "buy now " * 300, cfg)


def test_bounds_are_changed_by_name_and_rules_chosen_by_set() -> None:
    short = "The end of the story that nobody has told."
    assert reasons(short, FilterConfig(rules=("gopher_quality",))) == ["gopher_quality.min_words"]
    assert not reasons(short, FilterConfig(rules=("gopher_quality",), bounds={"gopher_quality.min_words": 9}))
    assert list(bounds_of(FilterConfig(rules=("fineweb", "c4")))) == ["fineweb", "c4"]
    assert bounds_of(FilterConfig())["c4"]["min_end_marks"] == 0 and bounds_of(FilterConfig(rules=("c4",)))["c4"]["min_end_marks"] == 1


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"preset": "news"}, r"filter\.preset: .*'web', 'documentation' or 'code'.* not 'news'"),
        ({"rules": ["gopher"]}, r"unknown name 'gopher'.*\(known: c4, code, fineweb, gopher_quality, gopher_repetition, readable\)"),
        ({"bounds": {"gopher_quality.words": 3}}, r"unknown name 'gopher_quality.words'; did you mean 'gopher_quality.m..?_words'\?.*known: "),
        ({"rules": ["c4"], "bounds": {"fineweb.max_newlines": 1}}, r"unknown name 'fineweb.max_newlines'.*known: c4\.max_curly_brackets"),
        ({"bounds": {"fineweb.max_newlines": "few"}}, r"filter\.bounds\.fineweb\.max_newlines: .*valid number"),
    ],
)
def test_unknown_names_are_refused_with_the_known_ones(values: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config.parse(FilterConfig, values, "filter")


# Junk

JUNK = [
    "a" * 200_000,
    "(" * 50_000,
    "a\n" * 50_000,
    "\x00" * 1000,
    "😀 " * 2000,
    "一二三。" * 3000,
    "a,b" * 30_000,
    "x@" * 3000,
    "..x" * 5000,
    "\u200f \u0301",
    "word",
]


@pytest.mark.parametrize("name", SETS)
def test_junk_is_measured(name: str) -> None:
    for text in JUNK:
        page = Page(text, Table())
        values = dict(SETS[name].measure(page, SETS[name].bounds))
        assert all(value >= 0 for value in values.values())


# The stage

BREAKERS = {
    "readable.max_unreadable": PROSE + "\ufffd" * 20,
    "readable.max_error_page": "500 Internal Server Error\nThe server of this page has had an error and could not answer, try again later.",
    "gopher_quality.min_words": "too short",
    "gopher_repetition.max_repeated_lines": "\n".join(["same old line"] * 35 + [f"fresh line number {n} is longer" for n in range(15)]),
    "empty": " \n\t ",
}
CFG = FilterConfig(preset="documentation", workers=2)


def corpus(folder: Path) -> Path:
    number = 0
    for index in range(2):
        rows = []
        for text in (PROSE, *BREAKERS.values()):
            rows.append({"id": f"{number:03}", "url": f"http://example.org/{number}", "title": "T", "text": text, "source": f"a:{number}"})
            number += 1
        documents.write(documents.shard(folder, index), rows)
    documents.write(documents.shard(folder, 2), [])
    return folder


def test_kept_and_refused_make_the_whole(tmp_path: Path) -> None:
    numbers = filter(corpus(tmp_path / "in"), out=tmp_path / "out", cfg=CFG)
    rows, refused = list(documents.read(tmp_path / "out")), list(documents.rejected(tmp_path / "out"))
    assert sorted(r["id"] for r in rows + refused) == sorted(r["id"] for r in documents.read(tmp_path / "in"))
    assert {key: n for key, n in numbers.items() if key.startswith("rejected:")} == {f"rejected: {name}": 2 for name in BREAKERS}
    assert [(row["text"], row["words"], row["lines_removed"]) for row in rows] == [(PROSE, len(PROSE.replace(",", "").split()), 0)] * 2
    originals = {r["id"]: r["text"] for r in documents.read(tmp_path / "in")}
    assert all(r["text"] == originals[r["id"]] for r in refused), "a refused document is kept as it came"
    short = next(r for r in refused if r["reason"] == "gopher_quality.min_words")
    assert (short["value"], short["bound"], short["detail"]) == (2.0, 20.0, "gopher_quality.min_words 2 < 20")


def test_all_rules_counts_each_rule_on_its_own(tmp_path: Path) -> None:
    """Two words without stop words break two rules, "the End" has one stop word where two are asked for, PROSE breaks none."""
    documents.write(documents.shard(tmp_path / "in", 0), [{"id": str(n), "text": text} for n, text in enumerate((PROSE, "too short", "the End"))])
    numbers = filter(tmp_path / "in", out=tmp_path / "out", cfg=FilterConfig(rules=("gopher_quality",), all_rules=True, workers=1))
    assert numbers["rejected: gopher_quality.min_words"] == 2
    assert {name: n for name, n in numbers.items() if name.startswith("broken")} == {
        "broken: gopher_quality.min_words": 2,
        "broken: gopher_quality.min_stop_words": 2,
    }
    assert next(iter(documents.rejected(tmp_path / "out")))["detail"] == "gopher_quality.min_words 2 < 50; gopher_quality.min_stop_words 0 < 2"


def test_lines_removed_by_c4_are_counted_and_gone(tmp_path: Path) -> None:
    documents.write(documents.shard(tmp_path / "in", 0), [{"id": "1", "text": PROSE + "\n\nNext page\n"}])
    filter(tmp_path / "in", out=tmp_path / "out", cfg=FilterConfig(rules=("c4",), workers=1))
    words = len(PROSE.replace(",", "").split())
    assert [(row["text"] + "\n", row["lines_removed"], row["words"]) for row in documents.read(tmp_path / "out")] == [(PROSE, 1, words)]


def test_a_document_of_which_no_line_is_left_is_refused(tmp_path: Path) -> None:
    documents.write(documents.shard(tmp_path / "in", 0), [{"id": "1", "text": PROSE}, {"id": "2", "text": "Home\nNext page"}])
    cfg = FilterConfig(rules=("c4",), bounds={"c4.min_sentences": 0}, workers=1)
    assert filter(tmp_path / "in", out=tmp_path / "out", cfg=cfg)["documents"] == 1
    assert [(row["id"], row["reason"], row["text"]) for row in documents.rejected(tmp_path / "out")] == [("2", "empty", "Home\nNext page")]


def test_same_bytes_with_one_worker_or_two(tmp_path: Path) -> None:
    source = corpus(tmp_path / "in")
    made = []
    for workers in (1, 2):
        out = tmp_path / str(workers)
        filter(source, out=out, cfg=dataclasses.replace(CFG, workers=workers))
        made.append({p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()})
    assert made[0] == made[1]


def test_an_empty_corpus_names_the_rules(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"filter: no document of .*in is left: 12 rejected: gopher_quality\.min_words \(\d+\)"):
        filter(corpus(tmp_path / "in"), out=tmp_path / "out", cfg=FilterConfig(rules=("gopher_quality",), bounds={"gopher_quality.min_words": 500}))
