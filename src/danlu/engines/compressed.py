"""Generation from 4-bit weights in compressed-tensors' format, by Transformers in the tool environment that has it.

Messages become token ids here; the other process is told ids and gives ids back, a line of JSON each way.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from danlu.data.records import Message
from danlu.data.template import prompt_ids, stop_ids
from danlu.engines import compressed_script
from danlu.engines.answers import one_by_one, require_tuned, to_answer
from danlu.engines.interface import Answer, NextTokens, Sampling
from danlu.environments import Tool, tool_command
from danlu.errors import Fault, WorkError
from danlu.models.loading import generation_defaults
from danlu.models.tokenizer import load_tokenizer

TOOL = Tool(
    name="llmcompressor",
    requirements=(("torch==2.13.0",), ("llmcompressor==0.14.0.1", "torch==2.13.0")),
    needed_bytes=3 * 2**30,
    alone=True,
)


class CompressedEngine:
    """See `danlu.engines.interface.ScoringEngine`.

    Args:
        folder: that the format `awq` or `gptq` wrote.

    Raises:
        ResourceError: the tool environment can't be made.
        WorkError: its Transformers can't load the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.tokenizer = load_tokenizer(folder)
        self.stop_ids = stop_ids(self.tokenizer, generation_defaults(folder))
        command, variables = tool_command(TOOL, [str(Path(compressed_script.__file__)), str(folder.absolute())])
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=variables
        )
        self._ask({"stop_ids": self.stop_ids})

    def generate(
        self,
        conversations: Sequence[Sequence[Message]],
        sampling: Sampling,
        tuned: bool = True,
        report: Callable[[int], None] | None = None,
    ) -> list[Answer]:
        """One answer for each conversation, in the same order; `report` hears how many are done."""
        require_tuned(tuned, "export")

        def answer(messages: Sequence[Message]) -> Answer:
            ids = self._ask({"prompt": self.prompt_ids(messages), "sampling": vars(sampling)})["ids"]
            return to_answer(self.tokenizer, ids, self.stop_ids)

        return one_by_one(conversations, answer, report)

    def stream(self, messages: Sequence[Message], sampling: Sampling, tuned: bool = True) -> Iterator[str]:
        """The answer in one piece."""
        yield self.generate([messages], sampling, tuned)[0].text

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """A conversation's prompt, through the folder's own template and tokenizer."""
        return prompt_ids(self.tokenizer, messages)

    def next_tokens(self, prompt: Sequence[int], answer: Sequence[int], asked: torch.Tensor) -> NextTokens:
        """How likely the tokens `asked` are before each token of a given answer; NaN beyond the vocabulary."""
        told = self._ask({"prompt": list(prompt), "answer": list(answer), "asked": asked.tolist()})
        return NextTokens(torch.tensor(told["likeliest"]), torch.tensor(told["log_probabilities"]))

    def _ask(self, question: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = ""
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            pass
        if not line:
            command = " ".join(map(str, self._process.args)) if isinstance(self._process.args, list) else ""
            raise WorkError(Fault("the engine of compressed-tensors ended", hint=f"see what this prints: {command}"))
        return json.loads(line)

    def __del__(self) -> None:
        process = getattr(self, "_process", None)
        if process is not None:
            process.kill()
            process.wait()
