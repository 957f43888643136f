"""What was written is what is read, by any number of ranks; and what is damaged, half there or another's is not taken for a checkpoint."""

import errno
import json
import os
import shutil
import threading
from pathlib import Path

import pytest
import torch

from bessemer.core import artifact
from bessemer.train.resume import checkpoint, state
from bessemer.train.resume.checkpoint import Checkpoints
from tests.train import keepers, runs
from tests.train.keepers import KINDS, STEP, Run

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # torch says so at each call of one process
NAMES = ["-".join(kind) for kind in KINDS]


def tensors(run: Run) -> dict[str, torch.Tensor]:
    """All there is to keep, by name."""
    moments = {moment.name: moment.tensor for moment in state.moments(run.parts, run.optimizers)}
    return {**state.weights(run.parts), **moments, **{f"average {name}": mean for name, mean in run.average.state_dict().items()}}


def same(one: Run, other: Run) -> bool:
    a, b = tensors(one), tensors(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


def steps(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "run" / "resume").iterdir())


def newest(folder: Path) -> Path:
    return max((folder / "run" / "resume").glob("step-*"))


def flip(path: Path, at: int = -100) -> None:
    """Change one bit."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="module")
def trained() -> Run:
    run = Run("dense", "adamw")
    run.step()
    return run


@pytest.fixture
def kept(trained: Run, tmp_path: Path) -> Path:
    """Two checkpoints, which differ in one weight."""
    for step in (100, 200):
        with torch.no_grad():
            trained.parts[0].embed.weight[0, 0] = step
        trained.save(tmp_path, step)
    return tmp_path


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    """What one process wrote, read by two real processes and written again; and what each of them had to say."""
    folder = tmp_path_factory.mktemp("ranks")
    for model, optimizer in {kind[:2] for kind in KINDS}:
        run = Run(model, optimizer)
        run.step()
        run.save(folder / f"{model}-{optimizer}", STEP)
        if (model, optimizer) == ("dense", "adamw"):
            run.save(folder / "damaged", 1)
            run.save(folder / "damaged", 2)
    flip(newest(folder / "damaged") / "__0_0.distcp")
    shutil.copytree(folder / "experts-adamw", folder / "other")
    (folder / "full").mkdir()
    (folder / "full" / "run").touch()  # where a folder should be
    runs.launched(2, keepers.__name__, str(folder))
    return folder, [json.loads((folder / f"said-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize(("name", "kind"), list(zip(NAMES, KINDS, strict=True)))
def test_two_ranks_of_any_kind_read_what_one_wrote_and_one_what_they_wrote(name: str, kind: tuple[str, str, str], ranks: tuple[Path, list[dict]]):
    folder, said = ranks
    assert [one[name] for one in said] == [[STEP, keepers.EXTRAS]] * 2
    original, again = Run(*kind[:2]), Run(*kind[:2], seed=2)
    original.step()
    assert not same(original, again)
    assert again.load(folder / name)[0] == STEP + 1
    assert same(original, again)


def test_sharded_ranks_write_shards(ranks: tuple[Path, list[dict]]):
    """Each about half of the bytes; whole copies are shared out as well."""
    for name in ("dense-adamw-sharded", "dense-adamw-replicas"):
        sizes = [path.stat().st_size for path in newest(ranks[0] / name).glob("*.distcp")]
        assert len(sizes) == 2 and max(sizes) < 1.2 * min(sizes)


def test_ranks_agree_on_the_checkpoint_before_a_damaged_one(ranks: tuple[Path, list[dict]]):
    assert [one["damaged"] for one in ranks[1]] == ["1", "1"]


def test_an_error_of_one_rank_is_everyones(ranks: tuple[Path, list[dict]]):
    for one in ranks[1]:
        assert "is a checkpoint of another run: it lacks " in one["other"] and one["full"].startswith("NotADirectoryError")


def test_it_is_whole_tensors_to_whoever_asks(kept: Path, trained: Run):
    found, extras = checkpoint.read(newest(kept))
    assert torch.equal(found["weights/embed.weight"], trained.parts[0].embed.weight) and "weights/head.weight" not in found
    assert extras == {"average": {}, **keepers.EXTRAS}


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "extras.json", "digests.json"])
def test_a_changed_bit_costs_one_checkpoint(name: str, kept: Path, capsys: pytest.CaptureFixture):
    flip(newest(kept) / name, at=15)
    again = Run("dense", "adamw", seed=2)
    assert again.load(kept)[0] == 100 and again.parts[0].embed.weight[0, 0] == 100
    assert "warning: the checkpoint of step 200 is damaged and passed over: " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "extras.json", "digests.json"])
def test_a_missing_file_costs_one_checkpoint(name: str, kept: Path, capsys: pytest.CaptureFixture):
    (newest(kept) / name).unlink()
    assert Run("dense", "adamw").load(kept)[0] == 100
    assert f"step 200 is damaged and passed over: {name}: No such file" in capsys.readouterr().err


def test_what_a_damaged_one_left_is_replaced_and_does_not_push_out_a_whole_one(kept: Path, trained: Run):
    flip(newest(kept) / ".metadata")
    keeper = Checkpoints(kept)
    assert keeper.load(trained.parts, trained.optimizers, trained.extras())[0] == 100
    keeper.save(150, trained.parts, trained.optimizers, trained.extras())
    keeper.close()
    assert steps(kept) == ["step-00000100", "step-00000150"]


def test_where_all_are_damaged_training_begins_anew(kept: Path):
    for path in (kept / "run" / "resume").iterdir():
        flip(path / "__0_0.distcp")
    assert Run("dense", "adamw").load(kept) == (0, {})


def test_a_half_written_one_is_never_seen(kept: Path):
    unfinished = kept / "run" / "resume" / "step-00000300.tmp"
    shutil.copytree(newest(kept), unfinished)
    assert Run("dense", "adamw").load(kept)[0] == 200 and not unfinished.exists()


def test_the_newest_are_kept(trained: Run, tmp_path: Path):
    keeper = Checkpoints(tmp_path, keep=3)
    for step in (2, 4, 6, 8, 10):
        keeper.save(step, trained.parts, trained.optimizers, trained.extras())
    keeper.close()
    assert steps(tmp_path) == ["step-00000006", "step-00000008", "step-00000010"]


def test_a_step_that_is_on_disk_is_not_written_again(kept: Path, trained: Run):
    """SIGTERM may come before a run that goes on has done a step."""
    before = (newest(kept) / "digests.json").stat().st_mtime_ns
    keeper = Checkpoints(kept)
    keeper.load(trained.parts, trained.optimizers, trained.extras())
    keeper.save(200, trained.parts, trained.optimizers, trained.extras())
    keeper.close()
    keeper.close()
    assert (newest(kept) / "digests.json").stat().st_mtime_ns == before and len(steps(kept)) == 2


def test_training_goes_on_while_it_is_written(trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What is kept is the state at the call, though the weights change before a byte is written."""
    from bessemer.train.resume import store

    changed, write = threading.Event(), store.write
    monkeypatch.setattr(store, "write", lambda *given: (changed.wait(30), write(*given)))
    run = Run("dense", "adamw")
    run.step()
    before = {name: tensor.clone() for name, tensor in tensors(run).items()}
    keeper = Checkpoints(tmp_path)
    keeper.save(1, run.parts, run.optimizers, run.extras())
    run.step()
    changed.set()
    keeper.close()
    assert not torch.equal(before["weights/embed.weight"], run.parts[0].embed.weight)
    again = Run("dense", "adamw")
    assert again.load(tmp_path)[0] == 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors(again).items())


def test_a_full_disk_is_one_line_and_costs_nothing(kept: Path, trained: Run, monkeypatch: pytest.MonkeyPatch):
    """It comes up at the next call, whatever torch makes of it."""
    write = os.fsync

    def fsync(handle: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise OSError(errno.ENOSPC, "No space left on device")
        write(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    keeper = Checkpoints(kept)
    keeper.save(300, trained.parts, trained.optimizers, trained.extras())
    with pytest.raises(OSError, match="no space left on the disk") as error:
        keeper.save(400, trained.parts, trained.optimizers, trained.extras())
    assert error.value.filename == str(kept / "run" / "resume")
    monkeypatch.undo()
    assert steps(kept) == ["step-00000100", "step-00000200"] and Run("dense", "adamw").load(kept)[0] == 200


def test_another_run_s_checkpoint_is_refused_in_one_line(kept: Path):
    wider = Run("dense", "muon")
    with pytest.raises(ValueError, match=r"step-00000200 is a checkpoint of another run: stack\S+ was trained by AdamW there and is by Muon here$"):
        wider.load(kept)
    other = Run("dense", "adamw")
    other.parts[0].stack.norm.weight = torch.nn.Parameter(torch.ones(33))
    with pytest.raises(ValueError, match=r"another run: stack.norm.weight is \(32,\) torch.float32 there and \(33,\) torch.float32 here$"):
        other.load(kept)
    with pytest.raises(ValueError, match=r"another run: (it lacks|this model has no) .* and \d+ more$"):
        Run("experts", "adamw").load(kept)


def test_it_goes_when_the_artifact_is_whole(kept: Path):
    assert newest(kept).parent == kept / artifact.RUN / "resume"
