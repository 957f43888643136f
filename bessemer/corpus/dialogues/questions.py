"""Questions and answers out of documentation: entries are read from the text of pages, rows are written from templates.

An entry is a line such as "function json.dumps(obj, *, skipkeys=False)" with its description indented under it. What an answer says
is the description's first sentence as it stands, so an answer can be checked against the page it came from.
"""

import bisect
import hashlib
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bessemer.corpus.dialogues.phrasings import BOILERPLATE, CHOICE, GREETINGS, PHRASINGS, SYSTEM

Row = dict[str, Any]
KINDS = ("module", "package", "class method", "static method", "class", "exception", "function", "method", "property", "data", "alias")
HEAD = re.compile(rf"(?:async )?({'|'.join(KINDS)}) ([A-Za-z_][\w.]*)(\(.*\))?(?: [=:] ?.*|: .*)?")
# A full stop, not that of an abbreviation or an initial, before something that can begin a sentence.
SENTENCE_END = re.compile(r"(?<!e\.g\.)(?<!i\.e\.)(?<!vs\.)(?<!etc\.)(?<![ (][A-Z]\.)(?<=[^\s.][.!?])['\")]? +(?=[\"'(A-Z])")
CALLABLE = ("function", "method", "class method", "static method")
LONGEST_HEAD = 110  # characters of a signature line that a question shows
WORDS = (2, 40)  # of an answer


@dataclass(frozen=True)
class Entry:
    """A documented thing. `summary` is one clean sentence, or "" where the page has none."""

    kind: str
    name: str  # qualified: json.dumps
    signature: str  # "(obj, *, skipkeys=False)", or ""
    summary: str
    module: str
    url: str

    @property
    def short(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def head(self) -> str:
        return f"{self.kind} {self.name}{self.signature}"

    @property
    def excerpt(self) -> str:
        return f"{self.head}\n    {self.summary}"


def described(text: str) -> Iterator[tuple[str, re.Match[str], list[str]]]:
    """(module, an entry's line, the lines under it) of each entry of a page, its module first. Nothing where the page does not begin with one."""
    lines = text.strip("\n").split("\n")
    module = HEAD.fullmatch(next((line for line in lines if line.strip()), ""))
    if not module or module[1] not in ("module", "package"):
        return
    head: re.Match[str] | None = None
    body: list[str] = []
    for line in [*lines, "end"]:
        if line.startswith("    ") or not line:
            body.append(line)
            continue
        if head:
            yield module[2], head, body
        head, body = HEAD.fullmatch(line), []


def entries(text: str, url: str) -> Iterator[Entry]:
    """The entries of a page, its module first. Nothing where the page does not begin with one."""
    for module, head, body in described(text):
        yield Entry(head[1], head[2], head[3] or "", summary("\n".join(body), head[2]), module, url)


def summary(doc: str, name: str) -> str:
    """The first sentence of a description, cleaned of markup; "" where it is no sentence."""
    short = name.rpartition(".")[2]
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", doc.strip("\n"))]
    # A page may begin with the thing's own name: "Selectors module."
    titles = {title + end for title in (name.lower(), short.lower()) for end in ("", ".", " module", " module.", " class.")}
    text = next((part for part in paragraphs if part.lower() not in titles), "")
    text = re.sub(r":\w+(?::\w+)?:`[~!]?([^`<]*?)(?: ?<[^`]*>)?`", lambda m: m[1].rpartition(".")[2] if "~" in m[0] else m[1], text)
    text = re.sub(r"``?([^`]+)``?", r"\1", text).replace("*IN PLACE*", "in place")
    text = re.sub(r"^[a-z]+ -- (?=[a-z])", "", text, flags=re.IGNORECASE)  # "integer -- return first index"
    text = re.sub(rf"^(?:{re.escape(name)}|{re.escape(short)})(?:\(\))? ?(?:--?|:) +", "", text)
    sentence = SENTENCE_END.split(text)[0].strip()
    sentence = re.sub(r" *\((?:deprecated|internal)[^)]*\)", "", sentence, flags=re.IGNORECASE)
    if not clean(sentence, short):
        return ""
    sentence = sentence[0].upper() + sentence[1:] if re.match(r"[a-z]+[ ,]", sentence) else sentence
    return sentence if sentence.endswith((".", "!", "?")) else sentence + "."


def clean(sentence: str, short: str) -> bool:
    """Whether a sentence reads well on its own."""
    words = sentence.split()
    if not WORDS[0] <= len(words) <= WORDS[1] or not 12 <= len(sentence) <= 240 or not re.match(r"[A-Za-z'\"]", sentence):
        return False
    if sentence.endswith((":", ",", ";", "(", "-", "and", "the", "...")) or sentence.lower().startswith(BOILERPLATE):
        return False
    if re.search(
        r">>>|-+>|::|[{}|\\<>@$^~`]|==|\.\.\.| -- |__|\*\*|https?:|[^\x20-\x7e]|\bXXX\b|\bTODO\b|\+-|(?<!\w)%\w|(?:^| )[-*] |'\\s*'|\b[Tt]he [.,]",
        sentence,
    ):
        return False
    if any(sentence.count(a) != sentence.count(b) for a, b in ("()", "[]")) or sentence.count('"') % 2:
        return False
    if re.match(rf"{re.escape(short)}\(", sentence) or re.match(r"\w+([:=(]| [:=] )", sentence) or re.match(r"[\w.]+\(.*\)\.?$", sentence):
        return False
    letters = sum(character.isalpha() or character == " " for character in sentence)
    return letters >= 0.8 * len(sentence) and sum(word.isupper() and len(word) > 1 for word in words) <= max(3, len(words) // 4)


def unambiguous(found: Iterable[Entry]) -> tuple[list[Entry], int]:
    """Entries by name, sorted, and how many names were dropped because two pages say different things of them."""
    by_name: dict[str, list[Entry]] = defaultdict(list)
    for entry in found:
        if not any(part.startswith("_") for part in entry.name.split(".")) and len(entry.name) <= 60:
            by_name[entry.name].append(entry)
    same = {name: group for name, group in by_name.items() if len({(e.kind, e.summary) for e in group}) == 1}
    return [min(same[name], key=lambda e: e.url) for name in sorted(same)], len(by_name) - len(same)


def is_held_out(entry: Entry, fraction: float, seed: int) -> bool:
    """By a hash of the entry's own name and sentence, not of its module: json.JSONDecoder and json.decoder.JSONDecoder stay together."""
    return int(digest(str(seed), entry.short, entry.summary)[:8], 16) < fraction * 2**32


def digest(*parts: str) -> str:
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()


def pick(options: Sequence[Any], *key: object) -> Any:
    """One of `options`, the same each time for the same key."""
    return options[int(digest(*map(str, key))[:8], 16) % len(options)]


def rows(group: list[Entry], everything: list[Entry], seed: int, phrasings: int = 1, system: float = 0.0) -> Iterator[Row]:
    """All rows about the entries of `group`. `everything` is what exists, held out or not: what a module defines depends on it."""
    book = Book(group, everything)
    for entry in group:
        for kind, write in WRITERS.items():
            for again in range(phrasings if kind in ("describe", "module", "name") else 1):
                written = write(entry, book, random.Random(f"{seed} {kind} {entry.name} {again}"))
                if written:
                    yield row(kind, entry, written, seed, system)


def greetings(seed: int) -> Iterator[Row]:
    """What people say to an assistant before they ask anything. These come from no page."""
    nowhere = Entry("greeting", "", "", "", "", "")
    for said, answer in GREETINGS.items():
        for text in said:
            yield row("greeting", nowhere, [(text, answer)], seed, 0.0)


def row(kind: str, entry: Entry, turns: list[tuple[str, str]], seed: int, system: float) -> Row:
    """A chat row. Its id names its content, and its order among others is random but fixed."""
    messages = [{"role": role, "content": text} for pair in turns for role, text in zip(("user", "assistant"), pair, strict=True)]
    key = digest(str(seed), kind, entry.name, *(text for pair in turns for text in pair))[:16]
    if int(key[:8], 16) < system * 2**32:
        messages = [{"role": "system", "content": pick(SYSTEM, key)}, *messages]
    return {"id": key, "kind": kind, "entry": entry.name, "url": entry.url, "messages": messages}


class Book:
    """Look-ups over the entries: what a module defines, which names and sentences are unique."""

    def __init__(self, group: list[Entry], everything: list[Entry]):
        self.defines: dict[str, dict[str, Entry]] = defaultdict(dict)
        self.homes: dict[str, set[str]] = defaultdict(set)
        self.said: dict[str, set[str]] = defaultdict(set)
        for entry in everything:
            self.said[entry.summary].add(entry.name)
            if is_top(entry):
                self.defines[entry.module][entry.short] = entry
                self.homes[entry.short].add(entry.module)
        self.neighbours: dict[str, list[Entry]] = defaultdict(list)  # in the order of the page, of this group alone
        for entry in group:
            if entry.summary and len(entry.head) <= LONGEST_HEAD and entry.kind not in ("module", "package"):
                self.neighbours[entry.module].append(entry)
        self.tops = [entry for entry in group if is_top(entry)]


def is_top(entry: Entry) -> bool:
    """Whether an entry is a function or class of its module itself."""
    return entry.kind in ("function", "class", "exception") and entry.name in (entry.short, f"{entry.module}.{entry.short}")


def article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def ask(topic: str, rng: random.Random, /, **words: str) -> str:
    return rng.choice(PHRASINGS[topic]).format(**words)


def describe(entry: Entry, book: Book, rng: random.Random) -> list[tuple[str, str]]:
    if not entry.summary or entry.kind in ("module", "package", "data", "alias"):
        return []
    return [(ask("describe" if entry.kind in CALLABLE else "describe thing", rng, name=entry.name, kind=entry.kind), entry.summary)]


def module(entry: Entry, book: Book, rng: random.Random) -> list[tuple[str, str]]:
    return [(ask("module", rng, name=entry.name), entry.summary)] if entry.summary and entry.kind in ("module", "package") else []


def locate(entry: Entry, book: Book, rng: random.Random) -> list[tuple[str, str]]:
    if not is_top(entry) or not entry.summary or len(book.homes[entry.short]) != 1:
        return []
    return [(ask("locate", rng, short=entry.short, kind=entry.kind), f"It is in the {entry.module} module.")]


def name(entry: Entry, book: Book, rng: random.Random) -> list[tuple[str, str]]:
    if not is_top(entry) or not entry.summary or len(book.said[entry.summary]) != 1 or len(entry.summary.split()) < 5:
        return []
    return [(ask("name", rng, kind=entry.kind, summary=entry.summary), f"{entry.name}.")]


def kind(entry: Entry, book: Book, rng: random.Random) -> list[tuple[str, str]]:
    if not is_top(entry) or not entry.summary:
        return []
    words = [entry.kind, rng.choice([k for k in ("function", "class", "exception") if k != entry.kind])]
    rng.shuffle(words)
    return [(ask("kind", rng, name=entry.name, one=article(words[0]), other=article(words[1])), f"It is {article(entry.kind)}.")]


def shown(entry: Entry, book: Book, rng: random.Random) -> list[Entry]:
    """One to three entries of a page in its order, with `entry` among them."""
    page = book.neighbours[entry.module]
    at, size = page.index(entry), rng.choice((1, 2, 2, 3, 3))
    start = max(0, min(at - rng.randrange(size), len(page) - size))
    return page[start : start + size]


def excerpt(entry: Entry, book: Book, rng: random.Random) -> list[tuple[str, str]]:
    if entry not in book.neighbours[entry.module]:
        return []
    text = "\n\n".join(e.excerpt for e in shown(entry, book, rng))
    return [(ask("excerpt", rng, text=text, name=entry.name), entry.summary)]


def signature(entry: Entry, book: Book, rng: random.Random) -> list[tuple[str, str]]:
    if entry not in book.neighbours[entry.module] or entry.kind not in CALLABLE or entry.signature in ("", "()", "(...)") or rng.random() < 0.5:
        return []
    text = "\n\n".join(e.excerpt for e in shown(entry, book, rng))
    return [(ask("signature", rng, text=text, name=entry.name), f"{entry.name}{entry.signature}")]


def missing(entry: Entry, book: Book, rng: random.Random) -> list[tuple[str, str]]:
    if entry not in book.neighbours[entry.module] or not book.tops or rng.random() < 0.8:
        return []
    text = "\n\n".join(e.excerpt for e in shown(entry, book, rng))
    other = rng.choice(book.tops).name
    return [(ask("excerpt", rng, text=text, name=other), "The text does not say.")] if other not in text else []


def defines(entry: Entry, book: Book, rng: random.Random) -> list[tuple[str, str]]:
    if not is_top(entry) or not entry.summary:
        return []
    if rng.random() < 0.5:
        return [(ask("defines", rng, module=entry.module, short=entry.short), "Yes.")]
    other = rng.choice(book.tops)
    if other.module == entry.module or entry.short in book.defines[other.module]:
        return []
    return [(ask("defines", rng, module=other.module, short=entry.short), "No.")]


def turns(entry: Entry, book: Book, rng: random.Random) -> list[tuple[str, str]]:
    if not is_top(entry) or not entry.summary:
        return []
    first = rng.choice((kind, locate, defines))(entry, book, rng)
    if not first or first[0][1] == "No.":
        return []
    return [*first, (ask("and it", rng), entry.summary)]


WRITERS = {
    "describe": describe, "module": module, "locate": locate, "name": name, "kind": kind, "excerpt": excerpt,
    "signature": signature, "missing": missing, "defines": defines, "turns": turns,
}  # fmt: skip


def choices(held: list[Entry], trained: set[str], seed: int) -> Iterator[Row]:
    """Multiple choice: the right sentence among three of other entries of the same kind and about the same length.

    All are of held-out entries, and none is in `trained`, the answers trained on: a model may know those, and so the right one.
    """
    by_kind: dict[str, list[Entry]] = defaultdict(list)
    for entry in sorted(held, key=lambda e: (len(e.summary), e.name)):
        if entry.summary and entry.summary not in trained:
            by_kind[entry.kind].append(entry)
    for entry in held:
        if not entry.summary or entry.summary in trained or entry.kind in ("data", "alias"):
            continue
        rng = random.Random(f"{seed} choice {entry.name}")
        at = bisect.bisect_left(by_kind[entry.kind], len(entry.summary), key=lambda e: len(e.summary))
        near = by_kind[entry.kind][max(0, at - 30) : at + 30]
        wrong = sorted({other.summary for other in near if other.short != entry.short} - {entry.summary})
        if len(wrong) < 3:
            continue
        offered = [entry.summary, *rng.sample(wrong, 3)]
        rng.shuffle(offered)
        question = CHOICE[entry.kind in CALLABLE].format(name=entry.name)
        yield {
            "id": digest(str(seed), "choice", entry.name)[:16], "kind": "choice", "entry": entry.name, "url": entry.url,
            "question": question, "choices": offered, "answer": offered.index(entry.summary),
        }  # fmt: skip
