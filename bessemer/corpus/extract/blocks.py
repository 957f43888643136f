"""An HTML page as a flat list of text blocks, and the elements they lie in as ranges of that list.

lexbor, an HTML5 parser in C, repairs the page as a browser would. What it writes back is regular: every tag closed, one kind of
quote, no "<" or ">" inside an attribute. So the page is cut at each "<" and read in one pass, a few Python operations for a tag,
with no tree to walk and no recursion. An element is four numbers: its flags, its parent, its first block and the one after its last.
"""

import re
from typing import NamedTuple

from selectolax.lexbor import LexborHTMLParser

from bessemer.corpus.extract.names import flags_of


def _words(text: str) -> list[str]:
    return text.split()


UNSEEN = _words("script style iframe noframes noembed template svg xmp plaintext object video audio canvas select datalist button")
RAW = frozenset(("script", "style", "iframe", "noframes", "noembed", "xmp", "plaintext"))  # whose content is no markup
INLINE = _words("b i em strong small big font u s code tt kbd sub sup img wbr cite q abbr time mark")
BLOCKS = _words(
    "html body main article section div p h1 h2 h3 h4 h5 h6 ul ol menu dir li dl dt dd pre blockquote table caption thead tbody tfoot tr td th "
    "header footer nav aside form fieldset legend figure figcaption address details summary center hgroup search dialog textarea label noscript"
)
# What a tag does to the text being read. Tags not named here are inline and leave no trace.
PLAIN, OPEN, CLOSE, BREAK, RULE, LINK, UNLINK, SPAN, UNSPAN, SKIP = range(10)
ACTION = dict.fromkeys(BLOCKS, OPEN) | {"/" + name: CLOSE for name in BLOCKS}
ACTION |= dict.fromkeys(UNSEEN, SKIP) | {way + name: PLAIN for name in INLINE for way in ("", "/")}
ACTION |= {"br": BREAK, "hr": RULE, "a": LINK, "/a": UNLINK, "span": SPAN, "/span": UNSPAN}
HEADINGS = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))
NOTED = HEADINGS | {"pre", "td", "th"}
PLACED = frozenset(_words("ul ol menu dir li dt dd tr td th"))
COMMENT = "!--"
LINE = "\x01"  # a forced line break inside a block
ANCHORS = frozenset(_words("¶ § # 🔗"))  # how headings and lines of code link to themselves

# lexbor's time grows with the square of how deep elements are nested, of how many options a list has, and (as HTML5 asks for) of how
# many tags for bold and the like are left open. No page made to be read comes near these numbers.
MANY_TAGS, DEEPEST = 20_000, 3000
MANY_UNCLOSED, MOST_FORMATS = 1000, 500
VOID = "area|base|br|col|embed|hr|img|input|link|meta|source|track|wbr|p|li|td|th|tr|dt|dd|option"  # closed by none or by the next
NESTING = re.compile(rf"<(/?)(?!(?:{VOID})[\s/>])[a-z]", re.IGNORECASE)
FORMAT = re.compile(r"<(/?)(?:a|b|big|code|em|font|i|nobr|s|small|strike|strong|tt|u)(?=[\s/>])[^<>]*>", re.IGNORECASE)
OPTION = re.compile(r"</?opt(?:ion|group)[^<>]*>", re.IGNORECASE)
ANY_TAG = re.compile(r"<[^<>]*>")


class Place(NamedTuple):
    """Where a block stands in the layout of the page."""

    definitions: int = 0  # how many <dd> are open
    lists: int = 0  # how many lists are open, within the innermost <dd>
    item: int = -1  # element of the innermost <li>, <dt> or <dd>, -1 outside of any
    bullet: str = ""  # what stands before the innermost list item
    row: int = -1  # element of the innermost <tr>, -1 outside of any
    cell: int = 0  # which cell of that row, from 1


class Page(NamedTuple):
    """Blocks and elements of a page, column by column."""

    text: list[str]  # of each block: words apart by one space, or as written where preformatted; entities as in HTML
    linked: list[int]  # of each block: characters inside links
    within: list[int]  # of each block: its element
    place: list[Place]  # of each block
    tag: list[str]  # of each element
    attributes: list[str]  # of each element, as HTML
    parent: list[int]  # of each element; element 0 is the root and its own parent
    first: list[int]  # of each element: its first block
    last: list[int]  # of each element: the block after its last


def parse(html: str) -> LexborHTMLParser:
    """The page as a browser would understand it, in linear time."""
    tags = html.count("<")
    if tags > MANY_TAGS:
        html = OPTION.sub("", html)
        if _most_open(NESTING, html) > DEEPEST:
            html = ANY_TAG.sub("<br>", html)
    if tags - 2 * html.count("</") > MANY_UNCLOSED and _most_open(FORMAT, html) > MOST_FORMATS:
        html = FORMAT.sub("", html)
    try:
        return LexborHTMLParser(html)
    except UnicodeEncodeError:  # half a surrogate pair is no character
        return LexborHTMLParser(html.encode("utf-8", "replace").decode())


def _most_open(tag: re.Pattern[str], html: str) -> int:
    """How many elements are open at most, by counting tags."""
    depth = deepest = 0
    for closing in tag.findall(html):
        depth = max(0, depth - 1) if closing else depth + 1
        deepest = max(deepest, depth)
    return deepest


def blocks(tree: LexborHTMLParser) -> Page:
    """The blocks of a parsed page, in reading order."""
    body = tree.body
    reader = _Reader()
    _read((body.html or "") if body else "", reader)
    reader.flush()
    reader.page.last[0] = len(reader.page.text)
    return reader.page


def _read(html: str, reader: "_Reader") -> None:
    """Feed a page, as lexbor writes it, to a reader: an element, a piece of text, a line break at a time."""
    pieces, begun, flush = reader.pieces, reader.begun, reader.flush
    spans: list[bool] = []  # for each <span> open, whether it is read as an element
    hidden, depth, comment = "", 0, False  # the unseen element that we are in, and whether in a comment within it
    in_heading = False
    for chunk in html.split("<"):
        tag, _, text = chunk.partition(">")
        action = ACTION.get(tag)
        if hidden:
            if hidden == COMMENT:
                _, end, text = chunk.partition("-->")
                hidden = "" if end else hidden
            elif comment or (tag.startswith(COMMENT) and hidden not in RAW):
                comment = "-->" not in chunk
            elif tag == "/" + hidden:
                depth, hidden = depth - 1, hidden if depth > 1 else ""
            elif hidden not in RAW and tag.partition(" ")[0] == hidden:
                depth += 1
            if hidden:
                continue
        elif action == CLOSE:
            if pieces:
                flush()
            in_heading = False
            reader.pop(tag)
        elif action != PLAIN:
            name, _, attributes = tag.partition(" ")
            action = ACTION.get(name)
            if action == OPEN:
                if pieces:
                    flush()
                begun.append((name, attributes))
                if name in NOTED:
                    in_heading = name in HEADINGS
                    reader.note(name)
            elif action in (LINK, UNLINK):  # a heading may link to itself
                reader.in_link = action == LINK and (not in_heading or 'href="#' not in attributes)
            elif action == SPAN:
                spans.append(bool(attributes) and not reader.in_pre and flags_of(name, attributes) > 0)
                if spans[-1]:
                    flush()
                    begun.append((name, attributes))
            elif action == UNSPAN:
                if spans.pop():
                    flush()
                    reader.pop(tag)
            elif action == BREAK and (pieces or reader.in_pre):
                pieces.append("\n" if reader.in_pre else LINE)
            elif action == RULE:
                flush()
            elif action == SKIP:
                hidden, depth, text = name, 1, ""
            elif tag.startswith(COMMENT):
                _, end, text = chunk.partition("-->")
                hidden = "" if end else COMMENT
        if text and (pieces or reader.in_pre or not text.isspace()) and text not in ANCHORS:
            pieces.append(text)
            if reader.in_link:
                reader.link_chars += len(text)


class _Reader:
    """A page being read: its blocks and elements so far, the elements open, the block begun."""

    def __init__(self) -> None:
        self.page = Page([], [], [], [], ["html"], [""], [0], [0], [0])
        self.stack = [0]  # the elements open that have text
        self.begun: list[tuple[str, str]] = []  # those in them without any so far: most never get any, and leave no trace
        self.standing = [Place()]  # of each element: the place of what it holds
        self.counts: dict[int, int] = {}  # items so far of each list, cells of each row
        self.pieces: list[str] = []  # of the block begun
        self.link_chars = 0  # of the block begun
        self.in_link = self.in_pre = False

    def flush(self) -> None:
        """End the block begun."""
        text = "".join(self.pieces)
        if not self.in_pre:
            text = " ".join(text.split())
        if text and not text.isspace():
            page = self.page
            self.place()
            element = self.stack[-1]
            page.text.append(text)
            page.linked.append(min(self.link_chars, len(text)))
            page.within.append(element)
            page.place.append(self.standing[element])
        self.pieces.clear()
        self.link_chars = 0

    def place(self) -> None:
        """Give the elements begun their numbers."""
        page, stack, standing = self.page, self.stack, self.standing
        for name, attributes in self.begun:
            above, me = stack[-1], len(page.tag)
            at = standing[above]
            page.tag.append(name)
            page.attributes.append(attributes)
            page.parent.append(above)
            page.first.append(len(page.text))
            page.last.append(0)
            standing.append(_placed(name, me, above, page.tag, at, self.counts) if name in PLACED else at)
            stack.append(me)
        self.begun.clear()

    def note(self, name: str) -> None:
        """What begins with some elements, before any text of theirs."""
        if name == "pre":
            self.in_pre = True
        elif name == "td" or name == "th":
            self.place()  # an empty cell counts

    def pop(self, tag: str) -> None:
        if self.begun:
            self.begun.pop()
        else:
            self.page.last[self.stack.pop()] = len(self.page.text)
        if tag == "/pre":
            self.in_pre = False


def _placed(name: str, me: int, parent: int, tags: list[str], at: Place, counts: dict[int, int]) -> Place:
    """The place of what a new element of a list, a table or a list of definitions holds."""
    if name == "dd":
        return Place(at.definitions + 1, 0, me, "", at.row, at.cell)
    if name == "dt":
        return Place(at.definitions, at.lists, me, at.bullet, at.row, at.cell)
    if name == "tr":
        return Place(at.definitions, at.lists, at.item, at.bullet, me, 0)
    if name == "td" or name == "th":
        counts[at.row] = n = counts.get(at.row, 0) + 1
        return Place(at.definitions, at.lists, at.item, at.bullet, at.row, n)
    if name == "li":
        counts[parent] = n = counts.get(parent, 0) + 1
        return Place(at.definitions, at.lists, me, f"{n}. " if tags[parent] == "ol" else "• ", at.row, at.cell)
    return Place(at.definitions, at.lists + 1, me, at.bullet, at.row, at.cell)
