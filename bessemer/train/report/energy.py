"""The energy a run takes: read from the machine's own counters where it has them, else estimated, and the two never mixed.

Measured: processor packages and their memory through RAPL (Intel and AMD; the whole machine, neighbours included), an NVIDIA GPU
through NVML's counter or nvidia-smi's power. Estimated: the formula of Green Algorithms (Lannelongue et al. 2021, eq. 2) at a PUE
of 1: cores in use times watts a core, plus watts a gigabyte of memory, plus a GPU's rated power.
"""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch

CORE = 12.0  # watts of a core in use, of a processor that is not known (Lannelongue et al. 2021)
GIGABYTE = 0.3725  # watts of a gigabyte of memory, busy or not (the same)
GPU = 200.0  # watts of a GPU that is not known (the same)
# Watts, by the makers' data sheets.
RATED = {"B200": 1000, "MI300X": 750, "H200": 700, "H100": 700, "A100": 400, "L40": 350, "V100": 300, "T4": 70, "L4": 72}
POWERCAP = Path("/sys/class/powercap")
SAMPLE = 10.0  # seconds between two looks at a GPU that tells its power only

Gauge = Callable[[], float]  # joules since it was made


class Energy:
    """What this process answers for: its GPU, and the first process of a machine for the machine's processors.

    `watts`: what the machine draws, where somebody knows better; 0 where nobody does.
    """

    def __init__(self, where: torch.device, first: bool = True, watts: float = 0.0):
        self.measured: list[Gauge] = []
        self.estimated: list[Gauge] = []
        if watts:
            self.estimated += [_steady(watts)] if first else []
            return
        if packages := counters():
            self.measured += packages if first else []
        else:
            self.estimated.append(_processor())
        if where.type == "cuda":
            gauge = _nvml(where) or _smi(where)
            (self.measured if gauge else self.estimated).append(gauge or _steady(rated(torch.cuda.get_device_name(where))))

    def read(self) -> tuple[float, float]:
        """Joules since the beginning: measured, estimated."""
        return sum(gauge() for gauge in self.measured), sum(gauge() for gauge in self.estimated)


class Counter:
    """A RAPL counter in microjoules, which begins anew at `most`: within 5 minutes at 200 W on older processors, so it is read more often."""

    def __init__(self, zone: Path):
        self.file, self.most = zone / "energy_uj", int((zone / "max_energy_range_uj").read_text())
        self.total, self.last = 0, int(self.file.read_text())

    def __call__(self) -> float:
        now = int(self.file.read_text())
        self.total, self.last = self.total + (now - self.last) % (self.most + 1), now
        return self.total / 1e6


class Sampled:
    """The energy of something that tells its power only: the mean of two looks, times the time between them."""

    def __init__(self, watts: Gauge):
        self.watts, self.joules, self.at, self.power = watts, 0.0, time.perf_counter(), watts()

    def __call__(self) -> float:
        spent = time.perf_counter() - self.at
        if spent < SAMPLE:
            return self.joules + self.power * spent
        now = self.watts()
        self.joules, self.at, self.power = self.joules + (self.power + now) / 2 * spent, self.at + spent, now
        return self.joules


def counters(root: Path = POWERCAP) -> list[Gauge]:
    """A counter for each processor package and each package's memory. None where the kernel has none, or keeps them from this user."""
    try:
        # A package holds its cores; only memory is beside it.
        zones = [zone for zone in sorted(root.glob("intel-rapl:*")) if (zone / "name").read_text().strip().partition("-")[0] in ("package", "dram")]
        return [Counter(zone) for zone in zones]
    except (OSError, ValueError):
        return []


def rated(name: str) -> float:
    """Watts that a GPU of this name may draw."""
    return next((float(watts) for model, watts in RATED.items() if model in name), GPU)


def memory() -> tuple[float, float]:
    """Gigabytes of memory of this process: now, and at its most. Zeros where the kernel does not say."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    except OSError:
        return 0.0, 0.0
    now, most = (int(lines[name].split()[0]) * 1024 / 1e9 for name in ("VmRSS", "VmHWM"))
    return now, most


def _processor() -> Gauge:
    """Cores count for the time they work for this process, memory all the time."""
    began, used = time.perf_counter(), time.process_time()
    return lambda: CORE * (time.process_time() - used) + GIGABYTE * memory()[1] * (time.perf_counter() - began)


def _steady(watts: float) -> Gauge:
    began = time.perf_counter()
    return lambda: watts * (time.perf_counter() - began)


def _nvml(where: torch.device) -> Gauge | None:
    """The driver's counter, in millijoules since it was loaded (Volta and later). None without the package nvidia-ml-py or the counter."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(_uuid(where))
        begun = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # no package, no driver, a slice of a GPU, a GPU that does not count: another way is tried
        return None
    return lambda: (pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) - begun) / 1e3


def _smi(where: torch.device) -> Gauge | None:
    command = ["nvidia-smi", f"--id={_uuid(where)}", "--query-gpu=power.draw", "--format=csv,noheader,nounits"]

    def watts() -> float:
        return float(subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout)

    try:
        return Sampled(watts)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _uuid(where: torch.device) -> str:
    return f"GPU-{torch.cuda.get_device_properties(where).uuid}"
