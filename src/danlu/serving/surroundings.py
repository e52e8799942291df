"""What stands around a gateway's engine: who may come in, what is noted of it, and what gateways share."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass, field

from danlu.errors import Fault, InputError
from danlu.serving.access.allowance import Allowance
from danlu.serving.access.guard import Guard
from danlu.serving.access.journal import Journal
from danlu.serving.access.keys import Keyring, keys_path
from danlu.serving.feedback.desk import FeedbackDesk
from danlu.serving.feedback.stores import open_store
from danlu.serving.redis_link import RedisLink


@dataclass(frozen=True)
class Access:
    """Who may ask, and what is noted.

    Attributes:
        keys: a file of keys; "" is the usual one; None: no keys are asked for.
        open: without keys, at an address that others reach.
        audit: each request is told to the audit log; None: where keys are asked for.
        audit_text: with its texts.
        feedback: a file or a database, see `danlu.serving.feedback.stores`; None: the usual file.
        name: of the gateway; None: host and port.
    """

    keys: str | None = None
    open: bool = False
    audit: bool | None = None
    audit_text: bool = False
    feedback: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class Surroundings:
    """See `open_surroundings`.

    Attributes:
        guard: lets requests in.
        feedback: takes what users say of answers; None: it is not taken.
        link: to the Redis that gateways share, or None.
        name: of this gateway.
    """

    guard: Guard = field(default_factory=Guard)
    feedback: FeedbackDesk | None = None
    link: RedisLink | None = None
    name: str = "gateway"

    def close(self) -> None:
        """Writes what is left."""
        if self.guard.journal is not None:
            self.guard.journal.close()
        if self.feedback is not None:
            self.feedback.store.close()


def open_surroundings(access: Access, address: tuple[str, int], redis: str | None = None) -> Surroundings:
    """Reads the keys, and opens the journal and the store of feedback.

    Args:
        access: who may ask.
        address: host and port of the gateway.
        redis: address of the Redis that gateways share.

    Raises:
        InputError: a file or an address is wrong, or others could ask without a key.
    """
    host, port = address
    if access.keys is None and not access.open and not _is_loopback(host):
        hint = "make a key with `danlu keys create --name NAME` and add --keys; or, where all may do all, --open"
        raise InputError(Fault(f"at {host} others reach this gateway, and no keys are asked for", "--host", hint=hint))
    keyring = None if access.keys is None else Keyring(keys_path(access.keys))
    link = RedisLink(redis) if redis else None
    name = access.name or f"{socket.gethostname()}:{port}"
    audited = keyring is not None if access.audit is None else access.audit
    journal = Journal(name, access.audit_text) if audited else None
    feedback = FeedbackDesk(open_store(access.feedback), link)
    feedback.store.start()
    return Surroundings(Guard(keyring, Allowance(link), journal), feedback, link, name)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
