"""One adapter at a time uses the engine, and none waits for longer than a turn of each other one."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from danlu.serving.backends.turns import Turns


def never() -> bool:
    return False


def test_two_adapters_are_never_at_work_at_once_and_those_of_one_are() -> None:
    turns, using, together, mixed = Turns(), [], [], []  # type: ignore[var-annotated]

    def work(adapter: str) -> None:
        for _ in range(10):
            with turns.turn(adapter, never):
                using.append(adapter)
                together.append(len(using))
                mixed.append(len(set(using)))
                time.sleep(0.003)
                using.remove(adapter)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, ["law", "law", "law", "bank", "bank", "bank"]))
    assert set(mixed) == {1}
    assert max(together) == 3
    assert turns.changes >= 10


def test_who_always_wants_more_does_not_keep_another_out() -> None:
    turns, stop, seen = Turns(), threading.Event(), []  # type: ignore[var-annotated]

    def greedy() -> None:
        while not stop.is_set():
            with turns.turn("law", never):
                seen.append("law")
                time.sleep(0.01)

    with ThreadPoolExecutor(3) as pool:
        busy = [pool.submit(greedy) for _ in range(2)]
        time.sleep(0.05)
        began = len(seen)
        with turns.turn("bank", never):
            waited = len(seen) - began
        stop.set()
        for one in busy:
            one.result()
    assert waited <= 4, "each of the two may end what it does, and begin nothing"


def test_who_gave_up_is_given_no_turn_and_keeps_nobody_waiting() -> None:
    turns, gone = Turns(), threading.Event()
    with ThreadPoolExecutor(1) as pool, turns.turn("law", never) as mine:
        assert mine

        def wait() -> bool:
            with turns.turn("bank", gone.is_set) as given:
                return given

        waiting = pool.submit(wait)
        time.sleep(0.02)
        gone.set()
        turns.wake()
        assert waiting.result(5) is False
    with turns.turn("law", never) as mine:
        assert mine
