"""Memory of `danlu serve` stays where it was, while adapters come and go and answers are made."""

from __future__ import annotations

import itertools
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import soak
from served import Served
from served_runs import write_run

from danlu.registry import Registry

# The answers that feedback may come on are 16 MiB, some 7,600 of these: soaked, the warm-up goes past that.
WARM, ASKED = (8_500, 20_000) if soak.ALL else (1_500, 1_500)


def test_memory_grows_by_no_more_than_two_percent_once_it_is_warm(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make soak` asks 20,000 times after 8,500. What is kept on purpose is bounded, and full by then."""
    monkeypatch.setenv("DANLU_AUDIT", str(tmp_path / "audit.jsonl"))
    runs = [
        write_run(tmp_path / "runs" / name, tiny_base, seed) for seed, name in enumerate(("law", "support", "medicine"))
    ]
    registry = Registry.open(str(tmp_path / "registry"))
    for run in runs[:2]:
        registry.add(run, "helper", "production")
    words = ("--max-adapters", "2", "--cache-mib", "1", "--kv-gib", "0.05", "--audit")
    served = Served("--registry", registry.url, *words, "--feedback", str(tmp_path / "feedback.jsonl"))
    served.until(lambda: served.ready()["status"] == "ok")
    process, numbers = psutil.Process(served.process.pid), itertools.count()

    def ask(_: int) -> None:
        served.ask("helper", f"Question {next(numbers)}", max_tokens=2)

    def come_and_go(number: int) -> None:
        versions = registry.state().versions("helper")
        registry.promote(str(versions[0]), "production")
        registry.remove(str(versions[-1]))
        registry.add(runs[1 + number % 2], "helper", "production")

    def ask_while_versions_move(asked: int) -> None:
        with ThreadPoolExecutor(8) as pool:
            clients = [pool.submit(ask, number) for number in range(asked)]
            for number in itertools.count():
                come_and_go(number)
                time.sleep(1)
                if all(client.done() for client in clients):
                    break
            for client in clients:
                client.result()

    def bytes_after(asked: int) -> int:
        """The least of many readings in three pauses: in one alone it was up to five percent more or less."""
        readings = []
        for _ in range(3):
            ask_while_versions_move(asked // 3)
            for _ in range(12):  # until the last swap is over, which holds what its proof needs
                time.sleep(0.5)
                readings.append(process.memory_info().rss)
        return min(readings)

    warm = bytes_after(WARM)
    later = bytes_after(ASKED)
    served.close()
    sys.stdout.write(f"{warm / 1e6:.1f} MB after {WARM} answers, {later / 1e6:.1f} MB after {ASKED} more\n")
    assert later <= 1.02 * warm
