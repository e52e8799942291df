"""Whether the adapter, the learning rate and the rest of the method are such as are known to work."""

from __future__ import annotations

from collections.abc import Iterator

from danlu.planning.findings import Finding
from danlu.planning.look import Look
from danlu.recipe.adapter_schema import LoraSection

_MOST_RANK = 128
_QUERY_AND_VALUE = {"q", "v", "q_proj", "v_proj", "query", "value", "c_attn_q", "c_attn_v", "wq", "wv"}
# Learning rates between which each method is known to learn: LoRA's papers and the tutorials use 1e-4 to 3e-3 (small
# models up to 5e-3), full fine-tuning a tenth of that, vectors (IA3, VeRA) ten times as much.
_RATES = {
    "full": (1e-6, 1e-4),
    "lora": (1e-5, 5e-3),
    "loha": (1e-5, 5e-3),
    "lokr": (1e-5, 5e-3),
    "ia3": (1e-4, 5e-2),
    "vera": (1e-4, 5e-2),
}
_MOST_LORAPLUS_RATE = 5e-2


def rank(look: Look) -> Iterator[Finding]:
    """A rank above 128 is no better and needs more memory and rows."""
    found = getattr(look.recipe.adapter, "rank", 0)
    if isinstance(look.recipe.adapter, LoraSection) and found > _MOST_RANK:
        what = f"rank {found} is too much: it fits noise in the rows and takes memory, and answers get no better"
        yield Finding("warning", "rank-too-high", what, "adapter.rank", "16 to 64 is usual: adapter.rank=32")


def targets(look: Look) -> Iterator[Finding]:
    """LoRA on query and value alone learns less than on all linear layers."""
    adapter = look.recipe.adapter
    if not isinstance(adapter, LoraSection) or isinstance(adapter.target_modules, str):
        return
    if not look.shape.config.is_encoder_decoder and set(adapter.target_modules) <= _QUERY_AND_VALUE:
        what = (
            f"an adapter on {', '.join(adapter.target_modules)} alone is too little: MLPs hold most of what is learnt"
        )
        yield Finding("warning", "few-targets", what, "adapter.target_modules", "adapter.target_modules=all-linear")


def scale(look: Look) -> Iterator[Finding]:
    """A scale, alpha / rank, beyond 0.25 to 4 makes the learning rate mean something else."""
    adapter = look.recipe.adapter
    if not isinstance(adapter, LoraSection):
        return
    factor = adapter.alpha / (adapter.rank**0.5 if adapter.use_rslora else adapter.rank)
    most = 16 if adapter.use_rslora else 4
    if not 0.25 <= factor <= most:
        what = (
            f"the update is scaled by {factor:g}, usual is 1 to 2: the learning rate acts as if it were as many times"
        )
        hint = f"adapter.alpha={2 * adapter.rank:g}"
        yield Finding("warning", "odd-scale", what, "adapter.alpha", hint)


def dropout(look: Look) -> Iterator[Finding]:
    """More dropout than 0.3 on an adapter keeps it from learning."""
    share = getattr(look.recipe.adapter, "dropout", 0.0)
    if share > 0.3:
        what = f"dropout of {share:g} on the adapter's input takes most of the signal away"
        yield Finding("warning", "dropout-too-high", what, "adapter.dropout", "adapter.dropout=0.05")


def learning_rate(look: Look) -> Iterator[Finding]:
    """The learning rate lies where the method is known to learn."""
    rate, (least, most) = look.recipe.training.learning_rate, _RATES[look.method]
    key, name = "training.learning_rate", "full fine-tuning" if look.method == "full" else look.method
    if rate > most:
        of_lora = look.method == "full" and rate <= _RATES["lora"][1]
        why = "this is LoRA's, and makes the base forget" if of_lora else "the loss will likely rise, or become NaN"
        what = f"a learning rate of {rate:g} is too high for {name}: {why}"
        yield Finding("warning", "rate-too-high", what, key, f"between {least:g} and {most:g}: {key}={most / 5:g}")
    elif rate < least:
        what = f"a learning rate of {rate:g} is too low for {name}: it will hardly learn"
        yield Finding("warning", "rate-too-low", what, key, f"between {least:g} and {most:g}: {key}={most / 10:g}")


def loraplus(look: Look) -> Iterator[Finding]:
    """LoRA+'s rate of B stays in bounds."""
    training = look.recipe.training
    rate = training.learning_rate * (training.loraplus_lr_ratio or 0.0)
    if rate > _MOST_LORAPLUS_RATE:
        what = f"B would learn at {rate:g}: the ratio is meant for a lower learning rate"
        yield Finding("warning", "loraplus-rate", what, "training.loraplus_lr_ratio", "training.learning_rate=1e-4")


def regularisation(look: Look) -> Iterator[Finding]:
    """Smoothing, noise and decay stay where they help."""
    training = look.recipe.training
    limits = (
        ("label_smoothing", training.label_smoothing, 0.2, "0.1"),
        ("neftune_noise_alpha", training.neftune_noise_alpha or 0.0, 20.0, "5"),
        ("weight_decay", training.weight_decay, 0.3, "0.01"),
    )
    for key, value, most, usual in limits:
        if value > most:
            what = f"{key} of {value:g} is more than is known to help"
            yield Finding("warning", "regularised-too-much", what, f"training.{key}", f"training.{key}={usual}")


def clipping(look: Look) -> Iterator[Finding]:
    """Gradients are clipped, or one odd row can undo a run."""
    norm = look.recipe.training.max_gradient_norm
    if norm is None or norm > 100:
        what = "gradients are not clipped: one odd row can throw the weights far off"
        yield Finding("warning", "no-clipping", what, "training.max_gradient_norm", "training.max_gradient_norm=1.0")


def half_precision(look: Look) -> Iterator[Finding]:
    """A family that overflows in float16 is not trained in it."""
    family = look.shape.config.model_type
    if look.recipe.model.dtype == "float16" and ("t5" in family or family.startswith("gemma")):
        what = f"{family} models were trained in bfloat16 and overflow in float16: the loss becomes NaN"
        yield Finding("warning", "overflows", what, "model.dtype", "model.dtype=bfloat16, or float32")
