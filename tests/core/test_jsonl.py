from pathlib import Path

import pytest

from bessemer.core import jsonl


def test_rows_come_back_whatever_line_separators_their_text_holds(tmp_path: Path):
    """U+0085, U+2028 and U+2029 end a line for str.splitlines, but not in JSON."""
    rows = [{"text": "a\u2028b\u2029c\u0085d\ne\r\nf"}, {"text": ""}]
    jsonl.write(tmp_path / "rows.jsonl", rows)
    assert jsonl.read(tmp_path / "rows.jsonl") == rows


@pytest.mark.parametrize(("text", "said"), [("{}\n[1]\n", ":2: a row is a JSON object"), ("{}\n\n{", ":3: not JSON")])
def test_a_bad_row_is_named_by_its_line(tmp_path: Path, text: str, said: str):
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(ValueError, match=said):
        jsonl.read(tmp_path / "rows.jsonl")
