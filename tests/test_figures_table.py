"""docs/figures.md comes from the table in the code, the table has every figure, and the metrics are made of it."""

from __future__ import annotations

from pathlib import Path

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from vigiloconn.connectors.nagios import build
from vigiloconn.connectors.operating import add_control
from vigiloconn.control.exchange import Request
from vigiloconn.control.figures import FIGURES, MARKERS, find, group_of, table
from vigiloconn.control.metrics import Metrics
from vigiloconn.kit.histogram import Histogram
from vigiloconn.kit.tables import with_table
from vigiloconn.options import parse_settings
from vigiloconn.supervisor import Handler, Supervisor

ROOT = Path(__file__).resolve().parents[1]


def all_parts(directory: Path) -> tuple[Handler, ...]:
    """Return all parts that a connector of ours can have. None was started."""
    supervisor = Supervisor()
    settings = parse_settings(
        f"[bus]\nqueue = q\n[connector]\nbackup_file = {directory}/b.sqlite\n[connector-nagios]\n"
        f"nagios_pipe = {directory}/pipe\nnagios_config = {directory}/hosts\nlisten_unix = {directory}/s.sock\n"
        f"follow = {directory}/perfdata\n"
    )
    build(settings, supervisor)
    add_control(settings, supervisor)
    return supervisor.handlers


def test_the_document_holds_the_table_of_today() -> None:
    page = (ROOT / "docs/figures.md").read_text(encoding="utf-8")
    assert page == with_table(page, "vigiloconn.control.figures", table())


def test_every_figure_of_every_part_stands_in_the_table_and_the_table_has_no_others(tmp_path: Path) -> None:
    given = {
        (group_of(part.stats()) or part.name, name) for part in all_parts(tmp_path) for name in part.stats()
    }  # fmt: skip
    assert given == {(figure.group, figure.name) for figure in FIGURES}
    assert {figure.group for figure in FIGURES} == set(MARKERS)


def test_no_two_figures_of_different_kinds_share_a_metric() -> None:
    names = [figure.metric_name for figure in FIGURES]
    assert len(set(names)) == len(names)


def document(**figures: float) -> dict[str, object]:
    part = {
        "name": "journal", "crashes": 2, "figures": {"backup": 7, "accepted": 9, **figures},
        "details": {"dropped": {"perf": 3}, "unroutable": {"event": 1}},
    }  # fmt: skip
    own = {"name": "mine", "crashes": 0, "figures": {"apples": 5}, "details": {}}
    problem = {"name": "bus-away", "part": "client", "about": "", "level": 1}
    return {
        "parts": [part, own], "flow": {"oldest_s": 12.5}, "process": {"process_rss": 100},
        "held": [{"exchange": "event", "state": "held", "messages": 4}],
        "parked": [{"exchange": "event", "reason": 'a "reason"\n', "messages": 2}],
        "state": {"problems": [problem]},
    }  # fmt: skip


def test_the_metrics_are_open_metrics_and_say_what_the_document_says() -> None:
    acceptance, confirm = Histogram(), Histogram()
    acceptance.observe(0.004, 10)
    reply = Metrics(document, acceptance, confirm).answer(Request("GET", "/metrics", {}, b"", None))
    assert reply.content_type.startswith("application/openmetrics-text")
    assert isinstance(reply.body, bytes)
    families = {family.name: family for family in text_string_to_metric_families(reply.body.decode())}
    samples = {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families.values() for sample in family.samples
    }  # fmt: skip
    assert families["vigilo_journal_accepted"].type == "counter"
    assert families["vigilo_journal_messages"].type == "gauge"
    assert families["vigilo_acceptance_seconds"].type == "histogram"
    assert samples["vigilo_journal_accepted_total", "journal"] == 9
    assert samples["vigilo_journal_messages", "journal"] == 7
    assert samples["vigilo_figure", "apples", "mine"] == 5
    assert samples["vigilo_dropped_total", "when_full", "perf"] == 3
    assert samples["vigilo_dropped_total", "when_unroutable", "event"] == 1
    assert samples["vigilo_parked_messages", "event", 'a "reason"\n'] == 2
    assert samples["vigilo_held_messages", "event", "held"] == 4
    assert samples["vigilo_part_crashes_total", "journal"] == 2
    assert samples["vigilo_problem", "", "bus-away", "client"] == 1
    assert samples["vigilo_oldest_message_seconds",] == 12.5
    assert samples["vigilo_acceptance_seconds_count",] == 10
    assert samples["vigilo_acceptance_seconds_bucket", "0.005"] == 10
    assert samples["vigilo_acceptance_seconds_bucket", "0.0025"] == 0
    assert samples["vigilo_confirm_seconds_count",] == 0


def test_a_figure_that_is_not_known_is_no_figure_of_the_table() -> None:
    assert find(None, "accepted") is None
    assert find("journal", "apples") is None
