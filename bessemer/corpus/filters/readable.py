"""Our own rules: what no reader could read, error pages, and pages of placeholders and notices."""

import re
from collections.abc import Iterator, Mapping

from bessemer.corpus.filters import notices
from bessemer.corpus.filters.page import Page

BOUNDS = {
    "max_unreadable": 0.01,  # share of characters that are no text: controls, replacement and private-use characters
    "max_error_page": 0,  # 1 where title or first lines say that the page is an error message
    "max_notices": 0.2,  # share of lines with placeholder text, JavaScript, cookie or legal notices
}
UNREADABLE = re.compile("[\ufffd\ue000-\uf8ff\x00-\x08\x0e-\x1f\x7f-\x9f]")
ERROR_PAGE = re.compile(
    r"^\W*(error\W*)?(400|401|403|404|405|410|429|500|502|503|504)\b(?!\W*\d)|(page|file|url|document) (was )?not found|access (is )?denied"
    r"|^\W*forbidden\b|internal server error|service unavailable|bad gateway|too many requests|^\W*not found\b",
    re.IGNORECASE,
)
ERROR_WORDS = 150  # a page with more words than this is about errors, not one itself


def readable(page: Page, _: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """Three shares of the text that is no text."""
    yield "max_unreadable", len(UNREADABLE.findall(page.text)) / max(len(page.text), 1)
    lines = [stripped for line in page.text.split("\n") if (stripped := line.strip())]
    first = (line[:200] for line in (page.title, *lines[:2]))
    yield "max_error_page", float(any(ERROR_PAGE.search(line) for line in first) and page.plain <= ERROR_WORDS)
    yield "max_notices", notices.share(page.text)
