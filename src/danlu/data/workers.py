"""Work on chunks of rows in several processes, with results in order: the same for any number of processes."""

from __future__ import annotations

import functools
import gc
import itertools
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

from danlu.errors import Fault, WorkError

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")


# A process takes seconds to start and to load a tokenizer; this one does so little by itself in less.
_FEW_CHUNKS = 4


_PRELOADED = ["danlu.data.stages", "transformers.models.auto.tokenization_auto"]


class Workers:
    """A pool of processes that is started when there is more than a little work.

    Args:
        num_workers: processes; 1 works in this one.
    """

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers
        self._pool: ProcessPoolExecutor | None = None

    def map(self, stage: Callable[[Chunk], Result], chunks: Iterable[Chunk]) -> Iterator[Result]:
        """`stage(chunk)` for each chunk, in order; few chunks are held at a time.

        Args:
            stage: picklable; what it loads on first use is kept in each process.
            chunks: read as they are needed.

        Raises:
            WorkError: a process died, mostly of too little memory.
        """
        chunks = iter(chunks)
        first = list(itertools.islice(chunks, _FEW_CHUNKS + 1))
        if self.num_workers == 1 or (self._pool is None and len(first) <= _FEW_CHUNKS):
            yield from map(stage, itertools.chain(first, chunks))
            return
        pool, packed = self._started(), pickle.dumps(stage)
        waiting: deque[Future[Any]] = deque()
        try:
            for chunk in itertools.chain(first, chunks):
                with _no_main_module():
                    waiting.append(pool.submit(_work, packed, chunk))
                if len(waiting) > self.num_workers + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            fault = Fault(
                "a process that prepares rows died, mostly for want of memory",
                hint="close other programs, or set data.num_workers=1",
            )
            raise WorkError(fault) from error
        finally:
            for future in waiting:
                future.cancel()

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # Not fork: threads of Arrow and of the tokenizer may hold locks. The server has none, and imports once.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(_PRELOADED)
            self._pool = ProcessPoolExecutor(self.num_workers, context, _begin)
        return self._pool

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def count_workers(wanted: int | None) -> int:
    """Processes to use: those asked for, or one for each core this process may run on."""
    return wanted or len(os.sched_getaffinity(0))


@contextmanager
def _no_main_module() -> Iterator[None]:
    """A process that starts meanwhile does not run the caller's script, which need not expect that."""
    main = sys.modules["__main__"]
    hidden: dict[str, Any] = {name: vars(main)[name] for name in ("__file__", "__spec__") if name in vars(main)}
    try:
        vars(main).update(dict.fromkeys(hidden))
        yield
    finally:
        vars(main).update(hidden)


def _begin() -> None:
    """A process begins: the parent answers Ctrl-C; a process for each core needs no threads in the tokenizer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    gc.set_threshold(50_000, 50, 100)  # rows are many small objects without cycles


def _end_with_parent() -> None:
    """Ends this process with its parent: one that is killed tells nobody, and the pool would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(packed: bytes, chunk: Any) -> Any:
    return _stage(packed)(chunk)


@functools.lru_cache(maxsize=8)
def _stage(packed: bytes) -> Callable[[Any], Any]:
    stage: Callable[[Any], Any] = pickle.loads(packed)
    return stage
