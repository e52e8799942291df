"""Stands in for vLLM in tests of the gateway: its paths, and answers by a tiny model of Transformers.

    python vllm_stand_in.py serve MODEL --served-model-name NAME --port PORT ...

Adapters are loaded from PEFT's folders and unloaded while it runs. Its answers are a real model's, so that the check
against a run's probes is a real check.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from json_handler import JsonHandler


class Model:
    """The base, and adapters on it, one question at a time."""

    def __init__(self, folder: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.torch = torch
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.base, self.names = self.model, []  # type: ignore[var-annotated]

    def load(self, name: str, path: str) -> None:
        from peft import PeftModel

        if self.names:
            self.model.load_adapter(path, name)
        else:
            self.model = PeftModel.from_pretrained(self.base, path, adapter_name=name)
        self.names.append(name)

    def rows(self, prompt: list[int], name: str | None, length: int, stops: list[int], count: int) -> list[Any]:
        """Tokens of a greedy answer with their likeliest ones."""
        found: list[Any] = []
        with self.torch.inference_mode():
            for _ in range(length):
                logits = self._logits([*prompt, *(row[0] for row in found)], name)
                top = logits.log_softmax(-1).topk(count)
                found.append((int(top.indices[0]), list(zip(top.indices.tolist(), top.values.tolist(), strict=True))))
                if found[-1][0] in stops:
                    break
        return found

    def _logits(self, ids: list[int], name: str | None) -> Any:
        ids = self.torch.tensor([ids])
        if name is not None:
            self.model.set_adapter(name)
            return self.model(input_ids=ids).logits[0, -1]
        if self.names:
            with self.model.disable_adapter():
                return self.model(input_ids=ids).logits[0, -1]
        return self.model(input_ids=ids).logits[0, -1]


def handler(model: Model | None, served: str, cannot: bool) -> type[JsonHandler]:
    class Handler(JsonHandler, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            names = [served, *(model.names if model else [])]
            self.send({"data": [{"id": name} for name in names]} if self.path == "/v1/models" else {})

        def do_POST(self) -> None:
            assert model is not None
            body = self.read()
            if cannot:
                sys.stderr.write("(EngineCore) RuntimeError: no such product\nERROR: Exception in ASGI application\n")
                return self.send({"error": {"message": "EngineCore encountered an issue."}}, 500)
            if self.path == "/v1/load_lora_adapter":
                model.load(body["lora_name"], body["lora_path"])
                return self.send("Success")
            if self.path == "/v1/unload_lora_adapter":
                model.names.remove(body["lora_name"])
                return self.send("Success")
            if self.path == "/tokenize":
                return self.send({"tokens": self._prompt(body)})
            if body["model"] not in (served, *model.names):
                return self.send({"error": {"message": f"The model `{body['model']}` does not exist."}}, 404)
            name = body["model"] if body["model"] in model.names else None
            count = body.get("logprobs") or 1
            rows = model.rows(self._prompt(body), name, body["max_tokens"], body["stop_token_ids"], count)
            return self.send(self._answer(body, rows))

        def _prompt(self, body: dict[str, Any]) -> list[int]:
            assert model is not None
            if "messages" in body:
                text = model.tokenizer.apply_chat_template(body["messages"], add_generation_prompt=True, tokenize=False)
                return list(model.tokenizer(text, add_special_tokens=False)["input_ids"])
            prompt = body["prompt"]
            return list(prompt) if isinstance(prompt, list) else list(model.tokenizer(prompt)["input_ids"])

        def _answer(self, body: dict[str, Any], rows: list[Any]) -> dict[str, Any]:
            assert model is not None
            text = model.tokenizer.decode([row[0] for row in rows], skip_special_tokens=True)
            ended = rows[-1][0] in body["stop_token_ids"]
            choice: dict[str, Any] = {"index": 0, "finish_reason": "stop" if ended else "length"}
            if "messages" in body:
                choice["message"] = {"role": "assistant", "content": text}
            else:
                told = [{f"token_id:{id}": value for id, value in row[1]} for row in rows]
                choice["text"] = text
                choice["logprobs"] = {
                    "tokens": [f"token_id:{row[0]}" for row in rows],
                    "token_logprobs": [row[1][0][1] for row in rows],
                    "top_logprobs": told,
                }
            return {"id": "x", "object": "text_completion", "model": body["model"], "choices": [choice],
                    "usage": {"prompt_tokens": 1, "completion_tokens": len(rows)}}  # fmt: skip

    return Handler


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["serve"])
    parser.add_argument("model")
    parser.add_argument("--served-model-name", default="model")
    parser.add_argument("--port", type=int)
    for flag in ("--fails", "--illegal", "--sleeps", "--with-child", "--cannot"):
        parser.add_argument(flag, action="store_true")
    chosen, _ = parser.parse_known_args()
    if chosen.fails:
        sys.stderr.write("loading\nValueError: no such model\n")
        sys.exit(3)
    if chosen.illegal:
        os.kill(os.getpid(), signal.SIGILL)
    if chosen.sleeps:
        time.sleep(60)
    if chosen.with_child:
        sys.stdout.write(f"child is {subprocess.Popen(['sleep', '300']).pid}\n")
        sys.stdout.flush()
    model = Model(chosen.model) if chosen.model != "model" else None
    answers = handler(model, chosen.served_model_name, chosen.cannot)
    ThreadingHTTPServer(("127.0.0.1", chosen.port), answers).serve_forever()


if __name__ == "__main__":
    main()
