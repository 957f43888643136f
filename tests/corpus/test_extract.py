"""Pages to text: layout, encodings, and the stage: nothing lost, deterministic, resumable, safe from pages that hang."""

import io
from collections import Counter
from pathlib import Path

import pytest
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from bessemer.core import artifact
from bessemer.core.recipe import Step
from bessemer.core.stage import Stage
from bessemer.corpus import documents
from bessemer.corpus.extract.html import decode, text_of
from bessemer.corpus.extract.pages import ExtractConfig
from bessemer.stages.extract import estimate, extract

PROSE = "This sentence is about nothing in particular, but it is long enough to be content. "


def page(content: str, title: str = "T") -> str:
    return f"<!DOCTYPE html><html><head><title>{title}</title></head><body>{content}</body></html>"


def text(content: str) -> str:
    return text_of(page(content))[1]


def test_paragraphs_lists_and_tables() -> None:
    html = """<main><h1>Head</h1><p>One<br>two.</p><ul><li>first<li>second<ol><li>inner</ol></ul>
    <table><tr><th>Key<th>Value<tr><td>a<td>1</table><p>End</p></main>"""
    assert text(html) == "Head\n\nOne\ntwo.\n\n  • first\n  • second\n    1. inner\n\nKey | Value\na | 1\n\nEnd"


def test_code_is_verbatim() -> None:
    code = "def f(x):\n\n\n    if x  <  3:   # two  spaces\n\t\treturn\tx"
    html = f"<p>{PROSE}</p><pre><span></span>\n{code.replace('<', '&lt;')}\n</pre><p>After.</p>"
    assert text(html) == f"{PROSE.strip()}\n\n{code}\n\nAfter."


def test_a_single_symbol_in_code_is_kept() -> None:
    assert text(f"<p>{PROSE}</p><pre><span>x</span> <span>=</span> <span>1</span>\n<span>)</span></pre>").endswith("x = 1\n)")


def test_definitions_are_indented_under_their_term() -> None:
    html = (
        "<dl><dt>f(x)</dt><dd>Does it.<dl><dt>x</dt><dd>The argument.</dd></dl></dd><dt>g()</dt><dd><p>Other.</p><p>Twice.</p></dd></dl><p>After</p>"
    )
    assert text(html) == "f(x)\n    Does it.\n    x\n        The argument.\ng()\n    Other.\n\n    Twice.\n\nAfter"
    assert text(html.replace("</dd>", "").replace("</dt>", "")) == text(html), "closing tags may be left out"


def test_code_under_a_definition_moves_as_a_whole_and_once() -> None:
    assert text("<dl><dt>f()<dd><pre>if a:\n    b</pre></dl>") == "f()\n    if a:\n        b"
    assert text("<dl><dt>f()<dd><pre>    Doc.\n\n      more</pre></dl>") == "f()\n    Doc.\n\n      more"


def test_pydoc_layout_tables_leave_no_trace() -> None:
    html = """<table><tr><td colspan=3>&nbsp;<br><strong>Functions</strong></td></tr>
    <tr><td><span class="code">&nbsp;&nbsp;&nbsp;</span></td><td>&nbsp;</td>
    <td><dl><dt><a name="-dedent"><strong>dedent</strong></a>(text)</dt><dd><span class="code">Remove&nbsp;space.<br>
&nbsp;<br>
&nbsp;&nbsp;Not&nbsp;more.</span></dd></dl></td></tr></table>"""
    assert text(html) == "Functions\n\ndedent(text)\n    Remove space.\n\n      Not more."


def test_navigation_is_left_out_and_can_be_kept() -> None:
    html = page(f'<nav><a href="/">Menu</a></nav><main><p>{PROSE * 3}</p></main><footer>Imprint</footer>', "  A\n title ")
    assert text_of(html) == ("A title", (PROSE * 3).strip(), "")
    kept = text_of(html, main_content=False)[1]
    assert "Menu" in kept and "Imprint" in kept


def test_icons_are_dropped() -> None:
    assert text("<p>a\ue001\ue0feb</p><p>c\uf101d</p>") == "ab\n\ncd"


@pytest.mark.parametrize(
    ("encoding", "declared", "meta"),
    [
        ("utf-8", "utf-8", ""),
        ("utf-8", "iso-8859-1", ""),  # the server lies
        ("utf-8", "", ""),
        ("utf-8-sig", "", ""),
        ("utf-16", "", ""),
        ("iso-8859-1", "latin1", ""),
        ("iso-8859-1", "", '<meta charset="iso-8859-1">'),
        ("iso-8859-1", "utf-8", ""),  # the server lies
        ("cp1252", "no-such-charset", '<meta charset="windows-1252">'),
    ],
)
def test_encodings(encoding: str, declared: str, meta: str) -> None:
    words = "Über die Größe naïver Gemüter, façade à la carte."
    assert words in decode(f"<html>{meta}<p>{words}".encode(encoding), declared)


@pytest.mark.parametrize("encoding", ["shift_jis", "euc-jp", "gb18030", "big5", "iso-2022-jp"])
def test_east_asian_encodings(encoding: str) -> None:
    words = "日本語の文書" if "jp" in encoding or "jis" in encoding else "中文文件"
    assert words in decode(f"<p>{words * 20}".encode(encoding), encoding)


def test_what_no_encoding_reads_is_refused() -> None:
    with pytest.raises(ValueError, match="unreadable in every encoding"):
        decode(b"\xff\xfe" + b"\x00\xd8" * 1000)


# The stage


def archive(folder: Path, name: str, pages: dict[str, tuple[bytes, str, str]]) -> Path:
    """A WARC file of pages: url to (body, content type, status)."""
    folder.mkdir(exist_ok=True)
    with (folder / name).open("wb") as file:
        writer = WARCWriter(file, gzip=True, warc_version="1.1")
        for url, (body, kind, status) in pages.items():
            http = StatusAndHeaders(status, [("Content-Type", kind)], protocol="HTTP/1.1")
            writer.write_record(writer.create_warc_record(url, "response", io.BytesIO(body), http_headers=http))
    return folder / name


def site(folder: Path, count: int = 12) -> Path:
    for shard in range(3):
        pages: dict[str, tuple[bytes, str, str]] = {}
        for n in range(count):
            pages[f"http://example.org/{shard}/{(n * 7) % count}"] = (page(f"<p>{PROSE * (n + 1)}", f"{n}").encode(), "text/html", "200 OK")
        pages[f"http://example.org/{shard}/robots.txt"] = (b"User-agent: *", "text/plain", "200 OK")
        pages[f"http://example.org/{shard}/gone"] = (page("gone").encode(), "text/html", "404 Not Found")
        pages[f"http://example.org/{shard}/empty"] = (page("").encode(), "text/html", "200 OK")
        pages[f"http://example.org/{shard}/big"] = (page(PROSE * 1000).encode(), "text/html", "200 OK")
        pages[f"http://example.org/{shard}/binary"] = (b"\xff\xfe" + b"\x00\xd8" * 1000, "text/html", "200 OK")
        archive(folder, f"crawl-{shard}.warc.gz", pages)
    return folder


CFG = ExtractConfig(max_bytes=50_000, workers=2)


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_everything_is_kept_or_refused_with_a_reason(tmp_path: Path) -> None:
    numbers = extract(site(tmp_path / "crawl"), out=tmp_path / "out", cfg=CFG)
    rows = list(documents.read(tmp_path / "out"))
    refused = list(documents.rejected(tmp_path / "out"))
    assert numbers["documents"] == len(rows) == 36 and numbers["rejected"] == len(refused) == 15
    assert Counter(r["reason"] for r in refused) == {"http error": 3, "not html": 3, "empty": 3, "too big": 3, "undecodable": 3}
    assert {r["detail"] for r in refused if r["reason"] == "http error"} == {"status 404"}
    urls = [row["url"] for row in rows]
    assert len(set(urls)) == 36
    for row in rows:
        assert row["id"] == documents.identifier(row["url"])
        assert row["text"] == (PROSE * (int(row["title"]) + 1)).strip()
        assert row["source"].startswith(f"crawl-{row['url'].split('/')[3]}.warc.gz:")
    assert numbers["text_bytes"] == sum(len(row["text"].encode()) for row in rows)


def test_same_bytes_with_one_worker_or_two_and_after_a_lost_shard(tmp_path: Path) -> None:
    crawl = site(tmp_path / "crawl")
    first = extract(crawl, out=tmp_path / "one", cfg=ExtractConfig(max_bytes=50_000, workers=1))
    assert extract(crawl, out=tmp_path / "two", cfg=CFG) == first
    made = files(tmp_path / "one")
    assert files(tmp_path / "two") == made
    kept = documents.shard(tmp_path / "two", 0).stat().st_mtime_ns
    documents.shard(tmp_path / "two", 1).unlink()
    assert extract(crawl, out=tmp_path / "two", cfg=CFG) == first
    assert files(tmp_path / "two") == made
    assert documents.shard(tmp_path / "two", 0).stat().st_mtime_ns == kept, "a shard that is there is not made again"


def test_another_crawl_of_the_same_pages_is_the_same_content(tmp_path: Path) -> None:
    """WARC files of two crawls differ in dates and record ids, hence in offsets; the artifact's digest must not."""
    stage = Stage.of(extract)
    made = [artifact.make(stage, {"crawl": site(tmp_path / f"crawl{n}")}, CFG, tmp_path / f"out{n}") for n in (1, 2)]
    assert files(tmp_path / "crawl1") != files(tmp_path / "crawl2")
    assert artifact.digest(made[0]) == artifact.digest(made[1])


def test_damaged_archives_keep_their_good_pages(tmp_path: Path) -> None:
    crawl = site(tmp_path / "crawl")
    for name, data in (("crawl-0.warc.gz", files(crawl)["crawl-0.warc.gz"][:-300]), ("crawl-1.warc.gz", b""), ("crawl-2.warc.gz", b"<html>")):
        (crawl / name).write_bytes(data)
    numbers = extract(crawl, out=tmp_path / "out", cfg=CFG)
    assert numbers["documents"] == 12 and numbers["rejected: damaged"] == 3
    details = [r["detail"] for r in documents.rejected(tmp_path / "out") if r["reason"] == "damaged"]
    assert sorted(details)[0] == "empty file"


def test_an_empty_corpus_says_what_was_refused(tmp_path: Path) -> None:
    crawl = archive(tmp_path / "crawl", "a.warc.gz", {f"http://example.org/{n}": (b"x", "image/png", "200 OK") for n in range(3)})
    with pytest.raises(ValueError, match=r"extract: no document of .*a.warc.gz is left: 3 rejected: not html \(3\)"):
        extract(crawl, out=tmp_path / "out", cfg=CFG)


def test_ten_megabytes_on_one_line(tmp_path: Path) -> None:
    words = "word " * 2_000_000
    crawl = archive(tmp_path / "crawl", "a.warc.gz", {"http://example.org/": (page(f"<p>{words}").encode(), "text/html", "200 OK")})
    numbers = extract(crawl, out=tmp_path / "out", cfg=ExtractConfig(max_bytes=20_000_000))
    assert numbers["documents"] == 1 and numbers["text_bytes"] == len(words) - 1


def test_a_page_of_open_tags_only_does_no_harm(tmp_path: Path) -> None:
    pages = {
        "http://example.org/deep": (("<div>" * 300_000 + "x").encode(), "text/html", "200 OK"),
        "http://example.org/good": (page(f"<p>{PROSE}").encode(), "text/html", "200 OK"),
    }
    crawl = archive(tmp_path / "crawl", "a.warc.gz", pages)
    extract(crawl, out=tmp_path / "out", cfg=ExtractConfig(seconds=2))
    assert "http://example.org/good" in [row["url"] for row in documents.read(tmp_path / "out", ["url"])]


def test_the_plan_knows_the_cost_of_a_crawl_that_exists(tmp_path: Path) -> None:
    crawl = site(tmp_path / "crawl")
    step = Step("docs", Stage.of(extract), CFG, {"crawl": (crawl,)})
    cost = estimate(CFG, step)
    assert cost["bytes"] == sum(len(data) for data in files(crawl).values()) and cost["seconds"] > 0
    assert estimate(CFG, Step("docs", Stage.of(extract), CFG, {"crawl": (step,)})) == {}
