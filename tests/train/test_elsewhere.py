"""A run that stops on some ranks goes on upon others, and ends as one process that was left alone."""

from pathlib import Path

import pytest
import torch

from tests.train import elsewhere, runs

pytestmark = pytest.mark.slow
ALL = {**elsewhere.TWO, **elsewhere.FOUR}


@pytest.fixture(scope="module", params=[2, 4])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """here/NAME began in one process and ended on several; there/NAME has only begun, on several."""
    folder = tmp_path_factory.mktemp(str(request.param))
    for name, grid in (elsewhere.TWO if request.param == 2 else elsewhere.FOUR).items():
        assert elsewhere.train(folder / "here" / name, grid, alone=True, stop=True) is None
    runs.launched(request.param, "tests.train.elsewhere", str(folder))
    return folder


def test_what_began_on_other_ranks_ends_the_same(folder: Path, tmp_path: Path):
    names = sorted(path.name for path in (folder / "there").iterdir())
    assert names in (sorted(elsewhere.TWO), sorted(elsewhere.FOUR))
    for name in names:
        alone = elsewhere.train(tmp_path / name, ALL[name], alone=True, stop=False)
        there = elsewhere.train(folder / "there" / name, ALL[name], alone=True, stop=False)
        here = torch.load(folder / "here" / name / "end.pt")
        assert alone is not None and there is not None
        for key, weight in alone.state_dict().items():
            for found in (there.state_dict()[key], here[key]):
                assert (found - weight).abs().max() < 1e-4, f"{name}: {key}"  # fp32; in seven steps a weight moves 100 times as far
