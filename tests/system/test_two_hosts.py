"""Two hosts, each with a network of its own and one cable between them: the same numbers, and an end when it is cut."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from small_runs import assert_same

REQUIRED = bool(os.environ.get("DANLU_REQUIRE_PROGRAMS"))
PORT = 29_500
CHECKPOINTS = "training.checkpoints={every_steps: 1}"

pytestmark = pytest.mark.skipif(
    (shutil.which("ip") is None or os.geteuid() != 0) and not REQUIRED, reason="needs root and `ip` (iproute2)"
)


@dataclass(frozen=True)
class Host:
    """A network namespace: its name, the end of the cable in it, and that end's address."""

    name: str
    device: str
    address: str

    def link(self, state: str) -> None:
        ip("-n", self.name, "link", "set", self.device, state)

    def torchrun(self, rank: int, master: Host, *words: str) -> subprocess.Popen[str]:
        """Starts this host's part of `danlu train`."""
        rendezvous = ["--node-rank", str(rank), "--master-addr", master.address, "--master-port", str(PORT)]
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
        return subprocess.Popen(
            ["ip", "netns", "exec", self.name, *torchrun, *rendezvous, "-m", "danlu", "train", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "GLOO_SOCKET_IFNAME": self.device},
        )

    def end_all(self) -> None:
        """Ends what still runs in this namespace, which only this test can have started."""
        for process in ip("netns", "pids", self.name).split():
            os.kill(int(process), signal.SIGKILL)


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    one, other = (Host(f"danlu-{os.getpid()}-{n}", f"cable{n}", f"10.213.77.{n}") for n in (1, 2))
    made = []
    try:
        for host in (one, other):
            try:
                ip("netns", "add", host.name)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
            made.append(host)
        ends = [["netns", host.name] for host in (one, other)]
        ip("link", "add", one.device, *ends[0], "type", "veth", "peer", "name", other.device, *ends[1])
        for host in (one, other):
            ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", host.device)
            ip("-n", host.name, "link", "set", "lo", "up")
            host.link("up")
        yield one, other
    finally:
        for host in made:
            host.end_all()
            ip("netns", "delete", host.name)


def start(hosts: tuple[Host, Host], *words: str) -> list[subprocess.Popen[str]]:
    return [host.torchrun(rank, hosts[0], *words) for rank, host in enumerate(hosts)]


def finish(runs: list[subprocess.Popen[str]]) -> None:
    for run in runs:
        _, stderr = run.communicate(timeout=120)
        assert run.returncode == 0, stderr


def test_two_hosts_end_where_one_process_does(
    hosts: tuple[Host, Host], recipe: Path, alone: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    finish(start(hosts, str(recipe), f"run.folder={folder}"))
    assert_same(folder, alone)
    assert (folder / "manifest.json").is_file()


def test_a_cut_cable_ends_both_hosts_within_a_minute_and_the_run_goes_on(
    hosts: tuple[Host, Host], recipe: Path, alone: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    words = [str(recipe), f"run.folder={folder}", CHECKPOINTS]
    runs = start(hosts, *words)
    deadline = time.monotonic() + 120
    while not (folder / "checkpoints" / "step-000002").is_dir():
        assert all(run.poll() is None for run in runs)
        assert time.monotonic() < deadline
        time.sleep(0.005)
    hosts[1].link("down")
    cut = time.monotonic()
    said = []
    for run in runs:
        said.append(run.communicate(timeout=max(1, cut + 60 - time.monotonic()))[1])
        assert run.returncode != 0
    for what, stderr in zip(("process 1 has been silent", "the process that all meet at"), said, strict=True):
        errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, stderr
        assert errors[0].startswith(f"error: {what}")
        assert "hint: " in stderr
    assert not (folder / "manifest.json").exists()
    hosts[1].link("up")
    finish(start(hosts, *words, "--resume"))
    assert_same(folder, alone)
