"""Private data: what is found and what is not, each with the rule that decides; and time that grows with the text alone."""

from pathlib import Path

import pytest

from bessemer.corpus import documents
from bessemer.corpus.private.mask import KINDS, PLAUSIBLE, MaskConfig, find, masker
from bessemer.corpus.private.numbers import luhn, mod97
from bessemer.stages.mask import mask


def found(text: str) -> list[tuple[str, str]]:
    return [(kind, text[start:end]) for start, end, kind in find(text)]


def test_luhn_by_hand() -> None:
    """7992739871x (the example of the patent, US 2950048): doubled from the right, 1 7 8 9 3 7 2 9 9 7 gives 2+7+7+9+6+7+4+9+9+7 = 67, so x = 3."""
    assert [x for x in range(10) if luhn(f"7992739871{x}")] == [3]


def test_mod97_by_hand() -> None:
    """GB82 WEST 1234 5698 7654 32 (ISO 13616's example): 3214282912345698765432161182 leaves 1; another check digit leaves another rest."""
    assert 3214282912345698765432161182 % 97 == 1
    assert mod97("GB82WEST12345698765432") == 1
    assert mod97("GB83WEST12345698765432") == 2


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("Write to jane.doe+news@mail.example-shop.co.uk.", "email", "jane.doe+news@mail.example-shop.co.uk"),
        ("<O'Brien@uni-köln.de>", "email", "O'Brien@uni-köln.de"),
        ("jane [at] shop [dot] com", "email", "jane [at] shop [dot] com"),
        ("jane(at)shop.com,", "email", "jane(at)shop.com"),
        ("from 86.121.97.248:8080", "ip", "86.121.97.248"),
        ("the IP 8.9.10.11 again", "ip", "8.9.10.11"),
        ("host=86.121.97.248", "ip", "86.121.97.248"),
        ("via 2a00:1450:4001:81b::200e,", "ip", "2a00:1450:4001:81b::200e"),
        ("6e40:4041:c617:e898:c11:40d2:c669:2eb4", "ip", "6e40:4041:c617:e898:c11:40d2:c669:2eb4"),
        ("4539 1488 0343 6467", "card", "4539 1488 0343 6467"),
        ("3782-822463-10005 until 12/30", "card", "3782-822463-10005"),
        ("my card 630427373398", "card", "630427373398"),
        ("to GB82 WEST 1234 5698 7654 32 today", "iban", "GB82 WEST 1234 5698 7654 32"),
        ("DE89370400440532013000.", "iban", "DE89370400440532013000"),
        ("078-05-1120", "ssn", "078-05-1120"),
        ("my SSN is 078051120", "ssn", "078051120"),
        ("id AKIAIOSFODNN7EXAMPLE", "key", "AKIAIOSFODNN7EXAMPLE"),
        ("ghp_" + "a1B2" * 9, "key", "ghp_" + "a1B2" * 9),
        ("xoxb-123456789012-abcdefGHIJ", "key", "xoxb-123456789012-abcdefGHIJ"),
        ("AIza" + "x1_-y" * 7, "key", "AIza" + "x1_-y" * 7),
        ("sk_live_4eC39HqLyjWDarjtT1zdp7dc", "key", "sk_live_4eC39HqLyjWDarjtT1zdp7dc"),
        ("sk-proj-abcDEF123456ghiJKL789", "key", "sk-proj-abcDEF123456ghiJKL789"),
        ("x eyJhbGciOiJI.eyJzdWIiOiIx.SflKxwRJSMeKK y", "key", "eyJhbGciOiJI.eyJzdWIiOiIx.SflKxwRJSMeKK"),
        ("Authorization: Bearer abcdef0123456789abcdef", "key", "abcdef0123456789abcdef"),
        ("postgres://admin:hunter22@db.local/x", "key", "hunter22"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE+a/b=\n-----END RSA PRIVATE KEY-----", "key", None),
    ],
)
def test_what_is_found(text: str, kind: str, value: str | None) -> None:
    assert found(text) == [(kind, value or text)]


@pytest.mark.parametrize(
    "number",
    [  # by their shape, whatever stands around them
        "+44 20 7946 0958", "+46 (0)8 928 571 38", "+4915123456789", "+1-984-182-0190x12", "(+358) 76 7270455", "0049 30 1234567",
        "(212) 555-0142", "212.555.0142 ext. 9", "1-800-555-0199", "020 7946 0958", "(08) 8747 6301", "01.84.17.61.18", "06-12345678",
        "0341/8387176", "(11) 91234-5678", "090-1234-5678", "8 (495) 123-45-67", "0412 345 678",
    ],
)  # fmt: skip
def test_telephone_numbers_that_look_like_one(number: str) -> None:
    assert found(f"Well, {number}, said she") == [("phone", number)]


@pytest.mark.parametrize(
    "text",
    [  # by the words around them; without these they are numbers
        "Phone: |358 0594|", "call me on |9472 7916| today", "They're not answering at |374 780 163|", "|28-64-66-98| office\n", "Tel.|5403926876|",
        "电话 |13984308860|", "Contact us at |60-56-85-91|!",
    ],
)  # fmt: skip
def test_telephone_numbers_that_are_called_one(text: str) -> None:
    before, number, after = text.split("|")
    assert found(before + number + after) == [("phone", number)]
    assert found(f"there were {number} of them") == []


@pytest.mark.parametrize(
    "text",
    [
        "Python 3.11.0.1, release 86.12.19.248, requests==2.31.0.70, section 12.14.30.2",
        "127.0.0.1 10.1.2.3 192.168.1.1 0.0.0.0 255.255.255.0 192.0.2.1 ::1 fe80::1 2001:db8::1 1.2.3.4.5 300.1.2.3",
        "2019-05-20 10:30:45, 20.05.2019 12:00, 20190520 123456, (1914-1918), 05/20/2019 1400, call on 2019-05-20",
        "ISBN 978-3-16-148410-0, ISBN 0-306-40615-2, ISSN 0378-5955, arXiv:2005.14165, doi:10.1000/182.12345678",
        "costs $1,234,567.89 or 1 234 567 EUR; 3.1415926535897932384; 299 792 458 m/s; 48.858844, 2.294351",
        "pages 1234-1256, 123456-123478, 90210-1234, 100-200-300, 10 20 30 40 50 60 70, 0000 0001 0010 0011 0100",
        "@property def f(self): X@W.T; a@b.shape; icon@2x.png; git@github.com:foo/bar; user@host; lodash@4.17.21",
        "550e8400-e29b-41d4-a716-446655440000 0x12345678 deadbeef12345678 1609459200000 00:11:22:33:44:55 a[1:2:3] x::y",
        "https://example.org/questions/12345678/how https://x.org/?id=4539148803436467 phone book with 1000000 entries",
        "4539148803436468 1111111111111111 000-12-3456 666-12-3456 987-65-4321 GB83WEST12345698765432",
        "the phone can hold 10800-2500 = 8300 or 2400/200 =, message 0.5 2003-03-08, phone: 2400 / 200=12",
        "sk-learn-something-quite-long-name-here Bearer authentication-is-described-below https://docs.python.org/3/",
    ],
)
def test_what_is_no_private_data(text: str) -> None:
    assert found(text) == []


def test_the_more_specific_kind_wins_and_nothing_overlaps() -> None:
    assert found("https://me:secret123@mail.example.com/") == [("key", "secret123")]
    assert found("card 4539 1488 0343 6467, phone +44 20 7946 0958") == [("card", "4539 1488 0343 6467"), ("phone", "+44 20 7946 0958")]


def test_examples_may_stay() -> None:
    text = "user@example.com and user@docs.example.org, but user@example.shop"
    assert [text[start:end] for start, end, _ in find(text, keep_examples=True)] == ["user@example.shop"]
    assert len(find(text)) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_the_replacements_are_no_ones_and_masking_twice_is_masking_once(kind: str) -> None:
    examples = {"ip": "86.121.97.248", "email": "a@b.com", "key": "AKIAIOSFODNN7EXAMPLE", "card": "4539148803436467"}
    examples |= {"iban": "GB82WEST12345698765432", "ssn": "078-05-1120", "phone": "+44 20 7946 0958"}
    for style in ("placeholder", "plausible"):
        work = masker(MaskConfig(style=style))  # type: ignore[arg-type]
        (row,) = work([{"text": f"it is {examples[kind]} there"}])
        assert row["masked"] == dict.fromkeys(KINDS, 0) | {kind: 1}
        assert row["text"] == f"it is {PLAUSIBLE[kind] if style == 'plausible' else f'<{kind.upper()}>'} there"
        assert work([{"text": row["text"]}])[0]["text"] == row["text"]


def test_the_stage_masks_counts_and_leaves_the_rest(tmp_path: Path) -> None:
    texts = ["mail a@b.com or c@d.org", "", "no letters: 12345\x00", "86.121.97.248"]
    documents.write(
        documents.shard(tmp_path / "in", 0),
        [{"id": str(n), "title": "x@y.com", "text": text} for n, text in enumerate(texts)],
    )
    documents.write(documents.shard(tmp_path / "in", 1), [])
    numbers = mask(tmp_path / "in", out=tmp_path / "out", cfg=MaskConfig(kinds=("email",)))
    rows = list(documents.read(tmp_path / "out"))
    assert [row["text"] for row in rows] == ["mail <EMAIL> or <EMAIL>", "", "no letters: 12345\x00", "86.121.97.248"]
    assert [row["title"] for row in rows] == ["<EMAIL>"] * 4
    assert [row["masked"]["email"] for row in rows] == [3, 1, 1, 1]
    assert {name: n for name, n in numbers.items() if n} == {"documents": 4, "text_bytes": 54, "masked: email": 6}


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match="unknown name 'mail'; did you mean 'email'"):
        MaskConfig(kinds=("mail",))


SEEDS = [  # text, and how often it is private data
    ("a@", 0), ("a@b.", 0), ("a.", 0), ("1", 0), ("1.", 0), ("1 ", 0), ("12-", 0), ("1.1.", 0), ("a:a:", 0), (":", 0),
    ("eyJ", 0), ("eyJaaaaaaaaa:", 0),
    ("-----BEGIN PRIVATE KEY-----", 0), ("://a:", 0), ("+1 ", 0), ("+(", 0), ("(0", 0), ("(at)", 0), ("GB12", 0), ("GB12 ABCD ", 0), ("sk-", 0),
    ("AKIA", 0), ("ghp_a", 0), ("Bearer ", 0), ("\ud800@", 0), ("\x00", 0), ("x" * 63 + ".", 0), ("@" + "a" * 64, 0),
    ("a@b.com ", 1), ("phone 123 45678; ", 1), ("86.121.97.248 ", 1),
]  # fmt: skip


@pytest.mark.parametrize(("seed", "finds"), SEEDS)
def test_hostile_repetition_ends(seed: str, finds: int) -> None:
    """A quarter of a million characters take a second at most; a pattern that backtracked would need 10^10 steps or more and never end."""
    times = 250_000 // len(seed)
    assert len(find(seed * times)) == finds * times
