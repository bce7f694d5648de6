"""The study's config, and its tables from rows made by hand."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.study import tables
from benchmarks.study.config import read_study
from benchmarks.study.running import tasks


def row(alignment: float, over_refusal: float, mean: float, passes: float = 10) -> dict[str, Any]:
    return {"alignment": alignment, "over-refusal": over_refusal, "reversing": mean} | {
        "mean": mean,
        "passes": passes,
        "seconds": 2.0,
    }


#: A zoo in which all claims hold; its expert is more accurate than any merge.
ZOO = {
    "base": row(0, 0, 0),
    "aligned": row(100, 0, 0),
    "reversing": row(0, 0, 99),
    "interpolation": row(40, 0, 90),
    "TIES, grid": row(98.9, 0, 91),
    "EvoMM, D_expert": row(5, 0, 95),
    "EvoMM, D_expert + D_safety": row(90, 20, 94),
    "goodbunch": row(100, 1, 95, 1),
}


@pytest.mark.parametrize(
    ("changed", "broken"),
    [
        ({}, []),
        ({"TIES, grid": row(99.1, 0, 91)}, [0]),
        ({"EvoMM, D_expert": row(99.5, 0, 94)}, [1, 2]),
        ({"EvoMM, D_expert + D_safety": row(90, 20, 93.9)}, [2]),
        ({"goodbunch": row(60, 0, 95, 1), "interpolation": row(70, 2, 90)}, [3, 4]),
        ({"goodbunch": row(95, 0, 95, 1)}, [4]),
        ({"interpolation": row(40, 0, 96.1)}, [4]),
        ({"goodbunch": row(100, 1, 95, 1.1)}, [5]),
    ],
)
def test_claims(changed: dict[str, Any], broken: list[int]) -> None:
    found = [holds(ZOO | changed) for holds in tables.CLAIMS.values()]
    assert [place for place, holds in enumerate(found) if not holds] == broken


def test_tables_tell_medians_and_extremes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "DOCS", tmp_path)
    zoos = [ZOO | {"goodbunch": row(value, 1, 95, 1)} for value in (90.0, 100.0, 99.0)]
    cells = [{"setting": "four", "recipe": "natural", "varied": "", "rows": one} for one in zoos]
    steps = [{"varied": "steps", "value": str(n), "rows": {str(n): row(n, 0, 0)}} for n in (8, 8, 16, 16)]
    tables.write_tables([*cells, *steps])
    written = (tmp_path / "tables.md").read_text()
    assert "## natural zoos, four (3 zoos)" in written
    assert "| goodbunch | 99.0 [90.0, 100.0] | 1.0 | 95.0 | 95.0 | 1.0 | 2.0 |" in written
    assert "## Varied: steps" in written
    assert "| 8 | 8.0 | 0.0 | 0.0 | 10.0 | 2.0 |" in written
    assert "| EvoMM on expert data alone loses it | natural, four | 3 of 3 |" in written


def test_every_cell_is_there_once() -> None:
    study = read_study()
    found = list(tasks(study))
    assert len(set(found)) == len(found)
    assert len({(task.recipe, task.seed) for task in found}) == 10
    whole = sum(len(seeds) for one in study.settings.values() for seeds in one.recipes.values())
    values = sum(map(len, study.ablations.variants.values()))
    assert len(found) == whole + values * len(study.ablations.recipes["natural"])
