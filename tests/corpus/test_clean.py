"""Text preprocessing: one spelling, repaired encodings, notices; and the stage, which drops nothing but what becomes empty."""

from pathlib import Path

import pytest

from bessemer.corpus import documents
from bessemer.corpus.filters.notices import notice
from bessemer.corpus.filters.text import CleanConfig, bare, normalised, repaired, unescaped
from bessemer.stages.clean import clean


@pytest.mark.parametrize(
    ("raw", "tidy"),
    [
        ("a\r\nb\rc\u2028d\x85e", "a\nb\nc\nd\ne"),
        ("e\u0301 \u212b", "é Å"),
        ("e\u200b\u0301", "é"),
        ("end\fStart\vnext", "end\nStart\nnext"),
        ("zero\u200bwidth \ufeffmark so\u00adft", "zerowidth mark soft"),
        ("bell\x07 nul\x00 esc\x1b[0m", "bell nul esc[0m"),
        ("trailing  \t\n  kept indent\xa0\xa0x \n\n\n", "trailing\n  kept indent  x"),
        ("می\u200cخواهم 👩\u200d💻", "می\u200cخواهم 👩\u200d💻"),  # joiners are part of the spelling
        ("\n\n  first line keeps its indent", "  first line keeps its indent"),
    ],
)
def test_normalised(raw: str, tidy: str) -> None:
    assert normalised(raw) == tidy
    assert normalised(tidy) == tidy


@pytest.mark.parametrize(
    "text", ["It’s a café in Zürich – “naïve”, isn’t it?", "Привет, мир", "日本語のテキスト", "plain", "«café» l’été… à “x”", "Ω ≈ 3 × 10⁴ €"]
)
def test_mojibake_is_undone_and_sound_text_left_alone(text: str) -> None:
    assert repaired(text) == text
    for encoding in ("latin-1", "cp1252"):
        broken = "\n".join(["A sound line – é.", text.encode().decode(encoding, "surrogateescape")])
        if "\udc80" <= max(broken) <= "\udcff":  # not every byte is a character of Windows-1252
            continue
        assert repaired(broken) == f"A sound line – é.\n{text}"


def test_entities_are_resolved_unless_the_text_shows_markup() -> None:
    assert unescaped("Q&amp;A &quot;x&quot; &#8211; &eacute; &nosuch; AT&T; a & b") == 'Q&A "x" – é &nosuch; AT&T; a & b'
    assert unescaped("<p> is written &lt;p&gt;") == "<p> is written &lt;p&gt;"


@pytest.mark.parametrize(
    "line",
    [
        "Read more »",
        "  Continue reading",
        "Share this on Facebook",
        "Skip to main content",
        "© 2019 Example Ltd.",
        "Copyright (c) 2020 by the authors",
        "We use cookies to improve your experience.",
        "Please enable JavaScript to view the comments.",
        "Privacy Policy | Terms of Service",
        "Log in",
    ],
)
def test_notices(line: str) -> None:
    assert notice(line)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Read more books than your friends do.",
        "She could share this with nobody.",
        "JavaScript is a language of the web.",
        "The cookies were still warm.",
        "Copyright law protects authors.",
        "Tweeters and woofers",
        "print()",
        "The court held that the privacy policy was part of the contract. " * 4,
    ],
)
def test_what_is_no_notice(line: str) -> None:
    assert not notice(line)


def test_function_words_and_punctuation() -> None:
    text = "The dog's bone, which was old, isn't here.\nAnd: so-called 'art' of_war!"
    assert bare(text, CleanConfig(stop_words=True)) == "dog's bone, old, isn't .\n: -called 'art' of_war!"
    assert bare(text, CleanConfig(punctuation=True)) == "The dogs bone which was old isnt here\nAnd so called art of war"


# The stage


def test_the_stage_edits_and_says_what(tmp_path: Path) -> None:
    texts = ["CafÃ© &amp; bar\r\nRead more\nend", "sound", "\x00\u200b \n", "Skip to content\nLog in"]
    documents.write(documents.shard(tmp_path / "in", 0), [{"id": str(n), "text": text, "title": "T"} for n, text in enumerate(texts)])
    numbers = clean(tmp_path / "in", out=tmp_path / "out", cfg=CleanConfig(notices=True, workers=1))
    kept = [(row["id"], row["text"], row["mojibake"], row["notice_lines"]) for row in documents.read(tmp_path / "out")]
    assert kept == [("0", "Café & bar\nend", True, 1), ("1", "sound", False, 0)]
    assert (numbers["rejected"], numbers["rejected: empty"]) == (2, 2)
    assert [row["text"] for row in documents.rejected(tmp_path / "out")] == texts[2:], "a refused document is kept as it came"


def test_nothing_optional_is_done_when_switched_off(tmp_path: Path) -> None:
    text = "CafÃ© &amp; bar\nRead more"
    documents.write(documents.shard(tmp_path / "in", 0), [{"id": "1", "text": text}])
    clean(tmp_path / "in", out=tmp_path / "out", cfg=CleanConfig(mojibake=False, entities=False, workers=1))
    assert [row["text"] for row in documents.read(tmp_path / "out")] == [text]


def test_a_corpus_without_text_is_said(tmp_path: Path) -> None:
    documents.write(documents.shard(tmp_path / "in", 0), [{"id": "1", "text": ""}])
    with pytest.raises(ValueError, match=r"clean: no document of .*in is left: 1 rejected: empty \(1\)"):
        clean(tmp_path / "in", out=tmp_path / "out", cfg=CleanConfig(workers=1))
