"""HTML pages to plain text: the encoding found, navigation left out, and the layout that carries meaning kept.

resiliparse finds the main text. It forgets which lines were preformatted and what a definition belongs to, both of which
matter in documentation, so those places are marked before and read back after. What comes out: paragraphs apart by a
blank line, list items behind a bullet, table cells apart by " | ", code exactly as it was, definitions indented.
"""

import codecs
import re

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5
from resiliparse.parse.html import HTMLTree

# Marks are private-use characters, which no text needs: DEPTH + n says that n definitions are open from here on. Each stands
# twice, since resiliparse takes a text of one symbol for an icon and drops it.
PRIVATE = re.compile("[\ue000-\uf8ff]")
DEPTH, DEEPEST, VERBATIM, PLAIN = 0xE000, 15, "\ue0fe" * 2, "\ue0ff" * 2
MARK = re.compile("[\ue000-\ue00f]")
TAG = re.compile(r"<(/?)([dD][lLtTdD]|[pP][rR][eE]|[bB][oO][dD][yY])(?![\w-])[^>]*>(\r?\n)?")
INDENT = 4


def text_of(html: str, main_content: bool = True) -> tuple[str, str]:
    """(title, text) of an HTML page. The text is "" where the page has none."""
    tree = HTMLTree.parse(_marked(html if html.isascii() else PRIVATE.sub("", html)))
    text = extract_plain_text(tree, main_content=main_content, preserve_formatting=True, alt_texts=False)
    return " ".join((tree.title or "").split()), _laid_out(text)


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


def _marked(html: str) -> str:
    """The page with its preformatted parts and the depth of its definitions written into the text."""
    open_: list[bool] = []  # for each open <dl>, whether we are in a <dd> of it

    def mark(tag: re.Match[str]) -> str:
        closing, name, newline = tag[1], tag[2].lower(), tag[3] or ""
        whole = tag[0]
        if name == "body":
            # resiliparse takes any list within two levels of <body> for a menu
            return whole if closing else whole + "<div><div><div>"
        if name == "pre":
            return PLAIN + whole if closing else whole[: len(whole) - len(newline)] + VERBATIM
        if name == "dl":
            if not closing:
                open_.append(False)
                return whole
            if open_:
                open_.pop()
        elif closing or not open_:
            return whole
        else:
            open_[-1] = name == "dd"
        return whole + 2 * chr(DEPTH + min(sum(open_), DEEPEST))

    return TAG.sub(mark, html)


def _laid_out(text: str) -> str:
    """Read the marks back: definitions indented, preformatted lines as they are, everything else tidied."""
    lines, depth, above = [""], 0, 0  # above: the depth of the last line that is not blank
    block: list[str] | None = None  # the preformatted lines read so far, None outside of such
    for line in text.split("\n"):
        marks = MARK.findall(line)
        if marks and line.startswith(marks[0]):
            depth = ord(marks[0]) - DEPTH
        clean, found = PRIVATE.sub("", line), list[str]()
        if block is None and VERBATIM not in line:
            clean = _cells(clean.lstrip(" ") if marks else clean).replace("\xa0", " ").rstrip()
            found = [" " * (INDENT * depth) + clean] if clean else []
            if not clean and lines[-1] and not marks:
                lines.append("")
        else:
            block = block if block is not None and VERBATIM not in line else []
            block.append(clean.replace("\xa0", " ").rstrip())
            if PLAIN in line:
                found, block = [*_shifted(block, INDENT * depth), ""], None
        if found:
            if depth > above and not lines[-1]:
                lines.pop()  # a definition follows its term without a gap
            lines += found
            above = depth
        if marks:
            depth = ord(marks[-1]) - DEPTH
    return "\n".join(lines + (block or [])).strip("\n")


def _shifted(block: list[str], margin: int) -> list[str]:
    """Preformatted lines with their own indentation, moved right as a whole where it is less than `margin` spaces."""
    while block and not block[-1]:
        block.pop()
    while block and not block[0]:
        block.pop(0)
    own = min((len(line) - len(line.lstrip()) for line in block if line), default=0)
    return [" " * max(0, margin - own) + line if line else "" for line in block]


def _cells(line: str) -> str:
    """A table row as resiliparse gives it (cells apart by two tabs), without the blank cells that layout tables pad with."""
    if "\t\t" not in line:
        return line
    cells = [cell.strip() for cell in line.split("\t\t")]
    while cells and not cells[0]:
        cells.pop(0)
    while cells and not cells[-1]:
        cells.pop()
    return " | ".join(cells)
