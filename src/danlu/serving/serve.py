"""`danlu serve`: one base and its adapters over OpenAI's API, until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import uvicorn

from danlu.errors import Fault, InputError, Stopped
from danlu.registry import Registry
from danlu.serving.answer_cache import AnswerCache, LocalAnswers, RedisAnswers
from danlu.serving.backends.interface import Opened
from danlu.serving.backends.table import Choice, open_engine, open_their_engine
from danlu.serving.catalogue import Catalogue, RunFolders, run_folders
from danlu.serving.desk import Desk
from danlu.serving.gateway import make_app
from danlu.serving.patience import patient_protocol
from danlu.serving.routing import Routes, read_routes
from danlu.serving.shelf import Shelf
from danlu.serving.surroundings import Access, Surroundings, open_surroundings
from danlu.tracking.progress import say
from danlu.training.trained import TrainedRun, open_run


class _Server(uvicorn.Server):
    """Stops gracefully: running answers end, new questions are refused, then it goes; a second signal ends it at once.

    Args:
        config: uvicorn's.
        desk: of the gateway.
        drain_seconds: after which it goes whoever is still being answered.
        ready: said once it listens.
    """

    def __init__(self, config: uvicorn.Config, desk: Desk, drain_seconds: float, ready: str) -> None:
        super().__init__(config)
        self._desk, self._drain_seconds, self._ready = desk, drain_seconds, ready
        self._draining: asyncio.Task[None] | None = None
        self.signal: int | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens, and says so."""
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._telling = asyncio.ensure_future(self._desk.neighbours.tell())
        say(self._ready)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """What SIGTERM and Ctrl-C do."""
        if self.signal is not None:
            self.should_exit = self.force_exit = True
            return
        self.signal = sig
        self._desk.draining = True
        self._loop.call_soon_threadsafe(self._start_draining)

    def _start_draining(self) -> None:
        self._draining = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        say(f"stopping: {self._desk.visits} answers are still being made")
        until = time.monotonic() + self._drain_seconds
        while self._desk.visits and time.monotonic() < until:
            await asyncio.sleep(0.05)
        if self._desk.visits:
            say(f"warning: {self._desk.visits} answers were cut off after {self._drain_seconds:g} s")
        self.should_exit = True


def run_serve(
    runs: Sequence[str],
    registry: str | None,
    base: str | None,
    address: tuple[str, int],
    routes: str | None = None,
    choice: Choice | None = None,
    keeping: Keeping | None = None,
) -> dict[str, Any]:
    """Serves until SIGTERM or Ctrl-C.

    Args:
        runs: run folders, each an adapter under its folder's name.
        registry: a folder or object storage, where there are no runs; None is the usual one.
        base: a model, alone or with adapters; None is the adapters' own.
        address: host and port; port 0 is any that is free.
        routes: a file of rules.
        choice: of the engine.
        keeping: how long and how many.

    Returns:
        `address`, `answers`, `seconds`.

    Raises:
        InputError: the port is in use, there is nothing to serve, or it can't be.
        Stopped: Ctrl-C, after the running answers.
    """
    started = time.perf_counter()
    keeping = keeping or Keeping()
    read = read_routes(Path(routes)) if routes else Routes()
    choice = choice or Choice()
    with listening_socket(*address) as taken, closing(_surroundings(keeping, taken)) as around:
        served, catalogue = _open(choice, runs, registry, base)
        desk = make_desk(served, catalogue, read, keeping, around)
        stop = threading.Event()
        watcher = threading.Thread(target=desk.watch, args=(keeping.poll_seconds, stop), daemon=True)
        host, port = taken.getsockname()[:2]
        url = f"http://{host}:{port}"
        config = uvicorn.Config(
            make_app(desk),
            http=patient_protocol(),
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=64 << 10,
        )
        server = _Server(config, desk, keeping.drain_seconds, f"{served.name} is served at {url}/v1")
        gc.freeze()  # else a full collection goes through all that is loaded: answers wait a quarter of a second
        watcher.start()
        try:
            server.run(sockets=[taken])
        finally:
            stop.set()
            served.engine.close()
            watcher.join(5)
    if server.signal == signal.SIGINT:
        raise Stopped(Fault("stopped", url, hint="start it again with the same command"))
    seconds = round(time.perf_counter() - started, 1)
    return {"address": url, "answers": desk.metrics.num_answers(), "seconds": seconds}


class Keeping:
    """How many adapters stay loaded, how often other versions are looked for, how long the end takes.

    Args:
        max_adapters: that stay loaded.
        poll_seconds: between two looks into the registry.
        drain_seconds: for running answers, once it is told to stop.
        max_new_tokens: of an answer, where a request does not say.
        cache_bytes: of answers that would be the same again; 0: none are kept.
        redis: address of a Redis that keeps them for several gateways; None: there is none.
        access: who may ask, and what is noted.
    """

    def __init__(
        self,
        max_adapters: int = 16,
        poll_seconds: float = 1.0,
        drain_seconds: float = 30.0,
        max_new_tokens: int = 1024,
        cache_bytes: int = 64 << 20,
        redis: str | None = None,
        access: Access | None = None,
    ) -> None:
        self.access = access or Access()
        self.max_adapters, self.poll_seconds = max_adapters, poll_seconds
        self.drain_seconds, self.max_new_tokens = drain_seconds, max_new_tokens
        self.cache_bytes, self.redis = cache_bytes, redis


def make_desk(
    served: Opened, catalogue: Catalogue, routes: Routes, keeping: Keeping, around: Surroundings | None = None
) -> Desk:
    """A gateway's desk; run folders are loaded and proven at once, a registry's adapters by `Desk.watch`.

    Raises:
        DanluError: a run's adapter can't be served, or two things have one name.
    """
    swaps: list[Desk] = []
    shelf = Shelf(
        catalogue,
        served.loads,
        (served.name, served.sha256),
        keeping.max_adapters,
        lambda outcome: swaps[0].metrics.swaps.labels(outcome).inc(),
    )
    local, link = LocalAnswers(keeping.cache_bytes), around.link if around is not None else None
    shared = RedisAnswers(link) if link is not None else None
    cache = AnswerCache(served.computed, local, shared) if keeping.cache_bytes or shared else None
    desk = Desk(served.engine, shelf, routes, keeping.max_new_tokens, cache, around)
    if link is not None:
        link.on_fault = desk.metrics.cache.labels("away").inc
    swaps.append(desk)
    names = [served.name, *catalogue.state().names(), *routes.names]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(Fault(f"two models are named {twice[0]}", hint="rename the run folder, or the route"))
    if isinstance(catalogue, RunFolders):
        shelf.refresh(strict=True)
        if unknown := sorted(routes.models - shelf.served().keys()):
            allowed = ", ".join(shelf.served())
            raise InputError(Fault(f"a route leads to {unknown[0]}, which is not served", "--routes", allowed))
    return desk


def _surroundings(keeping: Keeping, taken: socket.socket) -> Surroundings:
    return open_surroundings(keeping.access, taken.getsockname()[:2], keeping.redis)


def _open(choice: Choice, runs: Sequence[str], registry: str | None, base: str | None) -> tuple[Opened, Catalogue]:
    """The engine, and where its adapters come from."""
    if choice.engine == "upstream":
        found = _catalogue(runs, registry, base) if runs or registry is not None else None
        return open_their_engine(choice, base, found)
    catalogue = _catalogue(runs, registry, base)
    return open_engine(choice, lambda: base or _first_run(catalogue), catalogue), catalogue


def _catalogue(runs: Sequence[str], registry: str | None, base: str | None) -> Catalogue:
    if runs and registry is not None:
        hint = "add the runs to the registry: danlu registry add RUN --name NAME"
        raise InputError(Fault("runs and a registry can't be served together", "command line", hint=hint))
    if runs or (base and registry is None):
        return run_folders(runs)
    return cast(Catalogue, Registry.open(registry))  # it is asked for none but its own versions


def _first_run(catalogue: Catalogue) -> TrainedRun:
    """A run whose base is the one to serve.

    Raises:
        InputError: there is no adapter.
    """
    listing = catalogue.state()
    for name in listing.names():
        return open_run(catalogue.fetch(listing.resolve(name)))
    hint = "name a run, add one with `danlu registry add RUN --name NAME`, or serve a model alone by --base"
    raise InputError(Fault("there is nothing to serve: the registry is empty", hint=hint))


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket at this address, taken before anything heavy is loaded.

    Raises:
        InputError: the port is in use, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Said to be TCP, asyncio sends each piece at once instead of waiting for what may follow.
    taken = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((host, port))
        taken.listen(1024)
    except (OSError, OverflowError) as error:
        taken.close()
        what = f"can't listen at {host}:{port}: {getattr(error, 'strerror', None) or error}"
        raise InputError(Fault(what, "--host, --port", hint="choose another --port, or end what uses it")) from error
    return taken
