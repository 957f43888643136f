"""Evaluation items in a corpus: found as a naive search finds them, placed to the character, and told apart from phrases and forms."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bessemer.core import artifact
from bessemer.corpus import documents as docs
from bessemer.corpus.contamination import index, items, overlap, verdict
from bessemer.corpus.contamination.items import Item
from bessemer.corpus.contamination.scan import DecontaminateConfig
from bessemer.corpus.contamination.words import places, words
from bessemer.stages import find
from bessemer.stages.decontaminate import decontaminate

QUESTION = "Janet’s ducks lay 16 eggs per day. She eats three for breakfast every morning and bakes muffins for her friends."  # 20 words
PROSE = "The mill stands by the river and grinds the corn of the whole valley, as it has done for some two hundred years now. "
ODD = ["", " ", "a\x00b", "\ud800 alone \udfff", "word", "!?" * 50, "ﬁne İstanbul naïve", "x" * 100_000, "日本語の文章です。", "e\u0301te\u0301 ß ½"]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def corpus(folder: Path, texts: list[str], per_shard: int = 100) -> Path:
    for shard, at in enumerate(range(0, max(len(texts), 1), per_shard)):
        docs.write(docs.shard(folder, shard), [{"id": f"d{n}", "text": text} for n, text in list(enumerate(texts))[at : at + per_shard]])
    return folder


def run(root: Path, texts: list[str], rows: list[dict[str, Any]], name: str = "out", **cfg: Any) -> tuple[dict[str, float], Path]:
    source = root / "in" if (root / "in").exists() else corpus(root / "in", texts)
    (root / name).mkdir()
    numbers = decontaminate(source, (jsonl(root / "quiz" / "test.jsonl", rows),), out=root / name, cfg=DecontaminateConfig(workers=1, **cfg))
    return numbers, root / name


def hits(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "contamination.jsonl").read_text().splitlines()]


def split(out: Path, name: str = "quiz-test") -> dict[str, dict[str, Any]]:
    return {row["item"]: row for row in map(json.loads, (out / "split" / f"{name}.jsonl").read_text().splitlines())}


def test_words_are_levelled() -> None:
    assert words("Don’t PANIC: ﬁne na\u00efve=nai\u0308ve, Stra\u00dfe_1,5") == [
        w.encode() for w in ("dont", "panic", "fine", "naive", "naive", "straße", "1", "5")
    ]
    assert words("ＦＵＬＬ so\u00adft zero\u200bwidth 日本x") == [w.encode() for w in ("full", "soft", "zerowidth", "日", "本", "x")]


@pytest.mark.parametrize("text", [*ODD, QUESTION, "Don’t 'stop' 日本 ½ ﬁ", "Îİ ΣΑΣ हिन्दी"])
def test_places_are_where_the_words_stand(text: str) -> None:
    starts, ends = places(text)
    for word, start, end in zip(words(text), starts, ends, strict=True):
        assert words(text[start:end]) == ([b"1", b"2"] if text[start:end] == "½" else [word])


def test_matches_are_those_of_a_naive_search() -> None:
    """Reference: tuples of words in a dictionary, on texts of four words that repeat each other all the time."""
    draw = random.Random(3)
    said = [" ".join(draw.choices(["a", "b", "c", "d"], k=draw.randrange(0, 40))) for _ in range(60)]
    built = index.build([Item("quiz", str(n), (("text", text),)) for n, text in enumerate(said[:12])], 5, 3, 100)
    grams: set[tuple[bytes, ...]] = set()
    for text in said[:12]:
        w = words(text)
        grams |= {tuple(w[i : i + 5]) for i in range(len(w) - 4)} if len(w) >= 5 else {tuple(w)} if w else set()
    expected = []
    for number, text in enumerate(said):
        w = words(text)
        expected += [
            (number, at, tuple(w[at : at + n])) for at in range(len(w)) for n in (3, 4, 5) if tuple(w[at : at + n]) in grams and at + n <= len(w)
        ]
        expected += [(number, 0, tuple(w))] if 0 < len(w) < 3 and tuple(w) in grams else []
    inverse = {number: word for word, number in built.vocabulary.items()}
    found = []
    for text, at, gram in zip(*(column.tolist() for column in index.matches(built, said)), strict=True):
        place = built.places[built.ends[gram] - 1]
        found.append((text, at, tuple(inverse[n] for n in built.words[place : place + built.sizes[gram]].tolist())))
    assert len(found) > 100 and sorted(found) == sorted(set(expected))


def test_a_span_is_placed_to_the_character_and_its_document_dropped(tmp_path: Path) -> None:
    """The question has 20 words. The document holds its first 15 in capitals, without punctuation: 15 / 20 = 0.75."""
    shouted = "JANETS DUCKS - LAY 16\n EGGS PER DAY SHE EATS THREE FOR BREAKFAST EVERY MORNING AND"
    text = PROSE + shouted + " sleeps. " + PROSE
    numbers, out = run(tmp_path, [PROSE, text], [{"id": 7, "question": QUESTION, "answer": "#### 18"}])
    assert [row["id"] for row in docs.read(out)] == ["d0"]
    (refused,) = docs.rejected(out)
    assert (refused["id"], refused["reason"], refused["value"], refused["bound"]) == ("d1", "contaminated", 15.0, 13.0)
    assert refused["detail"].startswith("quiz-test test/7 question: JANETS DUCKS")
    assert hits(out) == [
        {
            "document": "d1", "start": len(PROSE), "end": len(PROSE) + len(shouted), "benchmark": "quiz-test", "item": "test/7",
            "field": "question", "words": 15, "covered": 0.75, "text": shouted,
        }
    ]  # fmt: skip
    row = {"contaminated": True, "covered": 0.75, "covered_of_all": 0.75, "judged": True, "found_in": 1, "documents": ["d1"]}
    assert split(out) == {"test/7": {"item": "test/7", **row}}
    assert numbers["rejected"] == numbers["spans"] == numbers["documents with spans"] == numbers["quiz-test: contaminated"] == 1


def test_the_other_actions_keep_the_document(tmp_path: Path) -> None:
    text = PROSE * 8 + QUESTION + PROSE * 8
    run(tmp_path, [text, PROSE], [{"question": QUESTION}], "flag", action="flag")
    assert [(row["text"], row["contaminated"]) for row in docs.read(tmp_path / "flag")] == [(text, "quiz-test"), (PROSE, None)]
    run(tmp_path, [], [{"question": QUESTION}], "cut", action="cut", margin=100)
    kept = PROSE * 8
    first = (kept[: len(kept) - 100]).strip()
    assert [row["text"] for row in docs.read(tmp_path / "cut")] == [first + "\n\n" + kept[99:].strip(), PROSE]


def test_cutting_follows_gpt_3() -> None:
    """200 characters on either side go, pieces under 200 characters go, and a document in more than 10 pieces goes whole."""
    text = "a" * 1000
    assert overlap.cut(text, [(400, 450)], 200) == "a" * 200 + overlap.BREAK + "a" * 350
    assert overlap.cut(text, [(399, 450)], 200) == "a" * 350  # the first piece has 199
    assert overlap.cut(text, [(0, 1000)], 200) == ""
    long = "a" * 100_000
    assert overlap.cut(long, [(n * 5000, n * 5000 + 50) for n in range(1, 10)], 200).count("\n\n") == 9
    assert overlap.cut(long, [(n * 5000, n * 5000 + 50) for n in range(1, 11)], 200) == ""
    assert overlap.union([(5, 9), (0, 3), (3, 4), (6, 7)]) == [(0, 4), (5, 9)]


def test_short_texts_must_be_there_whole(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"q": "Which of the seven seas is the deepest one?"},  # 9 words: anywhere
        {"q": "What is a quark made of?", "choices": ["of gluons", "of nothing else"]},  # 6 words, 11 with the choices
        {"q": "Who wrote Hamlet?"},  # 3 words: only as a document of its own
        {"q": "Who wrote Faust?"},
    ]
    texts = [
        PROSE + "which of the seven seas is the deepest one " + PROSE,
        PROSE + "which of the seven seas is the deepest " + PROSE,
        "What is a quark made of? of gluons; of nothing else",
        PROSE + "Who wrote Hamlet?",
        "who wrote FAUST",
    ]
    _, out = run(tmp_path, texts, rows)
    assert [row["id"] for row in docs.rejected(out)] == ["d0", "d2", "d4"]
    assert [(row["contaminated"], row["judged"]) for row in split(out).values()] == [(True, True), (True, True), (False, False), (True, False)]


def test_a_common_phrase_is_ignored_and_a_question_that_was_copied_often_is_not(tmp_path: Path) -> None:
    phrase = "we the people of the united states in order to form a more perfect union"  # 15 words
    item = f"In the year 1787 they wrote {phrase} and then what followed was a longer text of many articles about the new government?"
    copied = " ".join(f"w{n}" for n in range(30))
    texts = [PROSE + phrase] * 3 + [PROSE + copied] * 3 + [PROSE]
    rows = [{"q": item}, {"q": copied}]
    _, out = run(tmp_path, texts, rows, "few", common=2)
    assert [row["id"] for row in docs.rejected(out)] == ["d3", "d4", "d5"]
    assert [row["contaminated"] for row in split(out).values()] == [False, True]
    _, out = run(tmp_path, [], rows, "more", common=3)
    assert [row["id"] for row in docs.rejected(out)] == [f"d{n}" for n in range(6)]


def test_the_form_of_a_benchmark_and_its_look_alikes_do_not_count(tmp_path: Path) -> None:
    form = "For which of these two scenarios does the main character do something clearly wrong according to moral standards"  # 18 words
    own = [f"{form} {' '.join(f'x{n}y{k}' for k in range(20))}" for n in range(5)]
    rows = [{"q": text} for text in own]
    _, out = run(tmp_path, [PROSE + form, PROSE + own[1]], rows, "form", template=4)
    assert [row["id"] for row in docs.rejected(out)] == ["d1"]
    assert [row["contaminated"] for row in split(out).values()] == [False, True, False, False, False]
    # With the form in the index, the document that holds item 1 is still none of the others: their run lies within a longer one.
    (tmp_path / "in2").mkdir()
    corpus(tmp_path / "in2", [PROSE + own[1], PROSE])
    out = tmp_path / "own"
    out.mkdir()
    decontaminate(tmp_path / "in2", (tmp_path / "quiz/test.jsonl",), out=out, cfg=DecontaminateConfig(workers=1, template=5))
    assert [row["contaminated"] for row in split(out).values()] == [False, True, False, False, False]


def test_the_share_from_which_an_item_counts(tmp_path: Path) -> None:
    """One 13-gram of 20 words: a share of 0.65. GPT-3 calls that contaminated, Llama 2 (0.8) does not."""
    text = PROSE + " ".join(QUESTION.split()[:13]) + " or so. " + PROSE
    for name, least, expected in (("any", 0.0, True), ("at", 0.65, True), ("most", 0.8, False)):
        _, out = run(tmp_path, [text, PROSE], [{"q": QUESTION}], name, covered=least)
        assert split(out)["test/1"]["covered"] == 0.65 and split(out)["test/1"]["contaminated"] is expected


def test_the_same_bytes_in_any_number_of_workers_and_after_a_kill(tmp_path: Path) -> None:
    draw = random.Random(0)
    rows = [{"q": " ".join(f"w{draw.randrange(50)}" for _ in range(20))} for _ in range(30)]
    texts = [PROSE + (row["q"] if n % 3 else "") + PROSE for n, row in enumerate(rows)] + ODD[:3] + ODD[4:]
    source, quiz = corpus(tmp_path / "in", texts, 9), jsonl(tmp_path / "quiz/test.jsonl", rows)
    docs.write(docs.shard(source, 5), [])
    for name, workers in (("one", 1), ("three", 3)):
        (tmp_path / name).mkdir()
        decontaminate(source, (quiz,), out=tmp_path / name, cfg=DecontaminateConfig(workers=workers))
    docs.shard(tmp_path / "three", 1).unlink()
    (tmp_path / "three" / "run" / "resume" / "found" / "00002.npz").unlink()
    decontaminate(source, (quiz,), out=tmp_path / "three", cfg=DecontaminateConfig(workers=2))
    for name in ("content.json", "contamination.jsonl", "split/quiz-test.jsonl", "part-00001.parquet", "rejected/part-00001.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "three" / name).read_bytes()
    assert docs.count(tmp_path / "one") == len(texts) - 20


def test_benchmarks_come_in_many_files(tmp_path: Path) -> None:
    folder = tmp_path / "sets"
    jsonl(folder / "a.jsonl", [{"messages": [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "say"}], "url": "u"}])
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(b'{"task_id": "t/1", "prompt": "p"}\n'))
    (folder / "c.csv").write_text('"Two\nlines, here?",A,B,"c, d",A\n')
    (folder / "d.csv").write_text("question,answer\nwhat,that\n")
    (folder / "e.json").write_text('{"name": "set", "examples": [{"input": "i", "target": "t"}]}')
    pq.write_table(pa.table({"text": ["x"], "n": [1]}), folder / "f.parquet")
    jsonl(folder / "train-00.jsonl", [{"text": "not to be tested with"}])
    found = list(items.read([folder]))
    assert {item.benchmark for item in found} == {f"{tmp_path.name}-sets"}
    assert [(item.name, dict(item.texts)) for item in found] == [
        ("a/1", {"messages.0.content": "ask", "messages.1.content": "say"}),
        ("b/t/1", {"prompt": "p"}),
        ("c/1", {"0": "Two\nlines, here?", "1": "A", "2": "B", "3": "c, d", "4": "A"}),
        ("d/1", {"question": "what", "answer": "that"}),
        ("e/1", {"input": "i", "target": "t"}),
        ("f/1", {"text": "x"}),
    ]
    assert [dict(item.texts) for item in items.read([folder / "d.csv"], ["answer"])] == [{"answer": "that"}]


def test_a_benchmark_from_the_hub_is_called_by_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "datasets--org--quiz" / "snapshots" / "0123abcd"
    jsonl(folder / "test.jsonl", [{"q": QUESTION}])
    assert [(item.benchmark, item.name) for item in items.read([folder])] == [("quiz", "test/1")]


def test_bad_benchmarks_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.txt").write_text("text")
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "bad.jsonl.gz").write_bytes(b"no gzip")
    damaged = bytearray(gzip.compress(b'{"q": "what"}\n' * 300))
    damaged[14] ^= 0xFF
    (tmp_path / "damaged.jsonl.gz").write_bytes(damaged)
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    (tmp_path / "latin.csv").write_bytes(b"q,a\n\xff\xfe,b\n")
    jsonl(tmp_path / "numbers.jsonl", [{"n": 1}])
    for name, said in {
        "nowhere": "nowhere does not exist", "empty": "holds no file of .jsonl", "x.txt": "is none of .jsonl", "bad.json": "bad.json cannot be read",
        "list.json": "its rows are no JSON objects", "bad.jsonl.gz": "bad.jsonl.gz cannot be read",
        "damaged.jsonl.gz": "damaged.jsonl.gz cannot be read", "bad.parquet": "bad.parquet cannot be read",
        "latin.csv": "latin.csv cannot be read", "numbers.jsonl": "numbers.jsonl holds no text",
    }.items():  # fmt: skip
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            list(items.read([tmp_path / name]))
    jsonl(tmp_path / "marks.jsonl", [{"q": "?!"}])
    for benchmarks, said in (((), "benchmarks is empty"), ((tmp_path / "marks.jsonl",), "none of 1 items has words")):
        with pytest.raises(ValueError, match=said):
            decontaminate(tmp_path, benchmarks, out=tmp_path, cfg=DecontaminateConfig())
    with pytest.raises(ValueError, match="two are called"):
        list(items.read([tmp_path / "numbers.jsonl"] * 2))
    with pytest.raises(ValueError, match="shortest 8 must not exceed ngram 5"):
        DecontaminateConfig(ngram=5)


def test_an_evaluation_looks_its_questions_up(tmp_path: Path) -> None:
    """The stage as the store runs it, on a dialogues folder: its held-out questions count, its training rows do not."""
    talk = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "Eighteen."}]
    other = [{"role": "user", "content": PROSE}, {"role": "assistant", "content": "So it does."}]
    heldout = [{"id": "h1", "messages": talk}, {"id": "h2", "messages": other}]
    choices = [{"id": "c1", "question": QUESTION, "choices": ["a", "b"], "answer": 0}]
    for name, rows in (("heldout", heldout), ("choice", choices), ("train", [{"messages": other}])):
        jsonl(tmp_path / "dialogues" / f"{name}.jsonl", rows)
    corpus(tmp_path / "in", [QUESTION, "something else"])
    stage = find("decontaminate")
    made = artifact.make(stage, {"documents": tmp_path / "in", "benchmarks": (tmp_path / "dialogues",)}, stage.config(workers=1), tmp_path / "made")
    assert verdict.contaminated(made, tmp_path / "dialogues", "heldout.jsonl", heldout) == [True, False]
    assert verdict.contaminated(made, tmp_path / "dialogues", "choice.jsonl", choices) == [True]
    assert not (made / "run" / "resume").exists()
    with pytest.raises(ValueError, match=r"has judged no benchmark .*-other \(it has: .*-dialogues\)"):
        verdict.contaminated(made, tmp_path / "other", "heldout.jsonl", heldout)
    with pytest.raises(ValueError, match="does not hold heldout/h3"):
        verdict.contaminated(made, tmp_path / "dialogues", "heldout.jsonl", [{"id": "h3"}])
