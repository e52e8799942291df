"""Some steps of a run in a process of their own, measured: `python -m danlu.planning.probe RECIPE [OVERRIDES]`.

Nothing is written: no run folder, no adapter. The last line of stdout is one JSON object. `DANLU_PROBE_STEPS` may be
`all`; else two steps are run, one of them with the largest micro-batch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.errors import Fault, WorkError
from danlu.planning.workload import Workload, workload
from danlu.recipe import load_recipe
from danlu.tracking.memory import peak_memory_bytes

_STEPS = "DANLU_PROBE_STEPS"


@dataclass
class ChosenSteps:
    """A feed of some of another feed's steps, for the training loop.

    Attributes:
        feed: the other.
        numbers: which of its steps, from 0.
        forget: called before a step that was taken already, which would otherwise find some of it computed.
    """

    feed: Any
    numbers: Sequence[int]
    forget: Callable[[], None] = lambda: None

    @property
    def rank(self) -> int:
        """Number of this process."""
        return int(self.feed.rank)

    @property
    def num_steps(self) -> int:
        """How many there are."""
        return len(self.numbers)

    @property
    def micro_batch_tokens(self) -> int:
        """Longest micro-batch, in tokens; the loop makes it smaller where memory is not enough."""
        return int(self.feed.micro_batch_tokens)

    @micro_batch_tokens.setter
    def micro_batch_tokens(self, tokens: int) -> None:
        self.feed.micro_batch_tokens = tokens

    def documents(self, step: int) -> list[Any]:
        """The documents of the chosen step at this place."""
        if self.numbers[step] in self.numbers[:step]:
            self.forget()
        documents: list[Any] = self.feed.documents(self.numbers[step])
        return documents

    def batches(self, step: int) -> list[Any]:
        """The micro-batches of the chosen step at this place."""
        batches: list[Any] = self.feed.batches(self.numbers[step])
        return batches


def probe(path: Path, overrides: Sequence[str], steps: str = "two") -> dict[str, Any]:
    """Runs steps of a recipe in a process of their own.

    Args:
        path: of the recipe.
        overrides: as on the command line.
        steps: `two`, or `all`: these two, and then the whole run's.

    Returns:
        Of the two steps `peak_bytes`, `seconds` and `processor_seconds` by step, and their `numbers`; `ready_bytes`
        (before the first step) and `start_seconds`; with `all`, the same of the run under `whole`.

    Raises:
        WorkError: the process ended badly.
    """
    command = [sys.executable, "-m", "danlu.planning.probe", str(path), *overrides]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, _STEPS: steps}, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [""]
        # Our own error says what on its first line, Python's on its last.
        said = (lines[-1] if lines[0].startswith("Traceback") else lines[0]).removeprefix("error: ")
        what = f"the probe ended with status {done.returncode}" + (f": {said}" if said else "")
        hint = "the forecast from shapes alone still stands: leave --probe out; or ask for less memory"
        raise WorkError(Fault(what, str(path), hint=hint))
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run_steps(path: str, overrides: Sequence[str], every: bool) -> dict[str, Any]:
    """See `probe`; in this process."""
    from danlu.data.run import prepare
    from danlu.engines.local import local_answers
    from danlu.models.source import find_model
    from danlu.models.tokenizer import load_tokenizer
    from danlu.training.session import Session

    loaded = load_recipe(path, overrides)
    recipe = loaded.recipe
    base = find_model(recipe.model.name, recipe.model.revision)
    prepared = prepare(loaded, base, local_answers)
    begun = time.perf_counter()
    session = Session(recipe, base, load_tokenizer(base), prepared)
    ready, seconds, processor = peak_memory_bytes(), [], []
    found = _workload(session)
    two, rest = found.two_steps(), list(range(session.feed.num_steps)) if every else []
    whole_feed: Any = session.feed
    chosen = ChosenSteps(whole_feed, [*two, *rest])
    if session.frozen is not None:
        chosen.forget = session.frozen.forget
    session.feed = chosen  # type: ignore[assignment]
    begun, before, probed = time.perf_counter() - begun, time.process_time(), 0
    for step in session.steps():
        seconds.append(step.seconds)
        processor.append(time.process_time() - before)
        before = time.process_time()
        probed = _peak_bytes() if step.number == len(two) else probed
    count = len(two)
    result = {"peak_bytes": probed, "seconds": seconds[:count], "processor_seconds": processor[:count], "numbers": two}
    result |= {"ready_bytes": ready, "start_seconds": begun, "engine": session.engine.name}
    if every:
        whole = {"peak_bytes": _peak_bytes(), "seconds": seconds[count:], "processor_seconds": processor[count:]}
        result["whole"] = whole
    return result


def _peak_bytes() -> int:
    import torch

    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else peak_memory_bytes()


def _workload(session: Any) -> Workload:
    feed, engine = session.feed, session.engine
    return workload(feed.num_steps, feed.documents, feed.micro_batch_tokens, engine.shares_prefix, engine.padded)


def main() -> None:
    """Runs the steps, prints what they took; an error is one message."""
    from danlu.errors import DanluError

    path, *overrides = sys.argv[1:]
    try:
        found = run_steps(path, overrides, os.environ.get(_STEPS) == "all")
    except DanluError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_status)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
