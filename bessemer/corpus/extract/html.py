"""HTML pages to plain text: the encoding found, what is not the page's own text left out, and the layout that carries meaning kept."""

import codecs
import re
from typing import NamedTuple

from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5
from selectolax.lexbor import LexborHTMLParser

from bessemer.corpus.extract.blocks import blocks, parse
from bessemer.corpus.extract.content import chosen
from bessemer.corpus.extract.layout import lay_out, line_of

SITE = re.compile(r"\s+(?:[|–—·•»:-]|::)\s+")  # between a title and the name of the site
LANGUAGE = re.compile(r"[a-zA-Z]{2,3}(?![a-zA-Z])")


class Text(NamedTuple):
    """What a page says."""

    title: str
    text: str  # "" where the page has none
    language: str  # what the page says its language is, as a lower-case code of two or three letters; "" where it does not


def text_of(html: str, main_content: bool = True) -> Text:
    """The text of an HTML page: its main content, or all that a reader sees."""
    tree = parse(html)
    page = blocks(tree)
    kept = chosen(page) if main_content else range(len(page.text))
    heading = next((line_of(page, b) for b in range(len(page.text)) if page.tag[page.within[b]] == "h1"), "")
    return Text(_title(tree, heading), lay_out(page, kept), _language(tree))


def _title(tree: LexborHTMLParser, heading: str) -> str:
    """The title that a page gives for sharing; else its <title>, less the site's name where the first heading is the rest."""
    shared = _meta(tree, '[property="og:title"]')
    node = tree.css_first("head title")
    title = " ".join(node.text().split()) if node else ""
    if heading and title != heading and heading in (title[: m.start()] for m in SITE.finditer(title)):
        return heading
    return shared or title or heading


def _language(tree: LexborHTMLParser) -> str:
    root = tree.css_first("html")
    said = (root.attributes if root else {}).get("lang") or _meta(tree, '[http-equiv="content-language" i]') or _meta(tree, '[property="og:locale"]')
    code = LANGUAGE.match(said.strip())
    return code[0].lower() if code else ""


def _meta(tree: LexborHTMLParser, selector: str) -> str:
    node = tree.css_first("head meta" + selector)
    return " ".join((node.attributes.get("content") or "").split()) if node else ""


def decode(body: bytes, declared: str = "") -> str:
    """The page as text. Bytes that are valid UTF-8 are UTF-8 whatever the server says; else its word counts, then the
    page's own <meta>, then a guess. ValueError where more than a tenth is unreadable even so."""
    for mark, name in ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")):
        if body.startswith(mark):
            return _checked(body[len(mark) :].decode(name, "replace"))
    said = map_encoding_to_html5(declared, False) if declared else None
    if b"\x1b$" not in body and not (said or "").startswith("utf-16"):  # ISO-2022 and UTF-16 are ASCII by their bytes
        try:
            return body.decode("utf-8")
        except UnicodeDecodeError:
            pass
    return _checked(bytes_to_str(body, said or detect_encoding(body, from_html_meta=True) or "utf-8", errors="replace"))


def _checked(text: str) -> str:
    bad = text.count("\ufffd")
    if bad * 10 > len(text):
        raise ValueError(f"{bad} of {len(text)} characters are unreadable in every encoding tried")
    return text
