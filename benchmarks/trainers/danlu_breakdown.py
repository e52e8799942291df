"""Where the time of one Danlu step goes, by torch.profiler: the first step of the second epoch.

The profiler itself costs time, small operations most of all: shares, not seconds, are what it tells.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from typing import Any

import torch
from danlu_sft import arguments, first_epoch_steps, make_session

_STEP = "danlu_step"
_NUM_LARGEST = 15
# Which operations are of a kind, by their name without `aten::` and without the `_` of those in place.
_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "mkldnn_linear", "_addmm_activation"}
_SOFTMAX = {"_softmax", "_log_softmax", "_softmax_backward_data", "_log_softmax_backward_data", "logsumexp"}
_COPIES = {
    *("copy", "_to_copy", "cat", "index", "index_select", "index_put", "_index_put_impl", "index_add", "gather"),
    *("scatter", "scatter_add", "embedding", "fill", "zero", "narrow_copy", "split_with_sizes_copy"),
}
_ELEMENTWISE = {
    *("mul", "add", "sub", "rsub", "div", "neg", "pow", "rsqrt", "sqrt", "exp", "log", "sigmoid", "silu", "gelu"),
    *("silu_backward", "gelu_backward", "tanh", "tanh_backward", "where", "masked_fill", "addcmul", "addcdiv", "lerp"),
    *("clamp", "maximum", "minimum", "sum", "mean", "amax", "max", "cos", "sin", "eq", "ne", "lt", "le", "gt", "ge"),
}


def kind_of(name: str) -> str:
    """The kind of an operation, as the profiler names it."""
    if name == _STEP:
        return "Python outside operations"
    short = name.removeprefix("aten::").removesuffix("_")
    if short in _PRODUCTS or name.startswith("mkldnn::_linear"):
        return "products"
    if short in _SOFTMAX:
        return "softmax"
    if short in _COPIES:
        return "copies"
    if short in _ELEMENTWISE or short.startswith("_foreach_"):
        return "elementwise and sums"
    return "attention (one operation)" if "scaled_dot_product" in short else "rest"


def shares(events: Any) -> dict[str, Any]:
    """Each kind's share of the processor's own time, and the largest operations."""
    seconds: dict[str, float] = defaultdict(float)
    for event in events:
        seconds[kind_of(event.key)] += event.self_cpu_time_total / 1e6
    total = sum(seconds.values())
    largest = sorted(events, key=lambda event: -event.self_cpu_time_total)[:_NUM_LARGEST]
    return {
        "seconds": total,
        "shares": {kind: seconds[kind] / total for kind in sorted(seconds, key=lambda kind: -seconds[kind])},
        "largest": [
            {
                "operation": event.key,
                "kind": kind_of(event.key),
                "calls": event.count,
                "share": event.self_cpu_time_total / 1e6 / total,
            }
            for event in largest
        ],
    }


def main() -> None:
    """Prints the shares as the last line."""
    session = make_session(arguments())
    steps = session.steps()
    list(itertools.islice(steps, first_epoch_steps(session)))
    with (
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile,
        torch.profiler.record_function(_STEP),
    ):
        step = next(steps)
    found = {"tokens": step.tokens, "step_seconds": step.seconds, **shares(profile.key_averages())}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
