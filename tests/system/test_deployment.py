"""`danlu deploy`: a real nginx, two gateways and Redis, started by one command; files that other tools take."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from click.testing import CliRunner
from served_runs import NUM_TOKENS, QUESTIONS, expected_answers, write_run
from unrest import ask_amid, move_versions

from danlu.audit import verify
from danlu.cli import cli
from danlu.registry import Registry

REQUIRED = bool(os.environ.get("DANLU_REQUIRE_PROGRAMS"))
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
needs_nginx = pytest.mark.skipif(
    not REQUIRED and not (NGINX and shutil.which("redis-server")), reason="nginx or redis-server is not installed"
)
PORT = 18480 + os.getpid() % 1000 * 16


def deploy(folder: Path, *words: str) -> dict[str, Any]:
    done = CliRunner().invoke(cli, ["deploy", "--out", str(folder), *words, "--json"], catch_exceptions=False)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


class Deployment:
    """One that runs.

    Args:
        folder: to write.
        registry: of its adapters.
        words: for `danlu deploy`.
    """

    def __init__(self, folder: Path, registry: Registry, *words: str) -> None:
        self.about = deploy(folder, "--registry", registry.url, "--port", str(PORT), *words)
        self.folder, self.registry = folder, registry
        start = [sys.executable, "-m", "danlu", "deploy", "--start", str(folder)]
        self.process = subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        context = ssl.create_default_context(cafile=str(folder / "certificate.pem"))
        self.http = httpx.Client(
            base_url=self.about["url"],
            verify=context,
            timeout=60,
            limits=httpx.Limits(max_connections=64),
            headers={"authorization": f"Bearer {self.about['key']}"},
        )
        self.client = openai.OpenAI(
            base_url=f"{self.about['url']}/v1", api_key=self.about["key"], max_retries=0, http_client=self.http
        )

    def pid(self, program: str) -> int:
        words = [sys.executable, "-m", "supervisor.supervisorctl", "-c", str(self.folder / "supervisord.conf")]
        return int(subprocess.run([*words, "pid", program], capture_output=True, text=True, check=False).stdout or 0)

    def kill(self, program: str) -> float:
        os.kill(self.pid(program), signal.SIGKILL)
        return time.monotonic()

    def gateways_ready(self) -> int:
        ready = 0
        for number in (1, 2):
            with contextlib.suppress(httpx.HTTPError):
                ready += httpx.get(f"http://127.0.0.1:{PORT + number}/readyz").status_code == 200
        return ready

    def until_ready(self, gateways: int = 2, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while self.gateways_ready() < gateways:
            assert time.monotonic() < end, self.logs()
            assert self.process.poll() is None, self.logs()
            time.sleep(0.2)

    def logs(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-2000:] for path in (self.folder / "logs").glob("*.log"))

    def ask(self, question: str, stream: bool) -> tuple[str, str, str]:
        """The answer's id, the version that made it, and its text."""
        asked: dict[str, Any] = {"max_tokens": NUM_TOKENS, "temperature": 0}
        messages: Any = [{"role": "user", "content": question}]
        if not stream:
            made = self.client.chat.completions.create(model="helper", messages=messages, **asked)
            return made.id, made.model, str(made.choices[0].message.content)
        chunks = list(self.client.chat.completions.create(model="helper", messages=messages, stream=True, **asked))
        assert chunks[-1].choices[0].finish_reason, "the stream was cut off"
        return chunks[0].id, chunks[0].model, "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    def close(self) -> None:
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


@pytest.fixture(scope="module")
def runs(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [write_run(folder / name, tiny_base, seed) for seed, name in enumerate(("law", "support", "medicine"))]


@pytest.fixture(scope="module")
def deployment(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("deployed")
    registry = Registry.open(str(folder / "registry"))
    for run in runs:
        registry.add(run, "helper")
    registry.promote("helper@1", "production")
    made = Deployment(folder / "deployment", registry, "--self-signed", "--requests-per-second", "1000")
    made.until_ready()
    yield made
    made.close()


@needs_nginx
def test_while_adapters_move_and_a_gateway_and_redis_are_killed_answers_are_right_and_accounted_for(
    deployment: Deployment, runs: list[Path]
) -> None:
    """32 clients; `make soak` asks 5,000 times. Half of the answers are streamed."""
    by_version = {f"helper@{number}": run for number, run in enumerate(runs, 1)}
    right = {(run.name, question): expected_answers(run, question)[0] for run in runs for question in QUESTIONS}
    answered: list[str] = []
    wrong: list[Any] = []
    failed: list[tuple[float, float, str]] = []
    killed: list[float] = []
    versions: Counter[str] = Counter()

    def ask(number: int) -> None:
        question, began = QUESTIONS[number % len(QUESTIONS)], time.monotonic()
        try:
            id, model, text = deployment.ask(question, stream=number % 2 == 0)
        except (openai.OpenAIError, httpx.HTTPError, AssertionError) as error:
            failed.append((began, time.monotonic(), f"{type(error).__name__}: {error}"))
            return
        answered.append(id)
        versions[model] += 1
        if text != right[by_version[model].name, question]:
            wrong.append((model, question, text))

    def disturb(act: int) -> None:
        move_versions(deployment.registry, act, by_version)
        if act == 4:
            killed.append(deployment.kill("gateway-1"))
        if act == 8:
            deployment.kill("redis")

    asked = int(os.environ.get("DANLU_SOAK_DEPLOYMENT", "500"))
    acts = ask_amid(ask, 32, asked, disturb, 9, lambda: len(versions) > 1)
    assert not wrong
    assert len(killed) == 1
    assert all(began < killed[0] < ended for began, ended, _ in failed), failed
    assert len(failed) <= 32
    total = len(answered) + len(failed)
    assert total >= asked
    assert len(versions) > 1
    deployment.until_ready()
    assert_each_answer_is_in_the_audit_log(deployment, answered)
    sys.stdout.write(f"{total} requests, {len(failed)} failed, {acts} acts, {dict(versions)}\n")


def assert_each_answer_is_in_the_audit_log(deployment: Deployment, answered: list[str]) -> None:
    path = deployment.folder / "audit.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DANLU_AUDIT", str(path))
        assert verify()["entries"] >= len(answered)
    told = Counter(json.loads(line).get("answer") for line in path.read_text().splitlines())
    assert [told[id] for id in answered] == [1] * len(answered)


@needs_nginx
def test_both_gateways_answer_and_are_on_one_dashboard(deployment: Deployment) -> None:
    end = time.monotonic() + 30
    while len(gateways := deployment.http.get("/admin/gateways").json()["gateways"]) < 2:
        assert time.monotonic() < end
        time.sleep(0.3)
    assert list(gateways) == ["gateway-1", "gateway-2"]
    assert all("danlu_adapters_loaded" in text for text in gateways.values())


@needs_nginx
def test_a_stream_comes_through_nginx_piece_by_piece(deployment: Deployment) -> None:
    body = {"model": "helper", "messages": [{"role": "user", "content": QUESTIONS[0]}], "max_tokens": 400}
    times = []
    body |= {"stream": True, "temperature": 1.0}
    with deployment.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        for _ in answer.iter_raw():
            times.append(time.monotonic())
    assert len(times) > 10
    assert times[-1] - times[0] > 0.2 * (times[-1] - times[0] + 0.01), "not all at its end"


@needs_nginx
def test_nginx_says_what_it_refuses_in_openai_s_shape(deployment: Deployment) -> None:
    large = deployment.http.post("/v1/chat/completions", content=b" " * (5 << 20))
    assert large.status_code == 413
    assert large.json()["error"]["code"] == "request_too_large"
    without = httpx.get(f"{deployment.about['url']}/v1/models", verify=False)
    assert without.status_code == 401
    assert httpx.get(f"{deployment.about['url']}/readyz", verify=False).json()["faults"] == []


@pytest.mark.parametrize("target", ["nginx", "systemd"])
@needs_nginx
def test_nginx_takes_its_file(tmp_path: Path, target: str) -> None:
    folder = tmp_path / "a folder"
    deploy(folder, "--target", target, "--registry", str(tmp_path / "registry"), "--domain", "chat.example.com")
    done = subprocess.run([str(NGINX), "-t", "-c", f"{folder}/nginx.conf"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not REQUIRED and not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_takes_its_units(tmp_path: Path) -> None:
    folder = tmp_path / "units"
    result = deploy(folder, "--target", "systemd", "--registry", str(tmp_path / "registry"), "--gateways", "3")
    units = [str(folder / name) for name in result["files"] if name != "nginx.conf"]
    shutil.copy(folder / "danlu-gateway@.service", folder / "danlu-gateway@8081.service")
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if str(folder) in line]
    assert done.returncode == 0, done.stderr
    assert not said


@pytest.mark.skipif(not REQUIRED and not shutil.which("docker-compose"), reason="docker-compose is not installed")
def test_compose_takes_its_file(tmp_path: Path) -> None:
    folder = tmp_path / "compose"
    deploy(folder, "--target", "compose", "--registry", str(tmp_path / "registry"), "--gateways", "3")
    words = ["docker-compose", "-f", str(folder / "compose.yaml"), "config"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for number in (1, 2, 3):
        assert f"gateway-{number}" in done.stdout


def test_kubernetes_schemas_take_every_object(tmp_path: Path) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="pip install 'danlu[dev]'")
    from ruamel.yaml import YAML

    folder = tmp_path / "k8s"
    deploy(folder, "--target", "k8s", "--domain", "chat.example.com", "--gateways", "3")
    objects = list(YAML(typ="safe").load_all((folder / "danlu.yaml").read_text()))
    assert [one["kind"] for one in objects].count("Deployment") == 2
    for one in objects:
        validate.validate(one, "1.36", strict=True)
    bad = {**objects[1], "spec": {**objects[1]["spec"], "replicas": "three"}}
    with pytest.raises(validate.ValidationError):
        validate.validate(bad, "1.36", strict=True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--target", "heroku"], "nginx, systemd, compose, k8s"),
        (["--port", "65500"], "leaves no room"),
        (["--domain", "a b; include x"], "is no name of a server"),
        (["--tls", "/nowhere/a.pem", "/nowhere/a.key"], "there is no such file"),
        (["--registry", 'a"b'], "a path has a character"),
    ],
)
def test_what_is_wrong_is_one_message_and_nothing_is_written(tmp_path: Path, words: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "danlu", "deploy", "--out", str(tmp_path / "out"), *words],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
