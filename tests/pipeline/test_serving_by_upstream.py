"""`danlu serve --engine upstream` as its users meet it: a process before a server that is not Danlu's."""

from __future__ import annotations

import httpx
from served import Served
from upstream_server import PIECES, UpstreamServer


def test_the_models_of_an_upstream_are_served_and_its_death_is_said() -> None:
    upstream = UpstreamServer(["acme/base", "bank-v3"])
    served = Served("--engine", "upstream", "--upstream", upstream.url, "--upstream-model", "bank=bank-v3")
    said = served.ask("bank", "Who are you?")
    assert (said.model, said.choices[0].message.content) == ("bank", "".join(PIECES))
    assert upstream.asked[-1][1]["model"] == "bank-v3"
    assert {model.id for model in served.client.models.list()} == {"acme/base", "bank"}
    upstream.close()
    served.until(lambda: served.ready()["status"] == "away", 20)
    assert httpx.get(f"{served.url}/readyz").status_code == 503
    status, result = served.end()
    assert (status, result["answers"]) == (0, 1)
