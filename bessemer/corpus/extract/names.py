"""What an element's attributes say about what it holds: authors name classes and ids after their content.

Names are split into words ("relatedPosts" and "related-posts" are both related, posts), and each word is looked up. The lists
are the vocabulary of blog engines, shops and newspapers in English, German, French, Spanish and Italian.
"""

import re
from functools import lru_cache

# never content; no content where it is short; not shown; the content itself
NOISE, SOFT, HIDDEN, BODY = 1, 2, 4, 8


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


LONGEST = 1500  # characters of attributes looked at
CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
WORD = re.compile(r"[a-z]+")
UNSHOWN = re.compile(r"(?:display: ?none|visibility: ?hidden)", re.I)
SHUT = re.compile(r" (?:hidden|aria-hidden)(?= |$|=\"(?!false))")
ROLES = _words("navigation banner contentinfo complementary search dialog alert alertdialog menu menubar toolbar tooltip")

NOISE_WORDS = _words(
    # answers of readers
    "kommentar kommentare comentario comentarios commentaire commentaires commenti disqus livefyre respond replies pingback pingbacks "
    "trackback trackbacks shoutbox "
    # sharing
    "teilen addthis addtoany jetpack sociable snapnopreview partager compartir followus "
    # other articles
    "similar recirc taboola outbrain yarpp crp weiterlesen trending popular latest upnext teaser teasers carousel gallery slideshow slider "
    "playlist "
    # moving about
    "sidecol widget widgets breadcrumb breadcrumbs pagination pager pagenav nav navi navbar navigation menu menus submenu toolbar sitemap "
    "masthead topbar foot footer footnav colophon impressum imprint copyright disclaimer toc toolbox catlinks navbox sphinxsidebar skip "
    # selling
    "ad ads adv advert adsense adslot adbox adunit anzeige anzeigen werbung commercial teads dfp gpt publicidad publicite google_ads "
    "newsletter newsletters signup login register registration cookie cookies gdpr consent privacy popup modal overlay lightbox dialog "
    "tooltip toast notification survey poll "
    # about the text
    "vcard byline postmeta metadata caption figcaption credit credits video player editsection headerlink linenos gutter "
    "printonly noprint offscreen"
)
NOISE_PREFIXES = tuple(_words("comment share sharing social relat recommend sidebar sponsor promo affiliate subscri donat advertis verwandt"))
NOISE_PAIRS = _words(
    "more-stories more-news more-articles more-from more-posts more-on read-more see-more read-also see-also read-next most-read most-viewed "
    "most-popular top-stories up-next you-may follow-us about-author author-box author-bio author-info author-card author-details "
    "author-description the-author post-meta entry-meta article-meta entry-utility skip-link skip-to site-map page-nav bread-crumb bread-crumbs "
    "sign-up pop-up ad-slot ad-box ad-unit ad-wrapper ad-container image-credit image-caption image-source img-caption photo-credit "
    "photo-caption media-caption wp-caption print-only no-print visually-hidden screen-reader sr-only edit-section tool-bar jp-relatedposts "
    "google-ads side-bar side-col div-gpt"
)
PAIR_FIRST = frozenset(pair.partition("-")[0] for pair in NOISE_PAIRS)
SOFT_WORDS = _words(
    "author authors bio dateline timestamp pubdate published updated date rating like likes vote votes meta info tag tags tagcloud category "
    "categories kategorie kategorien keywords topic topics reply banner legal facebook twitter whatsapp pinterest linkedin instagram flattr vgwort "
    "thumbnail embed bottom top jump permalink "
    "search print hidden hide invisible paywall logo icon icons button buttons btn contact kontakt event product shop price"
)
BODY_WORDS = _words("articlebody entry hentry story document richtext markdown")
BODY_FIRST = _words("article post entry story news page main text content blog single body mw rich")
BODY_LAST = _words("body content text main entry inner copy detail")
# Ids that say something. Those of other elements, and of what only marks a section, are made from headings and names in the text.
NAMED = _words("div ul ol aside form nav header footer")
SECTIONS = _words("section sect1 sect2 sect3 sect4 refsect1 refsect2 refsect3 chapter appendix level1 level2 level3")
ROWS = _words("html body main article blockquote table thead tbody tr td th")  # their classes tell of the site or of a row


def flags_of(tag: str, attributes: str) -> int:
    """The flags of an element, its attributes written as lexbor does: name="value", apart by a space."""
    return _flags(tag, attributes) if len(attributes) < LONGEST else _flags(tag, attributes[:LONGEST])


@lru_cache(1 << 14)
def _flags(tag: str, attributes: str) -> int:
    flags, said = 0, _value(attributes, 'class="')
    if tag in NAMED and said not in SECTIONS and 'id="' in attributes:
        said += " " + _value(attributes, 'id="')
    if "itemprop" in attributes:
        said += " " + _value(attributes, 'itemprop="')
    if said:
        flags = _said(said)
        if tag in ROWS:
            flags &= BODY
    if 'style="' in attributes and UNSHOWN.search(attributes):
        flags |= HIDDEN
    if "hidden" in attributes and SHUT.search(" " + attributes):
        flags |= HIDDEN
    if tag == "main":
        flags |= BODY
    if 'role="' in attributes:
        role = _value(attributes, 'role="')
        flags |= NOISE * (role in ROLES) | BODY * (role == "main")
    return flags


def _value(attributes: str, name: str) -> str:
    """The value of an attribute, "" without. It stands first or after a space."""
    at = 0 if attributes.startswith(name) else attributes.find(" " + name) + 1
    if not at and not attributes.startswith(name):
        return ""
    at += len(name)
    return attributes[at : attributes.find('"', at)]


@lru_cache(1 << 14)
def _said(names: str) -> int:
    flags, before = 0, ""
    for word in WORD.findall(names if names.islower() else CAMEL.sub("-", names).lower()):
        flags |= _word(word)
        if before in PAIR_FIRST and f"{before}-{word}" in NOISE_PAIRS:
            flags |= NOISE
        elif before in BODY_FIRST and word in BODY_LAST:
            flags |= BODY
        before = word
    return flags


@lru_cache(1 << 14)
def _word(word: str) -> int:
    if word in NOISE_WORDS or word.startswith(NOISE_PREFIXES):
        return NOISE
    return SOFT * (word in SOFT_WORDS) | BODY * (word in BODY_WORDS)
