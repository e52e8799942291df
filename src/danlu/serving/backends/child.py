"""A server that the gateway starts, watches and ends: one program at a free port of the loopback."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import httpx

from danlu.errors import Fault, ResourceError
from danlu.tracking.progress import say

_LOOK_SECONDS, _SAID_LINES = 0.5, 200
_ERROR = re.compile(r"\b\w*Error: .+")
_END_SECONDS = 10.0  # for it to end by itself


class Child:
    """A server process; started again when it ends without being told to, three times in ten minutes.

    Args:
        command: gets the port to listen at.
        variables: of its environment.
        ready_seconds: within which it must answer at `/health`.
        on_restart: is called when it answers again after it had ended.

    Raises:
        ResourceError: it ends, or does not answer in time; with what it said last.
    """

    def __init__(
        self,
        command: Callable[[int], Sequence[str]],
        variables: Mapping[str, str],
        ready_seconds: float,
        on_restart: Callable[[], None] = lambda: None,
    ) -> None:
        self._command, self._variables = command, dict(variables)
        self._ready_seconds, self._on_restart = ready_seconds, on_restart
        self.port = _free_port()
        self.fault: str | None = None
        self._said: deque[str] = deque(maxlen=_SAID_LINES)
        self._closing = threading.Event()
        self._ends: deque[float] = deque(maxlen=3)
        atexit.register(self.close)
        self.process = self._start()
        try:
            self._wait()
        except BaseException:
            self.close()
            raise
        self._watcher = threading.Thread(target=self._watch, name="danlu-child", daemon=True)
        self._watcher.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def said(self) -> str:
        """What it said last."""
        return "\n".join(self._said)

    @property
    def complaint(self) -> str:
        """Of what it said last the first error, which others follow from; without one the last line."""
        lines = list(self._said)
        errors = [found[0] for line in lines if (found := _ERROR.search(line))]
        return (errors[0] if errors else lines[-1] if lines else "nothing")[:500]

    def close(self) -> None:
        """Ends it and what it started."""
        self._closing.set()
        process = self.process
        for how in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_SECONDS)
                break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it left behind
        atexit.unregister(self.close)

    def _start(self) -> subprocess.Popen[str]:
        self._said.clear()  # of one that ended before, and whose complaint was told
        process = subprocess.Popen(
            list(self._command(self.port)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=self._variables,
            start_new_session=True,  # a Ctrl-C at the gateway must not end it before the running answers
        )
        threading.Thread(target=self._hear, args=(process,), daemon=True).start()
        return process

    def _hear(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self._said.append(line.rstrip())

    def _wait(self) -> None:
        until = time.monotonic() + self._ready_seconds
        while not self._closing.is_set():
            if self.process.poll() is not None:
                time.sleep(0.1)  # for its last words
                raise self._failed(f"ended with status {self.process.returncode}")
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/health", timeout=5, trust_env=False).status_code == 200:
                    return
            if time.monotonic() > until:
                raise self._failed(f"did not answer in {self._ready_seconds:g} s")
            time.sleep(_LOOK_SECONDS)

    def _failed(self, how: str) -> ResourceError:
        if self.process.returncode == -signal.SIGILL:
            what = f"the server {how}: it is built for processors with instructions that this one lacks"
            return ResourceError(Fault(what, " ".join(self._command(self.port)), "for vLLM without a GPU: AVX2"))
        return ResourceError(Fault(f"the server {how}: {self.complaint}", " ".join(self._command(self.port))))

    def _watch(self) -> None:
        while not self._closing.wait(_LOOK_SECONDS):
            if self.process.poll() is None:
                continue
            self.fault = f"the server ended with status {self.process.returncode}, and is started again"
            say(f"warning: {self.fault}; it said: {self.complaint}")
            if len(self._ends) == 3 and time.monotonic() - self._ends[0] < 600:
                self.fault = "the server ended for the fourth time in ten minutes, and is not started again"
                say(f"error: {self.fault}")
                return
            self._ends.append(time.monotonic())
            self._again()

    def _again(self) -> None:
        with contextlib.suppress(ResourceError):  # the watcher sees it again, and says so
            self.process = self._start()
            self._wait()
            self._on_restart()
            self.fault = None


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port
