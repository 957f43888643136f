from dataclasses import dataclass

import pytest

from bessemer.core import config
from bessemer.core.config import Count, Fraction, runtime


@dataclass(frozen=True)
class Inner:
    size: Count = 1


@dataclass(frozen=True)
class Example:
    name: str
    steps: Count = 3
    share: Fraction = 0.5
    words: tuple[str, ...] = ("a",)
    inner: Inner = Inner()
    workers: Count = runtime(2)

    def __post_init__(self):
        if self.steps == 13:
            raise ValueError("steps must not be 13")


def test_parse_fills_defaults_and_converts():
    made = config.parse(Example, {"name": "x", "share": 1, "words": ["b", "c"], "inner": {"size": 4}}, "r.toml: t")
    assert made == Example("x", 3, 1.0, ("b", "c"), Inner(4), 2)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"name": "x", "stpes": 1}, "t.stpes: unknown name 'stpes'; did you mean 'steps'? (known: inner, name, share, steps, words, workers)"),
        ({"name": "x", "steps": 0}, "t.steps: input should be greater than 0, not 0"),
        ({"name": "x", "share": 1.5}, "t.share: input should be less than or equal to 1, not 1.5"),
        ({"name": "x", "inner": {"sise": 1}}, "t.inner.sise: unknown name 'sise'"),
        ({"name": "x", "words": "b"}, "t.words: input should be a list, not 'b'"),
        ({"name": "x", "steps": 13}, "t: steps must not be 13"),
        ({"name": "x", "steps": "many"}, "t.steps: "),
        ({}, "t.name is missing"),
    ],
)
def test_errors_name_the_place_and_what_is_allowed(values, said):
    with pytest.raises(ValueError) as caught:
        config.parse(Example, values, "t")
    assert said in str(caught.value)


def test_runtime_fields_stay_out_of_the_identity():
    assert config.identity(Example("x", workers=2)) == config.identity(Example("x", workers=9))
    assert config.identity(Example("x")) != config.identity(Example("x", steps=4))
    assert config.plain(Example("x"))["workers"] == 2
