"""What one rank does of a training step, and how the ranks' parts become whole again."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bessemer.core import dist
from bessemer.model.model import Model
from bessemer.train.means import Means
from bessemer.train.objective import Batch
from bessemer.train.optimizers.optimizer import trained
from bessemer.train.parallel import mesh

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from bessemer.train.loop import FitConfig


def spread(means: Means, cfg: "FitConfig", where: torch.device) -> "Spread":
    """The share of this process. One process has everything. ValueError where the mesh or the model does not divide."""
    world = dist.world()
    if world == 1:
        return Spread(means.to(where).train(), cfg, where)
    from bessemer.train.parallel.shared import Shared  # loads what one process does not need

    mesh.check(cfg.mesh, means.model.cfg, world)
    ranks = mesh.build(cfg.mesh, world, where.type)
    if cfg.mesh.pipeline > 1:
        from bessemer.train.parallel.pipeline import Pipelined

        return Pipelined(means, cfg, where, ranks)
    if cfg.mesh.expert > 1:
        from bessemer.train.parallel.expert import ByExpert

        return ByExpert(means, cfg, where, ranks)
    if cfg.mesh.context > 1:
        from bessemer.train.parallel.context import ByPlace

        return ByPlace(means, cfg, where, ranks)
    return Shared(means, cfg, where, ranks)


class Spread:
    """One process: all weights, all rows."""

    parts: list[Model]  # the models, or stages of one, that this rank trains
    rows: tuple[int, int] = (0, 1)  # (which, of how many): row i of a step is read here where i % of == which

    def __init__(self, means: Means, cfg: "FitConfig", where: torch.device, ranks: "DeviceMesh | None" = None):
        """ranks: from mesh.build; None in one process."""
        self.whole, self.cfg, self.where, self.ranks = means, cfg, where, ranks
        self.parts = [means.model]

    def backward(self, batch: Batch, totals: dict[str, Tensor], size: int, scale: Tensor | None) -> dict[str, Tensor]:
        """Add the gradients of this rank's rows of a step, `size` rows at a time (0: all), times `scale`. Returns its part of each mean."""
        sums: dict[str, Tensor] = {}
        for part in pieces(batch, size):
            loss, means = self.whole(part, totals)
            (loss if scale is None else loss * scale).backward()
            collect(sums, means)
        return sums

    @torch.no_grad()
    def means(self, batch: Batch, totals: dict[str, Tensor]) -> dict[str, Tensor]:
        """Each mean over a batch, whole on every rank. Every rank must bring the same rows."""
        sums: dict[str, Tensor] = {}
        for part in pieces(batch, self.cfg.micro_batch):
            collect(sums, self.whole(part, totals)[1])
        return sums

    def add(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        """Each summed over the ranks that have a part of it, whole on every rank."""
        return sums

    def norm(self) -> Tensor:
        """L2 norm of all gradients, () in fp32, the same on every rank; those of experts' biases, which no loss has a part in, left out."""
        grads = [weight.grad for part in self.parts for weight in trained(part) if weight.grad is not None]
        return torch.nn.utils.get_total_norm(grads).float()

    def gather(self, into: Model) -> None:
        """Write everybody's weights into rank 0's whole model. Every rank takes part."""


def pieces(batch: Batch, size: int) -> Iterator[Batch]:
    """A batch in micro-batches of `size` rows; 0: all at once."""
    rows = len(next(iter(batch.values())))
    for begin in range(0, rows, size or max(rows, 1)):
        yield {name: column[begin : begin + (size or rows)] for name, column in batch.items()}


def collect(sums: dict[str, Tensor], parts: dict[str, Tensor]) -> None:
    """Add detached `parts` to `sums` in place."""
    for name, part in parts.items():
        sums[name] = sums[name] + part.detach() if name in sums else part.detach()
