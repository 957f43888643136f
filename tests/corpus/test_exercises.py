"""Supervised rows from documentation: sections, and what must hold of every row."""

import json
from pathlib import Path

import pytest

from bessemer.core import config
from bessemer.corpus import documents
from bessemer.corpus.exercises import rows as exercise
from bessemer.corpus.exercises.sections import Section, sections
from bessemer.stages.exercises import ExercisesConfig, exercises

PAGE = """module shape

    Draw shapes on a canvas with ``shape.draw`` and others.

class shape.Circle(radius, *, fill='none', **more)
    A circle that can be drawn. It is round, as every circle of this size will be.

    Bases: shape.Figure

method shape.Circle.area(self, unit=None)
    Return the area in a unit. Raise ValueError where unit is unknown. Call shape.draw() or paint() before.
    >>> 1

    >>> Circle(3).area()

function shape.draw(<figure>)
    Draw it.
"""


def found() -> list[Section]:
    return list(sections(PAGE, "p1", "http://x.test/shape.html"))


def test_sections_of_a_page():
    module, circle, area, draw = found()
    assert (module.kind, module.name, module.prose) == ("module", "shape", "Draw shapes on a canvas with shape.draw and others.")
    assert circle.head == "class shape.Circle(radius, *, fill='none', **more)"
    assert circle.sentences == ["A circle that can be drawn.", "It is round, as every circle of this size will be."]
    assert circle.parameters == {"radius": "", "fill": "'none'", "more": ""}
    assert area.parameters == {"unit": "None"} and area.prose == "" and draw.parameters == {}
    assert list(sections("Some text\n\nfunction f()\n    Text.", "p", "u")) == []


def test_tags_by_hand():
    prose = "Raise ValueError where unit is unknown. Call shape.draw() or paint() before other.name and os.error."
    tagged = list(exercise.tags(prose, {"unit", "where2"}, {"ValueError", "error"}, {"shape", "os"}))
    assert [word for word, _ in tagged] == exercise.WORD.findall(prose)
    assert [(word, tag) for word, tag in tagged if tag != "O"] == [
        ("ValueError", "B-EXC"), ("unit", "B-PARAM"), ("shape", "B-NAME"), (".", "I-NAME"), ("draw", "I-NAME"), ("paint", "B-NAME"),
        ("os", "B-EXC"), (".", "I-EXC"), ("error", "I-EXC"),
    ]  # fmt: skip


def test_answers_stand_where_rows_say():
    made = list(exercise.answer(found()))
    assert {(row["kind"], row["answer"]) for row in made} >= {("default", "'none'"), ("default", "None"), ("base", "shape.Figure")}
    for row in made:
        assert row["context"][row["start"] :].startswith(row["answer"])
        assert row["entry"] in row["question"] and row["entry"] in row["context"]
    default = next(row for row in made if row["answer"] == "None")
    assert default["context"][: default["start"]].endswith("area(self, unit=")


def test_the_first_sentence_is_not_in_the_source_of_its_summary():
    (row,) = exercise.summarise(found())
    assert row["target"] == "A circle that can be drawn." and row["source"].endswith("more) It is round, as every circle of this size will be.")
    assert row["target"] not in row["source"]


def test_an_input_with_two_answers_is_dropped():
    rows = [{"id": str(n), "text": text, "label": label} for n, (text, label) in enumerate(["Aa", "ax", "bx", "bx", "cx"])]
    rows = [row | {"text": text} for row, text in zip(rows, ["One.", "one.", "Two.", "Two.", "Three."], strict=True)]
    rows[0]["label"], rows[1]["label"] = "a", "b"
    assert [row["id"] for row in exercise.once(rows, "classify")] == ["2", "4"]


def test_whole_pages_are_held_out_label_by_label():
    rows = [{"id": f"{label}{n}", "page": f"{label}{n // 3}", "label": label} for label in "abc" for n in range({"a": 60, "b": 30, "c": 3}[label])]
    train, heldout = exercise.split(rows, 0.2)
    assert not {row["page"] for row in train} & {row["page"] for row in heldout}
    assert [sum(row["label"] == label for row in heldout) for label in "abc"] == [12, 6, 0]
    assert [sum(row["label"] == label for row in train) for label in "abc"] == [48, 24, 0]  # c has one page: it cannot be on both sides


def test_even_takes_as_many_of_each_while_there_are_some():
    rows = [{"id": f"{label}{n:02}", "label": label} for label in "ab" for n in range({"a": 3, "b": 50}[label])]
    taken = exercise.even(rows, 10)
    assert [sum(row["label"] == label for row in taken) for label in "ab"] == [3, 7] and exercise.even(rows, 100) == rows


@pytest.mark.parametrize("kind", ["classify", "tag", "answer", "summarise"])
def test_the_stage_splits_by_page_and_repeats_itself(kind: str, tmp_path: Path):
    verbs, things = ["Open", "Close", "Paint", "Count", "Sort"], ["window", "drawer", "parcel", "engine", "letter"]
    pages = []
    for area in ("alpha", "beta"):
        for page in range(12):
            entries = "".join(
                f"\nfunction {area}.m{page}.{verb.lower()}_{thing}(name, size={page})\n"
                f"    {verb} the {thing} number {page} of all {area[1:]} that name has. Then come {page} further things to know of it.\n"
                for verb in verbs for thing in things
            )  # fmt: skip
            pages.append({"id": f"{area}{page}", "url": f"http://x.test/{area}.m{page}.html", "text": f"module {area}.m{page}\n{entries}"})
    documents.write(documents.shard(tmp_path / "documents", 0), pages)
    cfg = ExercisesConfig(kind=kind)  # type: ignore[arg-type]
    written = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        numbers = exercises(tmp_path / "documents", out=tmp_path / name, cfg=cfg)
        written.append([(tmp_path / name / f"{side}.jsonl").read_bytes() for side in ("train", "heldout")])
    assert written[0] == written[1] and numbers["train"] > 3 * numbers["heldout"] > 0
    train, heldout = ([json.loads(line) for line in part.decode().splitlines()] for part in written[0])
    assert not {row["page"] for row in train} & {row["page"] for row in heldout}
    inputs = [str([row[name] for name in exercise.ASKED[kind]]) for row in train + heldout]
    assert len(inputs) == len(set(inputs))
    assert all("O" not in row["tags"][row["words"].index("name")] for row in train) if kind == "tag" else True


def test_documents_without_entries_are_refused(tmp_path: Path):
    documents.write(documents.shard(tmp_path / "documents", 0), [{"id": "a", "url": "u", "text": "No entries here."}])
    with pytest.raises(ValueError, match="holds no entries"):
        exercises(tmp_path / "documents", out=tmp_path, cfg=ExercisesConfig(kind="tag"))
    documents.write(documents.shard(tmp_path / "documents", 0), [{"id": "a", "url": "u", "text": PAGE}])
    with pytest.raises(ValueError, match="no train rows of kind = classify"):
        exercises(tmp_path / "documents", out=tmp_path, cfg=ExercisesConfig(kind="classify"))
    with pytest.raises(ValueError, match=r"exercises\.kind.*'classify', 'tag', 'answer' or 'summarise'"):
        config.parse(ExercisesConfig, {"kind": "translate"}, "exercises")
