"""Entries and sentences read from documentation, and what must hold of every row that is made of them."""

import dataclasses
import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bessemer.core import config
from bessemer.corpus import documents
from bessemer.corpus.dialogues import questions
from bessemer.corpus.dialogues.phrasings import PHRASINGS
from bessemer.stages.dialogues import DialoguesConfig, dialogues

PAGE = """module shape

    Draw shapes on a canvas.

Classes

class shape.Circle(radius, *, fill=None)
    A circle that can be drawn. It is round.

    Bases: shape.Figure

method shape.Circle.area(self)
    Return the area of the circle in
    square units.

property shape.Circle.radius
data shape.Circle.count = 0

Functions

async function shape.draw(figure, canvas)
    Draw ``figure`` on :class:`~shape.Canvas`, e.g. a circle. Nothing is returned.

function shape.hidden()
function shape.option()
    option = value

alias shape.paint
    Same as shape.draw.

Data

data shape.TAU = 6.28
"""


def test_entries_of_a_page() -> None:
    found = {entry.name: entry for entry in questions.entries(PAGE, "http://x.test/shape.html")}
    names = ["shape", "shape.Circle", "shape.Circle.area", "shape.Circle.radius", "shape.Circle.count", "shape.draw", "shape.hidden"]
    assert list(found) == [*names, "shape.option", "shape.paint", "shape.TAU"]
    assert found["shape"].kind == "module" and found["shape"].summary == "Draw shapes on a canvas."
    circle = found["shape.Circle"]
    assert (circle.kind, circle.signature, circle.summary, circle.module) == (
        "class",
        "(radius, *, fill=None)",
        "A circle that can be drawn.",
        "shape",
    )
    assert found["shape.Circle.area"].summary == "Return the area of the circle in square units."
    assert found["shape.draw"].kind == "function" and found["shape.draw"].summary == "Draw figure on Canvas, e.g. a circle."
    assert found["shape.hidden"].summary == found["shape.option"].summary == found["shape.paint"].summary == ""


def test_other_pages_have_no_entries() -> None:
    assert list(questions.entries("The if statement\n\nfunction f(x)\n    Do it well.\n", "u")) == []
    assert list(questions.entries("", "u")) == []


@pytest.mark.parametrize(
    ("doc", "expected"),
    [
        ("return the value", "Return the value."),
        ("f -- Return the value.", "Return the value."),
        ("Send it, e.g. Apples or pears. Then stop.", "Send it, e.g. Apples or pears."),
        ("Send it, i.e. write it. Then stop.", "Send it, i.e. write it."),
        ("Does this (or that). More.", "Does this (or that)."),
        ("F\n\nReturn the real thing.", "Return the real thing."),
        ("Return the *first* one.\n\n    code", "Return the *first* one."),
        ("f(x) -> y", ""),
        ("...and so it goes on.", ""),
        ("The following are known:", ""),
        ("Initialize self.  See help(type(self)) for accurate signature.", ""),
        ("Return self==value.", ""),
        ("Alias for field number 3", ""),
        ("A (broken sentence.", ""),
        (">>> f(1)", ""),
        ("word " * 50 + ".", ""),
        ("Ok.", ""),
        ("", ""),
    ],
)
def test_summary_is_one_clean_sentence_or_nothing(doc: str, expected: str) -> None:
    assert questions.summary(doc, "m.f") == expected


VERBS, THINGS = (
    ["Return", "Open", "Close", "Compare", "Copy", "Rotate", "Split"],
    ["file", "window", "socket", "number", "string", "table", "thread", "queue"],
)


def corpus(folder: Path, modules: int = 40) -> Path:
    """A made-up library: each module has its own functions and one that several share."""
    rng = random.Random(0)
    rows = []
    for m in range(modules):
        parts = [f"module lib{m}\n\n    Tools for kind {m} of {rng.choice(THINGS)}.\n\nFunctions\n"]
        for f in range(8):
            parts.append(f"function lib{m}.do_{m}_{f}(a, b={f})\n    {rng.choice(VERBS)} the {rng.choice(THINGS)} of case {chr(97 + m % 26)}{f}.\n")
        parts.append(f"function lib{m}.shared(x)\n    Do what module {m} does with x.\n")
        parts.append(f"exception lib{m}.Error{m}\n    Raised when kind {m} fails.\n")
        url = f"http://x.test/lib{m}.html"
        rows.append({"id": documents.identifier(url), "url": url, "title": f"lib{m}", "text": "\n".join(parts), "source": "w:0"})
    documents.write(documents.shard(folder, 0), rows)
    return folder


def make(tmp_path: Path, name: str = "out", **fields: Any) -> tuple[dict[str, float], dict[str, list[dict[str, Any]]]]:
    source = tmp_path / "documents"
    if not source.exists():
        source.mkdir()
        corpus(source)
    out = tmp_path / name
    (out / "run").mkdir(parents=True)
    tokens = tmp_path / "tokens" if (tmp_path / "tokens").exists() else None
    numbers = dialogues(source, tokens, out=out, cfg=config.parse(DialoguesConfig, fields, "dialogues"))
    return numbers, {
        split: [json.loads(line) for line in (out / f"{split}.jsonl").read_text().splitlines()] for split in ("train", "heldout", "choice")
    }


def test_every_row_is_a_chat_with_a_short_answer(tmp_path: Path) -> None:
    numbers, rows = make(tmp_path, heldout=0.2)
    assert numbers["train"] == len(rows["train"]) > 1000 and numbers["heldout"] == len(rows["heldout"]) > 100 and numbers["entries"] == 440
    kinds = Counter(row["kind"] for row in rows["train"])
    assert set(kinds) == {*questions.WRITERS, "greeting"} and kinds == {
        k.removeprefix("train: "): v for k, v in numbers.items() if k.startswith("train: ")
    }
    for row in rows["train"] + rows["heldout"]:
        roles = [message["role"] for message in row["messages"]]
        assert roles[roles[0] == "system" :] == ["user", "assistant"] * (2 if row["kind"] == "turns" else 1)
        assert all(message["content"].strip() == message["content"] != "" for message in row["messages"])
        assert len(row["messages"][-1]["content"].split()) <= 60
        assert "{" not in row["messages"][-2]["content"] and "}" not in row["messages"][-2]["content"]
    assert all(len(row["messages"]) == 2 for row in rows["heldout"])
    assert len({row["id"] for row in rows["train"]}) == len(rows["train"])
    share = sum(row["messages"][0]["role"] == "system" for row in rows["train"]) / len(rows["train"])
    assert 0.05 < share < 0.15


def test_no_training_row_shows_what_is_tested(tmp_path: Path) -> None:
    _, rows = make(tmp_path, heldout=0.2)
    held = {row["entry"] for row in rows["heldout"]}
    answers = {row["messages"][-1]["content"] for row in rows["heldout"] if row["kind"] == "describe"}
    trained = {row["entry"] for row in rows["train"]}
    assert held and not held & trained
    said = {sentence for row in rows["train"] for message in row["messages"] for sentence in re.findall(r"[^\n]+", message["content"])}
    only_held = answers - {row["messages"][-1]["content"] for row in rows["train"] if row["kind"] == "describe"}
    assert len(only_held) > 10 and not any(answer in sentence for answer in only_held for sentence in said)


def test_answers_are_true(tmp_path: Path) -> None:
    _, rows = make(tmp_path)
    facts = {entry.name: entry for row in documents.read(tmp_path / "documents") for entry in questions.entries(row["text"], row["url"])}
    checked: Counter[str] = Counter()
    for row in rows["train"] + rows["heldout"]:
        question, answer = row["messages"][-2]["content"], row["messages"][-1]["content"]
        entry = facts.get(row["entry"])
        if row["kind"] in ("describe", "excerpt", "module", "turns"):
            assert entry and answer == entry.summary
        if row["kind"] in ("excerpt", "signature"):
            assert answer in question  # it can be copied
        if row["kind"] == "signature":
            assert entry and answer == entry.name + entry.signature
        if row["kind"] == "missing":
            shown = set(re.findall(r"^(?:function|class|method|exception) ([\w.]+)", question, re.M))
            assert answer == "The text does not say." and any(name in question and name not in shown for name in facts)
        if row["kind"] == "locate":
            module, short = re.fullmatch(r"It is in the (\w+) module\.", answer)[1], row["entry"].rsplit(".")[-1]  # type: ignore[index]
            assert f"{module}.{short}" in facts and short in question and short != "shared"
        if row["kind"] == "kind":
            assert entry and answer in (f"It is a {entry.kind}.", f"It is an {entry.kind}.") and entry.name in question
        if row["kind"] == "defines":
            words = set(re.findall(r"\w+", question))
            named = {f"{module}.{short}" for module in words for short in words if f"{module}.{short}" in facts}
            assert answer == ("Yes." if row["entry"] in named else "No.") and row["entry"].rsplit(".")[-1] in words
        checked[row["kind"]] += 1
    assert min(checked.values()) >= 30


def test_choices_hold_one_right_answer_at_no_telling_place(tmp_path: Path) -> None:
    _, rows = make(tmp_path, heldout=0.5)
    facts = {entry.name: entry for row in documents.read(tmp_path / "documents") for entry in questions.entries(row["text"], row["url"])}
    assert len(rows["choice"]) > 100
    for row in rows["choice"]:
        assert len(set(row["choices"])) == 4 and row["choices"][row["answer"]] == facts[row["entry"]].summary
    places = Counter(row["answer"] for row in rows["choice"])
    assert set(places) == {0, 1, 2, 3} and min(places.values()) > len(rows["choice"]) / 8


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make(tmp_path, name, seed=seed)
    same = [(tmp_path / name / "train.jsonl").read_bytes() for name in "abc"]
    assert same[0] == same[1] != same[2]


def test_caps(tmp_path: Path) -> None:
    numbers, rows = make(tmp_path, per_kind=20, max_rows=120, heldout_per_kind=3)
    assert numbers["train"] == 120 and max(Counter(row["kind"] for row in rows["train"]).values()) <= 20
    assert max(Counter(row["kind"] for row in rows["heldout"]).values()) == 3


def test_contradicting_names_are_dropped_and_counted() -> None:
    one = list(questions.entries("module m\n\n    A module of many tools.\n\nfunction m.f(x)\n    Return the first thing.\n", "u1"))
    two = list(questions.entries("module m\n\n    A module of many tools.\n\nfunction m.f(x)\n    Return another thing.\n", "u2"))
    kept, dropped = questions.unambiguous(one + two)
    assert [entry.name for entry in kept] == ["m"] and dropped == 1


def test_each_kind_is_put_in_at_least_six_ways() -> None:
    for kind, ways in PHRASINGS.items():
        assert len(set(ways)) >= 6, kind


def test_a_corpus_without_entries_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "documents"
    source.mkdir()
    documents.write(documents.shard(source, 0), [{"id": "0", "url": "u", "title": "", "text": "Just a story.", "source": "w:0"}])
    with pytest.raises(ValueError, match="no documented entries in 1 documents"):
        make(tmp_path)


def test_choices_offer_nothing_that_is_trained_on(tmp_path: Path) -> None:
    """Wrong answers known from training would give the right one away, and a right one known would be no test."""
    _, rows = make(tmp_path, heldout=0.5)
    trained = {row["messages"][-1]["content"] for row in rows["train"]}
    offered = {sentence for row in rows["choice"] for sentence in row["choices"]}
    assert len(offered) > 50 and not offered & trained
    entry = questions.Entry("function", "m.f", "()", "", "m", "u")
    held = [dataclasses.replace(entry, name=f"m.{c}", summary=f"Return the value of {c}.") for c in "abcd"]
    assert len(list(questions.choices(held, set(), 0))) == 4
    assert list(questions.choices(held, {"Return the value of b."}, 0)) == []


def test_validation_documents_give_no_training_rows(tmp_path: Path) -> None:
    _, before = make(tmp_path, "before", heldout=0.3)
    unseen = {f"http://x.test/lib{m}.html" for m in range(20)}
    (tmp_path / "tokens" / "docs").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="holds no DOMAIN/val_documents.txt"):
        make(tmp_path, "bad")
    names = (tmp_path / "tokens" / "docs" / "val_documents.txt").write_text
    names("".join(documents.identifier(url) + "\n" for url in sorted(unseen)))
    numbers, after = make(tmp_path, "after", heldout=0.3)
    assert numbers["held_out_documents"] == 20
    assert unseen <= {row["url"] for row in before["train"]} and not unseen & {row["url"] for row in after["train"]}
    assert unseen & {row["url"] for row in after["heldout"]} and len(after["train"]) > 300
    names("".join(documents.identifier(f"http://x.test/lib{m}.html") + "\n" for m in range(40)))
    with pytest.raises(ValueError, match="none of 440 entries is left to train on: heldout is 0.3, and 40 documents are for validation"):
        make(tmp_path, "none", heldout=0.3)


def test_a_page_of_methods_alone(tmp_path: Path) -> None:
    """No function or class to ask for in vain."""
    methods = [questions.Entry("method", f"m.C.f{n}", "(x)", f"Return the value number {n}.", "m", "u") for n in range(30)]
    assert {row["kind"] for row in questions.rows(methods, methods, 0)} == {"describe", "excerpt", "signature"}
