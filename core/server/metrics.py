"""What the server counts, and how Prometheus reads it.

Counting happens on every request, so it is a few additions to plain numbers, from the event loop alone;
prometheus_client is imported, and its objects are made, only when somebody reads.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

__all__ = ["Metrics", "Series", "WorkerSample"]

DURATION_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
TTFB_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

SERIES_LIMIT = 2000
"""Pairs of model and path that are counted apart; names come from users, and later ones are counted as `other`."""


@dataclass(frozen=True, slots=True)
class WorkerSample:
    """The gauges of one worker, by name (`memory_bytes`, `restarts`, …); exposed as `modelrack_worker_<name>`."""

    model: str
    replica: int
    gauges: dict[str, float]


class Series:
    """The counters of one model on one path."""

    __slots__ = (
        "completion_tokens",
        "duration",
        "duration_s",
        "in_flight",
        "prompt_tokens",
        "statuses",
        "ttfb",
        "ttfb_s",
    )

    def __init__(self) -> None:
        self.in_flight = 0
        self.statuses: dict[int, int] = {}
        self.duration = [0] * (len(DURATION_BOUNDS_S) + 1)
        self.duration_s = 0.0
        self.ttfb = [0] * (len(TTFB_BOUNDS_S) + 1)
        self.ttfb_s = 0.0
        self.prompt_tokens = 0
        self.completion_tokens = 0

    def observe(
        self, status: int, duration_s: float, ttfb_s: float | None = None, usage: tuple[int, int] | None = None
    ) -> None:
        """Count a request that has ended."""
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.duration[bisect_left(DURATION_BOUNDS_S, duration_s)] += 1
        self.duration_s += duration_s
        if ttfb_s is not None:
            self.ttfb[bisect_left(TTFB_BOUNDS_S, ttfb_s)] += 1
            self.ttfb_s += ttfb_s
        if usage is not None:
            self.prompt_tokens += usage[0]
            self.completion_tokens += usage[1]


class Metrics:
    """Every counter of a server.

    Args:
        workers: gives the gauges of the workers at the time of reading; it may also be set later, as an attribute.
    """

    def __init__(self, workers: Callable[[], Iterable[WorkerSample]] | None = None) -> None:
        self.workers = workers
        self._series: dict[tuple[str, str], Series] = {}
        self._registry: CollectorRegistry | None = None

    def series(self, model: str, path: str) -> Series:
        """Return the counters of a model and path; `model` is empty where a request concerns none.

        Both must be names that exist, not what a client typed.
        """
        series = self._series.get((model, path))
        if series is None:
            key = (model, path) if len(self._series) < SERIES_LIMIT else ("other", "other")
            series = self._series.setdefault(key, Series())
        return series

    def render(self) -> tuple[bytes, str]:
        """Return all metrics in Prometheus' text format, and its content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
        from prometheus_client.process_collector import ProcessCollector

        if self._registry is None:
            self._registry = CollectorRegistry()
            self._registry.register(self)
            ProcessCollector(registry=self._registry)
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def collect(self) -> Iterator["Metric"]:
        """Make the metrics, as prometheus_client asks of a collector."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        names = ["model", "path"]
        requests = CounterMetricFamily("modelrack_requests", "Requests answered.", labels=[*names, "status"])
        in_flight = GaugeMetricFamily("modelrack_requests_in_flight", "Requests under way.", labels=names)
        duration = HistogramMetricFamily(
            "modelrack_request_duration_seconds", "From first byte in to last out.", labels=names
        )
        ttfb = HistogramMetricFamily(
            "modelrack_time_to_first_byte_seconds", "Until the first byte of the answer's body.", labels=names
        )
        tokens = CounterMetricFamily("modelrack_tokens", "Tokens, by kind.", labels=["model", "kind"])
        counts: dict[str, list[int]] = {}
        for (model, path), series in list(self._series.items()):
            for status, count in series.statuses.items():
                requests.add_metric([model, path, str(status)], count)
            in_flight.add_metric([model, path], series.in_flight)
            duration.add_metric(
                [model, path], _buckets(DURATION_BOUNDS_S, series.duration), sum_value=series.duration_s
            )
            if any(series.ttfb):
                ttfb.add_metric([model, path], _buckets(TTFB_BOUNDS_S, series.ttfb), sum_value=series.ttfb_s)
            if series.prompt_tokens or series.completion_tokens:
                total = counts.setdefault(model, [0, 0])
                total[0] += series.prompt_tokens
                total[1] += series.completion_tokens
        for model, (prompt, completion) in counts.items():
            tokens.add_metric([model, "prompt"], prompt)
            tokens.add_metric([model, "completion"], completion)
        yield from (requests, in_flight, duration, ttfb, tokens)
        yield from self._worker_gauges()

    def _worker_gauges(self) -> Iterator["Metric"]:
        from prometheus_client.core import GaugeMetricFamily

        gauges: dict[str, GaugeMetricFamily] = {}
        for sample in self.workers() if self.workers else ():
            for name, value in sample.gauges.items():
                if name not in gauges:
                    text = f"{name.replace('_', ' ').capitalize()} of a worker."
                    gauges[name] = GaugeMetricFamily(f"modelrack_worker_{name}", text, labels=["model", "replica"])
                gauges[name].add_metric([sample.model, str(sample.replica)], value)
        yield from gauges.values()


def _buckets(bounds: tuple[float, ...], counts: list[int]) -> list[tuple[str, float]]:
    """Add the counts up, as Prometheus' cumulative buckets."""
    total = 0
    result = []
    for bound, count in zip((*map(str, bounds), "+Inf"), counts, strict=True):
        total += count
        result.append((bound, float(total)))
    return result
