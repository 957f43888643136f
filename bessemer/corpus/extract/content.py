"""Which blocks of a page are its main content.

1. Every block has a score: its length where it reads like prose, a little less than nothing where it is short or a link.
2. Elements that name themselves something else (navigation, comments, related, share) are dropped, unless little would be left.
3. The main content is the element whose remaining blocks have the largest sum. (Finding text as the best-scoring part of a page
   goes back to Pasternack and Roth, "Extracting article text from the web with maximum subsequence segmentation", WWW 2009; here the
   parts are the elements, so that one prefix sum over the blocks is all it takes.)
4. Inside it, lone links, lines such as "Read more" and headings with nothing under them go.
"""

import re
from itertools import accumulate

from bessemer.corpus.extract.blocks import HEADINGS, Page
from bessemer.corpus.extract.boilerplate import is_boilerplate
from bessemer.corpus.extract.names import BODY, HIDDEN, NOISE, SOFT, flags_of

# Parts of a text, never a text.
PARTS = frozenset(("p", "pre", "span", "dt", "dd", "dl", "li", "ul", "ol", "td", "th", "tr", "tbody", "table", "blockquote"))
# How much prose must be left, in units of the element's own, for an element of this kind to go.
LEFT_BY_TAG = {"nav": 0.1, "footer": 0.3, "aside": 0.5, "form": 0.5, "dialog": 0.1, "search": 0.1, "label": 0.5, "fieldset": 0.5}
LEFT_BY_TAG |= {"address": 0.5, "menu": 0.5, "figcaption": 0.3, "textarea": 0.1, "noscript": 0.5, "header": 1.0}
LEFT_HIDDEN, LEFT_NOISE, LEFT_NOISY_BODY, LEFT_SOFT, LEFT_TEASER = 0.5, 0.5, 2.0, 1.0, 0.5
LEAST_MAIN = 200  # characters
SOFT_SIZE = 400  # characters; longer elements with a doubtful name stay
OWN_BODY = 0.2  # share of the page's prose that makes an article, main or content element untouchable, with all around it

SENTENCE = re.compile(r"[.!?:;,…。、，！？»”\"।]")
WIDE = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")  # scripts in which a word is a character or two
SHORTEST, SHORTEST_WIDE = 50, 20  # characters of prose
LEAD_BACK, LEAD_SIZE = 30, 600  # how many blocks before the content a lead is looked for under the title, its longest paragraph
LONE_LINK = 200  # characters


def chosen(page: Page) -> list[int]:
    """The blocks of the main content, in order."""
    if not page.text:
        return []
    kinds = [page.tag[e] for e in page.within]
    scores = _scores(page, kinds)
    dropped = _noise(page, scores)
    for b, gone in enumerate(dropped):
        if gone and scores[b] > 0:
            scores[b] = 0.0
    sums = [0.0, *accumulate(scores)]
    gains = [sums[last] - sums[first] for first, last in zip(page.first, page.last, strict=True)]
    best = max(range(len(gains)), key=lambda e: (gains[e], e)) if max(gains) > 0 else 0
    while page.tag[best] in PARTS:
        best = page.parent[best]
    first, last = page.first[best], page.last[best]
    kept = _lead(first, kinds, scores, dropped, page)
    kept += [b for b in range(first, last) if not dropped[b] and _stays(page, b, kinds[b])]
    return _without_bare_headings(kept, kinds)


def _scores(page: Page, kinds: list[str]) -> list[float]:
    """How much each block looks like content."""
    scores, seen = [], set[str]()
    for text, linked, kind, place in zip(page.text, page.linked, kinds, page.place, strict=True):
        size = len(text)
        plain = size - linked
        if kind == "pre":
            score = float(plain)
        elif kind in HEADINGS:
            score = -20.0 if linked * 2 >= size else 0.0
        elif linked * 2 > size:
            score = 0.0 if place.row >= 0 else -10 - min(size, 60) / 2
        elif plain < SHORTEST and (text.isascii() or plain < SHORTEST_WIDE or not WIDE.search(text)):
            score = 0.0 if place.row >= 0 else -1.0
        elif text in seen or not SENTENCE.search(text):
            score = 0.0
        else:
            score = float(plain)
            seen.add(text)
        scores.append(score)
    return scores


def _noise(page: Page, scores: list[float]) -> list[bool]:
    """For each block, whether it lies in an element that is not content. Outer elements are judged before inner ones."""
    sums = [0.0, *accumulate(max(score, 0.0) for score in scores)]
    sizes = [0, *accumulate(len(text) for text in page.text)]
    left, end, header_end = sums[-1], 0, 0
    prose = [sums[b] - sums[a] for a, b in zip(page.first, page.last, strict=True)]
    guarded = _guarded(page, prose)
    teasers = _teasers(page)
    start, end_of_main = _main(page)
    dropped = [False] * len(page.text)
    for e, (tag, attributes, first, last) in enumerate(zip(page.tag, page.attributes, page.first, page.last, strict=True)):
        if first == last or first < end or not (attributes or tag in LEFT_BY_TAG or e in teasers) or e in guarded:
            continue
        flags = flags_of(tag, attributes)
        need = LEFT_BY_TAG.get(tag)
        if flags & HIDDEN:
            need = LEFT_HIDDEN
        elif flags & NOISE:
            need = LEFT_NOISY_BODY if flags & BODY else LEFT_NOISE
        elif flags & SOFT and not flags & BODY and sizes[last] - sizes[first] < SOFT_SIZE:
            need = LEFT_SOFT
        elif e in teasers:
            need = LEFT_TEASER
        if need is None or "blockquote" in page.tag[e + 1 : e + 3]:  # a quoted post comes wrapped in its network's name
            continue
        if tag == "header":  # of a page or an article: the lead stays
            if first < header_end:
                continue
            header_end = last
            dropped[first:last] = [gone or score <= 0 for gone, score in zip(dropped[first:last], scores[first:last], strict=True)]
        elif left - prose[e] >= need * prose[e] or (start < end_of_main and (last <= start or first >= end_of_main)):
            left -= prose[e]
            end = last
            dropped[first:last] = [True] * (last - first)
    return dropped


def _main(page: Page) -> tuple[int, int]:
    """The blocks of the element that the page calls its main one, (0, 0) without one of any length."""
    for e, (tag, attributes) in enumerate(zip(page.tag, page.attributes, strict=True)):
        if tag == "main" or 'role="main"' in attributes:
            first, last = page.first[e], page.last[e]
            if sum(map(len, page.text[first:last])) >= LEAST_MAIN:
                return first, last
    return 0, 0


def _guarded(page: Page, prose: list[float]) -> set[int]:
    """The elements around a good part of the page's prose that names itself the content."""
    guarded: set[int] = set()
    least = OWN_BODY * prose[0]
    for e, mine in enumerate(prose):
        if mine > least and e not in guarded and _is_body(page.tag[e], page.attributes[e]):
            e = page.parent[e]
            while e and e not in guarded:
                guarded.add(e)
                e = page.parent[e]
    return guarded


def _is_body(tag: str, attributes: str) -> bool:
    flags = flags_of(tag, attributes)
    return (flags & BODY > 0 or tag == "article") and not flags & (NOISE | HIDDEN)


def _teasers(page: Page) -> set[int]:
    """Items of lists that open with a link in an element of its own, then give some text: leads into other pages."""
    items: dict[int, list[int]] = {}
    for e, tag in enumerate(page.tag):
        first, last = page.first[e], page.last[e]
        if 1 < last - first <= 8 and tag in ("li", "article", "div", "section"):
            link = False
            for b in range(first, last):
                size = len(page.text[b])
                if page.linked[b] > 0.8 * size:
                    link = link or (size > 15 and page.within[b] != e)
                else:
                    if link and size > 20:
                        items.setdefault(page.parent[e], []).append(e)
                    break
    return {e for group in items.values() if len(group) > 1 for e in group}


def _lead(first: int, kinds: list[str], scores: list[float], dropped: list[bool], page: Page) -> list[int]:
    """Paragraphs between the title and the content proper."""
    for b in range(first - 1, max(-1, first - LEAD_BACK), -1):
        if kinds[b] == "h1":
            return [x for x in range(b, first) if not dropped[x] and scores[x] > 0 and len(page.text[x]) < LEAD_SIZE]
    return []


def _stays(page: Page, b: int, kind: str) -> bool:
    """Whether a block inside the content is part of it."""
    text, linked = page.text[b], page.linked[b]
    if kind == "pre":
        return True
    if linked > 0.8 * len(text) and len(text) < LONE_LINK and kind not in HEADINGS and page.place[b].row < 0 and not text.endswith("."):
        return False
    return not is_boilerplate(text, linked)


def _without_bare_headings(kept: list[int], kinds: list[str]) -> list[int]:
    """Headings stay where text follows, or a heading of a lower rank."""
    out: list[int] = []
    below = ""  # the kind of the block that follows
    for b in reversed(kept):
        kind = kinds[b]
        if kind not in HEADINGS or (below and (below not in HEADINGS or below > kind)):
            out.append(b)
            below = kind
    return out[::-1]
