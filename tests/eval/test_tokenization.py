"""The report on tokenizers: numbers worked by hand on tokenizers of a few entries, and a page that opens offline."""

import json
import math
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pyarrow as pa
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from bessemer.core import artifact
from bessemer.corpus import documents
from bessemer.eval.tokenization import counts, numbers, page, speed, texts, typos
from bessemer.eval.tokenization.texts import Text
from bessemer.stages import find
from bessemer.stages.tokenizer_report import TokenizerReportConfig, tokenizer_report
from bessemer.tokenizer import bpe, chat
from bessemer.tokenizer.tokenizer import Tokenizer

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def save(backend: Backend, folder: Path) -> Path:
    backend.add_special_tokens([token for token in chat.SPECIAL if token not in backend.get_vocab()])
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": chat.END_OF_TEXT}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def byte_level(folder: Path, *merges: tuple[str, str]) -> Path:
    """A tokenizer whose entries are the bytes, in GPT-2's letters, and these merges."""
    entries = [*BYTES, *map("".join, merges)]
    backend = Backend(models.BPE({entry: i for i, entry in enumerate(entries)}, list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return save(backend, folder)


@pytest.fixture
def plain(tmp_path: Path) -> Tokenizer:
    """One token a byte."""
    return Tokenizer.load(byte_level(tmp_path / "plain"))


def text(words: str, domain: str = "a", language: str | None = None, said: str | None = None) -> Text:
    return Text(words, domain, language, said, len(words.encode()), len(texts.words(words)))


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("Don't stop_2, 3.14!", ["Don", "t", "stop_2", "3", "14"]),
        ("Grüße e\u0301te\u0301", ["Grüße", "e\u0301te\u0301"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),  # vowel signs are marks, not letters
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("世界へようこそ", list("世界へようこそ")),
        ("ที่นี่", ["ที่", "นี่"]),  # a consonant with its vowel and its tone
        ("abc世界def", ["abc", "世", "界", "def"]),
        ("한국어 텍스트", ["한국어", "텍스트"]),  # written with spaces
        (" \n...—", []),
    ],
)
def test_what_a_word_is(said: str, found: list[str]):
    assert texts.words(said) == found


def test_one_token_a_byte_gives_numbers_that_can_be_counted_by_hand(plain: Tokenizer):
    """6 + 7 bytes; of "né 世" é and 世 are 2 + 3 bytes that are no whole characters; 4 words."""
    read = [text("ab cde"), text("né 世", "b")]
    counted = counts.count(plain, read)
    rows = {(row["by"], row["group"]): row for row in counts.groups(read, counted, 0.95)}
    assert set(rows) == {("all", "all"), ("domain", "a"), ("domain", "b")}
    whole = rows["all", "all"]
    assert (whole["documents"], whole["bytes"], whole["characters"], whole["words"], whole["tokens"]) == (2, 13, 10, 4, 13)
    assert whole["bytes_per_token"] == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 2}
    assert whole["characters_per_token"]["value"] == pytest.approx(10 / 13, abs=1e-5)
    assert whole["tokens_per_word"]["value"] == 13 / 4
    assert (rows["domain", "a"]["tokens_per_word"]["value"], rows["domain", "b"]["tokens_per_word"]["value"]) == (3, 3.5)
    assert whole["byte_share"]["value"] == pytest.approx(5 / 13, abs=1e-5)
    assert whole["unknown_share"]["value"] == 0
    assert counted.exact.all()
    distinct = len(set("ab cdené 世".encode()))
    assert counts.dead(plain, counted) == (256 - distinct) / 256


def test_a_document_without_words_does_not_count_in_tokens_per_word(plain: Tokenizer):
    read = [text("ab"), text("?!")]
    row = counts.groups(read, counts.count(plain, read), 0.95)[0]
    assert (row["tokens_per_word"]["value"], row["tokens_per_word"]["n"]) == (2, 1)
    only = [text("?!")]
    assert counts.groups(only, counts.count(plain, only), 0.95)[0]["tokens_per_word"] is None


def test_renyi_efficiency(plain: Tokenizer):
    """Two entries of 256, equally frequent: log 2 / log 256 = 1/8 whatever the order. Of 3 : 1 with order 2.5:
    log((3/4)^2.5 + (1/4)^2.5) / (1 - 2.5) / log 256. All entries equally frequent: 1."""
    assert counts.renyi(plain, counts.count(plain, [text("abab")])) == pytest.approx(1 / 8)
    expected = math.log(0.75**2.5 + 0.25**2.5) / -1.5 / math.log(256)
    assert counts.renyi(plain, counts.count(plain, [text("aaab")])) == pytest.approx(expected)
    used = counts.count(plain, [text("a")]).used * 0 + 1
    assert counts.renyi(plain, counts.Counts(used, used, used, used > 0, used)) == pytest.approx(1)


def test_a_merge_shows_in_every_number(tmp_path: Path, plain: Tokenizer):
    """With `ab` merged, "abab" is 2 tokens instead of 4, and of 257 entries one is used."""
    read = [text("abab")]
    merged = Tokenizer.load(byte_level(tmp_path / "merged", ("a", "b")))
    before, after = counts.count(plain, read), counts.count(merged, read)
    found = counts.summary(merged, after, before, 0.95)
    assert (found["against_first"]["value"], found["kind"], found["vocab"]) == (0.5, "BPE", 257 + len(chat.SPECIAL))
    assert found["dead"] == round(256 / 257, 5)


def test_tokens_of_byte_fallback_are_counted(tmp_path: Path):
    """ "a世" and a line's end: one piece, and four bytes that it has no piece for."""
    pieces = [("<unk>", 0.0), ("a", -1.0), *((f"<0x{byte:02X}>", -9.0) for byte in range(256))]
    backend = Backend(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = Tokenizer.load(save(backend, tmp_path))
    read = [text("a世\n")]
    counted = counts.count(tokenizer, read)
    row = counts.groups(read, counted, 0.95)[0]
    assert (row["tokens"], row["byte_share"]["value"], row["unknown_share"]["value"], counted.exact.all()) == (5, 0.8, 0.0, True)


def test_unknown_tokens_and_texts_that_do_not_come_back(tmp_path: Path):
    backend = Backend(models.WordLevel({"[UNK]": 0, "known": 1}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = Tokenizer.load(save(backend, tmp_path))
    read = [text("known"), text("known other known")]
    counted = counts.count(tokenizer, read)
    assert counts.groups(read, counted, 0.95)[0]["unknown_share"]["value"] == 0.25
    assert counted.exact.tolist() == [True, False]
    with pytest.raises(ValueError, match="no token of these texts"):
        counts.count(tokenizer, [text(" ")])


def test_parity_is_over_what_both_languages_say(plain: Tokenizer):
    """世界 is 6 bytes, `abcd` 4: 1.5. What only one of the two says counts for neither."""
    read = [text("abcd", language="en", said="1"), text("世界", language="ja", said="1"), text("世世世世", language="ja", said="2"), text("other")]
    counted = counts.count(plain, read)
    found = counts.parity(read, counted, "en", 0.95)
    assert {language: (row["value"], row["n"]) for language, row in found.items()} == {"en": (1.0, 1), "ja": (1.5, 1)}
    with pytest.raises(ValueError, match=r"reference 'fr' is not a language of the translations \(there are: en, ja\)"):
        counts.parity(read, counted, "fr", 0.95)
    languages = [row["group"] for row in counts.groups(read, counted, 0.95) if row["by"] == "language"]
    assert languages == ["en", "ja", texts.UNSAID]


def test_the_example_of_the_numbers_docstring():
    row = numbers.of_length([10, 11, 12], [("10",), ("1", "1"), ("1", "2")], False, 0.95)
    assert (row["pattern"], row["patterns"], row["share"]["value"]) == ("1+1", 2, round(2 / 3, 5))
    assert (row["next_cut_alike"], row["next_shares"]) == (0.5, 0.25)
    assert row["share"]["low"] == row["share"]["high"] == row["share"]["value"]


def test_digits_one_by_one_are_one_rule(plain: Tokenizer):
    """Of the 89 pairs of neighbours with two digits 81, all but 19 to 20 and its like, have the first digit in common: 81 * 1/2 / 89."""
    found = numbers.measure(plain, 40, 0, 0.95)
    assert found["one_rule"] and found["consistent"] == 1
    assert [row["pattern"] for row in found["lengths"]] == ["+".join("1" * digits) for digits in range(1, 9)]
    assert [row["tokens"] for row in found["lengths"]] == list(range(1, 9))
    assert found["lengths"][1]["next_shares"] == round(40.5 / 89, 5)
    assert found["lengths"][1]["next_cut_alike"] == 1


def test_a_year_that_is_one_token_breaks_the_rule(tmp_path: Path):
    """With 12 merged, 12 alone of the 90 numbers of two digits is cut otherwise; a space merged to a digit is no part of the number."""
    tokenizer = Tokenizer.load(byte_level(tmp_path, ("1", "2"), ("Ġ", "3")))
    assert numbers.splits(tokenizer, [12, 21, 3, 3124]) == [("12",), ("2", "1"), ("3",), ("3", "12", "4")]
    found = numbers.measure(tokenizer, 40, 0, 0.95)
    assert not found["one_rule"]
    assert found["lengths"][1]["share"]["value"] == round(89 / 90, 5)
    assert found["lengths"][4]["share"]["low"] < found["lengths"][4]["share"]["value"]  # a sample is unsure


def test_numbers_are_drawn_as_neighbours_of_one_length():
    assert numbers.drawn(1, 5, 0) == list(range(10))
    assert numbers.drawn(4, 5, 0) == list(range(1000, 10000))
    found = numbers.drawn(7, 100, 0)
    assert found == numbers.drawn(7, 100, 0) != numbers.drawn(7, 100, 1)
    assert all(len(str(n)) == 7 for n in found) and 90 < len(found) <= 100
    assert all(n + 1 in found or n - 1 in found for n in found)


def test_long_runs_in_a_split_are_shown_short():
    assert [page.pattern(said) for said in ("1", "1+1", "1+1+1", "3+3+3+2", "2+1+1")] == ["1", "1+1", "3×1", "3×3+2", "2+1+1"]


def test_each_typing_error_is_what_it_is_called():
    rng = random.Random(0)
    for word in ("hello", "Straße", "ab", "xxx", "привет"):
        assert typos.drop(word, rng) in {word[:i] + word[i + 1 :] for i in range(len(word))}
        assert typos.double(word, rng) in {word[: i + 1] + word[i:] for i in range(len(word))}
        swapped, cased = typos.swap(word, rng), typos.case(word, rng)
        assert swapped is None if word == "xxx" else sorted(swapped) == sorted(word) and swapped != word
        assert cased != word and cased.lower() == word.lower()
    assert typos.case("हिन्दी", rng) is None


def test_typing_errors_on_bytes_can_be_counted_by_hand(plain: Tokenizer):
    """ " abcd" is five tokens. swap: four stay in order. drop: one fewer, four stay. double: one more, five stay. case: four stay."""
    words = typos.draw([text("abcd abcd, it is 12345 a_bcd")], 10, 0)
    assert {word[""] for word in words} == {"abcd"} and len(words) == 10
    found = typos.measure(plain, words, 0.95)
    value = {name: (found[name]["growth"]["value"], found[name]["changed"]["value"]) for name in ("swap", "drop", "double", "case", "all")}
    assert value == {"swap": (0, 0.2), "drop": (-0.2, 0.2), "double": (0.2, 0), "case": (0, 0.2), "all": (0, 0.15)}


def test_a_word_that_is_one_token_suffers_more(tmp_path: Path, plain: Tokenizer):
    merges = [("Ġ", "a"), ("Ġa", "b"), ("Ġab", "c"), ("Ġabc", "d")]
    words = typos.draw([text("abcd " * 20)], 20, 0)
    known = typos.measure(Tokenizer.load(byte_level(tmp_path / "known", *merges)), words, 0.95)
    assert known["all"]["growth"]["value"] > 1 > typos.measure(plain, words, 0.95)["all"]["growth"]["value"]


def test_texts_without_spaces_have_no_words_to_mistype(plain: Tokenizer):
    assert typos.draw([text("世界へようこそ")], 10, 0) == []
    assert typos.draw([text("?!")], 10, 0) == []
    assert typos.measure(plain, [], 0.95) is None


def folder(path: Path, rows: list[dict[str, str]], *columns: str) -> Path:
    schema = documents.with_fields(documents.SCHEMA, **dict.fromkeys(columns, pa.string()))
    documents.write(documents.shard(path, 0), [{"id": str(i), **row} for i, row in enumerate(rows)], schema)
    return path


def test_a_sample_is_taken_at_even_distances(tmp_path: Path):
    source = folder(tmp_path / "many", [{"text": f"{i:04d}"} for i in range(100)])
    found = [int(read.text) for read in texts.sample([source], ["many"], 40, "", "language", "")]
    assert found == list(range(0, 100, 10))
    assert len(texts.sample([source], ["many"], 1000, "", "language", "")) == 100


def test_columns_say_domain_language_and_translation(tmp_path: Path):
    first = folder(tmp_path / "first", [{"text": "hello", "kind": "web", "language": "en", "said": "1"}, {"text": ""}], "kind", "language", "said")
    second = folder(tmp_path / "second", [{"text": "more"}])
    found = texts.sample([first, second], ["first", "second"], 1000, "kind", "language", "said")
    assert [(read.text, read.domain, read.language, read.said) for read in found] == [("hello", "web", "en", "1"), ("more", "second", None, None)]
    with pytest.raises(ValueError, match="no document has a column said"):
        texts.sample([second], ["second"], 1000, "", "language", "said")
    with pytest.raises(ValueError, match="every document is empty"):
        texts.sample([folder(tmp_path / "empty", [{"text": ""}])], ["empty"], 1000, "", "language", "")


def test_every_way_to_encode_is_timed(tmp_path: Path):
    bpe.save(bpe.train(["some text of no great length"], 270), tmp_path)
    found = speed.measure({"small": Tokenizer.load(tmp_path)}, ["some text of no great length\n"] * 50, 2)
    assert [row["way"] for row in found["rows"]] == ["bessemer", "tokenizers", "tiktoken"]
    for row in found["rows"]:
        assert 0 < row["wall"]["low"] <= row["wall"]["median"] <= row["wall"]["high"]


HOSTILE = "<script>alert(1)</script> & a long line of text that is shown in pieces on the page, with 世界 and 2024 in it"
ROWS = [
    {"text": HOSTILE, "language": "en", "said": "1"},
    {"text": "これは長い日本語の文です。" * 8, "language": "ja", "said": "1"},
    {"text": "Plain words, 1234 of them, and more words again.\n" * 3, "language": "en", "said": "2"},
]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, ...]]:
    root = tmp_path_factory.mktemp("inputs")
    made = folder(root / "texts", ROWS, "language", "said")
    merges = [("t", "h"), ("Ġ", "a"), ("Ġ", "th"), ("o", "r"), ("1", "2")]
    return {"documents": (made,), "tokenizers": (byte_level(root / "plain"), byte_level(root / "merged", *merges))}


CFG = TokenizerReportConfig(translation="said", numbers=20, words=50, rounds=1)


@pytest.fixture(scope="module")
def made(inputs: dict[str, tuple[Path, ...]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return artifact.make(find("tokenizer_report"), inputs, CFG, tmp_path_factory.mktemp("store") / "report")


def test_the_report_holds_every_part(made: Path):
    report = json.loads((made / "report.json").read_text())
    assert [row["name"] for row in report["tokenizers"]] == ["plain", "merged"]
    plain, merged = report["tokenizers"]
    assert plain["against_first"]["value"] == 1 > merged["against_first"]["value"]
    assert plain["exact"]["value"] == merged["exact"]["value"] == 1
    assert plain["parity"]["ja"]["value"] == round(len(ROWS[1]["text"].encode()) / len(HOSTILE.encode()), 5)
    assert plain["numbers"]["one_rule"] and not merged["numbers"]["one_rule"]
    timed = json.loads((made / "run/speed.json").read_text())
    assert {row["tokenizer"] for row in timed["rows"]} == {"plain", "merged"} and timed["versions"]["tokenizers"]
    manifest = artifact.read_manifest(made)
    assert manifest and manifest["numbers"]["plain: bytes_per_token"] == 1


def test_the_result_is_the_same_every_time_and_whatever_is_timed(made: Path, inputs: dict[str, tuple[Path, ...]], tmp_path: Path):
    stage = find("tokenizer_report")
    untimed = TokenizerReportConfig(translation="said", numbers=20, words=50, rounds=0)
    assert artifact.key_of(stage, inputs, untimed) == artifact.key_of(stage, inputs, CFG)
    again = artifact.make(stage, inputs, untimed, tmp_path / "again")
    assert artifact.digest(again) == artifact.digest(made)
    assert (again / "report.json").read_bytes() == (made / "report.json").read_bytes()
    assert (again / "plot.svg").read_bytes() == (made / "plot.svg").read_bytes()
    assert not (again / "run/speed.json").exists() and "Speed" not in (again / "report.html").read_text()


def test_the_page_opens_offline_and_escapes_what_it_shows(made: Path):
    html = (made / "report.html").read_text()
    named: list[tuple[str, str]] = []
    ids: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            named.extend((tag, value or "") for name, value in attrs if name in ("href", "src", "xlink:href", "srcset", "action"))
            ids.extend(value or "" for name, value in attrs if name == "id")

    Reader().feed(html)
    assert named and all(value.startswith("#") for _, value in named)
    assert {value[1:] for tag, value in named if tag == "a"} <= set(ids)
    assert len(ids) == len(set(ids))
    assert not re.search(r"<(script|link|iframe)\b|@import|url\((?!#)", html)
    assert "&lt;" in html and "{{" not in html
    for part in ("Summary", "Domains", "Languages", "Numbers", "Typing errors", "Speed", "Samples"):
        assert f">{part}</h2>" in html


def test_the_plot_is_a_picture_of_its_own(made: Path):
    written = "".join(ElementTree.fromstring((made / "plot.svg").read_text()).itertext())
    assert "entries" in written  # the axis: two sizes are a curve over the vocabulary
    used = set(re.findall(r"var\((--\w+)\)", (made / "plot.svg").read_text()))
    assert used and all(f"{name}:" in written for name in used)  # the colours of the page come along


def test_what_is_missing_is_named(inputs: dict[str, tuple[Path, ...]], tmp_path: Path):
    with pytest.raises(ValueError, match="documents is empty"):
        tokenizer_report((), inputs["tokenizers"], out=tmp_path, cfg=CFG)
    with pytest.raises(ValueError, match="tokenizers is empty"):
        tokenizer_report(inputs["documents"], (), out=tmp_path, cfg=CFG)
    with pytest.raises(ValueError, match="two tokenizers are called alike"):
        tokenizer_report(inputs["documents"], inputs["tokenizers"][:1] * 2, out=tmp_path, cfg=CFG)
