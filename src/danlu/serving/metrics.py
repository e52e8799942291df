"""What Prometheus reads at `/metrics`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Of one gateway.

    Args:
        gauges: figures of this moment, by name.
        counts: figures that only grow, by name.
    """

    def __init__(self, gauges: Callable[[], Mapping[str, float]], counts: Callable[[], Mapping[str, float]]) -> None:
        self._registry = CollectorRegistry()
        self._gauges, self._counts = gauges, counts
        make: Any = {"registry": self._registry}
        self.requests = Counter("danlu_requests", "Requests by path and status", ["path", "status"], **make)
        self.answers = Counter("danlu_answers", "Answers by version and how they ended", ["version", "finish"], **make)
        self.tokens = Counter("danlu_tokens", "Tokens by version: prompt, reused, answer", ["version", "kind"], **make)
        self.swaps = Counter("danlu_swaps", "Names that went over to another version, or did not", ["outcome"], **make)
        self.cache = Counter("danlu_cache", "Answers: kept (hit), made (miss), Redis away (away)", ["outcome"], **make)
        self.feedback = Counter("danlu_feedback", "Feedback by version and rating", ["version", "rating"], **make)
        self.first_token = Histogram("danlu_first_token_seconds", "Until the first token", buckets=_SECONDS, **make)
        self.seconds = Histogram("danlu_answer_seconds", "Until the last token", buckets=_SECONDS, **make)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def collect(self) -> Iterable[Any]:
        """The engine's and the shelf's own figures, when they are asked for."""
        for name, value in self._gauges().items():
            yield GaugeMetricFamily(f"danlu_{name}", name.replace("_", " "), value=value)
        for name, value in self._counts().items():
            yield CounterMetricFamily(f"danlu_engine_{name}", name.replace("_", " "), value=value)

    def num_answers(self) -> int:
        """Answers that came to their end."""
        samples = [one for metric in self.answers.collect() for one in metric.samples if one.name.endswith("_total")]
        return int(sum(one.value for one in samples if one.labels["finish"] != "abandoned"))

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)
