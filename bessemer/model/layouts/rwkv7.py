"""RWKV-7's own files (.pth): weights under the authors' names, and no configuration beside them."""

from torch import Tensor

from bessemer.model.config import ModelConfig
from bessemer.model.layouts import names

EPS = 1e-5

TOP = [
    ("embed.weight", "emb.weight"),
    ("head.weight", "head.weight"),
    *(
        (f"{ours}.{kind}", f"{theirs}.{kind}")
        for ours, theirs in (("embed_norm", "blocks.0.ln0"), ("stack.norm", "ln_out"))
        for kind in ("weight", "bias")
    ),
]
BLOCK = [
    *((f"{ours}.{kind}", f"{theirs}.{kind}") for ours, theirs in (("mix_norm", "ln1"), ("ffn_norm", "ln2"), ("mix.norm", "att.ln_x"))
        for kind in ("weight", "bias")),
    *((f"mix.{ours}.weight", f"att.{theirs}.weight") for ours, theirs in (
        ("receptance", "receptance"), ("key", "key"), ("value", "value"), ("out", "output"))),
    *((f"mix.shift_{letter}", f"att.x_{letter}") for letter in "rwkvag"),
    *((f"mix.{ours}.{part}", f"att.{theirs}{i}") for ours, theirs in (("decay", "w"), ("rate", "a"), ("blend", "v"), ("gate", "g"))
        for i, part in enumerate(("base", "down.weight", "up.weight"))),
    ("mix.removal", "att.k_k"), ("mix.replacement", "att.k_a"), ("mix.bonus", "att.r_k"),
    ("ffn.shift", "ffn.x_k"), ("ffn.up.weight", "ffn.key.weight"), ("ffn.down.weight", "ffn.value.weight"),
]  # fmt: skip
ROWS = (*(f".x_{letter}" for letter in "rwkvag"), ".w0", ".a0", ".v0", ".k_k", ".k_a")  # (1, 1, C) in the authors' files
TURNED = tuple(f".{letter}{i}" for letter in "wavg" for i in (1, 2))


def holds(cfg: ModelConfig) -> bool:
    """Whether a file of theirs can hold the model."""
    seven = cfg.mixer == "rwkv" and cfg.ffn == "channel" and cfg.position == "none" and cfg.embed_norm and not cfg.tied
    return seven and cfg.norm == "layer" and cfg.norm_at == "pre" and cfg.norm_eps == EPS and cfg.head == "lm"


def read(state: dict[str, Tensor], context: int) -> ModelConfig:
    """What the weights of a .pth file say of its model; they do not say for which context it was trained."""
    missing = [name for name in ("emb.weight", "blocks.0.att.r_k", "blocks.0.ffn.key.weight", "blocks.0.att.w1") if name not in state]
    if missing:
        raise ValueError(f"no file of RWKV-7: it has no {missing[0]}")
    vocab, width = state["emb.weight"].shape
    heads, head_width = state["blocks.0.att.r_k"].shape
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    ranks = tuple(state[f"blocks.{depth - 1}.att.{name}1"].shape[1] for name in "wa")
    last = state.get(f"blocks.{depth - 1}.att.v1")  # the first layer has none that counts
    return ModelConfig(
        vocab=vocab,
        width=width,
        depth=depth,
        heads=heads,
        kv_heads=heads,
        head_width=head_width,
        hidden=state["blocks.0.ffn.key.weight"].shape[0],
        context=context,
        mixer="rwkv",
        position="none",
        ranks=(*ranks, ranks[1] if last is None else last.shape[1], state[f"blocks.{depth - 1}.att.g1"].shape[1]),
        ffn="channel",
        act="relu2",
        norm="layer",
        norm_eps=EPS,
        embed_norm=True,
        tied=False,
    )


def theirs(state: dict[str, Tensor], cfg: ModelConfig) -> dict[str, Tensor]:
    def turned(name: str, weight: Tensor) -> Tensor:
        if name.endswith(".r_k"):
            return weight.view(-1, cfg.head_width)
        return weight.view(1, 1, -1) if name.endswith(ROWS) else weight.T if name.endswith(TURNED) else weight

    return {name: turned(name, weight) for name, weight in names.renamed(state, dict(_names(cfg))).items()}


def ours(state: dict[str, Tensor], cfg: ModelConfig) -> dict[str, Tensor]:
    def turned(name: str, weight: Tensor) -> Tensor:
        return weight.flatten() if name.endswith((*ROWS, ".r_k")) else weight.T if name.endswith(TURNED) else weight

    # The first layer's value has no earlier one to be blended with, but the authors' training code makes the weights.
    kept = {name: turned(name, weight) for name, weight in state.items() if name not in [f"blocks.0.att.v{i}" for i in range(3)]}
    return names.renamed(kept, {theirs: ours for ours, theirs in _names(cfg)})


def _names(cfg: ModelConfig) -> list[tuple[str, str]]:
    return [*TOP, *names.layers("stack.blocks", "blocks", BLOCK, cfg.depth)]
