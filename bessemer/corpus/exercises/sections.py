"""Documentation as sections: an entry's line, and the prose and lists under it, as they stand on the page."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from bessemer.corpus.dialogues.questions import CALLABLE, SENTENCE_END, described

CODE = re.compile(r">>>|^\s*(?:[-*•|+] |\d+[.)] )|::$|[{}]|\w --? \w", re.MULTILINE)  # a paragraph that is no prose: examples, lists, tables
MARKUP = re.compile(r":\w+(?::\w+)?:`[~!]?([^`<]*?)(?: ?<[^`]*>)?`|`{1,2}([^`]+)`{1,2}")


@dataclass(frozen=True)
class Section:
    """An entry with what its page says under it. `page` is the document's id."""

    kind: str
    name: str  # qualified: json.dumps
    signature: str  # "(obj, *, skipkeys=False)", or ""
    body: str
    module: str
    page: str
    url: str

    @property
    def head(self) -> str:
        return f"{self.kind} {self.name}{self.signature}"

    @cached_property
    def prose(self) -> str:
        """The paragraphs of plain sentences, without markup, in one line."""
        paragraphs = (part for part in re.split(r"\n\s*\n", self.body.strip("\n")) if not CODE.search(part) and not part.strip().startswith("Bases:"))
        lines = (" ".join(MARKUP.sub(lambda found: found[1] or found[2], part).split()) for part in paragraphs)
        return " ".join(line for line in lines if line.endswith((".", "!", "?")))

    @cached_property
    def sentences(self) -> list[str]:
        return SENTENCE_END.split(self.prose) if self.prose else []

    @cached_property
    def parameters(self) -> dict[str, str]:
        """Each parameter's default as the signature spells it, "" without one. Nothing where the signature is no Python."""
        if self.kind not in (*CALLABLE, "class", "exception"):
            return {}
        source = f"def f{self.signature}: pass"
        try:
            given = ast.parse(source).body[0]
        except SyntaxError:
            return {}
        assert isinstance(given, ast.FunctionDef)
        args = given.args
        placed = [*args.posonlyargs, *args.args]
        defaults = [None] * (len(placed) - len(args.defaults)) + args.defaults + args.kw_defaults
        found = {arg.arg: ast.get_source_segment(source, default) or "" if default else ""
                 for arg, default in zip([*placed, *args.kwonlyargs], defaults, strict=True)}  # fmt: skip
        found |= {arg.arg: "" for arg in (args.vararg, args.kwarg) if arg}
        return {name: default for name, default in found.items() if name not in ("self", "cls")}


def sections(text: str, page: str, url: str) -> Iterator[Section]:
    """The sections of a page, its module's first. Nothing where the page does not begin with one."""
    for module, head, body in described(text):
        yield Section(head[1], head[2], head[3] or "", "\n".join(line[4:] for line in body), module, page, url)
