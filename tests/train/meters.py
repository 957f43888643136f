"""A rank that meters a step of sharded and whole weights: `python meters.py OUT`, started by torchrun's environment."""

import json
import sys
from pathlib import Path

import torch
from torch import nn

from bessemer.core import device, dist
from bessemer.train.report.meter import Meter, MeterConfig, Sizes


def weights() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {name: torch.randn(*shape, generator=draw) for name, shape in {"odd": (5, 3), "whole": (4,), "first": (6, 2), "last": (2, 2)}.items()}


def gradients() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return {name: torch.randn(weight.shape, generator=draw) for name, weight in weights().items()}


def stepped(names: dict[str, list[str]], sharded: tuple[str, ...]) -> dict[str, float]:
    """Update sizes of a step of groups of weights, some of which lie in shards on all ranks."""
    found, slopes = weights(), gradients()
    if sharded:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import Shard, distribute_tensor

        mesh = init_device_mesh("cpu", (dist.world(),))
        for both in (found, slopes):
            both.update({name: distribute_tensor(both[name], mesh, [Shard(0)]) for name in sharded})
    parameters = {name: nn.Parameter(weight) for name, weight in found.items()}
    for name, parameter in parameters.items():
        parameter.grad = slopes[name]
    update = torch.optim.SGD([{"params": [parameters[name] for name in group], "name": label} for label, group in names.items()], lr=0.1)
    sizes = Sizes([update])
    update.step()
    return sizes.now()


if __name__ == "__main__":
    dist.start()
    device.matmul_rate = lambda where, dtype: 1e9
    # Both stages hold the odd and the whole weight; the embedding is on the first alone, the head on the last.
    own = {"first": ["first"]} if dist.rank() == 0 else {"last": ["last"]}
    sizes = stepped({"matrices": ["odd", "whole"], **own}, ("odd",))
    meter = Meter(MeterConfig(power=100.0), torch.device("cpu"), torch.float32, dist.world())
    meter.add(640, 3e9)
    numbers = meter.numbers()
    totals = meter.state_dict()
    Path(sys.argv[1], f"{dist.rank()}.json").write_text(json.dumps({"sizes": sizes, "numbers": numbers, "totals": totals}))
    dist.wait()
