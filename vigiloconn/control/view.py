"""How a connector is, for people: the document of `/status` as text. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vigiloconn.control.journalfile import Contents
from vigiloconn.kit.spans import size, span

Document = Mapping[str, Any]


def screen(document: Document) -> list[str]:
    """Return the pipeline as a person reads it, stage by stage, and what is wrong."""
    return [_head(document), "", *_stages(document), *_held(document), *_parked(document), *_problems(document)]


def plugin_line(document: Document) -> str:
    """Return the line of a Nagios plugin, with performance data."""
    state, flow = document["state"], document["flow"]
    words = [state["text"]]
    if flow["waiting"]:
        words.append(f"{_count(flow['waiting'])} messages wait, the oldest for {span(flow['oldest_s'])}")
    figures = {
        "waiting": f"{flow['waiting']:.0f}",
        "waiting_bytes": f"{flow['waiting_bytes']:.0f}B",
        "oldest": f"{flow['oldest_s']:.1f}s",
        "parked": f"{flow['parked']:.0f}",
        "in_flight": f"{flow['in_flight']:.0f}",
        "in_per_s": f"{flow['in_per_s']['5min']:.2f}",
        "out_per_s": f"{flow['out_per_s']['5min']:.2f}",
    }
    perfdata = " ".join(f"{name}={value};;;0" for name, value in figures.items())
    return f"VIGILO {state['word']}: {'; '.join(words)} | {perfdata}"


def file_lines(path: str, contents: Contents) -> list[str]:
    """Return what a journal holds that no connector has in use."""
    held = sum(contents.held.values())
    lines = [f"journal {path}: {_count(contents.waiting + held)} messages wait"]
    if contents.waiting + held:
        lines[0] += f", the oldest for {span(contents.oldest_s)}"
    lines += [f"  held for exchange {exchange}: {_count(count)}" for exchange, count in contents.held.items()]
    lines += [
        f"  parked, exchange {kind.exchange}: {_count(kind.messages)}: {kind.reason}" for kind in contents.parked
    ]  # fmt: skip
    return lines


def _head(document: Document) -> str:
    state = document["state"]
    return (
        f"{document['connector']} {document['version']}: {state['word']} for {span(state['for_s'])}"
        f"   (process {document['pid']}, up {span(document['uptime_s'])})"
    )


def _stages(document: Document) -> Iterator[str]:
    flow = document["flow"]
    groups = {part["name"]: part["figures"] for part in document["parts"]}
    for name, figures in groups.items():
        if "connections_total" in figures:
            wait = groups.get("journal", {}).get("writers_waiting", 0)
            waiting = f", {_count(wait)} of them wait" if wait else ""
            yield _stage(name, f"{_count(figures['connections'])} writers{waiting}, {_count(figures['received'])} lines"
                               f" taken, {_count(figures['malformed'])} malformed")
    for file in document["files"]:
        yield _stage(file["part"], f"{_count(file['lag_bytes'])} bytes unread, for {span(file['lag_s'])}")
    if "journal" in groups:
        yield _stage("journal", f"in {_rates(flow['in_per_s'])}; {_waiting(flow)}")
    if "publisher" in groups:
        yield _stage("publisher", f"out {_rates(flow['out_per_s'])}; {_count(flow['in_flight'])} in flight")
    for name, broker in document["brokers"].items():
        yield _stage(name, _broker(broker))
    for name, figures in groups.items():
        if "acknowledged" in figures:
            yield _stage(name, f"in {_rates(flow['consumed_per_s'])}; done {_rates(flow['acknowledged_per_s'])};"
                               f" {_count(figures['ready'])} wait, {_count(document['dead_lettered'])} dead letters")


def _stage(name: str, text: str) -> str:
    return f"  {name:<18} {text}"


def _waiting(flow: Mapping[str, Any]) -> str:
    if not flow["waiting"]:
        return "nothing waits"
    text = f"{_count(flow['waiting'])} messages wait ({size(flow['waiting_bytes'])}), the oldest for"
    drained_s = flow["drained_in_s"]
    return f"{text} {span(flow['oldest_s'])}; {'not drained' if drained_s is None else f'drained in {span(drained_s)}'}"


def _broker(broker: Mapping[str, Any]) -> str:
    if broker["broker"] is not None:
        blocked = ", which takes no messages (blocked)" if broker["blocked"] else ""
        return f"connected to {broker['broker']} for {span(broker['connected_for_s'])}{blocked}"
    next_try = f"in {span(broker['next_try_s'])}" if broker["next_try_s"] is not None else "now"
    return f"away; tries {broker['next_broker']} {next_try}: {broker['last_error'] or 'not yet tried'}"


def _held(document: Document) -> Iterator[str]:
    for exchange in document["held"]:
        next_try = exchange["next_try_s"]
        tried = f"; tried again in {span(next_try)}" if next_try is not None else ""
        if exchange["state"] == "draining":
            left = _count(exchange["messages"])
            yield _stage(f"exchange {exchange['exchange']}", f"draining: {left} messages are left")
            continue
        yield _stage(f"exchange {exchange['exchange']}",
                     f"{exchange['state']}: {_count(exchange['messages'])} messages wait: {exchange['reason']}{tried}")


def _parked(document: Document) -> Iterator[str]:
    for kind in document["parked"]:
        yield _stage("parked", f"{_count(kind['messages'])} of exchange {kind['exchange']}: {kind['reason']};"
                               f" the oldest for {span(kind['oldest_s'])}")


def _problems(document: Document) -> Iterator[str]:
    for problem in document["state"]["problems"]:
        word = ("OK", "WARNING", "CRITICAL")[problem["level"]]
        yield ""
        yield f"{word} {problem['name']} for {span(problem['for_s'])}: {problem['text']}"
        if problem["what_to_do"]:
            yield f"  what to do: {problem['what_to_do']}"


def _rates(rates: Mapping[str, float]) -> str:
    return f"{rates['10s']:,.1f}/s (5 min: {rates['5min']:,.1f}/s)"


def _count(number: float) -> str:
    return f"{number:,.0f}"
