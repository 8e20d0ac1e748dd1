"""Performance data taken apart."""

from __future__ import annotations

import random

import pytest

from vigiloconn.nagios.perfdata import parse_perfdata


@pytest.mark.parametrize(
    ("text", "metrics"),
    [
        ("", []),
        ("load=0.5;;;0", [("load", "0.5")]),
        ("time=0.003s;;;0.0;10.0 size=-12KB", [("time", "0.003"), ("size", "-12")]),
        ("'a b'=1s;2;3;0;9 c=2", [("a b", "1"), ("c", "2")]),
        ("""'it''s "é"'=-3,5%""", [("""it's "é\"""", "-3.5")]),
        ("a b=1", [("a b", "1")]),
        ("'x=y'=1e-3ms;1;2", [("x=y", "1e-3")]),
        ("'a|b'=7B", [("a|b", "7")]),
        ("a=U b=1 c=U;1;2", [("b", "1")]),
        ("  a=1\t\tb=2  ", [("a", "1"), ("b", "2")]),
        ("a=.5 b=5. c=+1", [("a", ".5"), ("b", "5."), ("c", "+1")]),
    ],
)
def test_each_metric_is_a_label_and_a_bare_number(text: str, metrics: list[tuple[str, str]]) -> None:
    assert parse_perfdata(text) == (metrics, [])


@pytest.mark.parametrize(
    ("text", "metrics", "bad"),
    [
        ("a=~x b=1 'open=3", [("b", "1")], ["a=~x", "'open=3"]),
        ("=3 a=1", [("a", "1")], ["=3"]),
        ("''=3", [], ["=3"]),
        ("a = 3", [], ["a", "=", "3"]),
        ("nothing at all", [], ["nothing", "at", "all"]),
        ("a=1.2.3 b=4", [("b", "4")], ["a=1.2.3"]),
    ],
)
def test_what_has_no_number_is_named_and_costs_the_others_nothing(
    text: str, metrics: list[tuple[str, str]], bad: list[str]
) -> None:
    assert parse_perfdata(text) == (metrics, bad)


def test_common_metrics_and_the_careful_way_agree() -> None:
    """Behind a word that is no metric the same text is read by the other way."""
    chosen = random.Random(8)
    for _ in range(2000):
        text = "".join(chosen.choice("ab=1.5;e%-U,' ") for _ in range(12))
        alone, _ = parse_perfdata(text)
        quoted, _ = parse_perfdata(f"'q'=,0 {text}")
        assert quoted == [("q", ".0"), *alone], text


@pytest.mark.parametrize(
    "text", ["a " * 32000 + "=", "' " * 32000 + "=1", "''a " * 16000 + "=", "x" + " " * 64000 + "="]
)
def test_text_that_is_no_performance_data_takes_no_longer_than_its_length(text: str) -> None:
    """One that grew with the square of it would not end within the time limit of a test."""
    assert parse_perfdata(text * 10)[0] == []
