"""Which models of an upstream's answer under which names, and the check of those that are to be a run's adapter."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.data.template import is_plain
from danlu.errors import Fault, InputError, ModelError
from danlu.export.comparison import BOUNDS, Comparison
from danlu.serving.backends.interface import OpenedEngine
from danlu.serving.backends.upstream import Upstream, UpstreamEngine, models_of, post
from danlu.serving.catalogue import Catalogue, Edition, RunEdition, RunFolders
from danlu.serving.loading import require_base
from danlu.serving.proof import judge
from danlu.training.probes import Expected, Probe, Probes, read_probes
from danlu.training.trained import open_run

_NUM_LIKELIEST = 1


class TheirEdition(RunEdition):
    """A model of the upstream's, under its own name."""

    def __str__(self) -> str:
        return self.name


class TheirModels(RunFolders):
    """The upstream's models as a catalogue, where there are neither runs nor a registry."""

    def fetch(self, edition: Edition) -> Path:
        """Nothing of it is here."""
        return self.runs[edition.name].folder


def their_models(upstream: Upstream, base: str | None, names: Mapping[str, str]) -> TheirModels:
    """All models of an upstream but its base, under the gateway's names for them.

    Args:
        upstream: the server.
        base: its name in the gateway; None is the server's first model.
        names: what the server calls a model, by its name in the gateway.
    """
    theirs = models_of(upstream)
    ours = {theirs: ours for ours, theirs in names.items()}
    served = [ours.get(name, name) for name in theirs]
    base = base or next(iter(served), None)
    others = [name for name in served if name != base]
    return TheirModels({name: TheirEdition(Path(name), name, _hash(upstream, name)) for name in others})


def open_upstream(
    upstream: Upstream, base: str | None, names: Mapping[str, str], kind: str, catalogue: Catalogue
) -> OpenedEngine:
    """An upstream, whose models stand for the adapters of a catalogue.

    Args:
        upstream: the server.
        base: the base's name in the gateway; None is the server's first model.
        names: what the server calls a model, by its name in the gateway: `bank`, `bank@3`, the base.
        kind: what it computes in, a key of `BOUNDS`: how near it must come to what runs recorded.
        catalogue: of the adapters.

    Raises:
        InputError: the server can't be reached, or has no such model.
    """
    listed = models_of(upstream)
    if not listed:
        raise InputError(Fault("the upstream has no model", upstream.url, hint="load one there first"))
    ours = {theirs: ours for ours, theirs in names.items()}
    base = base or ours.get(listed[0], listed[0])
    theirs = names.get(base, base if base in listed else listed[0])
    engine = UpstreamEngine(upstream, theirs)
    loads = UpstreamLoads(engine, catalogue, names, kind)
    return OpenedEngine(base, _hash(upstream, theirs), f"upstream {upstream.url}", engine, loads)


@dataclass(frozen=True)
class UpstreamLoads:
    """See `danlu.serving.shelf.Loads`; what is to be loaded must be at the server already."""

    engine: UpstreamEngine
    catalogue: Catalogue
    names: Mapping[str, str]
    kind: str

    def load(self, name: str, folder: Path, proven: bool) -> None:
        """Finds the server's model for a version, and has it say what the version's run recorded.

        Raises:
            ModelError: the server has no such model.
            GateError: it misses the probes.
        """
        listed, edition = models_of(self.engine.upstream), self._edition(name)
        mapped = self.names.get(str(edition)) or self.names.get(edition.name)
        theirs = mapped or (str(edition) if str(edition) in listed else edition.name)
        if theirs not in listed:
            hint = f"load it there, or say which it is: --upstream-model {edition}=NAME"
            what = f"the upstream has no model {theirs}"
            raise ModelError(Fault(what, self.engine.upstream.url, ", ".join(listed[:20]), hint))
        if not proven and not isinstance(self.catalogue, TheirModels):
            require_base(open_run(folder), None)
            probes = read_probes(folder)
            judge([], compare_texts(self._ask(theirs), probes), BOUNDS[self.kind], f"{theirs}, {folder}")
        self.engine.names[name] = theirs

    def unload(self, name: str) -> None:
        """Forgets which model it is."""
        self.engine.names.pop(name, None)

    def _ask(self, theirs: str) -> Callable[[str, dict[str, Any]], dict[str, Any]]:
        return lambda path, body: post(self.engine.upstream, path, {**body, "model": theirs})

    def _edition(self, wanted: str) -> Edition:
        listing = self.catalogue.state()
        editions = (one for name in listing.names() for one in listing.versions(name))
        return next(one for one in editions if one.hash == wanted)


def compare_texts(ask: Callable[[str, dict[str, Any]], dict[str, Any]], probes: Probes) -> Comparison:
    """Greedy answers of an engine that is asked by messages, beside those that a run recorded.

    The places of an answer up to the first that differs are compared: the token by its text, and its log-probability
    where the engine tells it. Without these a place is a character.

    Args:
        ask: posts to a path of the API's, with the model's name put in.
        probes: of the run.
    """
    places, agreed, equal, largest = 0, 0, 0, 0.0
    for probe in probes.probes:
        wanted = probe.expected["float32"]
        said = _Said(ask(*_question(probe, probes.max_new_tokens)))
        alike, off = said.along(wanted)
        same = said.text == wanted.text and (said.finish == "stop") == (wanted.answer_ids[-1] in probes.stop_ids)
        equal, agreed, largest = equal + same, agreed + alike, max(largest, off)
        places += alike + (not same)
    return Comparison(
        max_logit_difference=largest,
        mean_kl=math.nan,
        max_kl=math.nan,
        argmax_agreement=agreed / max(places, 1),
        greedy_equal=equal,
        prompts=len(probes.probes),
        positions=places,
        against="float32",
    )


def _question(probe: Probe, length: int) -> tuple[str, dict[str, Any]]:
    asked: dict[str, Any] = {"temperature": 0, "max_tokens": length}
    if is_plain(probe.messages):
        text = "".join(message["content"] for message in probe.messages)
        return "completions", {**asked, "prompt": text, "logprobs": _NUM_LIKELIEST}
    turns = [{"role": turn["role"], "content": turn["content"]} for turn in probe.messages]
    return "chat/completions", {**asked, "messages": turns, "logprobs": True, "top_logprobs": _NUM_LIKELIEST}


class _Said:
    """One answer in either of OpenAI's forms."""

    def __init__(self, content: dict[str, Any]) -> None:
        choice = content["choices"][0]
        self.finish = choice.get("finish_reason")
        self.text = str(choice["message"]["content"] if "message" in choice else choice["text"])
        told = choice.get("logprobs") or {}
        if told.get("content"):
            self.tokens = [(str(one["token"]), float(one["logprob"])) for one in told["content"]]
        else:
            pairs = zip(told.get("tokens") or [], told.get("token_logprobs") or [], strict=True)
            self.tokens = [(str(token), float(value)) for token, value in pairs if value is not None]

    def along(self, wanted: Expected) -> tuple[int, float]:
        """Places that agree, and the largest difference of their log-probabilities in nats."""
        if not self.tokens:
            pairs = enumerate(zip(self.text, wanted.text, strict=False))
            shorter = min(len(self.text), len(wanted.text))
            return next((place for place, (one, other) in pairs if one != other), shorter), 0.0
        recorded, text, alike, largest = _log_probabilities(wanted), "", 0, 0.0
        for (token, value), expected in zip(self.tokens, recorded, strict=False):
            text += token
            if not wanted.text.startswith(text):
                break
            alike, largest = alike + 1, max(largest, abs(value - expected))
        return alike, largest


def _log_probabilities(wanted: Expected) -> Sequence[float]:
    if wanted.logsumexp is None:
        return []
    found: list[float] = (wanted.logits[:, 0] - wanted.logsumexp).tolist()
    return found


def _hash(upstream: Upstream, name: str) -> str:
    return hashlib.sha256(f"{upstream.url} {name}".encode()).hexdigest()
