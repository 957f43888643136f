"""An average of the weights over the last steps, which evaluates better than the weights themselves (Polyak and Juditsky 1992)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bessemer.train.optimizers.muon import local


class Average:
    """Exponential moving average, in fp32 or better, of the weights of `parts`, which may be DTensors: each rank averages its shares.

    At update n, from 0, the decay is min(ema, (1 + n) / (10 + n)), so that the first weights, which know nothing, are soon forgotten: they
    keep a tenth at first, and 0.999 is reached at n = 8990. With ema = 0 there is no average, and nothing here does anything.
    """

    def __init__(self, parts: Sequence[nn.Module], ema: float):
        self.ema = ema
        self.weights = {name: weight for part in parts for name, weight in part.named_parameters()} if ema else {}
        self.means = {name: weight.detach().to(torch.promote_types(weight.dtype, torch.float32), copy=True) for name, weight in self.weights.items()}
        self.updates = torch.zeros((), device=next(parts[0].parameters()).device)

    @torch.no_grad()
    def update(self, found_inf: Tensor | None = None) -> None:
        """Take in the weights of a step; where found_inf is 1 there was none. The device is not waited for."""
        keep: Tensor | float = 1.0 if found_inf is None else 1 - found_inf
        share = (1 - torch.clamp((1 + self.updates) / (10 + self.updates), max=self.ema)) * keep
        for name, weight in self.weights.items():
            mean = local(self.means[name])
            mean.add_((local(weight.detach()) - mean).mul_(share))
        self.updates += keep

    @torch.no_grad()
    def swap(self) -> None:
        """The average becomes the model's weights, and they take its place here; or back again."""
        for name, weight in self.weights.items():
            inside, mean = local(weight.detach()), local(self.means[name])
            before = inside.clone()
            inside.copy_(mean)
            mean.copy_(before)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Within the block the model's weights are the average."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint keeps, by the weights' names: the average, and how many updates it has seen."""
        return {**self.means, "updates": self.updates}

    @torch.no_grad()
    def load_state_dict(self, saved: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` gave, in place."""
        for name, mine in self.state_dict().items():
            mine.copy_(saved[name])
