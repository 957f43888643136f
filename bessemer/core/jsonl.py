"""Rows on disk: one JSON object a line."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bessemer.core import artifact

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """All rows of a file. ValueError names the line that is no JSON object."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    # Not splitlines(): it also cuts at U+2028 and its like, which stand unescaped inside JSON strings.
    return list(rows(text.split("\n"), path))


def rows(lines: Iterable[str], path: Path) -> Iterator[Row]:
    """The row in each line that is not blank, one at a time. ValueError names the line of `path` that is no JSON object."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number}: not JSON: {error.msg}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path}:{number}: a row is a JSON object, not {line[:40]!r}")
        yield row


def write(path: Path, rows: Iterable[Row]) -> None:
    """Replace `path` by these rows, in one rename."""
    with artifact.atomic(path) as temporary:
        temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
