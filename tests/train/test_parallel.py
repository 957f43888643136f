"""Several ranks are one: losses, norms, held-out means and weights of real processes, against one process that does it all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bessemer.train.means import weighed
from bessemer.train.parallel import mesh
from bessemer.train.parallel.mesh import MeshConfig
from bessemer.train.parallel.shared import even
from tests.train import ranks, runs


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all cases of ranks.py have left what they came to."""
    folder = tmp_path_factory.mktemp("ranks")
    subprocess.run([sys.executable, "-m", "tests.train.ranks", str(folder)], check=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return folder


def same(case: ranks.Case, found: dict) -> None:
    """As one process with all rows at once."""
    close = 2e-5 if (runs.RUNS | ranks.MORE)[case.run][0].ffn == "moe" else 1e-5  # fp32; weights in fp64, whose losses are fp32
    wanted = ranks.train(ranks.Case(case.run, batch=case.batch, dtype=case.dtype))
    if case.dtype == torch.bfloat16:  # AdamW makes whole steps of the smallest differences: only the first step says how large they are
        assert found["losses"][0] == pytest.approx(wanted["losses"][0], rel=2e-3)
        assert found["norms"][0] == pytest.approx(wanted["norms"][0], rel=1e-2)
        assert sum(found["held_out"][-1].values()) == pytest.approx(sum(wanted["held_out"][-1].values()), rel=1e-2)
        return
    for name in ("losses", "held_out"):
        for one, other in zip(found[name], wanted[name], strict=True):
            assert one == pytest.approx(other, abs=close, rel=close)
    assert found["norms"] == pytest.approx(wanted["norms"], rel=close)
    for name, weight in wanted["weights"].items():
        torch.testing.assert_close(found["weights"][name], weight, atol=close, rtol=close, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("name", [*ranks.TWO, *ranks.FOUR])
def test_ranks_are_one_process(name: str, ends: Path):
    same((ranks.TWO | ranks.FOUR)[name], torch.load(ends / f"{name}.pt"))


def test_data_ranks_are_what_remains():
    assert mesh.data_ranks(MeshConfig(tensor=2, pipeline=2), 8) == 2
    assert mesh.data_ranks(MeshConfig(context=4), 4) == 1
    with pytest.raises(ValueError, match="tensor 3 .* must divide the 8 ranks"):
        mesh.data_ranks(MeshConfig(tensor=3), 8)


WRONG = {
    "shards says how many ranks": (MeshConfig(shards=2), runs.SMALL, 4),
    "shards .3. must divide the 4": (MeshConfig(zero=2, shards=3), runs.SMALL, 4),
    "expert .3. must divide the 4": (MeshConfig(expert=3), runs.MOE, 4),
    "set pipeline": (MeshConfig(interleave=2), runs.SMALL, 4),
    "with data parallelism only": (MeshConfig(pipeline=2, tensor=2), runs.SMALL, 4),
    "choose one": (MeshConfig(expert=2, context=2), runs.MOE, 4),
    "tensor .4. must divide kv_heads .2.": (MeshConfig(tensor=4), runs.SMALL, 4),
    "not moe": (MeshConfig(tensor=2), runs.MOE, 4),
    "not lstm": (MeshConfig(tensor=2), runs.RUNS["lstm"][0], 4),
}


@pytest.mark.parametrize("said", WRONG)
def test_a_mesh_that_does_not_fit_is_one_line(said: str):
    with pytest.raises(ValueError, match=f"^mesh: .*{said}"):
        mesh.check(*WRONG[said])


def test_rows_that_fill_up_weigh_nothing_and_count_nothing():
    batch = weighed(runs.tokens(0))
    whole, filled = {name: column[:5] for name, column in batch.items()}, even({name: column[:5] for name, column in batch.items()}, 7, counts=True)
    assert {len(column) for column in filled.values()} == {7}
    assert filled["row_weight"].tolist() == [1.0] * 5 + [0.0] * 2 and filled["segment"][:, 0].tolist() == [1] * 5 + [0] * 2
    assert torch.equal(filled["tokens"][5], batch["tokens"][4]) and not filled["token_weight"][5:].any()
    assert even(whole, 5, counts=False) is whole
    assert even({name: column[:0] for name, column in batch.items()}, 1, counts=False)["tokens"].shape == (1, 32)
    with pytest.raises(ValueError, match="multiple of the ranks"):
        even(weighed(runs.pairs(0)), 9, counts=True)
