"""What is to be deployed, and which files that takes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

# For each target its files, by the template that each is made of.
TARGETS: Mapping[str, Mapping[str, str]] = {
    "nginx": {"nginx.conf": "nginx.conf.j2", "supervisord.conf": "supervisord.conf.j2"},
    "systemd": {
        "nginx.conf": "nginx.conf.j2",
        "danlu.target": "danlu.target.j2",
        "danlu-gateway@.service": "danlu-gateway@.service.j2",
        "danlu-redis.service": "danlu-redis.service.j2",
        "danlu-nginx.service": "danlu-nginx.service.j2",
    },
    "compose": {
        "compose.yaml": "compose.yaml.j2",
        "nginx.conf": "nginx.conf.j2",
        "Dockerfile": "Dockerfile.j2",
    },
    "k8s": {"danlu.yaml": "k8s.yaml.j2", "Dockerfile": "Dockerfile.j2"},
}


@dataclass(frozen=True)
class Plan:
    """A deployment.

    Attributes:
        target: of `TARGETS`.
        folder: for the files, absolute.
        gateways: how many.
        port: that nginx listens at; the gateways are at the next ones, Redis at the hundredth after it.
        registry: folder or object storage of the adapters.
        domain: name of the server; "_" is any.
        tls: files of the certificate and its key, or None.
        requests_per_second: of one address, on average; ten times as many at once.
        serve_options: more words for `danlu serve`.
    """

    target: str
    folder: Path
    gateways: int = 2
    port: int = 8080
    registry: str = ""
    domain: str = "_"
    tls: tuple[Path, Path] | None = None
    requests_per_second: int = 20
    serve_options: tuple[str, ...] = ()
    python: str = field(default=sys.executable)

    @property
    def inside(self) -> bool:
        """Whether all runs in containers."""
        return self.target in ("compose", "k8s")

    @property
    def gateway_ports(self) -> list[int]:
        """Of the gateways on this machine."""
        return [self.port + 1 + number for number in range(self.gateways)]

    @property
    def redis_port(self) -> int:
        """Of Redis on this machine."""
        return self.port + 100

    @property
    def addresses(self) -> list[str]:
        """Of the gateways, as nginx sees them."""
        if self.inside:
            return [f"gateway-{number}:8000" for number in range(1, self.gateways + 1)]
        return [f"127.0.0.1:{port}" for port in self.gateway_ports]

    def files(self) -> dict[str, str]:
        """The files by name."""
        templates = Environment(
            loader=PackageLoader("danlu.serving.deployment"),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        made = TARGETS[self.target].items()
        return {name: templates.get_template(template).render(plan=self) for name, template in made}
