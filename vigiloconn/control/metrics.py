"""The metrics in OpenMetrics format, from the figures that `/status` has. Knows `prometheus_client`, and no part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from vigiloconn.control.exchange import Reply, Request
from vigiloconn.control.figures import Figure, find, group_of
from vigiloconn.kit.histogram import Histogram


class Metrics(Collector):
    """Answers `/metrics`. `document` gives what `/status` tells; nothing is counted here."""

    def __init__(self, document: Callable[[], Mapping[str, Any]], acceptance: Histogram, confirm: Histogram) -> None:
        self._document = document
        self._acceptance = acceptance
        self._confirm = confirm
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def answer(self, request: Request) -> Reply:
        """Answer with all metrics."""
        text: bytes = generate_latest(self._registry)  # type: ignore[no-untyped-call]
        return Reply(text, CONTENT_TYPE_LATEST)

    def describe(self) -> list[Metric]:
        """Return nothing: what there is depends on the parts."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Return all metrics as of now."""
        document = self._document()
        yield from _figures(document["parts"])
        yield _counter("vigilo_part_crashes", "crashes, after each of which the part was begun again", "part", {
            part["name"]: part["crashes"] for part in document["parts"]
        })  # fmt: skip
        yield from _flow(document)
        yield _dropped(document["parts"])
        yield _state(document["state"])
        yield _histogram("vigilo_acceptance_seconds", "from the line's arrival to its commit", self._acceptance)
        yield _histogram("vigilo_confirm_seconds", "from a message's acceptance to its confirm", self._confirm)
        memory = GaugeMetricFamily("vigilo_process_memory_bytes", "what the process holds", labels=("kind",))
        for name, size_bytes in document["process"].items():
            memory.add_metric((name.removeprefix("process_"),), size_bytes)
        yield memory


def _figures(parts: list[Mapping[str, Any]]) -> Iterator[Metric]:
    found: dict[str, Metric] = {}
    others = GaugeMetricFamily("vigilo_figure", "what a custom part counts or measures", labels=("part", "figure"))
    for part in parts:
        group = group_of(part["figures"])
        for name, value in part["figures"].items():
            figure = find(group, name)
            if figure is None:
                others.add_metric((part["name"], name), value)
                continue
            if figure.metric_name not in found:
                found[figure.metric_name] = _family(figure)
            found[figure.metric_name].add_metric((part["name"],), value)  # type: ignore[attr-defined]
    yield from found.values()
    yield others


def _family(figure: Figure) -> Metric:
    family = CounterMetricFamily if figure.kind == "counter" else GaugeMetricFamily
    return family(figure.metric_name, figure.meaning, labels=("part",))


def _counter(name: str, meaning: str, label: str, values: Mapping[str, float]) -> Metric:
    metric = CounterMetricFamily(name, meaning, labels=(label,))
    for key, value in values.items():
        metric.add_metric((key,), value)
    return metric


def _flow(document: Mapping[str, Any]) -> Iterator[Metric]:
    oldest_s = document["flow"]["oldest_s"]
    yield GaugeMetricFamily("vigilo_oldest_message_seconds", "age of the oldest message that waits", value=oldest_s)
    held = GaugeMetricFamily("vigilo_held_messages", "messages that wait for an exchange", labels=("exchange", "state"))
    for exchange in document["held"]:
        held.add_metric((exchange["exchange"], exchange["state"]), exchange["messages"])
    yield held
    parked = GaugeMetricFamily("vigilo_parked_messages", "messages that are parked", labels=("exchange", "reason"))
    for kind in document["parked"]:
        parked.add_metric((kind["exchange"], kind["reason"]), kind["messages"])
    yield parked


def _dropped(parts: list[Mapping[str, Any]]) -> Metric:
    metric = CounterMetricFamily("vigilo_dropped", "messages that a policy has dropped", labels=("type", "reason"))
    for reason, detail in (("when_full", "dropped"), ("when_unroutable", "unroutable")):
        counts: dict[str, int] = {}
        for part in parts:
            for kind, number in part["details"].get(detail, {}).items():
                counts[kind] = counts.get(kind, 0) + number
        for kind, number in sorted(counts.items()):
            metric.add_metric((kind, reason), number)
    return metric


def _state(state: Mapping[str, Any]) -> Metric:
    metric = GaugeMetricFamily(
        "vigilo_problem", "1 for a warning, 2 for a critical problem", labels=("name", "part", "about")
    )
    for problem in state["problems"]:
        metric.add_metric((problem["name"], problem["part"], problem["about"]), problem["level"])
    return metric


def _histogram(name: str, meaning: str, histogram: Histogram) -> Metric:
    metric = HistogramMetricFamily(name, meaning)
    metric.add_metric((), histogram.cumulative(), histogram.total)
    return metric
