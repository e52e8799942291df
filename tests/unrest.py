"""Clients that ask while the versions behind a name move, and servers are killed."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from danlu.errors import RegistryError
from danlu.registry import Registry

_MOST_SECONDS = 180  # for what has not happened by the time that all was asked


def move_versions(registry: Registry, act: int, run_of: dict[str, Path]) -> None:
    """By turns promotes the other version of `helper`, rolls back, and replaces the one that is not in production.

    Args:
        registry: with at least two versions.
        act: its number, from 0.
        run_of: the run of each version; what is added comes in.
    """
    present = [str(version) for version in registry.state().versions("helper")]
    production = f"helper@{registry.state().aliases('helper')['production']}"
    spare = next(one for one in present if one != production)
    if act % 3 == 0:
        registry.promote(spare, "production")
    elif act % 3 == 1:
        with contextlib.suppress(RegistryError):  # what it would go back to may be gone
            registry.rollback("helper", "production")
    else:
        registry.remove(spare)
        run_of[str(registry.add(run_of[spare], "helper")["reference"])] = run_of[spare]


def ask_amid(
    ask: Callable[[int], None],
    num_clients: int,
    num_asked: int,
    disturb: Callable[[int], None],
    num_acts: int,
    swapped: Callable[[], bool],
) -> int:
    """Asks so often, and on until there were so many acts and a swap was seen, on however slow a machine.

    Args:
        ask: is told its number, from 0; what it raises is raised here in the end.
        num_clients: that ask at once.
        num_asked: at least so many questions.
        disturb: does something; is told its number, from 0. The first promotes what is let in before more is done.
        num_acts: at least so many, unless that takes minutes.
        swapped: whether another version than the first has answered.

    Returns:
        How many acts there were.
    """
    numbers, disturbed, end = itertools.count(), threading.Event(), time.monotonic() + _MOST_SECONDS

    def client() -> None:
        for number in numbers:
            if number >= num_asked and ((disturbed.is_set() and swapped()) or time.monotonic() > end):
                return
            ask(number)

    with ThreadPoolExecutor(num_clients) as pool:
        clients = [pool.submit(client) for _ in range(num_clients)]
        for act in itertools.count():
            disturb(act)
            while act == 0 and not swapped() and time.monotonic() < end:
                time.sleep(0.1)
            time.sleep(0.3)
            if act + 1 >= num_acts:
                disturbed.set()
            if all(one.done() for one in clients):
                break
        for one in clients:
            one.result()
    return act + 1
