"""The study's tables and figure, from its one JSON."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.study.cell import ALIGNMENT, OVER_REFUSAL
from datagen.files import write_text

DOCS = Path(__file__).parents[2] / "docs" / "study"

#: Setting and recipe -> for each zoo the rows of all ways.
Groups = dict[tuple[str, str], list[dict[str, dict[str, Any]]]]

#: Columns that are about the search, not the merge.
_COSTS = ("passes", "seconds")

_PICKED = "picked"

#: Columns that every bunch has.
_ALWAYS = (ALIGNMENT, OVER_REFUSAL, "mean", *_COSTS)

#: Merges that nobody chose by data.
NAIVE = ("interpolation", "task arithmetic", "TIES, grid", "DARE-TIES, grid", "SLERP, grid")

#: Per cent of alignment that may be lost before it counts as lost, and points of accuracy that repairing it may cost.
_LOST, _COST = 1.0, 1.0


def grouped(cells: Sequence[Mapping[str, Any]]) -> Groups:
    """Cells by setting and recipe, in their order."""
    groups: Groups = {}
    for cell in cells:
        if cell["varied"]:
            continue
        groups.setdefault((cell["setting"], cell["recipe"]), []).append(cell["rows"])
    return groups


def write_tables(cells: Sequence[Mapping[str, Any]]) -> None:
    """Writes `tables.md`: a table for each setting, then what becomes of the papers' claims."""
    parts = ["# Tables", "Median over the zoos, and the least and the greatest of them. Written by `make study`."]
    for (setting, recipe), zoos in grouped(cells).items():
        parts += [f"## {recipe} zoos, {setting} ({len(zoos)} zoos)", "\n".join(_table(zoos))]
    for varied, rows in _varied(cells).items():
        zoos = [dict(zip(rows, zoo, strict=True)) for zoo in zip(*rows.values(), strict=True)]
        parts += [f"## Varied: {varied}", "\n".join(_table(zoos))]
    parts += ["## Claims", "\n".join(_claims(grouped(cells)))]
    write_text(DOCS / "tables.md", "\n\n".join(parts) + "\n")


def _varied(cells: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """What is varied -> its value -> the row of each zoo, with the columns that all values have."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for cell in cells:
        if cell["varied"]:
            row = {column: cell["rows"][cell["value"]][column] for column in _ALWAYS}
            found.setdefault(cell["varied"], {}).setdefault(cell["value"], []).append(row)
    return found


def spread(values: Sequence[float]) -> str:
    """Median, least and greatest."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.1f}" if f"{low:.1f}" == f"{high:.1f}" else f"{middle:.1f} [{low:.1f}, {high:.1f}]"


def _table(zoos: Sequence[Mapping[str, Mapping[str, Any]]]) -> Iterator[str]:
    columns = [column for column in next(iter(zoos[0].values())) if column != _PICKED]
    units = {"passes": "forward passes", "seconds": "seconds"}
    heads = [units.get(column, f"{column}, %") for column in columns]
    yield f"| | {' | '.join(heads)} |"
    yield f"|---|{'---|' * len(heads)}"
    for name in zoos[0]:
        values = [spread([zoo[name][column] for zoo in zoos]) for column in columns]
        yield f"| {name} | {' | '.join(values)} |"


def _claims(groups: Groups) -> Iterator[str]:
    """Of each claim, in how many zoos it holds."""
    yield "| claim | where | holds in |"
    yield "|---|---|---|"
    for (setting, recipe), zoos in groups.items():
        for claim, holds in CLAIMS.items():
            yield f"| {claim} | {recipe}, {setting} | {sum(map(holds, zoos))} of {len(zoos)} |"


def _lost(zoo: Mapping[str, Any], name: str) -> bool:
    return float(zoo[name][ALIGNMENT]) < float(zoo["aligned"][ALIGNMENT]) - _LOST


def _naive_lose(zoo: Mapping[str, Any]) -> bool:
    return all(_lost(zoo, name) for name in NAIVE if name in zoo)


def _experts_lose(zoo: Mapping[str, Any]) -> bool:
    return _lost(zoo, "EvoMM, D_expert")


def _safety_restores(zoo: Mapping[str, Any]) -> bool:
    without, with_it = zoo["EvoMM, D_expert"], zoo["EvoMM, D_expert + D_safety"]
    gained = with_it[ALIGNMENT] > without[ALIGNMENT] + _LOST
    return bool(gained and with_it["mean"] >= without["mean"] - _COST)


def _ours_is_best(zoo: Mapping[str, Any]) -> bool:
    """Whether no other merge is better in the mean of alignment, answers to borderline requests and accuracy."""

    def worth(name: str) -> float:
        row = zoo[name]
        return float(row[ALIGNMENT] - row[OVER_REFUSAL] + row["mean"])

    others = [name for name in zoo if not name.startswith("goodbunch")]
    return worth("goodbunch") >= max(map(worth, others))


def _ours_is_as_good(zoo: Mapping[str, Any]) -> bool:
    """Whether no other merge has more alignment, and none more accuracy, by more than a point."""
    ours, parents = zoo["goodbunch"], {"base", "aligned", *zoo["base"]}  # columns are named after experts
    return all(
        ours[ALIGNMENT] >= row[ALIGNMENT] - _COST and ours["mean"] >= row["mean"] - _COST
        for name, row in zoo.items()
        if name not in parents and not name.startswith("goodbunch")
    )


def _ours_costs_a_tenth(zoo: Mapping[str, Any]) -> bool:
    return float(zoo["goodbunch"]["passes"]) <= float(zoo["EvoMM, D_expert + D_safety"]["passes"]) / 10


CLAIMS: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "naive merges lose alignment, all of them": _naive_lose,
    "EvoMM on expert data alone loses it": _experts_lose,
    "EvoMM with safety data gets more of it, at a point of accuracy at most": _safety_restores,
    "no other merge has more of alignment less over-refusal plus accuracy than goodbunch's default": _ours_is_best,
    "none has more alignment, and none more accuracy, by more than a point": _ours_is_as_good,
    "goodbunch's default takes at most a tenth of EvoMM's forward passes": _ours_costs_a_tenth,
}


def write_figure(cells: Sequence[Mapping[str, Any]]) -> None:
    """Draws alignment against expertise, a panel for each setting: medians, and lines from least to greatest."""
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "", "font.size": 8, "font.family": "serif"})
    groups = grouped(cells)
    names = list(dict.fromkeys(name for zoos in groups.values() for name in zoos[0]))
    figure, axes = plt.subplots(1, len(groups), figsize=(3.1 * len(groups), 4), sharex=True, sharey=True, squeeze=False)
    colours = plt.get_cmap("tab20")
    for axis, ((setting, recipe), zoos) in zip(axes[0], groups.items(), strict=True):
        for place, name in enumerate(names):
            if name not in zoos[0]:
                continue
            at = [[zoo[name][column] for zoo in zoos] for column in (ALIGNMENT, "mean")]
            middle = [statistics.median(values) for values in at]
            reach = [[[m - min(values)], [max(values) - m]] for m, values in zip(middle, at, strict=True)]
            ours = name.startswith("goodbunch")
            axis.errorbar(
                [middle[0]],
                [middle[1]],
                xerr=reach[0],
                yerr=reach[1],
                fmt="*" if ours else "o",
                markersize=9 if ours else 4,
                color=colours(place % 20),
                elinewidth=0.6,
                label=name,
            )
        axis.set(title=f"{recipe}: {setting}", xlabel="unsafe requests refused, %", xlim=(-5, 105), ylim=(-5, 105))
        axis.grid(alpha=0.25)
    axes[0][0].set_ylabel("mean domain accuracy, %")
    shown = [zip(*axis.get_legend_handles_labels(), strict=True) for axis in axes[0]]
    by_name = {name: handle for pairs in shown for handle, name in pairs}
    figure.legend(by_name.values(), by_name.keys(), loc="lower center", ncol=5, frameon=False)
    figure.tight_layout(rect=(0, 0.2, 1, 1))
    DOCS.mkdir(parents=True, exist_ok=True)
    figure.savefig(DOCS / "plane.svg", metadata={"Date": None})
