"""What a run says about itself, worked out by hand with a clock, counters and a driver of our own; and two ranks that add up to one."""

import json
import mmap
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from bessemer.core import device, log
from bessemer.train.report import energy, meter, trackers
from bessemer.train.report.energy import Counter, Energy, Sampled
from bessemer.train.report.meter import Meter, MeterConfig, Sizes
from bessemer.train.report.trackers import Trackers
from tests.train import meters, runs

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


class Clock:
    """Wall time, and time that the processor worked for us."""

    def __init__(self) -> None:
        self.wall = self.work = 100.0

    def wait(self, wall: float, work: float = 0.0) -> None:
        self.wall, self.work = self.wall + wall, self.work + work


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    for module in (energy, meter):
        monkeypatch.setattr(module, "time", types.SimpleNamespace(perf_counter=lambda: found.wall, process_time=lambda: found.work))
    monkeypatch.setattr(energy, "POWERCAP", Path("/nowhere"))
    monkeypatch.setattr(energy, "memory", lambda: (2.0, 4.0))
    monkeypatch.setattr(meter, "memory", lambda: (2.0, 4.0))
    monkeypatch.setattr(device, "matmul_rate", lambda where, dtype: 2e12)
    return found


def zone(root: Path, name: str, label: str, microjoules: int = 0, most: int = 999_999) -> Path:
    """A RAPL zone as the kernel shows it."""
    found = root / name
    found.mkdir(parents=True)
    for file, value in (("name", label), ("energy_uj", microjoules), ("max_energy_range_uj", most)):
        (found / file).write_text(f"{value}\n")
    return found


def test_a_counter_that_begins_anew_goes_on(tmp_path: Path):
    """From 900,000 of 999,999 uJ to 100,000: 100,000 up to the new beginning and 100,000 from there; then 0.3 J more."""
    package = zone(tmp_path, "intel-rapl:0", "package-0", 900_000)
    counter = Counter(package)
    assert counter() == 0.0
    (package / "energy_uj").write_text("100000\n")
    assert counter() == pytest.approx(0.2)
    (package / "energy_uj").write_text("400000\n")
    assert counter() == pytest.approx(0.5) and counter() == pytest.approx(0.5)


def test_packages_and_their_memory_are_counted_once(tmp_path: Path):
    """Cores are in their package, the platform holds all, and mmio is the same package by another way."""
    for name, label in (
        ("intel-rapl:0", "package-0"),
        ("intel-rapl:0:0", "core"),
        ("intel-rapl:0:1", "dram"),
        ("intel-rapl:1", "package-1"),
        ("intel-rapl:2", "psys"),
        ("intel-rapl-mmio:0", "package-0"),
    ):
        zone(tmp_path, name, label)
    found = energy.counters(tmp_path)
    assert [gauge.file.parent.name for gauge in found if isinstance(gauge, Counter)] == ["intel-rapl:0", "intel-rapl:0:1", "intel-rapl:1"]
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()  # as where a user may not read it
    assert energy.counters(tmp_path) == [] == energy.counters(tmp_path / "nowhere")


def test_power_becomes_energy(clock: Clock):
    """100 W at first and for 4 s; 300 W at the next look after 20 s: 200 W in the mean, 4,000 J; then 300 W for 5 s."""
    watts = iter([100.0, 300.0])
    gauge = Sampled(lambda: next(watts))
    clock.wait(4)
    assert gauge() == pytest.approx(400)
    clock.wait(16)
    assert gauge() == pytest.approx(4000)
    clock.wait(5)
    assert gauge() == pytest.approx(5500)


def test_numbers_by_hand(clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Two steps of 512 tokens and 6 TFLOP in 8 s on a machine of 2 TFLOP/s: 128 tokens/s, 1.5 TFLOP/s, 75 %. Three of the 8 s a core
    worked: 36 J, and 4 GB at 0.3725 W for 8 s: 11.92 J. 47.92 J at 445 g / kWh are 5.92 mg."""
    gauge = Meter(MeterConfig(), CPU, torch.float32, 1)
    for _ in range(2):
        gauge.add(512, 6e12)
    clock.wait(8, work=3)
    assert gauge.numbers() == pytest.approx(
        {
            "tokens_per_second": 128,
            "mfu": 0.75,
            "tflops": 1.5,
            "peak_tflops": 2.0,
            "memory_gb": 4.0,
            "memory_now_gb": 2.0,
            "tokens": 1024,
            "energy_estimated_j": 47.92,
            "carbon_estimated_g": 47.92 / 3.6e6 * 445,
        }
    )
    clock.wait(100)  # an evaluation: no training, but energy
    gauge.begin()
    gauge.add(100, 1e12)
    clock.wait(1)
    numbers = gauge.numbers()
    assert numbers["tokens_per_second"] == pytest.approx(100) and numbers["mfu"] == pytest.approx(0.5) and numbers["tokens"] == 1124
    assert numbers["energy_estimated_j"] == pytest.approx(36 + 0.3725 * 4 * 109)

    # A machine that tells: its counter is what was measured, and nothing is called estimated.
    package = zone(tmp_path, "intel-rapl:0", "package-0", 0, most=10**9)
    monkeypatch.setattr(energy, "counters", lambda: [Counter(package)])
    gauge = Meter(MeterConfig(carbon_intensity=100.0), CPU, torch.float32, 1)
    clock.wait(2, work=2)
    (package / "energy_uj").write_text("36000000")
    numbers = gauge.numbers()
    assert numbers["energy_j"] == 36.0 and numbers["carbon_g"] == pytest.approx(0.001) and not [n for n in numbers if "estimated" in n]
    # Whoever knows better says so, and that is no measurement.
    gauge = Meter(MeterConfig(power=50.0), CPU, torch.float32, 1)
    clock.wait(2)
    assert gauge.numbers()["energy_estimated_j"] == pytest.approx(100) and "energy_j" not in gauge.numbers()


def test_a_counter_is_read_before_it_can_wrap_twice(clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    package = zone(tmp_path, "intel-rapl:0", "package-0", 0, most=999_999)
    monkeypatch.setattr(energy, "counters", lambda: [Counter(package)])
    gauge = Meter(MeterConfig(), CPU, torch.float32, 1)
    for reading in (600_000, 200_000, 800_000, 400_000):  # 0.6 J between two of them, 0.6 s x 1 W in the real world
        clock.wait(meter.POLL + 1)
        (package / "energy_uj").write_text(str(reading))
        gauge.add(1, 1.0)
    assert gauge.numbers()["energy_j"] == pytest.approx(2.4)


def test_a_resumed_run_goes_on_with_its_totals(clock: Clock):
    first = Meter(MeterConfig(power=10.0), CPU, torch.float32, 1)
    first.add(300, 1.0)
    clock.wait(5)
    saved = json.loads(json.dumps(first.state_dict()))
    assert saved == {"tokens": 300, "energy_j": 0.0, "energy_estimated_j": pytest.approx(50)}
    clock.wait(3)  # lost with the kill
    second = Meter(MeterConfig(power=10.0), CPU, torch.float32, 1)
    second.load_state_dict(saved)
    second.add(20, 1.0)
    clock.wait(1)
    numbers = second.numbers()
    assert numbers["tokens"] == 320 and numbers["energy_estimated_j"] == pytest.approx(60) and numbers["tokens_per_second"] == pytest.approx(20)
    assert second.state_dict()["energy_estimated_j"] == pytest.approx(60)


@pytest.fixture
def gpu(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A GPU that torch knows; what its driver says is up to the test."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda where: types.SimpleNamespace(uuid="12-34"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda where: "NVIDIA H100 80GB HBM3")
    monkeypatch.setitem(sys.modules, "pynvml", None)  # import fails
    monkeypatch.setenv("PATH", "/nowhere")
    return clock


def driver(read: Callable[[], int]) -> types.ModuleType:
    module = types.ModuleType("pynvml")
    module.nvmlInit = lambda: None  # type: ignore[attr-defined]
    module.nvmlDeviceGetHandleByUUID = lambda uuid: {"GPU-12-34": "handle"}[uuid]  # type: ignore[attr-defined]
    module.nvmlDeviceGetTotalEnergyConsumption = lambda handle: read()  # type: ignore[attr-defined]
    return module


def test_a_gpu_is_measured_by_its_counter_or_its_power_and_else_estimated(gpu: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Beside it the processor is estimated: nothing here, but its memory."""
    memory = 0.3725 * 4 * 10
    bare = Energy(GPU)
    gpu.wait(10)
    assert bare.read() == pytest.approx((0.0, 700 * 10 + memory))

    command = tmp_path / "nvidia-smi"
    command.write_text('#!/bin/sh\n[ "$1" = --id=GPU-12-34 ] && echo 250.5\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    by_power = Energy(GPU)
    gpu.wait(10)
    assert by_power.read() == pytest.approx((2505, memory))
    command.write_text('#!/bin/sh\necho "[N/A]"\n')
    assert len(Energy(GPU).estimated) == 2

    readings = iter([5_000_000, 6_500_000])  # millijoules
    monkeypatch.setitem(sys.modules, "pynvml", driver(lambda: next(readings)))
    counted = Energy(GPU)
    gpu.wait(10)
    assert counted.read() == pytest.approx((1500, memory))


def test_the_first_process_of_a_machine_answers_for_its_processors(gpu: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    package = zone(tmp_path, "intel-rapl:0", "package-0")
    monkeypatch.setattr(energy, "counters", lambda: [Counter(package)])
    monkeypatch.setitem(sys.modules, "pynvml", driver(lambda: 0))
    assert [len(Energy(GPU, first).measured) for first in (True, False)] == [2, 1]
    assert [len(Energy(CPU, first).measured) for first in (True, False)] == [1, 0]
    assert [len(Energy(CPU, first, watts=70.0).estimated) for first in (True, False)] == [1, 0]


def test_what_the_kernel_says_about_memory():
    now, most = energy.memory()
    held = mmap.mmap(-1, 64 << 20)  # from the kernel: an allocator may have as much left over
    for page in range(0, len(held), mmap.PAGESIZE):
        held[page] = 1
    later, later_most = energy.memory()
    assert 0.05 < now <= most < 1000 and later_most >= most and later - now > 0.9 * len(held) / 1e9
    assert energy.rated("NVIDIA H100 PCIe") == 700 and energy.rated("NVIDIA L4") == 72 and energy.rated("Voodoo") == 200


def test_update_sizes_by_hand():
    """Weights (3, 4), 5 long, move by 0.1 x (6, 8), 1 long: a fifth. A group of zeros has no size to compare with; one whose step is
    skipped has not moved."""
    groups = {"matrices": [3.0, 4.0], "balance": [0.0, 0.0], "gains": [1.0, 1.0]}
    parameters = {name: nn.Parameter(torch.tensor(values)) for name, values in groups.items()}
    update = torch.optim.SGD([{"params": [parameter], "name": name} for name, parameter in parameters.items()], lr=0.1)
    parameters["matrices"].grad = torch.tensor([6.0, 8.0])
    parameters["balance"].grad = torch.ones(2)
    sizes = Sizes([update])
    update.step()
    assert sizes.now() == {"update: matrices": pytest.approx(0.2), "update: gains": 0.0}


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("ranks")
    runs.launched(2, meters.__name__, str(folder))
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_shards_and_stages_give_the_sizes_of_one_process(two_ranks: list[dict]):
    """Five rows on two ranks: three and two. The group of both is a shard and a whole weight."""
    whole = meters.stepped({"matrices": ["odd", "whole"], "first": ["first"], "last": ["last"]}, ())
    for rank in two_ranks:
        assert rank["sizes"] == pytest.approx(whole)
    assert len(whole) == 3 and len(set(whole.values())) == 3


def test_ranks_add_up(two_ranks: list[dict]):
    """The peak is of both; a machine's power, which the first rank counts, is in everybody's energy; memory is that of the larger."""
    one, two = (rank["numbers"] for rank in two_ranks)
    for name in ("energy_estimated_j", "carbon_estimated_g", "memory_gb", "memory_now_gb", "peak_tflops", "tokens"):
        assert one[name] == two[name]
    assert one["peak_tflops"] == pytest.approx(2e-3) and one["tokens"] == 640
    assert one["mfu"] == pytest.approx(one["tflops"] / 2e-3) and one["energy_estimated_j"] > 0
    assert two_ranks[0]["totals"] == two_ranks[1]["totals"] and two_ranks[0]["totals"]["energy_estimated_j"] >= one["energy_estimated_j"]


ROWS = {step: {"loss": 4.0 - step, "val_loss": 5.0 - step, "update: matrices": 0.1 * step} for step in (1, 2, 3, 4)}


def test_rows_go_to_the_file_and_a_resumed_run_forgets_what_comes_again(tmp_path: Path):
    first = Trackers(tmp_path, MeterConfig(), 0, "train", {})
    for step in (1, 2, 3):
        first.write(step, ROWS[step])
    second = Trackers(tmp_path, MeterConfig(), 2, "train", {})  # the first was killed; steps 1 and 2 were saved
    second.write(3, {"loss": 0.0})
    second.close()
    rows = log.read_metrics(tmp_path / "run" / trackers.METRICS)
    assert rows == [{"step": 1, **ROWS[1]}, {"step": 2, **ROWS[2]}, {"step": 3, "loss": 0.0}]


@pytest.mark.parametrize(("cfg", "name"), [(MeterConfig(tensorboard=True), "tensorboard"), (MeterConfig(wandb="mine"), "wandb")])
def test_a_missing_package_is_said_before_anything_is_written(cfg: MeterConfig, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trackers, "find_spec", lambda wanted: None)
    with pytest.raises(RuntimeError, match=f"^{name} = (true|mine) needs the package {name}: pip install {name}$"):
        Trackers(tmp_path, cfg, 0, "train", {})
    assert not list(tmp_path.iterdir())


def test_tensorboard_shows_what_the_file_holds(tmp_path: Path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for steps, begin in (((1, 2, 3), 0), ((3, 4), 2)):
        found = Trackers(tmp_path, MeterConfig(tensorboard=True), begin, "train", {})
        for step in steps:
            found.write(step, ROWS[step])
        if begin:  # the first is killed
            found.close()
    events = reader.EventAccumulator(str(tmp_path / "run" / trackers.TENSORBOARD))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "held out/loss", "update/matrices"}
    for tag, name in (("loss", "loss"), ("held out/loss", "val_loss"), ("update/matrices", "update: matrices")):
        assert [(event.step, pytest.approx(event.value)) for event in events.Scalars(tag)] == [(step, row[name]) for step, row in ROWS.items()]


def test_weights_and_biases_goes_on_in_the_run_of_the_artifacts_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Offline, with the real package: two processes' worth of one run, both under the key."""
    pytest.importorskip("wandb")
    for name, value in (("MODE", "offline"), ("CACHE_DIR", str(tmp_path / "cache")), ("CONFIG_DIR", str(tmp_path / "config"))):
        monkeypatch.setenv(f"WANDB_{name}", value)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "key").write_text("0123456789ab")
    for step in (1, 2):
        found = Trackers(tmp_path, MeterConfig(wandb="tests"), step - 1, "train", {"lr": 1e-3})
        assert found.run.id == "0123456789ab" and found.run.name == "train-0123456789ab" and found.run.config["lr"] == 1e-3
        found.write(step, ROWS[step])
        assert found.run.summary["update/matrices"] == pytest.approx(0.1 * step)
        found.close()
    written = list((tmp_path / "run" / "wandb").glob("offline-run-*-0123456789ab/run-0123456789ab.wandb"))
    assert written and all(path.stat().st_size for path in written)
