"""C4's rules (Raffel et al. 2020, 2.2, and their code): lines that are no sentences go, and documents with too few left.

As datatrove reads them. The list of bad words is not used. FineWeb uses these rules without the first.
"""

import re
from collections.abc import Iterator, Mapping

from bessemer.corpus.filters.page import Page
from bessemer.corpus.filters.table import sentences

BOUNDS = {
    "min_end_marks": 1,  # marks . ? ! " ' that must end a line; 0 keeps lines that end otherwise
    "min_line_words": 3,  # a line with fewer goes
    "max_word_length": 1000,  # a line with a longer word goes
    "max_lorem_ipsum": 0,  # lines with this placeholder text
    "max_curly_brackets": 0,  # lines with one
    "min_sentences": 5,  # in the lines that stay
}
CITATION = re.compile(r"\[(?:\d*|edit|citation needed)\]")
END = (".", "?", "!", '"', "'")
POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")


def c4(page: Page, bound: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """Removes from the page each line without an end mark, with few words or a word too long, or about JavaScript, cookies and terms;
    from the others marks of citation."""
    notices = tuple(word for word in ("javascript", *POLICIES) if word in page.lower)
    suspect = bool(notices) or "lorem ipsum" in page.lower or "{" in page.text
    cited = "[" in page.text
    kept, pieces, lorem, curly = list[str](), list[int](), 0, 0
    lines = page.text.splitlines()
    for line in lines:
        line = line.strip()
        words = line.split()
        if len(words) < bound["min_line_words"] or (len(line) > bound["max_word_length"] and max(map(len, words)) > bound["max_word_length"]):
            continue
        if cited and "[" in line:
            line = CITATION.sub("", line)
            words = line.split()
        if bound["min_end_marks"] and (not line.endswith(END) or line.endswith("...")):
            continue
        if suspect:
            lower = line.lower()
            lorem += "lorem ipsum" in lower
            if any(notice in lower for notice in notices):
                curly += "{" in line and "javascript" not in lower
                continue
            curly += "{" in line
        kept.append(line)
        pieces.append(len(words))
    yield "max_lorem_ipsum", lorem
    yield "max_curly_brackets", curly
    page.keep(kept, sum(bool(line.strip()) for line in lines) - sum(map(bool, kept)))
    yield "min_sentences", sentences(page.words, pieces)
