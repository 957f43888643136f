"""The report, made from a small real run of every stage: complete, self-contained, valid, safe and the same every time."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bessemer.core import artifact
from bessemer.core import recipe as recipes
from bessemer.corpus import documents as store
from bessemer.eval import exhibits, figures
from bessemer.stages import find
from bessemer.stages.report import ReportConfig, report

RECIPE = """
[pages]
stage = "pydoc"
packages = ["json", "textwrap", "heapq", "string", "shutil"]
[crawl]
site = "pages"
[extract]
[language]
documents = "extract"
[clean]
documents = "language"
[filter]
documents = "clean"
preset = "documentation"
[mask]
documents = "filter"
[dedup]
documents = "mask"
[tokenizer]
documents = "dedup"
vocab = 500
[tokens]
documents = ["dedup"]
held_out = 0.2
[base]
stage = "pretrain"
steps = 4
batch = 4
width = 32
depth = 1
heads = 2
kv_heads = 1
head_width = 16
hidden = 32
held_out = 2
compile = false
log_every = 1
eval_every = 2
[dialogues]
documents = "dedup"
tokens = "tokens"
heldout = 0.4
[sft]
base = "base"
steps = 3
batch = 4
compile = false
log_every = 1
[preferences]
model = "sft"
prompts = 12
margin = 0.0
max_tokens = 6
[dpo]
model = "sft"
steps = 3
batch = 4
compile = false
log_every = 1
[leak]
stage = "decontaminate"
documents = "dedup"
benchmarks = ["dialogues"]
action = "flag"
[evaluation]
stage = "evaluate"
models = ["base", "sft", "dpo"]
contamination = "leak"
questions = 12
choices = 8
text_tokens = 2000
max_tokens = 6
[report]
corpus = ["crawl", "extract", "language", "clean", "filter", "mask", "dedup"]
tokenizer = "tokenizer"
models = ["base", "sft", "dpo"]
dialogues = "dialogues"
preferences = "preferences"
evaluation = "evaluation"
answers = 4
"""
ORDER = tuple(re.findall(r"^\[(\w+)\]", RECIPE, re.MULTILINE))[:-1]  # all but the report itself


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("run")
    (root / "small.toml").write_text(RECIPE)
    return recipes.run(recipes.load(root / "small.toml", find), root / "store")


@pytest.fixture(scope="module")
def page(made: dict[str, Path]) -> str:
    return (made["report"] / "report.html").read_text(encoding="utf-8")


class Outline(HTMLParser):
    """Which tags are open, which ids and links there are."""

    VOID = ("meta", "br", "hr", "img", "link", "input")

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [value or "" for name, value in attrs if name in ("href", "xlink:href", "src")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"


def test_the_page_is_whole_and_needs_nothing_else(page: str) -> None:
    outline = Outline(page)
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))
    assert all(link.startswith("#") and link[1:] in outline.ids for link in outline.links)
    assert not outline.tags & {"script", "link", "img", "iframe", "object", "video"}
    assert not any(name.startswith("on") for name in outline.attributes)
    assert not re.search(r"@import|url\((?!#)", page)


def test_every_section_shows_what_was_made(page: str, made: dict[str, Path]) -> None:
    for section in ("answers", "scores", "corpus", "tokenizer", "training", "dialogues", "preferences", "lineage"):
        assert f'<section id="{section}">' in page and f'href="#{section}"' in page
    scores = exhibits.evaluation(made["evaluation"], 4)
    assert "What the training text holds of the questions" in page and {row["kind"] for row in scores["split"]} >= {"contaminated"}
    for row in scores["metrics"][0]["rows"]:  # bits per byte of each model
        assert f"{row['value']:.3f}" in page
    assert page.count('class="talk"') == 4 + len(exhibits.dialogues(made["dialogues"])["kinds"]) + 6
    for name in ("loss", "bits-per-byte", "tokens-per-second", "MFU", "learning-rate"):
        assert f'id="base-{name}-' in page
    assert 'id="dpo-reward-' in page and 'id="score-rouge_l-' in page


def test_what_was_refused_is_counted_and_shown(made: dict[str, Path]) -> None:
    for name in ("extract", "filter", "dedup"):
        shown = exhibits.corpus_stage(made[name], 2)
        rows = list(store.rejected(made[name]))
        assert (shown["kept"], shown["refused_total"]) == (store.count(made[name]), len(rows))
        assert {reason["reason"]: reason["count"] for reason in shown["refused"]} == {
            reason: sum(row["reason"] == reason for row in rows) for reason in {row["reason"] for row in rows}
        }
        assert all(1 <= len(reason["examples"]) <= 2 for reason in shown["refused"])
    assert sum(exhibits.corpus_stage(made[name], 2)["refused_total"] for name in ("extract", "filter")) > 0


def test_the_lineage_goes_back_to_the_pages(page: str, made: dict[str, Path]) -> None:
    found = [manifest["name"] for manifest in exhibits.lineage([made["evaluation"], made["preferences"]])]
    assert sorted(found) == sorted(ORDER)
    places = [page.index(f'<li id="made-{artifact.read_manifest(made[name])["key"]}"') for name in ORDER]  # type: ignore[index]
    assert places == sorted(places)


def test_the_same_artifacts_give_the_same_bytes(page: str, made: dict[str, Path], tmp_path: Path) -> None:
    corpus = tuple(made[name] for name in ("crawl", "extract", "language", "clean", "filter", "mask", "dedup"))
    models = tuple(made[name] for name in ("base", "sft", "dpo"))
    rest = [made[name] for name in ("tokenizer", "dialogues", "preferences", "evaluation")]
    report(corpus, rest[0], models, *rest[1:], out=tmp_path, cfg=ReportConfig(answers=4))
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page


def test_a_report_of_one_part_has_only_that(made: dict[str, Path], tmp_path: Path) -> None:
    numbers = report((), None, (made["base"],), None, None, None, out=tmp_path, cfg=ReportConfig(title="A <base> & more"))
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert Outline(html).open == []
    assert 'id="training"' in html and 'id="scores"' not in html and 'id="corpus"' not in html
    assert "<h1>A &lt;base&gt; &amp; more</h1>" in html
    assert numbers["stages"] == len(artifact.ancestors(made["base"])) == 11 and numbers["figures"] == html.count("<svg")


def test_pages_cannot_inject_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script><b>"
    plain = "A page in plain words, long enough for the rules to keep it, says what it has to say once and then it ends. Nothing here is code."
    texts = {"http://a/" + evil: evil, "http://b/": plain}
    rows = [{"id": store.identifier(url), "url": url, "title": "t", "text": text, "source": "w:0"} for url, text in texts.items()]
    store.write(store.shard(tmp_path / "documents", 0), rows)
    stage = find("clean")
    folder = artifact.make(stage, {"documents": tmp_path / "documents"}, stage.config(), tmp_path / "clean")
    (tmp_path / "out").mkdir()
    report((folder,), None, (), None, None, None, out=tmp_path / "out", cfg=ReportConfig())
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "script" not in Outline(html).tags
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;&lt;b&gt;") >= 2  # the address and the text


def test_bad_inputs_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to report"):
        report((), None, (), None, None, None, out=tmp_path, cfg=ReportConfig())
    with pytest.raises(FileNotFoundError, match=r"nowhere has no manifest.json: not an artifact"):
        report((), None, (tmp_path / "nowhere",), None, None, None, out=tmp_path, cfg=ReportConfig())


def test_figures_keep_text_and_take_the_pages_colours() -> None:
    svg = figures.curves({"loss": ([1, 2, 3], [3.0, 2.0, 1.5]), "val_loss": ([2], [2.2])}, "one")
    assert "<text" in svg and "val_loss" in svg
    assert "var(--s1)" in svg and "var(--s2)" in svg and "var(--ink)" in svg
    assert not re.search(r"#0102..", svg)
    assert svg == figures.curves({"loss": ([1, 2, 3], [3.0, 2.0, 1.5]), "val_loss": ([2], [2.2])}, "one")
    other = figures.whiskers({"base": (0.2, 0.1, 0.3), "sft": (0.5, 0.5, 0.5)}, "two", 0.25)
    assert not set(re.findall(r'id="([^"]*)"', svg)) & set(re.findall(r'id="([^"]*)"', other))
    assert set(re.findall(r"(?:href=\"|url\()#([^\")]*)", svg)) <= set(re.findall(r'id="([^"]*)"', svg))


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (exhibits.number, 12345, "12,345"),
        (exhibits.number, 0.123456, "0.1235"),
        (exhibits.number, 12345.6, "12,346"),
        (exhibits.number, 2e12, "2e+12"),
        (exhibits.duration, 2.34, "2.3 s"),
        (exhibits.duration, 59.4, "59 s"),
        (exhibits.duration, 90.4, "1 min 30 s"),
        (exhibits.duration, 7260, "2 h 1 min"),
        (exhibits.compact, 4123904, "4.12 M"),
        (exhibits.compact, 950, "950"),
        (exhibits.compact, 1.5e9, "1.5 G"),
    ],
)
def test_numbers_read_well(function, value: float, text: str) -> None:
    assert function(value) == text
