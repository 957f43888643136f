"""Four kinds of supervised rows from the sections of documentation. Each function takes all sections, in the order of their pages.

The labels are silver: read off the page by rule, not given by a reader. What each rule gets wrong stands with it.
"""

import builtins
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bessemer.corpus.dialogues.questions import clean, digest
from bessemer.corpus.exercises.sections import Section

Row = dict[str, Any]
PAGES, AREA = 4, 60  # a package with fewer pages or passages is no area
WORDS = (8, 60)  # of a passage
SHOWN = 40  # words of a section's prose that stand in a passage to answer from
WORD = re.compile(r"\w+|[^\w\s]")
NAMED = re.compile(r"(?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)(?P<called>\(\))?|\w+|[^\w\s]")  # json.dumps(), and all else
EXCEPTIONS = {name for name, thing in vars(builtins).items() if isinstance(thing, type) and issubclass(thing, BaseException)}


def row(section: Section, *key: str, **fields: Any) -> Row:
    return {"id": digest(section.name, *key)[:16], **fields, "entry": section.name, "page": section.page, "url": section.url}


def classify(found: Sequence[Section]) -> Iterator[Row]:
    """{text, label}: which package a passage is about, where it does not name it. True by the page it stands on.

    Packages of at least PAGES pages and AREA passages. Wrong where a passage would fit another package as well ("Close the connection.").
    """
    pages, passages = defaultdict(set), defaultdict(list)
    for section in found:
        area, words = section.module.partition(".")[0], section.prose.split()
        pages[area].add(section.page)
        if len(words) >= WORDS[0] and not re.search(rf"\b{area}\b", section.prose, re.IGNORECASE):
            passages[area].append(row(section, "classify", text=" ".join(words[: WORDS[1]]), label=area))
    for area, rows in passages.items():
        if len(pages[area]) >= PAGES and len(rows) >= AREA:
            yield from rows


def tag(found: Sequence[Section]) -> Iterator[Row]:
    """{words, tags} (IOB2): the names in a description. PARAM: a parameter of the function described; EXC: an exception; NAME: another
    qualified name of a documented module, or one that is called.

    True by the signature, and by what the pages document. Wrong where prose has a parameter's name in its plain sense ("the file name").
    """
    exceptions = EXCEPTIONS | {section.name.rpartition(".")[2] for section in found if section.kind == "exception"}
    modules = {section.module.partition(".")[0] for section in found}
    for section in found:
        parameters = {name for name in section.parameters if len(name) > 1}
        tagged = list(tags(section.prose, parameters, exceptions, modules))[: WORDS[1]]
        if len(tagged) >= WORDS[0]:
            yield row(section, "tag", words=[word for word, _ in tagged], tags=[named for _, named in tagged])


def tags(prose: str, parameters: set[str], exceptions: set[str], modules: set[str]) -> Iterator[tuple[str, str]]:
    """The words and marks of a description, each with its tag, from what is known to be a name."""
    for piece in NAMED.finditer(prose):
        first, *more = words = WORD.findall(piece["name"] or piece[0])
        kind = ""
        if piece["name"] and words[-1] in exceptions:
            kind = "EXC"
        elif piece["called"] or (more and first in modules):
            kind = "NAME"
        elif first in parameters and not more:
            kind = "PARAM"
        yield first, f"B-{kind}" if kind else "O"
        yield from ((word, f"I-{kind}" if kind else "O") for word in more)
        yield from ((mark, "O") for mark in piece["called"] or "")


def answer(found: Sequence[Section]) -> Iterator[Row]:
    """{question, context, answer, start, kind}: a passage of one to three neighbouring sections and a question about one of them.

    kind default: of a parameter; base: of a class; describes: the section's first sentence. True by the signature
    and the page's form. Questions come from templates, and repeat words of the passage more than people's do.
    """
    pages, said = defaultdict(list), set[object]()
    for section in found:
        if section.kind not in ("module", "package") and len(section.head) <= 160:
            pages[section.page].append(section)
    for page in pages.values():
        for at, section in enumerate(page):
            draw = random.Random(section.name)
            for kind, ask in QUESTIONS.items():
                asked = ask(section, draw)
                # Pages of one family say the same of the same names, as the codecs do: once is enough.
                same = asked and (asked[0].replace(section.name, section.name.rpartition(".")[2]), asked[1])
                if not asked or same in said:
                    continue
                said.add(same)
                size = draw.choice((1, 2, 2, 3, 3))
                begin = max(0, min(at - draw.randrange(size), len(page) - size))
                question, wanted, before = asked
                parts = [shown(other) for other in page[begin : begin + size]]
                context = "\n\n".join(parts)
                place = len("\n\n".join([*parts[: at - begin], ""])) + shown(section).find(before + wanted) + len(before)
                if before + wanted in shown(section):
                    yield row(section, kind, question=question, context=context, answer=wanted, start=place, kind=kind)


def shown(section: Section) -> str:
    """A section in a passage: its line, the beginning of its prose, and a class's bases."""
    bases = re.search(r"^Bases: .+$", section.body, re.MULTILINE)
    prose = " ".join(section.prose.split(" ")[:SHOWN])
    return "\n    ".join(part for part in (section.head, prose, bases[0] if bases else "") if part)


Asked = tuple[str, str, str] | None  # question, answer, and what stands right before the answer


def ask_default(section: Section, draw: random.Random) -> Asked:
    given = {name: default for name, default in section.parameters.items() if default}
    if not given:
        return None
    name = draw.choice(sorted(given))
    equals = " = " if f"{name} = {given[name]}" in section.signature else "="
    return f"What is the default of {name} in {section.name}?", given[name], f"{name}{equals}"


def ask_base(section: Section, draw: random.Random) -> Asked:
    bases = re.search(r"^Bases: ([\w.]+)$", section.body, re.MULTILINE)
    return (f"What is the base of {section.name}?", bases[1], "Bases: ") if bases else None


def ask_describes(section: Section, draw: random.Random) -> Asked:
    if not section.sentences or not clean(section.sentences[0], section.name.rpartition(".")[2]) or len(section.sentences[0].split()) > 20:
        return None
    return f"What does the page say of {section.name}?", section.sentences[0], ""


QUESTIONS: dict[str, Callable[[Section, random.Random], Asked]] = {
    "default": ask_default,
    "base": ask_base,
    "describes": ask_describes,
}


def summarise(found: Sequence[Section]) -> Iterator[Row]:
    """{source, target}: an entry's line and description without its first sentence, and that sentence.

    Were it left in, to copy the beginning would be enough. True as far as authors begin with what a thing is for; what the sentence says
    need not be in the rest.
    """
    for section in found:
        rest = " ".join(section.sentences[1:]).split()
        if len(rest) >= WORDS[0] and clean(section.sentences[0], section.name.rpartition(".")[2]):
            source = " ".join([section.head, *rest[: 2 * WORDS[1]]])
            yield row(section, "summarise", source=source, target=section.sentences[0])


ROWS: dict[str, Callable[[Sequence[Section]], Iterator[Row]]] = {"classify": classify, "tag": tag, "answer": answer, "summarise": summarise}
ASKED = {"classify": ("text",), "tag": ("words",), "answer": ("question", "context"), "summarise": ("source",)}  # what a model is shown
TOLD = {"classify": "label", "tag": "tags", "answer": "answer", "summarise": "target"}  # what it is to say


def once(rows: Sequence[Row], kind: str) -> list[Row]:
    """Each input once, in the order of ids, a fixed shuffle. Where two pages answer one input differently, neither."""
    said = defaultdict(set)
    for one in rows:
        said[_input(one, kind)].add(str(one[TOLD[kind]]))
    first = {_input(one, kind): one for one in sorted(rows, key=lambda one: one["id"], reverse=True)}
    return sorted((one for asked, one in first.items() if len(said[asked]) == 1), key=lambda one: one["id"])


def split(rows: Sequence[Row], share: float) -> tuple[list[Row], list[Row]]:
    """Rows to train on and rows held out, by whole pages: in a fixed random order a page is held out where it still fits into `share` of the
    rows of its label. A label that is not on both sides is dropped: it could be either learned or asked for."""
    pages: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for one in rows:
        pages[one.get("label", ""), one["page"]].append(one)
    total, held = Counter(one.get("label", "") for one in rows), Counter[str]()
    sides: tuple[list[Row], list[Row]] = [], []
    for (label, _), own in sorted(pages.items(), key=lambda pair: digest(*pair[0])):
        out = held[label] + len(own) <= share * total[label]
        held[label] += len(own) * out
        sides[out].extend(own)
    both = [label for label, count in held.items() if 0 < count < total[label]]
    train, heldout = (sorted((one for one in side if one.get("label", "") in both), key=lambda one: one["id"]) for side in sides)
    return train, heldout


def even(rows: Sequence[Row], most: int) -> list[Row]:
    """At most `most` rows, in their order: of each label, or kind of question, as many as of any other while there are some."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for one in rows:
        groups[one.get("label") or one.get("kind", "")].append(one)
    turns = ((turn, one) for group in groups.values() for turn, one in enumerate(group))
    taken = sorted(turns, key=lambda pair: (pair[0], pair[1]["id"]))[:most]
    return sorted((one for _, one in taken), key=lambda one: one["id"])


def _input(one: Row, kind: str) -> str:
    return str([one[name] for name in ASKED[kind]]).lower()
