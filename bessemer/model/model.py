"""The model, top to bottom: embed, blocks, norm, head.

B rows, T tokens, S tokens of the source, C width, H heads, V vocabulary, N numbers of the classifying head.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bessemer.model.attend import See, with_blocks
from bessemer.model.attention import Attention, Cross
from bessemer.model.config import Head, ModelConfig
from bessemer.model.ffn import Dense, Gated
from bessemer.model.lstm import Lstm
from bessemer.model.moe import Experts, Routing
from bessemer.model.position import bucket, rotary, sinusoidal
from bessemer.model.rwkv.four import Channel4, Rwkv4
from bessemer.model.rwkv.seven import Channel, Rwkv
from bessemer.model.seen import Cache, Pass, Slot

MIXER: dict[str, Callable[..., nn.Module]] = {"attention": Attention, "rwkv": Rwkv, "rwkv4": Rwkv4, "lstm": Lstm}
FFN: dict[str, Callable[..., nn.Module]] = {"gated": Gated, "dense": Dense, "moe": Experts, "channel": Channel, "channel4": Channel4}
NORM: dict[str, Callable[..., nn.Module]] = {"rms": nn.RMSNorm, "layer": nn.LayerNorm}


class Block(nn.Module):
    """x + mix(n(x)), x + cross(n(x), memory), x + ffn(n(x)); or n(x + ...) of each, where norms stand after."""

    def __init__(self, cfg: ModelConfig, layer: int, cross: bool = False):
        super().__init__()
        self.after = cfg.norm_at == "post"
        self.mix_norm = norm(cfg)
        self.mix = MIXER[cfg.mixer](cfg, layer)
        self.cross_norm = norm(cfg) if cross else nn.Identity()
        self.cross = Cross(cfg) if cross else None
        self.ffn_norm = norm(cfg)
        self.ffn = FFN[cfg.ffn](cfg, layer)

    def forward(self, x: Tensor, seen: Pass, slot: Slot | None = None, first: Tensor | None = None) -> tuple[Tensor, Tensor | None, Routing | None]:
        """The next x (B, T, C); the first layer's value, which RWKV hands to the later ones; and where experts sent the tokens."""
        mixed, first = self.mix(x if self.after else self.mix_norm(x), seen, slot, first)
        x = self.mix_norm(x + mixed) if self.after else x + mixed
        if self.cross is not None:
            crossed = self.cross(x if self.after else self.cross_norm(x), seen, slot)
            x = self.cross_norm(x + crossed) if self.after else x + crossed
        fed, routing = self.ffn(x if self.after else self.ffn_norm(x), seen, slot)
        return self.ffn_norm(x + fed) if self.after else x + fed, first, routing


class Stack(nn.Module):
    """Blocks and the norm behind them."""

    def __init__(self, cfg: ModelConfig, depth: int, causal: bool, cross: bool = False):
        super().__init__()
        self.cfg, self.causal = cfg, causal
        self.blocks = nn.ModuleList(Block(cfg, layer, cross) for layer in range(depth))
        self.norm = nn.Identity() if cfg.norm_at == "post" else norm(cfg)
        if cfg.position == "bias":  # T5: one table for all blocks
            self.bias = nn.Embedding(cfg.buckets, cfg.heads)
        if cfg.embed_skip:
            self.keep, self.again = nn.Parameter(torch.ones(depth)), nn.Parameter(torch.zeros(depth))
        self.routing: list[Routing] = []  # where the experts of each block sent the tokens of the last forward pass

    def forward(self, x: Tensor, seen: Pass, cache: Cache | None = None) -> Tensor:
        seen = self._positioned(x, seen, cache)
        if x.device.type == "cuda" and cache is None:
            seen = seen._replace(see=with_blocks(seen.see, x.shape[0], x.shape[1], x.shape[1], x.device))
        first, self.routing, begun = None, [], x
        for layer, (block, slot) in enumerate(zip(self.blocks, cache.slots if cache else [None] * len(self.blocks), strict=True)):
            if self.cfg.embed_skip:
                x = self.keep[layer] * x + self.again[layer] * begun
            x, first, routing = block(x, seen, slot, first)
            if routing is not None:
                self.routing.append(routing)
        return self.norm(x)

    def _positioned(self, x: Tensor, seen: Pass, cache: Cache | None) -> Pass:
        """With what every block needs to know about positions, computed once."""
        if self.cfg.position == "rope":
            return seen._replace(turn=rotary(seen.at, self.cfg))
        if self.cfg.position not in ("relative", "bias"):
            return seen
        # Within a document distances of positions are those of places in the row, and what lies in another is never seen.
        query = seen.at if cache else torch.arange(x.shape[1], device=x.device)[None]
        key = torch.arange(cache.length if cache else x.shape[1], device=x.device)
        distance = key - query[:, :, None]  # (B or 1, T, S)
        if self.cfg.position == "relative":
            return seen._replace(distance=distance)
        bias = self.bias(bucket(distance, self.cfg, both_ways=not self.causal)).permute(0, 3, 1, 2)  # (B or 1, H, T, S)
        return seen._replace(see=seen.see._replace(bias=bias))


class Model(nn.Module):
    """ids -> hidden, and hidden -> logits, apart so that no caller computes logits it does not need."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.cfg = cfg
        encoder, encdec = cfg.shape == "encoder", cfg.shape == "encdec"
        self.embed = nn.Embedding(cfg.vocab, cfg.width)
        self.place = nn.Embedding(cfg.context, cfg.width) if cfg.position == "learned" else None
        self.kind = nn.Embedding(cfg.types, cfg.width) if cfg.types else None
        self.embed_norm = norm(cfg) if cfg.embed_norm else nn.Identity()
        self.encoder = Stack(cfg, cfg.encoder_depth or cfg.depth, causal=False) if encdec else None
        self.stack = Stack(cfg, cfg.depth, causal=not encoder, cross=encdec)
        self.further = nn.ModuleList(Stack(cfg, 1, causal=True) for _ in range(cfg.ahead))
        if cfg.has_lm:
            # An encoder's hidden states are no predictions yet: BERT transforms them first.
            self.transform = nn.Sequential(nn.Linear(cfg.width, cfg.width), nn.GELU(), norm(cfg)) if encoder else nn.Identity()
            self.head = nn.Linear(cfg.width, cfg.vocab, bias=encoder)
            if cfg.tied:
                self.head.weight = self.embed.weight
        if cfg.labelled:
            pooled = encoder and cfg.head in ("sequence", "lm+pair")
            self.pool = nn.Sequential(nn.Linear(cfg.width, cfg.width), nn.Tanh()) if pooled else nn.Identity()
            self.label = nn.Linear(cfg.width, cfg.labelled, bias=encoder)

    @property
    def blocks(self) -> list[Block]:
        """Every block: the encoder's, the decoder's, those that predict further ahead."""
        return [part for part in self.modules() if isinstance(part, Block)]

    @property
    def routing(self) -> list[Routing]:
        """Where the experts of each block sent the tokens of the last forward pass."""
        return [one for part in self.modules() if isinstance(part, Stack) for one in part.routing]

    def forward(
        self,
        ids: Tensor,
        at: Tensor | None = None,
        segment: Tensor | None = None,
        cache: Cache | None = None,
        *,
        prefix: Tensor | None = None,
        types: Tensor | None = None,
        live: Tensor | None = None,
        memory: Tensor | None = None,
        memory_segment: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (B, T, C) of ids (B, T), after the last norm.

        at (B, T): positions within the document, 0.. where not given. segment (B, T): number of the document, 0 for padding; tokens see
        only their own. prefix (B, T): True where the whole document may see a token, even from before (prefix language model).
        types (B, T): BERT's token types. memory (B, S, C): what `encode` made of the source, and memory_segment (B, S) the document
        each of its places belongs to. cache: what was read in earlier calls is seen, this call is added at `at`; live (B, T) is
        False on padding to the right of a row's tokens, and the memory of the first call is kept.
        """
        causal = self.cfg.shape != "encoder"
        if prefix is not None and not self.cfg.prefix:
            raise ValueError("these rows have a prefix that is seen both ways, and this model was not made for one: set prefix = true")
        if memory is not None and self.encoder is None:
            raise ValueError(f"shape = {self.cfg.shape} reads no source: only encdec does")
        if self.encoder is not None and memory is None and (cache is None or "memory_keys" not in cache.slots[0]):
            raise ValueError("an encdec reads a source: give it memory = encode(source)")
        for stack in self.further:  # `routing` must not speak of an earlier pass
            assert isinstance(stack, Stack)
            stack.routing = []
        x = self.embedded(ids, at, types)
        if at is None:
            at = torch.arange(ids.shape[1], device=ids.device)[None]
        across = See()
        if cache is not None:
            at = at.expand_as(ids)
            if memory is not None:
                cache.memory_segment = memory_segment
            if cache.memory_segment is not None:
                across = _text_of(ids, cache.memory_segment)
            if prefix is not None:  # it stands at the beginning of what the cache will hold
                prefix = F.pad(prefix, (0, cache.length - prefix.shape[1]))
            see = See(causal=True, window=self.cfg.window, at=at, prefix=prefix)
        else:
            see = See(causal=causal, window=self.cfg.window, segment=segment, key_segment=segment, prefix=prefix)
            if memory_segment is not None and segment is not None:
                across = See(segment=segment, key_segment=memory_segment)
            elif memory_segment is not None:
                across = _text_of(ids, memory_segment)
        seen = Pass(at, see, across, begins=_begins(segment), live=live, counted=None if segment is None else segment > 0, ids=ids, memory=memory)
        return self.stack(x, seen, cache)

    def encode(self, ids: Tensor, segment: Tensor | None = None, at: Tensor | None = None) -> Tensor:
        """What the encoder of an encdec makes of the source, (B, S, C) from (B, S). `segment` as in `forward`."""
        if self.encoder is None:
            raise ValueError(f"shape = {self.cfg.shape} has no encoder to read a source with: only encdec has")
        x = self.embedded(ids, at, None)
        if at is None:
            at = torch.arange(ids.shape[1], device=ids.device)[None]
        counted = None if segment is None else segment > 0
        return self.encoder(x, Pass(at, See(causal=False, segment=segment, key_segment=segment), counted=counted))

    def ahead(self, hidden: Tensor, at: Tensor | None = None, segment: Tensor | None = None) -> list[Tensor]:
        """Hidden states (B, T, C) from which `logits` predicts the tokens after the next one, one for each of cfg.ahead (Gloeckle et al. 2024)."""
        if at is None:
            at = torch.arange(hidden.shape[1], device=hidden.device)[None]
        see = See(causal=True, window=self.cfg.window, segment=segment, key_segment=segment)
        seen = Pass(at, see, begins=_begins(segment), counted=None if segment is None else segment > 0)
        return [stack(hidden, seen) for stack in self.further]

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., V) scores of the next token; of an encoder: of the token itself."""
        return self.head(self.transform(hidden))

    def classify(self, hidden: Tensor) -> Tensor:
        """(..., N) scores of the classifying head at every place: the rows say which place counts."""
        return self.label(self.pool(hidden))

    def embedded(self, ids: Tensor, at: Tensor | None, types: Tensor | None) -> Tensor:
        """What the first block reads, (B, T, C). A method because later stages of a pipeline receive it instead."""
        x = self.embed(ids)
        where = torch.arange(ids.shape[1], device=ids.device)[None] if at is None else at
        if self.cfg.position == "sinusoidal":  # waves of amplitude 1 would drown embeddings of 0.02: section 3.4 of the paper scales them up
            x = x * self.cfg.width**0.5 + sinusoidal(where, self.cfg.width).to(x.dtype)
        if self.place is not None:
            if where.shape[1] > self.cfg.context:
                raise ValueError(f"{where.shape[1]} tokens are more than position = learned has places for: {self.cfg.context}")
            x = x + self.place(where)
        if self.kind is not None:
            x = x + self.kind(torch.zeros_like(ids) if types is None else types)
        return self.embed_norm(x)


def norm(cfg: ModelConfig) -> nn.Module:
    return NORM[cfg.norm](cfg.width, cfg.norm_eps)


def _text_of(ids: Tensor, memory_segment: Tensor) -> See:
    """Every one of ids (B, T) sees the whole source (B, S) of its row, less its padding."""
    return See(segment=torch.ones_like(ids), key_segment=(memory_segment > 0).long())


def _begins(segment: Tensor | None) -> Tensor | None:
    """True where a document begins within its row (B, T)."""
    if segment is None:
        return None
    return F.pad(segment[:, 1:] != segment[:, :-1], (1, 0), value=True)


def initialise(model: Model, seed: int) -> None:
    """Normal weights, std 0.02; what writes into the residual stream starts smaller by sqrt(2L), as in GPT-2, or at zero (cfg.zero_out).
    Norms are 1, biases 0.

    Mixers that read in order know better, and say so themselves.
    """
    draw = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.dim() >= 2:
            into_residual = name.endswith((".out.weight", "ffn.down.weight", "ffn.down", "ffn.shared.down.weight"))
            smaller = 0.0 if model.cfg.zero_out else 0.02 / math.sqrt(2 * model.cfg.depth)
            nn.init.normal_(weight, std=smaller if into_residual else 0.02, generator=draw)
        elif name.endswith("bias"):
            nn.init.zeros_(weight)
    for part in model.modules():
        if isinstance(part, Rwkv | Channel | Rwkv4 | Channel4 | Lstm):
            part.initialise(draw)


def with_head(model: Model, head: Head, labels: int, seed: int) -> Model:
    """A model of the same trunk with a new classifying head, `labels` as in the config. A pooler that the model has is kept where the new
    head has one too; a language-model head is not."""
    found = Model(replace(model.cfg, head=head, labels=labels, ahead=0))
    initialise(found, seed)
    kept = {name: weight for name, weight in model.state_dict().items() if name in found.state_dict() and not name.startswith("label.")}
    found.load_state_dict(kept, strict=False)
    return found
