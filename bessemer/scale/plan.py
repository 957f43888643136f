"""What training will cost, before any work: from a recipe's configs and this machine's measured matrix-product rate."""

from bessemer.core import device
from bessemer.core.recipe import Step
from bessemer.model.config import ModelConfig
from bessemer.scale import count

UTILISATION = 0.5  # of the matrix-product rate, as small decoders reach on CPU (docs/quickstart.md)
VOCAB = 4096  # where the recipe names a tokenizer from elsewhere


def model_of(step: Step) -> ModelConfig | None:
    """The model that a step trains: described by the step itself, or by the one whose checkpoint it starts from."""
    if hasattr(step.cfg, "model"):
        words = step.upstream("tokenizer")
        return step.cfg.model(getattr(words.cfg, "vocab", VOCAB) if words else VOCAB)
    for name in ("base", "model"):
        if source := step.upstream(name):
            return model_of(source)
    return None


def training(step: Step, tokens: float, context: int) -> dict[str, float]:
    """FLOPs, checkpoint bytes and seconds of training on `tokens` tokens in rows of `context`; nothing where the model is not known yet."""
    model = model_of(step)
    return {} if model is None else cost(model, tokens * count.training_flops(model, context), step.cfg.precision)


def generation(step: Step, tokens: float, context: int) -> dict[str, float]:
    """The same for reading and writing `tokens` tokens: one forward pass each, at a third of a training step's FLOPs."""
    model = model_of(step)
    return {} if model is None else cost(model, tokens * count.training_flops(model, context) / 3, "fp32")


def cost(model: ModelConfig, flops: float, precision: device.Precision) -> dict[str, float]:
    """What so many FLOPs cost on this machine, and the checkpoint's bytes."""
    where = device.pick()
    rate = UTILISATION * device.matmul_rate(where, device.precision(precision, where, model.width))
    return {"flops": flops, "bytes": 4 * count.parameters(model), "seconds": flops / rate}
