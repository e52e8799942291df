"""`danlu deploy`: writes the files of a deployment, and on this machine starts it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from danlu.errors import Fault, InputError, ResourceError, WorkError
from danlu.registry import Registry
from danlu.runs import create_folder, write_text
from danlu.serving.access.keys import make_key
from danlu.serving.deployment.plan import TARGETS, Plan

# What must be there to start the files of a target on this machine.
_PROGRAMS = {"nginx": ("nginx", "redis-server")}
_PORTS = range(1, 65436)


def run_deploy(plan: Plan, self_signed: bool = False) -> dict[str, Any]:
    """Writes the files, with a first key whose role is admin.

    Args:
        plan: what is to be deployed; its folder is new or empty.
        self_signed: make a certificate for the domain, which browsers warn of.

    Returns:
        `folder`, `files`, `key` (told once), `url`, `start` (the command).

    Raises:
        InputError: a value is wrong, or the folder has something.
        ResourceError: openssl is needed and not installed.
    """
    _require_fit(plan, self_signed)
    folder = create_folder(plan.folder, "folder of the deployment", "--out").resolve()
    registry = plan.registry if "://" in plan.registry else str(Path(plan.registry).expanduser().resolve())
    plan = replace(plan, folder=folder, registry=registry)
    if self_signed:
        plan = replace(plan, tls=_make_certificate(plan))
    for name in ("logs", "tmp", "redis", "home", "data"):
        (folder / name).mkdir(exist_ok=True)
    for name, text in plan.files().items():
        write_text(folder / name, text)
    keys = folder / "data" / "keys.json" if plan.target == "compose" else folder / "keys.json"
    secret, _ = make_key(keys, "admin", ["admin"])
    scheme = "https" if plan.tls else "http"
    return {
        "folder": str(folder),
        "files": sorted(plan.files()),
        "key": secret,
        "url": f"{scheme}://127.0.0.1:{plan.port}",
        "start": _start_command(plan),
    }


def start(folder: Path) -> NoReturn:
    """Becomes supervisord, which runs all of a deployment for nginx until SIGTERM or Ctrl-C.

    Raises:
        InputError: the folder is none.
        ResourceError: a program is not installed.
    """
    config = folder / "supervisord.conf"
    if not config.is_file():
        hint = "danlu deploy --target nginx --out FOLDER"
        raise InputError(Fault("there is no deployment for nginx here", str(folder), hint=hint))
    missing = [program for program in _PROGRAMS["nginx"] if _program(program) is None]
    if missing:
        hint = f"sudo apt-get install {' '.join(missing)}"
        raise ResourceError(Fault(f"{', '.join(missing)} is not installed", hint=hint))
    if find_spec("supervisor") is None:
        raise ResourceError(Fault("supervisor is not installed", hint="pip install 'danlu[deploy]'"))
    os.environ["PATH"] += ":/usr/sbin"  # where Debian has nginx
    words = [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(config)]
    os.execv(sys.executable, words)


def _require_fit(plan: Plan, self_signed: bool) -> None:
    if plan.target not in TARGETS:
        raise InputError(Fault(f"unknown target {plan.target[:40]!r}", "--target", ", ".join(TARGETS)))
    if plan.port not in _PORTS:
        raise InputError(Fault(f"port {plan.port} leaves no room for the gateways' own", "--port", "1 to 65435"))
    if any(character in str(value) for value in (plan.folder, plan.registry) for character in '"%\n'):
        raise InputError(Fault("a path has a character that no configuration can hold", "--out, --registry", 'no ", %'))
    if not all(character.isalnum() or character in "-._*" for character in plan.domain):
        raise InputError(Fault(f"{plan.domain[:60]!r} is no name of a server", "--domain"))
    if self_signed and plan.tls:
        raise InputError(Fault("a certificate is given, and one is to be made", "--tls, --self-signed"))
    for path in plan.tls or ():
        if not path.is_file():
            raise InputError(Fault("there is no such file", str(path), "--tls CERTIFICATE KEY, in PEM"))
    if plan.target != "k8s" and "://" not in plan.registry:
        Registry.open(plan.registry)


def _start_command(plan: Plan) -> str:
    return {
        "nginx": f"danlu deploy --start {plan.folder}",
        "systemd": f"sudo systemctl enable --now {plan.folder}/*.service {plan.folder}/danlu.target",
        "compose": f"docker compose -f {plan.folder}/compose.yaml up --build -d",
        "k8s": f"kubectl apply -f {plan.folder}/danlu.yaml",
    }[plan.target]


def _make_certificate(plan: Plan) -> tuple[Path, Path]:
    """A certificate that signs itself, good for a year."""
    if shutil.which("openssl") is None:
        raise ResourceError(Fault("openssl is not installed", hint="sudo apt-get install openssl, or give --tls"))
    made = plan.folder / "certificate.pem", plan.folder / "certificate.key"
    name = "localhost" if plan.domain == "_" else plan.domain
    names = f"subjectAltName=DNS:{name},DNS:localhost,IP:127.0.0.1"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "365", "-subj", f"/CN={name}"]
    done = subprocess.run(
        [*words, "-addext", names, "-out", str(made[0]), "-keyout", str(made[1])], capture_output=True, text=True
    )
    if done.returncode:
        raise WorkError(Fault(f"openssl can't make a certificate: {done.stderr.strip()[-200:]}"))
    made[1].chmod(0o600)
    return made


def _program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
