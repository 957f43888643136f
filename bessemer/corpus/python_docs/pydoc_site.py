"""The documentation of an installed Python package as plain HTML pages: what pydoc shows, with semantic markup.

`python pydoc_site.py FOLDER SECONDS PACKAGE [SKIP ...]` renders one package and its submodules. It runs as a child process on the
standard library alone, because documenting a module means importing it: an import may print, hang, crash or start threads. What
happens is reported on standard output, one JSON object a line: {"begin": page}, {"page": page, "bytes": n} or {"failed": page,
"reason": why}.

pydoc's own pages repeat every inherited member in every class, its tables hide which line is a signature, and its data sections
print the machine they were made on. So these pages hold own members only, each as `kind qualified.name(signature)` with the
docstring indented under it, and values of plain constants only.
"""

import enum
import html
import importlib
import importlib.util
import inspect
import io
import json
import os
import pkgutil
import pydoc
import re
import signal
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

# Modules that act when imported (open a browser, print, want a display) or only test others.
SKIPPED = {"antigravity", "this", "idlelib", "turtledemo", "test", "tests", "testing", "lib2to3", "__main__", "__phello__", "pydoc_data", "conftest"}
COUNTS = {"n_fields", "n_sequence_fields", "n_unnamed_fields"}  # of every C structure
LONGEST_SIGNATURE = 240  # characters; beyond it annotations go, then trailing parameters
STYLE = "body{max-width:50em;margin:auto;font-family:sans-serif} pre{white-space:pre-wrap} dt{font-family:monospace;font-weight:bold}"


class Entry(NamedTuple):
    """One documented thing: "function json.dumps(obj, ...)" and its docstring."""

    head: str
    doc: str
    anchor: str


def page(name: str, title: str, blocks: list[str], links: list[str]) -> str:
    """A whole HTML page. `links` are names of other pages; they stand in a nav element, apart from the text."""
    nav = " ".join(f'<a href="{html.escape(link)}.html">{html.escape(link)}</a>' for link in links)
    body = "\n".join(block for block in blocks if block)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html.escape(name)}</title>\n'
        f'<style>{STYLE}</style>\n</head>\n<body>\n<nav><a href="./">index</a> {nav}</nav>\n'
        f"<main>\n<h1>{html.escape(title)}</h1>\n{body}\n</main>\n</body>\n</html>\n"
    )


def preformatted(doc: str) -> str:
    return f"<pre>{html.escape(doc, quote=False)}</pre>" if doc else ""


def section(title: str, entries: list[Entry]) -> str:
    """A heading and a definition list per entry. The docstring's indentation is in the text itself, so any extractor keeps it,
    and the empty paragraph is a blank line between entries."""
    items = []
    for head, doc, anchor in entries:
        definition = f"<dd>{preformatted(indented(doc))}</dd>" if doc else ""
        space = "<p></p>" if doc else ""
        items.append(f'{space}<dl id="{html.escape(anchor)}"><dt>{html.escape(head, quote=False)}</dt>{definition}</dl>')
    return "\n".join([f"<h2>{title}</h2>", *items]) if items else ""


def indented(text: str) -> str:
    return "\n".join("    " + line if line else "" for line in text.split("\n"))


def reflowed(doc: str) -> str:
    """A docstring with each wrapped paragraph on one line; code, lists and tables stay as they are.

    A paragraph is taken for prose when its lines share one indentation and all but the last are long.
    """
    parts = []
    for part in re.split(r"\n[ \t]*\n+", doc.expandtabs().strip("\n")):
        lines = [line.rstrip() for line in part.split("\n")]
        bare = [line.strip() for line in lines]
        margins = {len(line) - len(word) for line, word in zip(lines, bare, strict=True)}
        listed = bare[0].startswith((">>>", "|", "+-")) or any(
            re.match(r"[-*+|>=~@]|\d+[.)]|\w+ *[:=(]\s|:(param|type|arg|return|rtype|raise)|.* -+> ", word) for word in bare[1:]
        )
        columns = any(re.search(r"[^.:?!\s] {2}", word) for word in bare)
        if len(lines) > 1 and len(margins) == 1 and not listed and not columns and min(len(word) for word in bare[:-1]) >= 45:
            lines = [" " * margins.pop() + " ".join(bare)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def split_signature(name: str, doc: str) -> tuple[str, str]:
    """Take lines such as "pop(index) -> item" off the top of a docstring, as C functions write them.

    ("(index)", rest) for the first such line, ("", doc) where there is none. A sentence behind the arrow stays: it describes.
    """
    last = re.escape(name.rpartition(".")[2])
    call, rest = "", doc
    while match := re.match(rf"[ \t]*(?:[\w.]+\.)?{last}(\([^\n]*?\)) *(?:(?:-+>|--|:|=)[ \t]*([^\n]*))?(?:\n|$)", rest):
        tail, below = (match[2] or "").strip(), rest[match.end() :]
        if tail.startswith("(") and ")" not in tail:  # a tuple over several lines
            inner, _, below = below.partition(")")
            tail += f"{inner})"
        returned = re.match(r"(?:\([^()]*\)|[\w\[\] .|]{1,30}?)(?:, |\. +|$)", tail)
        if returned and (tail[returned.end() :] or below.strip() or " " not in tail):  # a type; "a shallow copy" alone is a description
            tail = tail[returned.end() :]
        call = call or match[1]
        rest = "\n".join([tail[:1].upper() + tail[1:], below]) if tail else below
        if tail:
            break
    return call, inspect.cleandoc(rest)


def docstring(thing: Any, inherit: bool = True) -> str:
    own = thing.__dict__.get("__doc__") if inspect.isclass(thing) else getattr(thing, "__doc__", None)
    if isinstance(own, str):
        return inspect.cleandoc(own)
    return (inspect.getdoc(thing) or "") if inherit and not inspect.isclass(thing) else ""


def signature(thing: Any) -> str:
    """ "(a, b=1)", or "" where Python does not know it."""
    try:
        found = inspect.signature(thing)
    except (ValueError, TypeError, NameError):
        return ""
    text = str(found)
    if len(text) > LONGEST_SIGNATURE:
        bare = [p.replace(annotation=inspect.Parameter.empty) for p in found.parameters.values()]
        text = str(found.replace(parameters=bare, return_annotation=inspect.Signature.empty))
    if len(text) > LONGEST_SIGNATURE:
        text = text[: text.rfind(",", 0, LONGEST_SIGNATURE)] + ", ...)"
    # Defaults without a readable value, such as <object object at 0x7f..>, differ from run to run.
    return " ".join(re.sub(r"<[^<>]*(<[^<>]*>[^<>]*)*>", "...", text).split())


def described(kind: str, name: str, thing: Any, anchor: str, inherit: bool = True) -> Entry:
    """The entry of a class or routine."""
    call, doc = signature(thing), docstring(thing, inherit)
    written, rest = split_signature(name, doc)
    unknown = "" if inspect.isclass(thing) else "(...)"
    prefix = "async " if inspect.iscoroutinefunction(thing) or inspect.isasyncgenfunction(thing) else ""
    return Entry(f"{prefix}{kind} {name}{call or written or unknown}", reflowed(rest), anchor)


def real_name(thing: Any) -> str:
    """The public name of a class or function where it was defined, "" where that name leads elsewhere."""
    module, name = getattr(thing, "__module__", None) or "", getattr(thing, "__qualname__", "")
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not thing or any(part.startswith("_") for part in f"{module}.{name}".split(".")):
        return ""
    return name if module == "builtins" else f"{module}.{name}"


def members(cls: type, name: str) -> Iterator[Entry]:
    """What a class itself defines. Inherited members are documented where they come from: listed again in each of a thousand
    subclasses they would be most of the site. Slot wrappers ("Return self==value.") are the same for every type."""
    for key, kind, definer, value in sorted(pydoc.classify_class_attrs(cls), key=lambda attribute: attribute[0]):
        if definer is not cls or not pydoc.visiblename(key, obj=cls) or key in COUNTS:
            continue
        full, anchor = f"{name}.{key}", f"{cls.__name__}-{key}"
        special = key.startswith("__") and key.endswith("__")
        if kind in ("method", "class method", "static method"):
            routine = getattr(cls, key, value)
            if special and not (inspect.isfunction(routine) and routine.__doc__):
                continue
            yield described(kind, full, routine, anchor, inherit=not special)
        elif special:
            continue
        elif kind in ("data descriptor", "readonly property"):
            yield Entry(f"property {full}", reflowed(docstring(value)), anchor)
        elif inspect.isclass(value):
            yield Entry(f"class {full}", reflowed(docstring(value)), anchor)
        else:
            yield Entry(f"data {full}{shown(value)}", "", anchor)


def shown(value: Any) -> str:
    """The value of a plain constant; for anything else its type, since a repr holds addresses, paths and user names."""
    value = value.value if isinstance(value, enum.Enum) else value
    if value is None or (type(value) in (bool, int, float, complex) and len(repr(value)) <= 40):
        return f" = {value!r}"
    if type(value) is str and len(value) <= 60 and not re.search(r"[/\\]\w+[/\\]", value):
        return f" = {value!r}"
    return f": {type(value).__module__}.{type(value).__qualname__}".replace(": builtins.", ": ")


def class_entry(full: str, cls: type, anchor: str) -> Entry:
    entry = described("exception" if issubclass(cls, BaseException) else "class", full, cls, anchor)
    bases = ", ".join(base.__qualname__ if base.__module__ == "builtins" else f"{base.__module__}.{base.__qualname__}" for base in cls.__bases__)
    derived = f"Bases: {bases}" if bases not in ("object", "") else ""
    return entry._replace(doc="\n\n".join(filter(None, [entry.doc, derived])))


def module_page(module: types.ModuleType, name: str, submodules: list[str]) -> str:
    """The page of an imported module."""
    exported = getattr(module, "__all__", None)
    classes: list[Entry] = []
    functions: list[Entry] = []
    data: list[Entry] = []
    for key, value in sorted(inspect.getmembers(module), key=lambda member: member[0]):
        special = key.startswith("__") and key.endswith("__")
        if not pydoc.visiblename(key, exported, module) or special or inspect.ismodule(value):
            continue
        full = key if name == "builtins" else f"{name}.{key}"
        if not (inspect.isclass(value) or inspect.isroutine(value)):
            data.append(Entry(f"data {full}{shown(value)}", "", key))
            continue
        # Without __all__, what was merely imported here belongs to another page.
        if exported is None and not inspect.isbuiltin(value) and (inspect.getmodule(value) or module) is not module:
            continue
        entries = classes if inspect.isclass(value) else functions
        real = real_name(value)
        if real and getattr(value, "__name__", key) != key:
            entries.append(Entry(f"alias {full}", f"Same as {real}.", key))
        elif inspect.isclass(value):
            entries += [class_entry(full, value, key), *members(value, full)]
        else:
            entries.append(described("function", full, value, key))
    kind = "package" if hasattr(module, "__path__") else "module"
    parent = name.rpartition(".")[0]
    blocks = [
        preformatted(indented(reflowed(docstring(module)))),
        section("Classes", classes),
        section("Functions", functions),
        section("Data", data),
    ]
    return page(name, f"{kind} {name}", blocks, [*([parent] if parent else []), *submodules])


def topic_pages() -> Iterator[tuple[str, str]]:
    """The language reference that `help("if")` shows: (page name, HTML)."""
    from pydoc_data.topics import topics

    for key, text in sorted(topics.items()):
        lines = text.strip("\n").split("\n")
        title, rest = (lines[0], lines[2:]) if len(lines) > 2 and set(lines[1]) <= set("*=-") else (key, lines)
        name = f"topic.{re.sub(r'[^A-Za-z0-9_.]', '_', key)}"
        yield name, page(name, title.replace('"', ""), [preformatted(reflowed("\n".join(rest)))], [])


def submodules_of(module: types.ModuleType, name: str) -> list[str]:
    found = sorted(info.name for info in pkgutil.iter_modules(getattr(module, "__path__", [])))
    return [f"{name}.{last}" for last in found if not last.startswith("_") and last not in SKIPPED]


def scrubbed(text: str) -> str:
    """`text` without the folders of this machine: a page is the same wherever Python is installed, and by whichever name it was called."""
    text = text.replace(sys.executable, "/usr/bin/python3")
    places = {sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path}
    places = (places | {os.path.realpath(place) for place in places}) - {"", "/", "/usr"}
    for place in sorted(places, key=len, reverse=True):
        text = text.replace(place, "/usr")
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text.replace(str(Path.cwd()), "/tmp"))


def render(package: str, folder: Path, seconds: float, skip: set[str], say: Any) -> None:
    """Write the pages of `package` and all below it, depth first. A module gets `seconds` of time, or it has failed."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"no answer within {seconds:g} s")

    def write(name: str, text: str) -> None:
        (folder / f"{name}.html").write_text(scrubbed(text), encoding="utf-8", errors="replace")
        say({"page": name, "bytes": (folder / f"{name}.html").stat().st_size})

    signal.signal(signal.SIGALRM, late)
    if package == "pydoc_data":
        for name, text in topic_pages():
            write(name, text)
        return
    names = [package]
    while names:
        name = names.pop(0)
        say({"begin": name})
        # Repeated: an import that catches every exception would swallow the first alarm.
        signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
        try:
            module = importlib.import_module(name)
            below = [n for n in submodules_of(module, name) if n not in skip]
            write(name, module_page(module, name, below))
            names = below + names
        except BaseException as error:  # SystemExit included: what an import raises must not end the others
            said = " ".join(str(error).split())
            say({"failed": name, "reason": scrubbed(f"{type(error).__name__}: {said}")[:200]})
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


def main() -> None:
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    parent = os.dup(0)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # what modules print or read at import must not meet our own lines
        os.dup2(null, stream)
    sys.stdin, sys.stdout, sys.stderr = io.StringIO(), io.StringIO(), io.StringIO()
    # The parent holds the other end of our input: when it dies, however it dies, this ends too.
    threading.Thread(target=lambda: os.read(parent, 1) or os._exit(1), daemon=True).start()

    def say(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=lines, flush=True)

    render(sys.argv[3], Path(sys.argv[1]), float(sys.argv[2]), set(sys.argv[4:]), say)
    os._exit(0)  # modules may have left threads behind


if __name__ == "__main__":
    main()
