"""What a checkpoint contains: every tensor of a run under the name it has in the whole model, whatever part of it this rank holds."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from bessemer.core import dist
from bessemer.train.optimizers.muon import distributed, local

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

WEIGHT, MOMENT, EXTRA = "weights/", "optimizer/", "extras/"
Like = tuple[torch.Size, torch.dtype]


class Moment(NamedTuple):
    """One tensor of an optimizer's state."""

    optimizer: torch.optim.Optimizer
    weight: Tensor
    key: str
    name: str
    tensor: Tensor


class Extra(NamedTuple):
    """A tensor of the loop's own: where in its nested dictionaries it stands."""

    path: tuple[str, ...]
    tensor: Tensor


def aliases(parts: Sequence[nn.Module]) -> dict[str, str]:
    """Second names of tied weights. The last stage of a pipeline has no embedding, and its head is the embedding all the same."""
    return {"head.weight": "embed.weight"} if any(getattr(getattr(part, "cfg", None), "tied", False) for part in parts) else {}


def weights(parts: Sequence[nn.Module]) -> dict[str, Tensor]:
    """weights/NAME -> the tensor itself: loading into it is loading into the model."""
    other = aliases(parts)
    return {WEIGHT + other.get(name, name): tensor for part in parts for name, tensor in part.state_dict().items()}


def moments(parts: Sequence[nn.Module], optimizers: Sequence[torch.optim.Optimizer]) -> Iterator[Moment]:
    """All state the optimizers hold, as optimizer/CLASS/WEIGHT/KEY."""
    for optimizer, weight, prefix in _slots(parts, optimizers):
        for key, tensor in optimizer.state.get(weight, {}).items():
            assert isinstance(tensor, Tensor), f"{prefix}{key} is no tensor"
            # A rank's own numbers have no place in the whole, and no other number of ranks could read them.
            split = distributed(weight) and not all(placement.is_replicate() for placement in weight.placements)
            assert not split or distributed(tensor) or tensor.dim() == 0, f"{prefix}{key} is not split as its weight is"
            yield Moment(optimizer, weight, key, prefix + key, tensor)


def room(parts: Sequence[nn.Module], optimizers: Sequence[torch.optim.Optimizer], saved: Mapping[str, Like]) -> list[Moment]:
    """Where the saved state of these optimizers goes: into their own tensors where they are there already, else into new ones."""
    keys = defaultdict(list)
    for name in saved:
        prefix, _, key = name.rpartition("/")
        keys[prefix + "/"].append(key)
    found = []
    for optimizer, weight, prefix in _slots(parts, optimizers):
        for key in keys[prefix]:
            held = optimizer.state.get(weight, {}).get(key)
            found.append(Moment(optimizer, weight, key, prefix + key, _like(optimizer, weight, *saved[prefix + key]) if held is None else held))
    return found


def unlike(own: Mapping[str, Tensor], names: set[str], saved: Mapping[str, Like]) -> str | None:
    """How the weights of this model differ from the saved ones, or None. `own` are this rank's, `names` those of all ranks."""
    there = {name for name in saved if name.startswith(WEIGHT)}
    for less, more, words in ((there, names, "it lacks {}"), (names, there, "this model has no {}")):
        if missing := sorted(name.removeprefix(WEIGHT) for name in more - less):
            return words.format(", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else ""))
    for name, tensor in own.items():
        size, dtype = saved[name]
        if (tensor.shape, tensor.dtype) != (size, dtype):
            here = f"{tuple(tensor.shape)} {tensor.dtype} here"
            return f"{name.removeprefix(WEIGHT)} is {tuple(size)} {dtype} there and {here}"
    return None


def foreign(parts: Sequence[nn.Module], optimizers: Sequence[torch.optim.Optimizer], saved: Mapping[str, Like]) -> str | None:
    """Which weight had another optimizer, or None."""
    makers = defaultdict(set)
    for name in saved:
        if name.startswith(MOMENT):
            _, maker, weight, _ = name.split("/")
            makers[weight].add(maker)
    for _, _, prefix in _slots(parts, optimizers):
        _, maker, weight, _ = prefix.split("/")
        if makers[weight] and maker not in makers[weight]:
            return f"{weight} was trained by {min(makers[weight])} there and is by {maker} here"
    return None


def owned(whole: Mapping[str, Tensor], everywhere: Callable[[dict[str, int]], list[dict[str, int]]]) -> dict[str, Tensor]:
    """What this rank copies and writes: of what several ranks hold alike, one writes, and all about as much."""
    if dist.world() == 1:
        return dict(whole)
    each = everywhere({name: tensor.nbytes for name, tensor in whole.items() if not distributed(tensor)})
    load, owner = [0] * len(each), {}
    sizes = {name: size for some in each for name, size in some.items()}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        owner[name] = min((rank for rank in range(len(each)) if name in each[rank]), key=lambda rank: load[rank])
        load[owner[name]] += sizes[name]
    return {name: tensor for name, tensor in whole.items() if (_first(tensor) if distributed(tensor) else owner[name] == dist.rank())}


def flat(extras: Mapping[str, Any], other: Mapping[str, str]) -> tuple[dict[str, Extra], dict[str, Any]]:
    """The tensors of nested dictionaries as extras/average/NAME, and the rest of the dictionaries, which is JSON."""
    found: dict[str, Extra] = {}

    def rest(inner: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
        plain = {}
        for key, value in inner.items():
            assert "/" not in key, key
            if isinstance(value, Tensor):
                found[EXTRA + "/".join((*path, other.get(key, key)))] = Extra((*path, key), value)
            else:
                plain[key] = rest(value, (*path, key)) if isinstance(value, Mapping) else value
        return plain

    return found, rest(extras, ())


def wanted(extras: Mapping[str, Any], other: Mapping[str, str], saved: Mapping[str, Like]) -> dict[str, Extra]:
    """Where saved extras go: into the tensors of `extras`. What `extras` says nothing about goes into new ones on the CPU."""
    found = {name: extra for name, extra in flat(extras, other)[0].items() if name in saved}
    for name, (size, dtype) in saved.items():
        path = tuple(name.split("/")[1:])
        if name.startswith(EXTRA) and path[0] not in extras:
            found[name] = Extra(path, torch.empty(size, dtype=dtype))
    return found


def nested(found: Mapping[str, Extra], plain: dict[str, Any]) -> dict[str, Any]:
    """Undoes `flat`."""
    for (*path, key), tensor in found.values():
        inner = plain
        for step in path:
            inner = inner.setdefault(step, {})
        inner[key] = tensor
    return plain


def _slots(parts: Sequence[nn.Module], optimizers: Sequence[torch.optim.Optimizer]) -> Iterator[tuple[torch.optim.Optimizer, Tensor, str]]:
    """Each optimizer with each of its weights, and what the names of its state begin with."""
    other = aliases(parts)
    names = {id(weight): other.get(name, name) for part in parts for name, weight in part.named_parameters()}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for weight in group["params"]:
                yield optimizer, weight, f"{MOMENT}{type(optimizer).__name__}/{names[id(weight)]}/"


def _like(optimizer: torch.optim.Optimizer, weight: Tensor, size: torch.Size, dtype: torch.dtype) -> Tensor:
    if distributed(weight) and size:
        if size == weight.shape:
            return torch.empty_like(weight, dtype=dtype, requires_grad=False)
        from torch.distributed.tensor import DTensor

        # Fewer numbers a row, split as the weight is: what is whole in the whole tensor is whole in each share.
        shape = [here * new // old for here, new, old in zip(local(weight).shape, size, weight.shape, strict=True)]
        stride = torch.empty(size, device="meta").stride()
        own = torch.empty(shape, dtype=dtype, device=local(weight).device)
        return DTensor.from_local(own, weight.device_mesh, weight.placements, run_check=False, shape=size, stride=stride)
    # torch's unfused optimizers count their steps on the CPU, whatever the weights are on.
    unfused = not size and not all(group.get("fused", True) or group.get("capturable") for group in optimizer.param_groups)
    return torch.empty(size, dtype=dtype, device="cpu" if unfused else weight.device)


def _first(tensor: "DTensor") -> bool:
    """Whether this rank holds the first of the equal copies of its piece."""
    place = tensor.device_mesh.get_coordinate()
    return place is not None and all(at == 0 for at, placement in zip(place, tensor.placements, strict=True) if placement.is_replicate())
