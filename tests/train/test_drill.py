"""The drill itself: a run that is interrupted in each way ends as one that was left alone; and a difference is found where there is one."""

from pathlib import Path

import pytest
import torch

from bessemer.core import doctor
from bessemer.train.resume import drill
from bessemer.train.resume.drill import Outcome

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # torch says so at each call of one process


def test_interrupted_in_each_way_it_ends_the_same(tmp_path: Path):
    outcomes = drill.run(len(drill.WAYS), 1, tmp_path, ["Muon, EMA, anneal"])
    assert [outcome.differences for outcome in outcomes] == [dict.fromkeys(("weights", "optimizer", "state", "rows", "draws", "losses"), "")]
    assert [words.split()[0] for words in outcomes[0].interruptions] == list(drill.WAYS)
    assert outcomes[0].same and outcomes[0].again > 0


def test_one_of_two_ranks_is_killed(tmp_path: Path):
    outcomes = drill.run(1, 3, tmp_path, ["2 ranks, ZeRO-2"])
    assert outcomes[0].same and len(outcomes[0].interruptions) == 1


def test_what_ended_otherwise_is_told_apart():
    one = {"weights/a": torch.tensor([1.0]), "weights/b": torch.tensor([2.0])}
    assert drill._different(one, dict(one), "weights/") == ""
    assert drill._different(one, {**one, "weights/b": torch.tensor([2.0]).nextafter(torch.tensor(3.0))}, "weights/") == "b"
    assert drill._different(one, {"weights/a": one["weights/a"]}, "weights/") == "b"
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    assert drill._first(rows, rows) == "" and drill._first(rows, rows[:1]) == "step 2" and drill._first(rows, rows[1:]) == "step 1"


def test_a_diary_is_read(tmp_path: Path):
    diary = tmp_path / "a.txt"
    diary.write_text("0 rows abc\n0 draws 0x1p-1\n0 rows abc\n1 rows abd\n")
    assert drill._lines(diary, "rows") == {(0, "abc"), (1, "abd")} and drill._drawn(diary) == [0]


def test_the_verdict_needs_evidence():
    assert not Outcome("a", 1, []).same and not Outcome("a", 1, [], differences={"weights": "b"}).same
    assert Outcome("a", 1, [], differences={"weights": ""}).same


def test_too_few_kills_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="2 kills are too few for 3 runs"):
        drill.run(2, 0, tmp_path)


def test_the_doctor_says_a_line_on_everything(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)  # where it writes to see how fast that is
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setattr(doctor.device, "matmul_rate", lambda *_: 1e12)
    monkeypatch.setattr(doctor.device, "precision", lambda *_: torch.bfloat16)
    assert drill.doctor()
    said = capsys.readouterr().out
    for what in ("python", "torch", "cores", "device", "precision", "compile", "allocator", "disk", "/dev/shm", "open files", "ranks"):
        assert f"\n{what} " in f"\n{said}"
    assert "fp32 1.00 TFLOP/s" in said


def test_the_doctor_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    monkeypatch.setattr(doctor.device, "compiles", lambda: "no C++ compiler found")
    monkeypatch.setattr(doctor.device, "precision", lambda *_: torch.float32)
    assert "set OMP_NUM_THREADS=" in doctor._cores().advice
    assert "MALLOC_TRIM_THRESHOLD_ not set" in doctor._allocator().found
    assert doctor._compile().found == "no: no C++ compiler found" and doctor._compile().advice
    assert doctor._precision().found.startswith("fp32")
