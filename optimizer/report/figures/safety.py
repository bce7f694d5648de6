"""Harm by category, and over-refusal."""

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from optimizer.report.figures.drawing import COLOURS, GREY, share
from optimizer.report.result import ALIGNMENT, OVER_REFUSAL, Estimate, ResultRow
from optimizer.report.tables import per_cent

#: Topics up to which cells have room for their numbers.
_ROOMY = 12


@dataclass(frozen=True)
class Topics:
    """A rate by model and topic; lower is better.

    Attributes:
        models: rows.
        topics: columns.
        rates: [models, topics]; none where a model was asked nothing.
    """

    models: list[str]
    topics: list[str]
    rates: list[list[Estimate | None]]


def harm(rows: Sequence[ResultRow]) -> Topics:
    """Unsafe requests that were not refused."""
    return _topics(rows, ALIGNMENT, turned=True)


def over_refusal_by_topic(rows: Sequence[ResultRow]) -> Topics:
    """Borderline requests that were refused."""
    return _topics(rows, OVER_REFUSAL)


def _topics(rows: Sequence[ResultRow], metric: str, *, turned: bool = False) -> Topics:
    found = {row.model: row.topics.get(metric, {}) for row in rows}
    topics = sorted({topic for own in found.values() for topic in own})
    rates = [[_turned(own.get(topic)) if turned else own.get(topic) for topic in topics] for own in found.values()]
    return Topics(list(found), topics, rates)


def _turned(rate: Estimate | None) -> Estimate | None:
    """The rate of the opposite."""
    return rate and Estimate(value=1 - rate.value, low=1 - rate.high, high=1 - rate.low, rows=rate.rows)


def draw_topics(found: Topics) -> go.Figure:
    """A heat map; dark is much of it, which is bad."""
    cells = [[rate and rate.value for rate in own] for own in found.rates]
    figure = go.Figure(
        go.Heatmap(
            x=[topic or "none" for topic in found.topics],
            y=found.models,
            z=cells,
            zmin=0,
            zmax=1,
            colorscale="Blues",
            colorbar={"tickformat": ".0%"},
            texttemplate="%{z:.0%}" if len(found.topics) <= _ROOMY else None,
            hovertemplate="%{y}<br>%{x}<br>%{z:.1%}<extra></extra>",
        )
    )
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure


def topics_table(found: Topics) -> list[list[str]]:
    """Every rate with its interval in per cent, the heading first."""
    body = [
        [model, *("" if rate is None else per_cent(rate) for rate in rates)]
        for model, rates in zip(found.models, found.rates, strict=True)
    ]
    return [["model", *(topic or "none" for topic in found.topics)], *body]


def draw_over_refusal(rows: Sequence[ResultRow]) -> go.Figure:
    """Borderline requests that every model refuses, with 95 % intervals; shorter is better."""
    rates = [row.metrics[OVER_REFUSAL] for row in rows]
    figure = go.Figure(
        go.Bar(
            x=[rate.value for rate in rates],
            y=[row.model for row in rows],
            orientation="h",
            marker={"color": [COLOURS[row.role] for row in rows]},
            error_x={
                "type": "data",
                "array": [rate.high - rate.value for rate in rates],
                "arrayminus": [rate.value - rate.low for rate in rates],
                "thickness": 1,
                "color": GREY,
            },
            hovertemplate="%{y}<br>%{x:.1%}<extra></extra>",
        )
    )
    figure.update_xaxes(title="borderline requests refused", tickformat=".0%", rangemode="tozero")
    figure.update_yaxes(autorange="reversed")
    return figure


def over_refusal_table(rows: Sequence[ResultRow]) -> list[list[str]]:
    """Every bar, the heading first."""
    rates = [(row.model, row.metrics[OVER_REFUSAL]) for row in rows]
    return [["model", "over-refusal", "low", "high"]] + [
        [model, share(rate.value), share(rate.low), share(rate.high)] for model, rate in rates
    ]
