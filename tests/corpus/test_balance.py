"""Shares of a corpus: measured, capped and weighed, hand-worked; the stage over shards, with bad input."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from bessemer.corpus import documents
from bessemer.corpus.balance import value_of
from bessemer.corpus.shares import OTHER, BalanceConfig, bound, effective, weights
from bessemer.stages.balance import balance

SITES = {"big.org": 600, "mid.org": 250, "small.org": 100, "tiny.org": 50}


def corpus(folder: Path, rows: list[dict], shards: int = 2) -> Path:
    for index in range(shards):
        documents.write(documents.shard(folder, index), pa.Table.from_pylist(rows[index::shards], schema=pa.Table.from_pylist(rows).schema))
    return folder


def sites(folder: Path) -> Path:
    """1,000 documents of 100 bytes."""
    rows = [{"id": f"{site}-{n}", "url": f"https://www.{site}/{n}", "text": "ä" * 50} for site, size in SITES.items() for n in range(size)]
    return corpus(folder, rows)


def table(out: Path) -> dict[str, dict]:
    return {row["value"]: row for row in json.loads((out / "balance.json").read_text())["values"]}


def test_the_largest_are_cut_until_none_has_more_than_its_share():
    """60, 25, 10, 5 with at most 40 %: only the first is cut, to c of c + 40, so c = 40 x 0.4 / 0.6 = 26.67; 25 is below it. With at
    most 30 % two are cut: 2c + 15 with c = 0.3 of it, 15 x 0.3 / 0.4 = 11.25. With 25 % all are as large as the least."""
    sizes = {"a": 60.0, "b": 25.0, "c": 10.0, "d": 5.0}
    assert bound(sizes, 0.4, "site") == pytest.approx(80 / 3)
    assert bound(sizes, 0.3, "site") == pytest.approx(11.25)
    assert bound(sizes, 0.25, "site") == pytest.approx(5.0)
    assert bound(sizes, 1.0, "site") == pytest.approx(100.0)
    assert bound({"a": 90.0, OTHER: 10.0}, 0.2, "site") == pytest.approx(2.5)  # rare values are many: they may have any share together
    with pytest.raises(ValueError, match=r"most_share 0.2 cannot be kept: there are only 4 values of site, and 4 x 0.2 < 1"):
        bound(sizes, 0.2, "site")


@pytest.mark.parametrize("seed", range(20))
def test_no_value_keeps_more_than_the_bound_and_none_below_it_is_touched(seed: int):
    draw = np.random.default_rng(seed)
    sizes = {f"v{n}": (1.0, float(size)) for n, size in enumerate(draw.pareto(0.7, 30) + 0.01)}
    share = draw.uniform(1 / 30, 0.5)
    found = weights(sizes, BalanceConfig(most_share=share))
    kept = {value: found[value] * sizes[value][1] for value in sizes}
    parts = np.array(list(kept.values())) / sum(kept.values())
    assert parts.max() <= share * (1 + 1e-6)
    assert all(found[value] == 1 or kept[value] / sum(kept.values()) == pytest.approx(share) for value in sizes)


def test_targets_set_shares_and_leave_the_others_in_proportion():
    """Of 100 bytes, a has 50 and is to have 20: weight 0.4. b and c, 30 and 20, share 80: 1.6 each. To drop, the largest weight is 1."""
    sizes = {"a": (5.0, 50.0), "b": (3.0, 30.0), "c": (2.0, 20.0)}
    assert weights(sizes, BalanceConfig(targets={"a": 0.2})) == pytest.approx({"a": 0.4, "b": 1.6, "c": 1.6})
    assert weights(sizes, BalanceConfig(targets={"a": 0.2}, drop=True)) == pytest.approx({"a": 0.25, "b": 1.0, "c": 1.0})
    assert weights(sizes, BalanceConfig(targets={"a": 0.5, "b": 0.5})) == pytest.approx({"a": 1.0, "b": 5 / 3, "c": 0.0})
    assert weights(sizes, BalanceConfig(most_documents=2)) == pytest.approx({"a": 0.4, "b": 2 / 3, "c": 1.0})
    with pytest.raises(ValueError, match=r"targets: site: unknown name 'd'.*known: a, b, c"):
        weights(sizes, BalanceConfig(targets={"d": 0.1}))
    with pytest.raises(ValueError, match=r"targets: b would have to be read 251 times; 100 is the most"):
        weights({"a": (1.0, 1000.0), "b": (1.0, 2.0)}, BalanceConfig(targets={"b": 0.501}))
    with pytest.raises(ValueError, match="targets add up to 0.6, and there is no other site to have the rest"):
        weights({"a": (1.0, 10.0), "b": (1.0, 20.0)}, BalanceConfig(targets={"a": 0.3, "b": 0.3}))
    with pytest.raises(ValueError, match="there are no documents to balance"):
        weights({}, BalanceConfig())
    with pytest.raises(ValueError, match="targets add up to 1.2"):
        BalanceConfig(targets={"a": 0.6, "b": 0.6})


def test_the_effective_number_by_hand():
    """Four equal parts count as four. Halves and two quarters: 1 / (1/4 + 1/16 + 1/16) = 8/3, and 1.5 bits of entropy, 2^1.5."""
    assert effective(dict.fromkeys("abcd", (1.0, 5.0))) == pytest.approx((4.0, 4.0))
    assert effective({"a": (1.0, 2.0), "b": (1.0, 1.0), "c": (9.0, 1.0), "d": (1.0, 0.0)}) == pytest.approx((8 / 3, 2**1.5))
    assert effective({"a": (1.0, 0.0)}) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("url", "site"),
    [
        ("https://www.Example.org:8080/a?b", "example.org"), ("http://example.org.", "example.org."), ("no address", "(none)"),
        ("http://[::1", "(none)"), ("", "(none)"), (None, "(none)"), ("//host/x", "host"), ("urn:uuid:1", "(none)"),
    ],
)  # fmt: skip
def test_a_site_is_the_host_of_an_address(url: str | None, site: str):
    assert value_of({"id": "x", "url": url}, "site") == site


def test_a_capped_site_weighs_less_and_the_table_says_so(tmp_path: Path):
    """60, 25, 10 and 5 thousand bytes, at most 40 %: big.org weighs 26.67 / 60. Before 1 / (.36 + .0625 + .01 + .0025) = 2.30 sites."""
    (tmp_path / "out").mkdir()
    numbers = balance(sites(tmp_path / "in"), out=tmp_path / "out", cfg=BalanceConfig(most_share=0.4, workers=2))
    rows = list(documents.read(tmp_path / "out"))
    assert len(rows) == 1000
    for row in rows:
        assert row["weight"] == pytest.approx(80 / 180 if row["id"].startswith("big") else 1.0)
    found = table(tmp_path / "out")
    assert list(found) == list(SITES) and found["big.org"]["before"] == {"documents": 600, "bytes": 60_000, "share": 0.6}
    assert found["big.org"]["after"]["share"] == pytest.approx(0.4, abs=1e-6)
    assert numbers["effective sites before"] == 2.3 and numbers["largest share before"] == 0.6
    assert numbers["effective sites after"] == round(1 / sum((size / (200 / 3)) ** 2 for size in (80 / 3, 25, 10, 5)), 2)
    again = balance(tmp_path / "out", out=(tmp_path / "again"), cfg=BalanceConfig(most_share=0.4, workers=1))
    assert again["largest share before"] == 0.4
    assert [row["weight"] for row in documents.read(tmp_path / "again")] == pytest.approx([row["weight"] for row in rows], rel=1e-6)


def test_dropping_is_decided_by_the_id_alone(tmp_path: Path):
    """At most 40 %: of big.org's 600 documents 267 may stay, the most that 400 others allow. It may end a part of 64 short, about 4."""
    source = sites(tmp_path / "in")
    cfg = BalanceConfig(most_share=0.4, drop=True, workers=2)
    numbers = balance(source, out=tmp_path / "out", cfg=cfg)
    kept = [row["id"] for row in documents.read(tmp_path / "out")]
    assert "weight" not in documents.schema(documents.shard(tmp_path / "out", 0)).names
    assert 800 / 3 - 4 * 12.2 < sum(name.startswith("big") for name in kept) <= 800 / 3  # standard deviation sqrt(600 x 4/9 x 5/9) = 12.2
    assert numbers["largest share after"] <= 0.4
    assert sum(not name.startswith("big") for name in kept) == 400 and numbers["documents"] == len(kept)
    for row in documents.rejected(tmp_path / "out"):
        assert row["reason"] == "site has too much" and row["detail"] == "big.org" and 4 / 9 >= row["bound"] > 0.35 and row["value"] >= row["bound"]
    assert table(tmp_path / "out")["big.org"]["after"]["documents"] == sum(name.startswith("big") for name in kept)
    other = corpus(tmp_path / "shuffled", sorted(documents.read(source), key=lambda row: row["id"][::-1]), 1)
    balance(other, out=tmp_path / "two", cfg=cfg)
    assert sorted(row["id"] for row in documents.read(tmp_path / "two")) == sorted(kept)


@pytest.mark.parametrize("seed", range(2))
def test_dropping_keeps_every_bound_and_wastes_little(tmp_path: Path, seed: int):
    """Sizes of documents differ by a thousand times; four sites are near the bound. Bounded sites end within 12 % of what they may have."""
    draw = np.random.default_rng(seed)
    rows = [
        {"id": f"{seed}{site}{n}", "url": f"http://{site}/", "text": "x" * int(draw.lognormal(4, 1))}
        for site, size in (("a", 4000), ("b", 3000), ("c", 800), ("d", 820), ("e", 300), ("f", 300))
        for n in range(size)
    ]
    source = corpus(tmp_path / "in", rows)
    balance(source, out=tmp_path / "share", cfg=BalanceConfig(most_share=0.26, drop=True, workers=1))
    after = {site: row["after"] for site, row in table(tmp_path / "share").items()}
    assert max(row["share"] for row in after.values()) <= 0.26 and min(after["a"]["share"], after["b"]["share"]) > 0.23
    balance(source, out=tmp_path / "number", cfg=BalanceConfig(most_documents=500, drop=True, workers=1))
    after = {site: row["after"] for site, row in table(tmp_path / "number").items()}
    assert all(440 < after[site]["documents"] <= 500 for site in "abcd") and after["e"]["documents"] == 300
    balance(source, out=tmp_path / "target", cfg=BalanceConfig(targets={"a": 0.1, "c": 0.3}, drop=True, workers=1))
    after = {site: row["after"] for site, row in table(tmp_path / "target").items()}
    assert after["a"]["share"] == pytest.approx(0.1, abs=0.03) and after["c"]["share"] == pytest.approx(0.3, abs=0.03)


def test_the_same_bytes_in_any_number_of_workers_and_after_a_kill(tmp_path: Path):
    source = sites(tmp_path / "in")
    for workers, name in ((1, "one"), (3, "three")):
        balance(source, out=tmp_path / name, cfg=BalanceConfig(most_share=0.4, workers=workers))
    documents.shard(tmp_path / "three", 1).unlink()
    (tmp_path / "three" / "run" / "resume" / "before" / "00001.json").unlink()
    balance(source, out=tmp_path / "three", cfg=BalanceConfig(most_share=0.4))
    for file in ("part-00000.parquet", "part-00001.parquet", "content.json", "balance.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "three" / file).read_bytes()


def test_rare_values_are_counted_together_and_left_alone(tmp_path: Path):
    rows = [{"id": f"{n}", "text": "x" * 10, "topic": "news" if n < 50 else f"t{n}"} for n in range(100)] + [{"id": "a", "text": "", "topic": None}]
    balance(corpus(tmp_path / "in", rows), out=tmp_path / "out", cfg=BalanceConfig(by="topic", most_share=0.2, top=1))
    found = table(tmp_path / "out")
    assert list(found) == ["news", OTHER] and found[OTHER]["before"]["documents"] == 51
    kept = {row["id"]: row["weight"] for row in documents.read(tmp_path / "out")}
    assert kept["7"] == pytest.approx(0.25) and kept["77"] == kept["a"] == 1.0  # 0.2 x 500 / 0.8 = 125 bytes of 500


def test_odd_documents_go_through(tmp_path: Path):
    rows = [{"id": "", "text": "", "url": None}, {"id": "\0", "text": "\0" * 9, "url": "http://\0"}, {"id": "c", "text": "🎉" * 10**6, "url": "x"}]
    numbers = balance(corpus(tmp_path / "in", rows, 4), out=tmp_path / "out", cfg=BalanceConfig())
    assert numbers["documents"] == 3 and numbers["text_bytes"] == 4 * 10**6 + 9
    assert math.isclose(sum(row["after"]["share"] for row in table(tmp_path / "out").values()), 1)


@pytest.mark.parametrize(
    ("rows", "cfg", "message"),
    [
        ([{"id": "a", "text": "b"}], BalanceConfig(), "has no column url"),
        ([{"id": "a", "text": "b"}], BalanceConfig(by="topic"), "has no column topic"),
        ([{"id": "a", "text": "b", "topic": "x", "weight": -1.0}], BalanceConfig(by="topic"), "document a: weight is -1.0"),
        ([{"id": "a", "text": "b", "topic": "x", "weight": None}], BalanceConfig(by="topic"), "document a: weight is None"),
    ],
)
def test_what_cannot_be_weighed_is_named(tmp_path: Path, rows: list[dict], cfg: BalanceConfig, message: str):
    source = corpus(tmp_path / "in", rows, 1)
    with pytest.raises(ValueError, match=message):
        balance(source, out=tmp_path / "out", cfg=cfg)


def test_what_stages_drop_one_after_another_is_drawn_anew(tmp_path: Path):
    """Half the documents are of site a and half of language x, independently. Site a is to go from 1/2 to 1/5: a quarter of it stays. Of
    what is left, x is to go from 1/2 to 1/5 too. Were both drawn by one number, no document of a would go the second time: its number is
    below 1/4 already."""
    rows = [{"id": f"{n}", "url": f"http://{'ab'[n % 2]}/", "text": "t" * 10, "topic": "xy"[n // 2 % 2]} for n in range(4000)]
    balance(corpus(tmp_path / "in", rows), out=tmp_path / "one", cfg=BalanceConfig(targets={"a": 0.2}, drop=True, workers=1))
    balance(tmp_path / "one", out=tmp_path / "two", cfg=BalanceConfig(by="topic", targets={"x": 0.2}, drop=True, workers=1))
    left = list(documents.read(tmp_path / "two"))
    assert np.mean([row["topic"] == "x" for row in left]) == pytest.approx(0.2, abs=0.04)
    assert np.mean([row["url"] == "http://a/" for row in left if row["topic"] == "x"]) == pytest.approx(0.2, abs=0.09)
    uses = ("balance site", "balance topic", "score topic", "score quality")
    drawn = np.array([[documents.lot(f"{n}", use) for use in uses] for n in range(4000)])
    assert np.abs(np.corrcoef(drawn.T) - np.eye(4)).max() < 0.07  # 4.5 standard deviations of 1 / sqrt(4000)


def test_a_document_has_one_number_and_numbers_are_spread_evenly():
    found = np.sort([documents.lot(f"document {n}", "balance site") for n in range(2000)])
    assert np.abs(found - np.arange(2000) / 2000).max() < 1.95 / math.sqrt(2000)  # Kolmogorov-Smirnov at 0.1 %
