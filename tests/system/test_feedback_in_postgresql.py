"""Feedback in a real PostgreSQL, that is stopped and started again: none is lost, none is there twice."""

from __future__ import annotations

import glob
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from small_gateway import Gateway

from danlu.errors import DataError, InputError
from danlu.serving.feedback.desk import FeedbackDesk
from danlu.serving.feedback.export import run_feedback_export
from danlu.serving.feedback.stores import open_store
from danlu.serving.surroundings import Surroundings

pytest.importorskip("psycopg", reason="pip install 'danlu[postgres]'")
FOLDERS = [os.path.dirname(path) for path in sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))]
pytestmark = pytest.mark.skipif(
    not FOLDERS and not os.environ.get("DANLU_REQUIRE_PROGRAMS"), reason="postgresql is not installed"
)
NUM = 200


class Server:
    """A PostgreSQL that can be stopped and started again; root may not run one, so it runs as `postgres`."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.data = folder / "data"
        self.data.mkdir()
        if os.geteuid() == 0:
            shutil.chown(self.data, "postgres")
            for parent in [folder, *folder.parents][:-2]:
                parent.chmod(parent.stat().st_mode | 0o011)
        self._run("initdb", "-A", "trust", "-U", "danlu", "--no-sync", "-D", str(self.data))
        self.url = f"postgresql://danlu@127.0.0.1:{self.port}/postgres"
        self.start()

    def _run(self, program: str, *words: str) -> None:
        as_postgres = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        subprocess.run([*as_postgres, f"{FOLDERS[-1]}/{program}", *words], check=True, capture_output=True, timeout=120)

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        self._run("pg_ctl", "-D", str(self.data), "-w", "-o", options, "-l", str(self.data / "log"), "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self.data), "-w", "-m", "immediate", "stop")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("postgresql"))
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def _another_home(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))


def rows(url: str) -> list[dict[str, Any]]:
    import psycopg

    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT record FROM danlu_feedback ORDER BY number").fetchall()
        connection.execute("TRUNCATE danlu_feedback")
    return [row[0] for row in found]


def test_stopped_during_200_feedbacks_and_started_again_it_has_200(server: Server, tokenizer: Any) -> None:
    store, stopped = open_store(server.url), threading.Event()
    gateway = Gateway(tokenizer, around=Surroundings(feedback=FeedbackDesk(store)))

    def give(number: int) -> int:
        if number == NUM // 4:
            server.stop()
            stopped.set()
        if number == NUM // 2:
            assert stopped.wait(60)
            server.start()
        body = {"model": "law", "messages": [{"role": "user", "content": f"Question {number}"}], "temperature": 0}
        answer = gateway.http.post("/v1/chat/completions", json=body).json()["id"]
        given = {"answer": answer, "rating": "up", "tags": [str(number)]}
        return int(gateway.http.post("/v1/feedback", json=given).status_code)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(give, range(NUM))) == [201] * NUM
    until = time.monotonic() + 30
    while list((Path(os.environ["DANLU_HOME"]) / "feedback-waiting").glob("*.json")):
        assert time.monotonic() < until, "what waited is brought once the database is back"
        time.sleep(0.1)
    gateway.close()
    assert sorted(int(record["tags"][0]) for record in rows(server.url)) == list(range(NUM))


def test_what_waits_is_brought_by_the_next_process_once(server: Server, tmp_path: Path) -> None:
    record = {"id": "a1", "time": "2026-11-27T00:00:00Z", "answer": "x", "key": "", "model": "law@1", "messages": []}
    store = open_store(server.url)
    server.stop()
    store.add(record | {"said": "yes", "rating": "up", "correction": None, "tags": []})
    store.close()
    server.start()
    for _ in range(2):
        exported = run_feedback_export(server.url, tmp_path / f"rows-{time.monotonic_ns()}")
        assert exported["rows"]["read"] == 1
    assert len(rows(server.url)) == 1


def test_a_database_that_is_away_or_none_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="PostgreSQL can't be asked"):
        run_feedback_export("postgresql://danlu@127.0.0.1:9/none", tmp_path / "rows")
    with pytest.raises(InputError, match="this is no address of PostgreSQL"):
        open_store("postgresql://danlu@127.0.0.1:port/none?nothing=1")
