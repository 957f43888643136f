"""What each rank holds of weights, gradients and optimizer state under ZeRO 0 to 3, beside the formula; and how much of the reduction of
gradients lies under the backward pass.

    python benchmarks/memory_per_rank.py [ranks ...]

Starts that many processes of itself (2 and 4). Bytes are those of live storages, looked for at each block's backward pass, at the most;
activations and buffers of messages are not among them.
"""

import argparse
import gc
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from bessemer.core import device, dist
from bessemer.model.config import ModelConfig
from bessemer.model.model import Model, initialise
from bessemer.train.loop import FitConfig
from bessemer.train.means import Means, totals, weighed
from bessemer.train.objective import predict
from bessemer.train.optimizers.optimizer import build
from bessemer.train.parallel.mesh import MeshConfig
from bessemer.train.parallel.shared import local
from bessemer.train.parallel.spread import Spread, spread

MODEL = ModelConfig(vocab=2048, width=256, depth=8, heads=4, kv_heads=4, hidden=1024, context=64, tied=False)
PROFILED = ModelConfig(vocab=2048, width=512, depth=6, heads=8, kv_heads=8, hidden=2048, context=256, tied=False)
MB = 1e6


def formula(zero: int, ranks: int, weights: int, bf16: bool) -> dict[str, float]:
    """Bytes a rank, figure 1 of Rajbhandari et al. 2020 in this loop's precisions: masters, gradients and both moments in fp32. What is
    gathered for the products (all of it below ZeRO 3) is 2 bytes a weight on bf16 runs, beside the shards it is gathered from."""
    share = [1, 1 / ranks, 1 / ranks, 1 / ranks][zero]
    gathered = 0 if zero in (0, 3) else (2 if bf16 else 4)
    return {
        "weights": weights * (4 * share + gathered),
        "gradients": weights * 4 * (1 if zero <= 1 else 1 / ranks),
        "state": weights * 8 * share,
    }


def batch_of(cfg: ModelConfig, rows: int) -> dict[str, Tensor]:
    ids = torch.randint(0, cfg.vocab, (rows, cfg.context + 1), generator=torch.Generator().manual_seed(0))
    return weighed({"tokens": ids[:, :-1].contiguous(), "targets": ids[:, 1:].contiguous(), "token_weight": torch.ones(rows, cfg.context)})


def start(cfg: ModelConfig, zero: int, precision: str, rows: int) -> Spread:
    model = Model(cfg)
    initialise(model, 0)
    fit = FitConfig(batch=rows, mesh=MeshConfig(zero=zero), precision=precision, compile=False)
    return spread(Means(model, predict, device.DTYPES[precision]), fit, torch.device("cpu"))


def step(shared: Spread, batch: dict[str, Tensor], size: int) -> None:
    own = {name: column[shared.rows[0] :: shared.rows[1]] for name, column in batch.items()}
    shared.backward(own, totals([batch]), size, None)


def held() -> tuple[int, int]:
    """Bytes of all weights and of all gradients that live in this process."""
    weights: dict[int, int] = {}
    gradients: dict[int, int] = {}
    tensors: list[tuple[Tensor | None, dict[int, int]]] = []
    for found in gc.get_objects():
        if type(found).__name__ == "FSDPParam":  # what it adds up of whole gradients in fp32 stands nowhere else
            tensors.append((found.unsharded_accumulated_grad, gradients))
        elif issubclass(type(found), Tensor) and isinstance(found, nn.Parameter):
            tensors += [(found, weights), (found.grad, gradients)]
    for tensor, kind in tensors:
        if tensor is not None:
            storage = local(tensor.detach()).untyped_storage()
            kind[storage._cdata] = storage.nbytes()
    return sum(weights.values()), sum(gradients.values())


def memory(zero: int, precision: str) -> dict[str, float]:
    """The most that this rank holds of each kind in a step of two micro-batches."""
    rows = 4 * dist.world()
    shared = start(MODEL, zero, precision, rows)
    batch, most = batch_of(MODEL, rows), {"weights": 0.0, "gradients": 0.0}

    def look(*_: object) -> None:
        for name, size in zip(most, held(), strict=True):
            most[name] = max(most[name], size)

    updates = build(FitConfig(), shared.parts)
    step(shared, batch, 2)
    for update in updates:
        update.step()
        update.zero_grad()
    for block in shared.parts[0].blocks:
        block.ffn.register_forward_hook(lambda part, inputs, out: out[0].register_hook(look) and None)
    step(shared, batch, 2)
    look()
    state = [value for update in updates for kept in update.state.values() for value in kept.values() if isinstance(value, Tensor)]
    return most | {"state": sum(local(value).numel() * value.element_size() for value in state)}


def overlap() -> tuple[float, float, float]:
    """Of one step with DistributedDataParallel: seconds in which gradients travelled, the share of these in which the backward pass went
    on, and the seconds of the backward pass."""
    rows = 2 * dist.world()
    shared = start(PROFILED, 0, "fp32", rows)
    batch = batch_of(PROFILED, rows)
    for _ in range(2):
        step(shared, batch, 0)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        step(shared, batch, 0)
    events = [(event.name, event.time_range.start / MB, event.time_range.end / MB) for event in seen.events()]
    travels = merged([(begin, end) for name, begin, end in events if name.startswith("gloo:all_reduce")])
    computes = merged([(begin, end) for name, begin, end in events if name.startswith("autograd::engine::evaluate_function")])
    under = sum(max(0.0, min(a[1], b[1]) - max(a[0], b[0])) for a in travels for b in computes)
    total = sum(end - begin for begin, end in travels)
    return total, under / total, computes[-1][1] - computes[0][0]


def merged(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Spans of time that do not overlap, from some that do."""
    found: list[tuple[float, float]] = []
    for begin, end in sorted(spans):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((begin, end))
    return found


def rank(folder: Path) -> None:
    """What each process does; rank 0 prints."""
    dist.start()
    gc.collect()
    gc.freeze()  # what lives until here is never looked at
    weights = sum(weight.numel() for weight in Model(MODEL).parameters())
    if dist.rank() == 0:
        print(f"{dist.world()} ranks, {weights:,} weights; MB a rank, predicted / measured (largest rank)")
    for precision in ("fp32", "bf16"):
        for zero in range(4):
            torch.save(memory(zero, precision), folder / f"{dist.rank()}.pt")
            dist.wait()
            found = [torch.load(folder / f"{other}.pt") for other in range(dist.world())]
            dist.wait()
            gc.collect()
            wanted = formula(zero, dist.world(), weights, precision == "bf16")
            if dist.rank() == 0:
                cells = [f"{name} {wanted[name] / MB:6.1f} / {max(one[name] for one in found) / MB:6.1f}" for name in wanted]
                whole = max(sum(one.values()) for one in found)
                print(f"| zero {zero} | {precision} | {' | '.join(cells)} | all {sum(wanted.values()) / MB:6.1f} / {whole / MB:6.1f} |")
    travelled, share, backward = overlap()
    if dist.rank() == 0:
        print(f"gradients travelled for {travelled:.3f} s, {share:.0%} of that under the backward pass, which took {backward:.3f} s")


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("ranks", type=int, nargs="*", default=[2, 4])
    for world in asked.parse_args().ranks:
        with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
            free.bind(("127.0.0.1", 0))
            names = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "OMP_NUM_THREADS": "1"}
            free.close()
            command = [sys.executable, __file__]
            started = [subprocess.Popen(command, env={**os.environ, **names, "RANK": str(one), "FOLDER": folder}) for one in range(world)]
            if any(process.wait() for process in started):
                sys.exit("a rank failed")


if __name__ == "__main__":
    if "RANK" in os.environ:
        rank(Path(os.environ["FOLDER"]))
    else:
        main()
