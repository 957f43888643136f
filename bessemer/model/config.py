"""What a model is: one flat description, one field per choice."""

from dataclasses import dataclass, field
from typing import Literal

from bessemer.core.config import Count, Positive, Whole

Shape = Literal["decoder", "encoder", "encdec"]
Head = Literal["lm", "lm+pair", "scalar", "sequence", "tokens", "span"]
Mixer = Literal["attention", "rwkv", "rwkv4", "lstm"]
Position = Literal["none", "learned", "sinusoidal", "relative", "bias", "rope"]
RopeScaling = Literal["none", "linear", "ntk", "yarn", "llama3"]
Bias = Literal["none", "qkv", "all"]
Ffn = Literal["gated", "dense", "moe", "channel", "channel4"]
Act = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2"]
Norm = Literal["rms", "layer"]
NormAt = Literal["pre", "post"]
Router = Literal["softmax", "sigmoid"]
Balance = Literal["none", "aux", "bias"]
GATE = 12  # channels that the gate of a value embedding reads


@dataclass(frozen=True)
class Architecture:
    """Everything about a model but its vocabulary. ValueError where fields do not fit together.

    A block is `x + mix(norm(x))`, then, where it reads an encoder, `x + cross(norm(x))`, then `x + ffn(norm(x))`.
    """

    width: Count = 256
    depth: Count = 6  # blocks
    heads: Count = 4  # query heads
    kv_heads: Count = 2  # heads that share keys and values; equal to heads: multi-head, 1: multi-query
    head_width: Whole = 0  # 0: width / heads
    hidden: Count = 704  # inner width of the feed-forward
    context: Count = 256  # tokens the model is trained on
    shape: Shape = "decoder"  # encoder: sees both ways; encdec: an encoder, and a decoder that reads it
    encoder_depth: Whole = 0  # blocks of an encdec's encoder; 0: as many as the decoder's
    head: Head = "lm"  # lm: next (or masked) token; lm+pair: and whether two texts belong together; others: a number, class or span
    labels: Whole = 0  # classes of the heads sequence and tokens
    mixer: Mixer = "attention"  # what carries information along the text: attention, RWKV (version 7, or 4), or an LSTM
    window: Whole = 0  # attention sees this many last tokens, itself included; 0: all
    qk_norm: bool = False  # RMSNorm of each query and key head
    bias: Bias = "none"  # of linear maps: qkv as Qwen2, all as GPT-2 and BERT
    ranks: tuple[int, ...] = ()  # inner widths of RWKV-7's decay, rate, value and gate maps; empty: by the width
    position: Position = "rope"  # relative: Shaw's keys and values; bias: T5's; none: for mixers that read in order
    rope_base: Positive = 10000.0
    rope_scaling: RopeScaling = "none"  # how rope reads further than it was trained
    rope_factor: Positive = 1.0  # how many times further
    rope_context: Whole = 0  # the context before that extension (yarn, llama3); 0: context / rope_factor
    reach: Count = 128  # farthest distance that relative and bias tell apart
    buckets: Count = 32  # of bias
    ffn: Ffn = "gated"  # gated: W3(act(W1 x) * W2 x); dense: W2 act(W1 x); moe: gated experts; channel: RWKV's
    act: Act = "silu"  # gelu_tanh: its approximation (GPT-2, T5); relu2: squared ReLU
    experts: Count = 8  # of moe
    top_k: Count = 2  # experts that a token visits
    shared_experts: Whole = 0  # experts that every token visits besides
    shared_gate: bool = False  # each token weighs what those say (Qwen2-MoE)
    router: Router = "softmax"  # how moe scores its experts
    balance: Balance = "aux"  # what keeps their loads even: a loss, or a bias on the choice (Wang et al. 2024)
    aux_weight: Positive = 0.01  # of that loss
    norm_topk: bool = True  # weights of the chosen experts sum to 1
    routed_scale: Positive = 1.0  # factor on what the chosen experts say
    norm: Norm = "rms"  # layer: LayerNorm with bias
    norm_at: NormAt = "pre"  # post: after the sum, as BERT
    norm_eps: Positive = 1e-5
    embed_norm: bool = False  # a norm right after the embedding (BERT, RWKV)
    embed_skip: bool = False  # each block reads a learned mix of the stream and of the embedding it began with
    value_embed: bool = False  # every second block, the last included, adds to a token's value one that it has in any text, through a gate
    zero_out: bool = False  # what writes into the residual stream starts at zero, so that a new block passes on what it reads
    types: Whole = 0  # kinds of segments with an embedding each (BERT: 2)
    tied: bool = True  # one matrix for embedding and head
    prefix: bool = False  # a prompt is seen both ways (prefix language model)
    ahead: Whole = 0  # multi-token prediction: further tokens predicted at each place, in training alone

    def __post_init__(self) -> None:
        _check(self)
        object.__setattr__(self, "head_width", self.head_width or self.width // self.heads)


@dataclass(frozen=True)
class ModelConfig(Architecture):
    vocab: Count = field(kw_only=True)

    @property
    def labelled(self) -> int:
        """Numbers that the classifying head gives for each place; 0 without one."""
        return {"lm": 0, "lm+pair": 2, "scalar": 1, "span": 2}.get(self.head, self.labels)

    @property
    def has_lm(self) -> bool:
        return self.head in ("lm", "lm+pair")


def _check(a: Architecture) -> None:
    """ValueError with what to change where two choices exclude each other."""
    attention, headed = a.mixer == "attention", a.mixer in ("attention", "rwkv")

    def refuse(wrong: bool, message: str) -> None:
        if wrong:
            raise ValueError(message)

    refuse(headed and not a.head_width and a.width % a.heads != 0, f"heads ({a.heads}) must divide width ({a.width}), or set head_width")
    head_width = a.head_width or a.width // a.heads
    refuse(attention and a.heads % a.kv_heads != 0, f"heads ({a.heads}) must be a multiple of kv_heads ({a.kv_heads})")
    refuse(a.position == "rope" and head_width % 2 != 0, f"head_width ({head_width}) must be even: rope turns pairs of dimensions")
    refuse(
        a.position == "sinusoidal" and a.width % 2 != 0, f"width ({a.width}) must be even for position = sinusoidal: sines and cosines come in pairs"
    )

    if not attention:
        refuse(a.shape != "decoder", f"mixer = {a.mixer} reads from left to right only: shape must be decoder, not {a.shape}")
        refuse(a.position not in ("none", "learned", "sinusoidal"), f"mixer = {a.mixer} reads in order: position must be none, not {a.position}")
        refuse(a.window > 0 or a.qk_norm, f"window and qk_norm belong to mixer = attention, not {a.mixer}")
    if a.mixer == "rwkv":
        refuse(a.width % head_width != 0, f"head_width ({head_width}) must divide width ({a.width}) for mixer = rwkv")
    refuse(len(a.ranks) not in (0, 4), f"ranks are four numbers, of decay, rate, value and gate, not {list(a.ranks)}")
    refuse(a.window > 0 and a.shape != "decoder", f"window is for shape = decoder, not {a.shape}")
    refuse(a.ffn.startswith("channel") and a.shape != "decoder", f"ffn = {a.ffn} looks at the token before: shape must be decoder")

    refuse(a.rope_scaling != "none" and a.position != "rope", f"rope_scaling is for position = rope, not {a.position}")
    refuse((a.rope_scaling != "none") != (a.rope_factor != 1.0), "rope_scaling and rope_factor go together: name a scaling and a factor above 1")
    refuse(a.rope_context > 0 and a.rope_scaling == "none", "rope_context is the context before an extension: name its rope_scaling too")
    refuse(a.rope_scaling == "ntk" and head_width < 4, f"head_width ({head_width}) must be 4 or more for rope_scaling = ntk")
    refuse(a.rope_factor < 1.0, f"rope_factor ({a.rope_factor}) must be above 1: it says how many times further rope reads")
    refuse(a.position == "bias" and (a.buckets < 4 or a.buckets % 2 != 0), f"buckets ({a.buckets}) must be even and at least 4")
    refuse(a.position == "bias" and a.reach <= a.buckets // 2, f"reach ({a.reach}) must be larger than half of buckets ({a.buckets})")

    refuse(a.shared_gate and not a.shared_experts, "shared_gate weighs what shared experts say: set shared_experts")
    if a.ffn == "moe":
        refuse(a.top_k > a.experts, f"top_k ({a.top_k}) cannot be larger than experts ({a.experts})")
        refuse(a.top_k == 1 and a.norm_topk, "top_k = 1 with norm_topk weighs every expert 1, so the router learns nothing: set norm_topk = false")
        refuse(a.balance == "bias" and a.router != "sigmoid", "balance = bias needs router = sigmoid: a bias on softmax scores has no scale")
        refuse(a.bias == "all", "bias = all is not for ffn = moe: experts have no biases")
        refuse(a.width % 8 != 0 or a.hidden % 8 != 0, f"width ({a.width}) and hidden ({a.hidden}) must be multiples of 8: grouped products need it")

    plain = a.shape == "decoder" and attention and not a.ahead
    refuse(a.embed_skip and not plain, "embed_skip needs shape = decoder, mixer = attention and ahead = 0")
    refuse(a.value_embed and not plain, "value_embed needs shape = decoder, mixer = attention and ahead = 0")
    refuse(a.value_embed and a.width < GATE, f"width ({a.width}) must be {GATE} or more for value_embed: so many channels decide its gate")

    classifies = a.head in ("sequence", "tokens")
    refuse(classifies and a.labels < 2, f"head = {a.head} needs labels: the number of classes, 2 or more")
    refuse(not classifies and a.labels > 0, f"labels is for head = sequence or tokens, not {a.head}")
    refuse(a.head in ("lm+pair", "span") and a.shape != "encoder", f"head = {a.head} reads both ways: shape must be encoder, not {a.shape}")
    refuse(a.shape == "encdec" and a.head != "lm", f"shape = encdec writes text: head must be lm, not {a.head}")
    refuse(a.encoder_depth > 0 and a.shape != "encdec", f"encoder_depth is for shape = encdec, not {a.shape}")
    refuse(a.types > 0 and a.shape != "encoder", f"types is for shape = encoder, not {a.shape}")
    refuse(
        a.prefix and (a.shape != "decoder" or not attention),
        "prefix lets a decoder's attention see a prompt both ways: it needs shape = decoder, mixer = attention",
    )
    refuse(a.ahead > 0 and (a.shape != "decoder" or a.head != "lm"), "ahead predicts further tokens: it needs shape = decoder and head = lm")
