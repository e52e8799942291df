"""Answers questions on a model folder with 4-bit weights: a script that the tool's own Python runs, without Danlu.

Called with the folder. Each line on stdin is a question: `stop_ids` first; then `prompt` with `sampling`, or with
`answer` and `asked`. Each is answered by a line on stdout.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch


def answer(model: Any, question: dict[str, Any], stop_ids: list[int]) -> dict[str, Any]:
    """The answer to one question."""
    prompt = question["prompt"]
    if "answer" in question:
        given = question["answer"]
        logits = model(torch.tensor([[*prompt, *given[:-1]]]), use_cache=False).logits[0, -len(given) :].float()
        asked = torch.tensor(question["asked"]).long()
        found = logits.log_softmax(-1).gather(-1, asked.clamp(max=logits.shape[-1] - 1))
        found = found.masked_fill(asked >= logits.shape[-1], float("nan"))
        return {"likeliest": logits.argmax(-1).tolist(), "log_probabilities": found.tolist()}
    sampling = question["sampling"]
    drawn = sampling["temperature"] > 0
    more = {name: sampling[name] for name in ("temperature", "top_p", "top_k")} if drawn else {}
    torch.manual_seed(sampling["seed"])
    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=drawn,
        max_new_tokens=sampling["max_new_tokens"],
        eos_token_id=stop_ids,
        pad_token_id=stop_ids[0],
        **more,
    )
    return {"ids": out[0, len(prompt) :].tolist()}


def main() -> None:
    """Reads questions until there are no more."""
    out, sys.stdout = sys.stdout, sys.stderr
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
    stop_ids = json.loads(sys.stdin.readline())["stop_ids"]
    out.write("{}\n")
    out.flush()
    with torch.inference_mode():
        for line in sys.stdin:
            out.write(json.dumps(answer(model, json.loads(line), stop_ids)) + "\n")
            out.flush()


if __name__ == "__main__":
    main()
