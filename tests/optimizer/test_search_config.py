"""What a search's config must not say, and how it is told."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from optimizer.config import Config
from optimizer.search_config import SINGLE_OBJECTIVE
from tests.optimizer.tiny_zoo import TinyZoo

TWO = {"good": ["safety"], "able": ["math", "code"]}
TIES = {"method": "ties"}


def config(tiny_zoo: TinyZoo, search: dict[str, Any], **merge: Any) -> Config:
    return tiny_zoo.config(Path("run"), search, merge=merge)


@pytest.mark.parametrize(
    ("search", "merge"),
    [
        ({"pareto": TWO}, {}),
        ({"pareto": TWO, "sampler": "gp", "refine": {"sampler": "nsga2"}}, {}),
        ({"parameters": {"density": [0.2, 1]}, "sampler": "cmaes"}, TIES),
        ({"parameters": {"density": [0.2, 1]}, "refine": {}}, TIES),
        ({"parameters": {"density": [0.2, 0.6]}, "refine": {}}, TIES | {"parameters": {"density": [0.5, 0.5, 0.5]}}),
        ({"parameters": {"lambda": [0.5, 2]}, "sampler": "tpe"}, {}),
        ({"controls": {"able": ["math", "code"], "search2": ["safety"]}}, {}),
    ],
)
def test_what_may_be_said(tiny_zoo: TinyZoo, search: dict[str, Any], merge: dict[str, Any]) -> None:
    config(tiny_zoo, search, **merge)


@pytest.mark.parametrize(
    ("search", "merge", "message"),
    [
        *(
            (
                {"pareto": TWO, "sampler": name},
                {},
                rf"search.sampler: {name} minimises one number, but search.pareto has 2; choose descent, nsga2, nsga3",
            )
            for name in SINGLE_OBJECTIVE
        ),
        (
            {"pareto": TWO, "refine": {}},
            {},
            r"search.refine.sampler: cmaes minimises one number, but search.pareto has 2; choose",
        ),
        (
            {"pareto": {"good": ["safety"]}},
            {},
            r"search.pareto: two or more objectives must share out the terms \['safety', 'math', 'code'\], each once",
        ),
        ({"pareto": {"all": ["safety", "math", "code"]}}, {}, "search.pareto: two or more objectives must share out"),
        ({"pareto": {"a": ["safety", "math"], "b": ["math", "code"]}}, {}, "search.pareto: two or more objectives"),
        ({"pareto": {"a": ["safety", "maths"], "b": ["code"]}}, {}, "search.pareto: two or more objectives"),
        ({"pareto": TWO | {"none": []}}, {}, r"pareto.none\s+List should have at least 1 item"),
        (
            {"parameters": {"density": [0.2, 1]}},
            TIES,
            "search.parameters: a descent has no gradient by density; set search.sampler=tpe, or search.refine to try",
        ),
        (
            {"parameters": {"density": [1, 0.2]}, "sampler": "tpe"},
            TIES,
            r"search.parameters.density: low < high must hold, but got 1.0 and 0.2; swap them",
        ),
        ({"parameters": {"density": [1, 1]}, "sampler": "tpe"}, TIES, "low < high must hold, but got 1.0 and 1.0"),
        (
            {"parameters": {"densty": [0.2, 1]}, "sampler": "tpe"},
            TIES,
            "merge: ties has no parameter 'densty'; did you mean 'density'?",
        ),
        (
            {"parameters": {"density": [0.2, 0.8]}, "sampler": "tpe"},
            TIES,
            "search.parameters.density: 0.2 to 0.8 must include what merge.parameters has, 1.0; widen it, or set merge",
        ),
        (
            {"parameters": {"density": [0.2, 0.8]}, "sampler": "tpe"},
            TIES | {"parameters": {"density": [0.5, 0.5, 0.6]}},
            r"density: what is searched is one value for all experts, but merge.parameters has \(0.5, 0.5, 0.6\); give",
        ),
        (
            {"parameters": {"normalize": [0, 1]}, "sampler": "tpe"},
            TIES,
            "search.parameters.normalize: must be a number, but is true or false; leave it out",
        ),
        (
            {"controls": {"able": ["maths"]}},
            {},
            r"search.controls.able: terms must be of the objective \['safety', 'math', 'code'\], but got \['maths'\]",
        ),
        ({"controls": {"able": []}}, {}, "search.controls.able: must name at least one term"),
        *(
            ({"controls": {name: ["math"]}}, {}, f"search.controls.{name}: must have a name of its own, but search")
            for name in ("search", "refined", "winner", "uniform", "lm_cocktail", "base", "math")
        ),
        ({"refine": {"width": 0}}, {}, r"refine.width\s+Input should be greater than 0"),
        ({"refine": {"sampler": "descent"}}, {}, r"refine.sampler\s+Input should be 'evomm', 'cmaes'"),
        ({"descent": {"sweep": {"per_axis": 2}}}, {}, r"sweep.per_axis\s+Input should be greater than or equal to 3"),
        ({"descent": {"sweep": {"ratio": 1}}}, {}, r"sweep.ratio\s+Input should be greater than 1"),
        ({"black_box": {"patience": -1}}, {}, r"patience\s+Input should be greater than or equal to 0"),
        ({"constraints": ["safty >= 0.9"]}, {}, "'safty >= 0.9' must name a term of the config, but 'safty' is not"),
    ],
)
def test_what_must_not_be_said(tiny_zoo: TinyZoo, search: dict[str, Any], merge: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(tiny_zoo, search, **merge)


def test_experts_are_not_called_as_other_merges_are(tiny_zoo: TinyZoo) -> None:
    experts = {name: str(tiny_zoo.folder / "math") for name in ("uniform", "math")}
    aligned = {"aligned": {"model": str(tiny_zoo.folder / "aligned"), "role": "aligned"}}
    with pytest.raises(ValidationError, match=r"bunch\.experts\.uniform: winner, uniform, task_arithmetic, lm_"):
        tiny_zoo.config(Path("run"), bunch={"base": str(tiny_zoo.folder / "base"), "experts": aligned | experts})


def test_a_black_box_needs_no_gradient(tiny_zoo: TinyZoo) -> None:
    exact = {"math": {"metric": "exact"}}
    with pytest.raises(ValidationError, match="a descent needs a gradient, but 'exact' has none; choose another"):
        tiny_zoo.config(Path("run"), objective=exact)
    tiny_zoo.config(Path("run"), {"sampler": "tpe"}, objective=exact)
