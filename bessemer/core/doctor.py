"""What this machine is fit for, a line a finding, with what to do where it could be better."""

import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from bessemer.core import device, launch, workers

GB = 1e9
ROOM = 10 * GB  # free disk: three checkpoints of a model of 250M parameters, two kept and one being written
SHARED = 1 * GB  # what processes of one machine exchange through /dev/shm
PYTHON, TORCH = (3, 11), (2, 11)
ALLOCATOR = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


@dataclass(frozen=True)
class Finding:
    what: str
    found: str
    advice: str = ""  # empty where all is well


def show() -> None:
    """Print the findings, each when it is there: measuring takes seconds."""
    for ask in CHECKS:
        finding = ask()
        print(f"{finding.what:<10} {finding.found}", flush=True)
        if finding.advice:
            print(f"{'':<10} -> {finding.advice}")


def _python() -> Finding:
    advice = f"Bessemer wants Python {'.'.join(map(str, PYTHON))} or later" if sys.version_info < PYTHON else ""
    return Finding("python", f"{platform.python_version()}, {platform.system()} on {platform.machine()}", advice)


def _torch() -> Finding:
    version = tuple(int(word) for word in torch.__version__.split("+")[0].split(".")[:2])
    advice = f"torch {'.'.join(map(str, TORCH))} or later is tested: pip install -U torch" if version < TORCH else ""
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "for CPUs only"
    if not torch.version.cuda and Path("/proc/driver/nvidia/version").exists():
        advice = "there is an NVIDIA driver, and this torch cannot use it: install one that is built for CUDA"
    return Finding("torch", f"{torch.__version__}, {built}", advice)


def _cores() -> Finding:
    """Cores this process may use, and threads torch uses: more threads than cores wait for each other."""
    cores, threads = workers.cores(), torch.get_num_threads()
    busy = os.getloadavg()[0]
    advice = ""
    if threads > cores:
        advice = f"more threads than cores: set OMP_NUM_THREADS={cores}"
    elif busy > cores:
        advice = f"others keep {busy:.1f} cores busy: one thread too many waits for all, so training may be many times slower than it could be"
    elif threads < cores and not torch.cuda.is_available():
        advice = f"training on the CPU would use {cores} threads: unset OMP_NUM_THREADS, or set it to {cores}"
    return Finding("cores", f"{cores} usable, {threads} threads, load {busy:.1f}", advice)


def _device() -> Finding:
    here = device.pick()
    rates = {name: device.matmul_rate(here, device.DTYPES[name]) for name in ("fp32", "bf16")}
    memory = torch.cuda.get_device_properties(here).total_memory if here.type == "cuda" else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    measured = ", ".join(f"{name} {rate / 1e12:.2f} TFLOP/s" for name, rate in rates.items())
    return Finding("device", f"{device.describe(here)}, {memory / GB:.0f} GB; measured {measured}")


def _precision() -> Finding:
    """What "auto" takes."""
    chosen = device.precision("auto", device.pick())
    if chosen == torch.float32:
        return Finding("precision", "fp32: 16 bits were measured to train no faster here", "nothing to do: precision = auto takes fp32")
    return Finding("precision", f"{str(chosen).removeprefix('torch.')}: measured to train faster here than fp32")


def _compile() -> Finding:
    """Whether a function really compiles: finding a compiler is not enough."""
    if reason := device.compiles():
        return Finding(
            "compile", f"no: {reason}", "install a C++ compiler and the headers of this Python: training is about 1.4 times faster with them"
        )
    try:
        made = torch.compile(lambda x: (x.sin() + 1).sum(), dynamic=False)
        made(torch.ones(64, device=device.pick()))
    except Exception as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0][:100]
        return Finding("compile", f"no: {line}", "set compile = false, or mend what the message names")
    return Finding("compile", "torch.compile works")


def _allocator() -> Finding:
    if torch.cuda.is_available():
        return Finding("allocator", "torch's own")
    if platform.libc_ver()[0] != "glibc":
        return Finding("allocator", platform.libc_ver()[0] or "not glibc")
    if missing := [name for name in ALLOCATOR if name not in os.environ]:
        advice = "the bessemer command sets them, a script of your own should: 10 to 20 % of the speed on CPUs"
        return Finding("allocator", f"glibc, {', '.join(missing)} not set", advice)
    return Finding("allocator", "glibc, keeps freed memory")


def _disk() -> Finding:
    """Free room where the work is done, and how fast it takes a checkpoint."""
    free = shutil.disk_usage(".").free
    advice = f"less than {ROOM / GB:.0f} GB; a full disk ends a run, which continues once there is room" if free < ROOM else ""
    try:
        rate = _written(64 << 20)
    except OSError as error:
        return Finding("disk", f"{free / GB:.0f} GB free in {Path.cwd()}", f"cannot be written: {error.strerror}")
    return Finding("disk", f"{free / GB:.0f} GB free in {Path.cwd()}, written and synced at {rate / 1e6:.0f} MB/s", advice)


def _written(size: int) -> float:
    content = os.urandom(1 << 20)
    with tempfile.TemporaryFile(dir=".") as file:
        began = time.perf_counter()
        for _ in range(size >> 20):
            file.write(content)
        file.flush()
        os.fsync(file.fileno())
        return size / (time.perf_counter() - began)


def _shared() -> Finding:
    path = Path("/dev/shm")
    if not path.is_dir():
        return Finding("/dev/shm", "none")
    free = shutil.disk_usage(path).free
    small = "little for several processes on one machine: start the container with --shm-size=8g" if free < SHARED else ""
    return Finding("/dev/shm", f"{free / GB:.1f} GB free", small)


def _files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Finding("open files", f"{soft} at most", f"few for many workers: ulimit -n {min(hard, 65536)}" if 0 < soft < 1024 <= hard else "")


def _ranks() -> Finding:
    gpus = torch.cuda.device_count()
    if launch.asked() > 1:
        return Finding("ranks", f"{launch.asked()}, this is {launch.rank()}")
    advice = f"{gpus} GPUs: set mesh.ranks = {gpus} to train on all of them" if gpus > 1 else ""
    return Finding("ranks", f"1 process, {gpus} GPUs" if gpus else "1 process, no GPU", advice)


CHECKS: tuple[Callable[[], Finding], ...] = (
    _python,
    _torch,
    _cores,
    _device,
    _precision,
    _compile,
    _allocator,
    _disk,
    _shared,
    _files,
    _ranks,
)
