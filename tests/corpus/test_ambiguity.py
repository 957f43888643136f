"""Ambiguous instruction data: which prompts ask the same, which answers exclude each other, and what is left of the rows."""

import json
from pathlib import Path
from typing import Any

import pytest

from bessemer.core import artifact
from bessemer.corpus.ambiguity import answers, exchange, prompts, resolve
from bessemer.corpus.ambiguity.resolve import NEAR, REPEATED, SAME, SEVERAL, SIMILAR, AmbiguityConfig
from bessemer.stages import find
from bessemer.stages.ambiguity import ambiguity

PASSAGE = "In the spring of that year the miller sold his house and moved with wife and children to the coast where he built boats. "


def together(*texts: str) -> bool:
    return prompts.groups([prompts.same(text) for text in texts]) == ([[*range(len(texts))]], [])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("What is the capital of France?", "what is  the capital of FRANCE"),
        ("What is the capital of France?", "Please tell me what the capital of France is."),
        ("What is the capital of France?", "Hey, can you tell me: what's the capital of France? Thanks!"),
        ("What is the capital of France?", "What is the captial of France?"),  # letters exchanged
        ("Which mountain is the tallest?", "Which mountan is the tallest?"),  # a letter less
        ("Which mountain is the tallest?", "Which mounteain is the tallest?"),  # a letter more
    ],
)
def test_these_ask_the_same(first: str, second: str) -> None:
    assert together(first, second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("What is the capital of France?", "What is the capital of Spain?"),
        ("What is 2 + 2?", "What is 2 - 2?"),
        ("Who is Anna?", "Who is Ann?"),  # the last letter is no article
        ("What is 12 times 3?", "What is 12 times 4?"),
        ("Is water wet?", "Is water not wet?"),
        ("Who is the king?", "Where is the king?"),
        ("Did Alice beat Robert?", "Did Robert beat Alice?"),
        ("How many legs does a spider have?", "How many legs does a dead spider have?"),  # one word more, but among few
        (PASSAGE + "Who moved?", PASSAGE + "When?"),
        (PASSAGE + "Who moved?", PASSAGE + "Who never moved?"),
        ("Name the value of a million", "Name the value of a billion"),
        ("What is resource.ru_idrss?", "What is resource.ru_isrss?"),  # identifiers have no slips
        ("What does decimal.is_canonical do?", "What does decimal.canonical do?"),
        ("", "a"),
    ],
)
def test_these_do_not(first: str, second: str) -> None:
    assert not together(first, second)


def test_a_word_that_many_prompts_exchange_is_what_they_ask_about() -> None:
    """`house` and `horse` are a letter apart: alone that is a slip, in a row of vocabulary tasks it is another task."""
    assert together("Give the plural of horse", "Give the plural of house")
    assert not together("Give the plural of horse", "Give the plural of house", "Give the plural of mouse")
    keys = [prompts.same(f"Give the plural of {word}") for word in ("horse", "house", "mouse", "tree", "teacher", "taecher")]
    assert prompts.groups(keys) == ([[0], [1], [2], [3], [4, 5]], [])  # letters exchanged seldom make another word


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ("Paris", "paris.", "agree"),
        ("Paris", "Paris, France", "agree"),
        ("Paris", "Lyon", "contradict"),
        ("The capital of France is Paris.", "The capital of France is Lyon.", "contradict"),
        ("The capital of France is Paris.", "Paris is the capital of France.", "agree"),
        ("Yes", "No", "contradict"),
        ("Yes, because it rains all day long in that part of the country.", "No, it is dry there.", "contradict"),
        ("True", "Yes", "agree"),
        ("No one knows how it was made in those days.", "Yes.", "differ"),
        ("4", "four", "agree"),
        ("1,200.50", "1200.5", "agree"),
        ("1/2", "0.5", "agree"),
        ("05", "5", "agree"),
        ("1/2", "1/3", "contradict"),
        ("1/0", "2/0", "contradict"),
        ("It takes him 3 + 4 = 7 hours.\n#### 7", "So he needs seven hours.\n#### 8", "contradict"),
        ("5 apples", "6 apples", "contradict"),
        ("(B) a dog", "B", "agree"),
        ("(B)", "C. a cat", "contradict"),
        ("A dog is an animal that barks at night.", "A cat is an animal that purrs by day.", "differ"),
        ("The tower was finished in 1889 after two years.", "The tower was finished in 1899 after two years.", "contradict"),
        ("It will rain in the north of the country today.", "It will not rain in the north of the country today.", "contradict"),
        ("Blue is calm and wide and cold as the sea.", "My heart is a river that runs to the west.", "differ"),
        ("colour", "color", "agree"),
        ("", "x", "differ"),
    ],
)
def test_answers_agree_contradict_or_differ(first: str, second: str, verdict: str) -> None:
    a, b = answers.claim(first), answers.claim(second)
    assert answers.compare(a, b) == answers.compare(b, a) == verdict


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Write a poem about rain.", True),
        ("Hello there", True),
        ("Read the text.\nGive me three examples of fruit.", True),
        ("What might she do next?", True),
        ("What is the capital of France?", False),
        ("Which of these is most likely to melt?", False),
        (PASSAGE + "He wrote a letter. Where did they move?", False),
    ],
)
def test_open_prompts_are_told_apart(prompt: str, expected: bool) -> None:
    assert resolve.is_open(prompt) is expected


ROWS = [
    ("Is tin a metal?", "Yes"),
    ("is tin a metal", "No"),
    ("Is tin a metal?", "Yes."),
    ("Please tell me: is tin a metal?", "Yes"),
    ("Who wrote Emma?", "Austen"),
    ("Who wrote Emma?", "Brontë"),
    ("Write a word.", "river"),
    ("Write a word.", "stone"),
    ("Name of our star?", "The Sun"),
    ("Name of our star?", "the sun."),
    ("What is up?", "sky"),
]


@pytest.mark.parametrize(
    ("action", "removed"),
    [
        # 3 of 4 say yes; of the two equal ones under one prompt the second goes. Austen and Bronte are a tie.
        ("majority", {1, 2, 4, 5, 9}),
        ("exclude", {0, 1, 2, 3, 4, 5, 9}),
        ("first", {1, 2, 5, 9}),
        ("report", set()),
    ],
)
def test_what_each_action_leaves(action: Any, removed: set[int]) -> None:
    groups = resolve.resolve(ROWS, AmbiguityConfig(action=action))
    assert [(group.kind, group.rows) for group in groups] == [(SAME, [0, 1, 2, 3]), (SAME, [4, 5]), (SEVERAL, [6, 7]), (REPEATED, [8, 9])]
    assert {n for group in groups for n, kept in zip(group.rows, group.kept, strict=True) if not kept} == removed


def test_near_identical_prompts_are_their_own_kind_and_duplicates_may_stay() -> None:
    rows = [("Who wrote Emma?", "Austen"), ("Please, who wrote Emma?", "Woolf"), ("Name of our star?", "Sun"), ("Name of our star?", "Sun")]
    groups = resolve.resolve(rows, AmbiguityConfig(duplicates=False))
    assert [(group.kind, group.kept) for group in groups] == [(NEAR, [False, False]), (REPEATED, [True, True])]


def test_one_word_more_is_shown_and_left_alone() -> None:
    rows = [(PASSAGE + "Who moved?", "the miller"), (PASSAGE.replace("boats", "wooden boats") + "Who moved?", "a smith")]
    (group,) = resolve.resolve(rows, AmbiguityConfig())
    assert (group.kind, group.kept) == (SIMILAR, [True, True])
    groups = resolve.resolve([*rows, (rows[0][0], "a king"), rows[0]], AmbiguityConfig())  # a contradiction beside it is still resolved
    assert [(group.kind, group.rows, group.kept) for group in groups] == [
        (SAME, [0, 2, 3], [True, False, False]),
        (SIMILAR, [0, 1], [True, True]),
    ]


def test_a_prompt_with_very_many_answers_is_open() -> None:
    """All pairs of 20,000 answers would never end; with more than MANY the prompt is taken as open."""
    (group,) = resolve.resolve([("Which one?", f"number{n}") for n in range(20_000)], AmbiguityConfig())
    assert group.kind == SEVERAL and all(group.kept)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": [{"role": "user", "content": "q "}, {"role": "assistant", "content": "a"}]}, ("q", "a")),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, ("q", "a")),
        ({"messages": [{"role": r, "content": r[0]} for r in ("system", "user", "assistant")]}, ("system: s\nuser: u", "a")),
        ({"instruction": "i", "input": "", "output": "o"}, ("i", "o")),
        ({"instruction": "i", "input": "x", "output": "o"}, ("i\nx", "o")),
        ({"prompt": "p", "completion": " c<|endoftext|>"}, ("p", "c")),
        ({"question": "q", "answer": "a"}, ("q", "a")),
        ({"messages": [{"role": "user", "content": "q"}]}, None),
        ({"messages": [1, {"role": "assistant", "content": None}]}, None),
        ({"text": "t"}, None),
    ],
)  # fmt: skip
def test_rows_are_read_in_the_usual_layouts(row: dict[str, Any], expected: tuple[str, str] | None) -> None:
    assert exchange.of(row) == expected


def talk(question: str, answer: str, **more: str) -> dict[str, Any]:
    return {**more, "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def test_the_stage_writes_what_sft_can_take(tmp_path: Path) -> None:
    rows = [talk(question, answer, id=f"r{n}") for n, (question, answer) in enumerate(ROWS)] + [talk("", "nothing asked"), {"messages": []}]
    source = tmp_path / "dialogues"
    source.mkdir()
    (source / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (source / "heldout.jsonl").write_text('{"messages": []}\n')
    stage = find("ambiguity")
    out = artifact.make(stage, {"dialogues": source}, AmbiguityConfig(), tmp_path / "out")
    assert [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()] == [
        row for n, row in enumerate(rows) if n not in {1, 2, 4, 5, 9}
    ]
    assert (out / "heldout.jsonl").read_text() == '{"messages": []}\n'
    shown = [json.loads(line) for line in (out / "ambiguous.jsonl").read_text().splitlines()]
    assert shown[1] == {
        "kind": SAME, "count": 2, "answers": 2, "kept": 0, "rows": [
            {"row": 5, "id": "r4", "prompt": "Who wrote Emma?", "answer": "Austen", "kept": False},
            {"row": 6, "id": "r5", "prompt": "Who wrote Emma?", "answer": "Brontë", "kept": False},
        ]}  # fmt: skip
    numbers = json.loads((out / "manifest.json").read_text())["numbers"]
    assert (numbers["rows"], numbers["removed"], numbers["not judged"], numbers[f"groups: {SAME}"], numbers[f"rows: {SAME}"]) == (13, 5, 2, 2, 6)
    again = artifact.make(stage, {"dialogues": out}, AmbiguityConfig(), tmp_path / "again")
    assert (again / "train.jsonl").read_bytes() == (out / "train.jsonl").read_bytes()


def test_thanks_are_taken_off() -> None:
    assert together("Why is the sky blue?", "Why is the sky blue? Thank you!", "Why is the sky blue? Please answer.", "Q: Why is the sky blue?\nA:")


@pytest.mark.parametrize("text", ["a" * 10**6 + "b", "." * 10**6 + "b", "a " * 10**6 + "b", "x." * 10**6, "1" * 10**6])
def test_time_is_linear_in_prompts_and_answers(text: str) -> None:
    """A million letters, marks or words: were any pattern quadratic, this would take hours."""
    assert len(resolve.resolve([(text, "yes"), (text, "no")], AmbiguityConfig())) == 1
    assert answers.claim(f"The answer is {text}").kind in ("short", "long", "number")
    assert answers.claim("The answer is 7" + " " * 10**6 + ".").value == "7"


def test_odd_rows_pass_and_bad_files_are_named(tmp_path: Path) -> None:
    odd = ["\x00", "😀" * 1000, "¿?", "a" * 100_000, " ".join(["word"] * 5000), "½ ﬁ", "- - -"]
    assert resolve.resolve([(text, text) for text in odd for _ in (1, 2)], AmbiguityConfig())
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist"):
        ambiguity(tmp_path / "nowhere", out=tmp_path, cfg=AmbiguityConfig())
    with pytest.raises(FileNotFoundError, match=r"train.jsonl does not exist"):
        ambiguity(tmp_path, out=tmp_path, cfg=AmbiguityConfig())
    (tmp_path / "rows.jsonl").write_text('{"text": "t"}\n')
    with pytest.raises(ValueError, match="no row has a prompt and an answer"):
        ambiguity(tmp_path / "rows.jsonl", out=tmp_path, cfg=AmbiguityConfig())
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"prompt": "Who wrote Emma?", "response": name}) + "\n" for name in ("Austen", "Woolf")))
    with pytest.raises(ValueError, match="no row is left: all 2 contradict another"):
        ambiguity(tmp_path / "rows.jsonl", out=tmp_path, cfg=AmbiguityConfig())
