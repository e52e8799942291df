"""Answers through the server's engines beside those that runs recorded: how many are other, token for token.

    python benchmarks/serving_equality.py RUN RUN RUN --engines float32 bfloat16 q8_0 --out results/NAME.json

All probes of all runs, and the same questions to the base, are asked at once and greedily. What is expected of an
adapter is what its run recorded in float32 (and, for bfloat16, in bfloat16 too); of the base, what Transformers'
`generate` says.
"""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from machine import describe_run, write_result

from danlu.engines.batching import Ask, Limits, Piece
from danlu.engines.interface import Sampling
from danlu.serving.backends.table import Choice, open_engine
from danlu.serving.catalogue import RunFolders
from danlu.training.probes import read_probes
from danlu.training.trained import open_run

_Answers = dict[tuple[str, int], list[int]]  # by run (or base) and number of the probe


def recorded(runs: list[Path], dtype: str) -> _Answers:
    """What the runs recorded, as far as they did in this dtype."""
    found = {}
    for run in runs:
        for number, probe in enumerate(read_probes(run).probes):
            if dtype in probe.expected:
                found[run.name, number] = probe.expected[dtype].answer_ids
    return found


def of_the_base(runs: list[Path]) -> _Answers:
    """What the base says to each run's questions, by Transformers, in float32."""
    engine, found = open_run(runs[0]).engine(torch.float32), {}
    for run in runs:
        probes = read_probes(run)
        answers = engine.generate(
            [probe.messages for probe in probes.probes], Sampling(probes.max_new_tokens), tuned=False
        )
        found |= {(f"base {run.name}", number): list(answer.ids) for number, answer in enumerate(answers)}
    return found


@contextmanager
def opened(runs: list[Path], kind: str) -> Iterator[Any]:
    """The engine as `danlu serve` opens it, with all runs proven."""
    limits = Limits(max_rows=32, max_waiting=10_000)
    dtypes = ("float32", "bfloat16")
    choice = (
        Choice("transformers", kind, limits=limits)
        if kind in dtypes
        else Choice("llama.cpp", quantize=kind, limits=limits)
    )
    made = open_engine(choice, lambda: open_run(runs[0]), RunFolders({}))
    for run in runs:
        made.loads.load(run.name, run, proven=True)  # not held to bounds: how far it goes is measured here
    try:
        yield made.engine
    finally:
        made.engine.close()


def answered(engine: Any, runs: list[Path]) -> _Answers:
    """All questions at once, of each run by its adapter and by the base."""
    found: _Answers = {}
    ended = threading.Semaphore(0)
    count = 0
    for number in range(max(len(read_probes(run).probes) for run in runs)):  # so that adapters meet in one batch
        for run in runs:
            probes = read_probes(run)
            if number >= len(probes.probes):
                continue
            for name, adapter in ((run.name, run.name), (f"base {run.name}", None)):

                def hear(piece: Piece, key: tuple[str, int] = (name, number)) -> None:
                    if piece.answer is not None:
                        found[key] = list(piece.answer.ids)
                    if piece.answer is not None or piece.error is not None:
                        ended.release()

                prompt = tuple(engine.prompt_ids(probes.probes[number].messages))
                engine.submit(Ask(prompt, Sampling(probes.max_new_tokens), adapter), hear)
                count += 1
    for _ in range(count):
        ended.acquire()
    return found


def compared(said: _Answers, wanted: _Answers) -> dict[str, Any]:
    """How many answers are other, and at which token the first of them went another way."""
    other = [key for key in wanted if said.get(key) != wanted[key]]
    firsts = [
        next((i for i, (a, b) in enumerate(zip(said[key], wanted[key], strict=False)) if a != b), -1) for key in other
    ]
    return {
        "answers": len(wanted),
        "other": len(other),
        "share": round(len(other) / len(wanted), 4),
        "at_token": firsts,
    }


def main() -> None:
    """Measures what is asked for, and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--engines", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--out")
    chosen = parser.parse_args()
    found: dict[str, Any] = describe_run(torch.get_num_threads())
    base = of_the_base(chosen.runs)
    for kind in chosen.engines:
        with opened(chosen.runs, kind) as engine:
            said = answered(engine, chosen.runs)
            found[kind] = {"adapters, float32": compared(said, recorded(chosen.runs, "float32")),
                           "base, float32": compared(said, base), "figures": engine.figures()}  # fmt: skip
            if kind == "bfloat16" and (wanted := recorded(chosen.runs, kind)):
                found[kind]["adapters, bfloat16"] = compared(said, wanted)
        print(f"{kind}: {json.dumps(found[kind])}", flush=True)
    if chosen.out:
        write_result(Path(chosen.out), found)


if __name__ == "__main__":
    main()
