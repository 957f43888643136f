"""Main content of HTML pages: what stays, what goes, layout, title and language, and pages made to do harm."""

import pytest
from selectolax.lexbor import LexborHTMLParser

from bessemer.corpus.extract.blocks import blocks, parse
from bessemer.corpus.extract.boilerplate import is_boilerplate
from bessemer.corpus.extract.html import text_of
from bessemer.corpus.extract.names import BODY, HIDDEN, NOISE, SOFT, flags_of

PROSE = "The committee met on Monday, and after long talks it agreed on the plan for number {}."


def prose(first: int, last: int) -> str:
    return "".join(f"<p>{PROSE.format(n)}</p>" for n in range(first, last))


def text(body: str, head: str = "") -> str:
    return text_of(f"<!DOCTYPE html><html><head>{head}</head><body>{body}</body></html>").text


ARTICLE = "\n\n".join(PROSE.format(n) for n in range(6))


@pytest.mark.parametrize(
    "noise",
    [
        '<nav><a href="/">Home</a> <a href="/news">News</a></nav>',
        '<div class="comments-area"><p>I was there, and it was nothing like that at all, believe me.</p></div>',
        '<div id="relatedPosts"><h3>More</h3><p>The minister resigns, and nobody knows what will come next.</p></div>',
        "<aside><p>Our reporter has covered the council for twenty years, and lives in town.</p></aside>",
        '<div role="complementary"><p>Our reporter has covered the council for twenty years, and lives in town.</p></div>',
        '<figure><img src="x"><figcaption>The town hall, seen from the river on a sunny day in May.</figcaption></figure>',
        '<div style="display: none"><p>You have read all of your free articles, so please log in now.</p></div>',
        '<p><a href="/other">Minister resigns after talks fail, and nobody knows who comes next</a></p>',
        '<p>Read more: <a href="/other">Minister resigns</a></p>',
        '<p>Lesen Sie auch: <a href="/other">Minister tritt zurück</a></p>',
        "<p>© 2026 The Town Paper</p>",
        '<ul><li><h4><a href="/a">A first linked headline</a></h4><p>And what it is about, in a sentence or two.</p></li>'
        '<li><h4><a href="/b">A second linked headline</a></h4><p>And what that is about, in some words.</p></li></ul>',
    ],
)
def test_what_is_not_the_article_goes(noise: str) -> None:
    assert text(f"<div><article>{prose(0, 6)}</article></div>{noise}") == ARTICLE, "after it"
    assert text(f"<article>{prose(0, 3)}{noise}{prose(3, 6)}</article>") == ARTICLE, "within it"


def test_the_same_names_are_no_reason_to_lose_the_article() -> None:
    assert text(f'<div class="social sidebar"><div class="comment">{prose(0, 6)}</div></div><p>Short.</p>') == ARTICLE
    wrapped = f'<div class="widget"><div itemprop="articleBody">{prose(0, 6)}</div></div><div>{prose(10, 20)}</div>'
    assert ARTICLE in text(wrapped), "an element that names itself the content is safe, with all around it"
    assert text(f'<body class="menu-open"><table class="tags"><tr><td>{prose(0, 6)}</td></tr></table>') == ARTICLE


def test_headings_stay_where_text_follows() -> None:
    html = f"<article><h2>First</h2>{prose(0, 3)}<h2>Second</h2><h3>Part</h3>{prose(3, 6)}<h2>Related</h2></article>"
    lines = ["First", *(PROSE.format(n) for n in range(3)), "Second", "Part", *(PROSE.format(n) for n in range(3, 6))]
    assert text(html) == "\n\n".join(lines)


def test_the_lead_between_title_and_content_stays() -> None:
    lead = "What the council has been waiting for since spring is here at last, say its members."
    links = "<li><a href=/>x y</a>" * 20
    html = f'<div><h1>Plan agreed</h1><p>{lead}</p><p>3 May</p></div><ul>{links}</ul><div class="post-content">{prose(0, 6)}</div>'
    assert text(html) == f"{lead}\n\n{ARTICLE}"


def test_a_quoted_post_stays_though_its_box_is_named_after_a_network() -> None:
    quote = "This is the best news the town has had in years, and high time too."
    html = f'<article>{prose(0, 3)}<div class="social-embed"><blockquote><p>{quote}</p></blockquote></div>{prose(3, 6)}</article>'
    assert quote in text(html)


def test_tables_keep_empty_cells_between_and_lists_their_numbers() -> None:
    html = f"<main>{prose(0, 2)}<table><tr><th>a<th>b<th>c<tr><td>1<td><td>3</table><ol><li>x<ul><li>y</ul><li>z</ol></main>"
    assert text(html).endswith("a | b | c\n1 |  | 3\n\n  1. x\n    • y\n  2. z")


def test_tables_of_links_and_short_words_stay_whole() -> None:
    rows = "".join(f'<tr><td><p><a href="f{n}.html">f{n}()</a></p><td><p>Does {n}</p>' for n in range(50))
    got = text(f'<nav><a href="/">up</a></nav><div role="main"><p>{PROSE}</p><table>{rows}</table></div><div class="footer">© 2026</div>')
    assert got.splitlines()[-50:] == [f"f{n}() | Does {n}" for n in range(50)]


def test_a_heading_that_links_to_itself_is_no_teaser() -> None:
    sections = "".join(
        f'<section id="comments-{n}"><h2><a href="#id{n}">Question {n}?</a><a href="#q{n}">¶</a></h2>{prose(n, n + 1)}</section>' for n in range(6)
    )
    assert text(f"<main>{sections}</main>") == "\n\n".join(f"Question {n}?\n\n{PROSE.format(n)}" for n in range(6))


def test_broken_html_reads_as_in_a_browser() -> None:
    whole = f"<div><article>{prose(0, 6)}</article></div>"
    assert text(whole.replace("</p>", "")) == text(whole.replace("</div>", "").replace("</article>", "")) == ARTICLE
    assert text(f"<table><tr><td>{prose(0, 6)}<form><td><form></table>") == ARTICLE
    assert text(f"<noscript><div>{prose(0, 6)}</div>") == ARTICLE, "an element left open does not swallow the page"


def test_what_no_reader_sees_is_never_text() -> None:
    hidden = "<script>if (a < b) { '<p>no</p>' }</script><style>p > a {}</style><!-- <p>no</p> --><template><p>no</p></template>"
    hidden += "<svg><title>no</title><svg></svg><text>no</text></svg><select><option>no</select><!--[if IE]><p>no</p><![endif]-->"
    for main_content in (True, False):
        assert text_of(f"<p>{PROSE}</p>{hidden}<p>After, it ends.</p>", main_content).text == f"{PROSE}\n\nAfter, it ends."


@pytest.mark.parametrize(
    "unseen",
    [
        "<select><button><selectedcontent></selectedcontent></button><option>never</select>",
        "<button><button-icon>never</button-icon></button>",
        "<button><b>never</b><!-- <button> never --></button>",
        "<button><!-- never </button> never -->never</button>",
        "<svg><!-- <svg> --><svg><text>never</text></svg></svg>",
    ],
)
def test_unseen_elements_end_where_they_end(unseen: str) -> None:
    """Neither an element whose name begins like theirs nor a tag in a comment is one of them."""
    assert text(f"<main>{unseen}{prose(0, 6)}</main>") == ARTICLE


def test_all_visible_text() -> None:
    html = f'<nav><a href="/">Home</a></nav><article>{prose(0, 2)}</article><footer>Imprint</footer>'
    assert text_of(html, main_content=False).text == f"Home\n\n{PROSE.format(0)}\n\n{PROSE.format(1)}\n\nImprint"


@pytest.mark.parametrize(
    ("head", "heading", "title"),
    [
        ("<title>  A\n title </title>", "", "A title"),
        ("<title>Plan agreed | The Town Paper</title>", "Plan agreed", "Plan agreed"),
        ("<title>re - Regular expressions - Python</title>", "re - Regular expressions", "re - Regular expressions"),
        ("<title>Plan agreed | The Town Paper</title>", "Welcome", "Plan agreed | The Town Paper"),
        ('<title>x</title><meta property="og:title" content="Plan &amp; more">', "", "Plan & more"),
        ("", "Plan&nbsp;agreed", "Plan agreed"),
        ("", "", ""),
    ],
)
def test_title(head: str, heading: str, title: str) -> None:
    assert text_of(f"<html><head>{head}</head><body><h1>{heading}</h1>{prose(0, 3)}").title == title


@pytest.mark.parametrize(
    ("html", "language"),
    [
        ('<html lang="de-AT">', "de"),
        ('<html lang="EN">', "en"),
        ('<html><meta http-equiv="Content-Language" content="fr, en">', "fr"),
        ('<html><meta property="og:locale" content="pt_BR">', "pt"),
        ('<html lang="english">', ""),
        ("<html lang>", ""),
        ("<html>", ""),
    ],
)
def test_language_as_the_page_says(html: str, language: str) -> None:
    assert text_of(f"{html}<body><p>{PROSE}").language == language


def test_flags() -> None:
    """Split into words by case and by anything that is no letter; ids of headings and sections are made from text, so they say nothing."""
    assert flags_of("div", 'class="relatedPosts"') == flags_of("div", 'id="x" class="c-comment__list"') == NOISE
    assert flags_of("div", 'data-class="comment" title="share"') == 0
    assert flags_of("section", 'id="comments"') == flags_of("div", 'class="section" id="comments"') == 0
    assert flags_of("div", 'class="article-body"') == flags_of("div", 'itemprop="articleBody"') == flags_of("main", "") == BODY
    assert flags_of("p", 'class="date"') == SOFT
    assert flags_of("p", "hidden") == flags_of("p", 'style="color:red;display:none"') == flags_of("p", 'aria-hidden="true"') == HIDDEN
    assert flags_of("p", 'aria-hidden="false"') == 0


def test_phrases_need_to_be_short_or_linked() -> None:
    assert is_boilerplate("Read more about the plan", 0) and is_boilerplate("» Mehr zum Thema", 0) and is_boilerplate("Lea también: Otra noticia", 13)
    assert not is_boilerplate("Related work has shown that this is possible under some conditions, but not under all.", 0)
    assert not is_boilerplate("The committee met.", 0)


def test_elements_are_ranges_of_blocks() -> None:
    """body holds 3 blocks; div the second and third; the empty p leaves no trace; the link is 2 of "two"'s 6 characters."""
    page = blocks(parse('<p></p>one<div><p>two <a href="x">li</a></p>three</div>'))
    assert page.text == ["one", "two li", "three"] and page.linked == [0, 2, 0]
    assert list(zip(page.tag, page.first, page.last, page.parent, strict=True)) == [
        ("html", 0, 3, 0),
        ("body", 0, 3, 0),
        ("div", 1, 3, 1),
        ("p", 1, 2, 2),
    ]


def test_text_is_that_of_the_parser() -> None:
    """All visible text, white space aside, is what lexbor's own text of the tree is, on markup of every kind."""
    html = f"<div>{prose(0, 3)}<ul><li>a<b>b</b><li>c &lt;d&gt;</ul><table><tr><td>x<td>y</table><pre>\n  p  q\n</pre>&eacute; <i>e<p>f</i>g</div>"
    tokens = text_of(html, main_content=False).text.replace("•", "").replace("|", "").split()
    assert "".join(tokens) == "".join(LexborHTMLParser(html).body.text().split())


HARMFUL = {
    "deep": ("<div>" * 100_000 + "x", "x"),
    "deep and closed": ("<div>" * 100_000 + "x" + "</div>" * 100_000, "x"),
    "deep formats": ("<b><div>" * 100_000 + "x", "x"),
    "open formats": ("".join(f"<p><b class={n}>x" for n in range(20_000)), "x\n\nx"),
    "many elements": ("<p>a</p>" * 100_000, "a\n\na"),
    "many options": ("x<select>" + "<option>y" * 100_000, "x"),
    "nested headers": ("<header>x" * 2000, ""),
    "nested lists": ("<ul><li>x" * 2000, "• x\n    • x"),
    "long attribute": (f'<p class="{"a " * 2_000_000}">x', "x"),
    "open quote": (f'<p>x</p><p class="{"x" * 2_000_000}', "x"),
    "open comment": ("x<!-- " + "<b>" * 300_000, "x"),
    "open brackets": ("<" * 500_000, "<<<"),
    "one line": ("<p>" + "word " * 2_000_000, "word word"),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_harmful_pages_are_read(name: str) -> None:
    """Each is read in a second or two. Whatever takes quadratic time or memory on them does not come to an end."""
    html, starts = HARMFUL[name]
    got = text_of(html).text
    assert got.strip().startswith(starts)
    assert len(got) < 30 * len(html), "indentation does not grow without end"


@pytest.mark.parametrize(
    "html", ["", " ", "x", "<", "<!--", "</p>", "<p>\x00</p>", "<p>\ud800</p>", "<frameset><frame></frameset>", "<p>123 456</p>", "<br>" * 9]
)
def test_odd_pages(html: str) -> None:
    assert isinstance(text_of(html).text, str) and isinstance(text_of(html, main_content=False).text, str)
