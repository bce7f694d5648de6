"""Every way to merge that the papers compare, and ours: what each is given, how it chooses, what that costs.

Paper 1: parents, TIES and DARE-TIES on a grid, SLERP along its arc, EvoMM, LM-Cocktail; each grid is picked by domain
accuracy, as there. Paper 2: plain interpolation, MergeAlign. All that is picked is picked on validation rows.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product

from benchmarks.study.cell import BORDERLINE, SAFETY, Cell, Merged
from benchmarks.study.config import Variant
from optimizer.engines.banks import bank_of
from optimizer.engines.scoring import ScoringEngine
from optimizer.merging.space import Space
from optimizer.objective.scores import Scores
from optimizer.objective.terms import Objective
from optimizer.search import baselines
from optimizer.search.records import LOSS, NAME
from optimizer.search.winners import ranked

#: What makes merges out of a cell, by name.
Way = Callable[[Cell], Mapping[str, Merged]]


def parents(cell: Cell) -> dict[str, Merged]:
    """The base and every expert, as they are."""
    engine = cell.engine()
    return {name: Merged(engine, point, {}) for name, point in baselines.parents(engine.space).items()}


def averaged(cell: Cell) -> dict[str, Merged]:
    """Plain interpolation: the mean of all experts, the aligned model among them; and all task vectors added."""
    engine = cell.engine()
    names = {baselines.UNIFORM: "interpolation", baselines.ADDED: "task arithmetic"}
    return {names[name]: Merged(engine, point, {}) for name, point in baselines.naive(engine.space).items()}


def grids(cell: Cell) -> dict[str, Merged]:
    """TIES and DARE-TIES over density and weight, and of two models SLERP over t, picked by domain accuracy."""
    found = {}
    for name, method in (("TIES, grid", "ties"), ("DARE-TIES, grid", "dare_ties")):
        candidates = [
            Merged(engine, engine.space.constant(dict.fromkeys(engine.space.experts, weight)), {}, picked=told)
            for density in cell.study.densities
            for engine in [cell.engine(method, density=density)]
            for weight in cell.study.weights
            for told in [f"density {density:g}, weight {weight:g}"]
        ]
        found[name] = _most_accurate(cell, candidates)
    if cell.setting.base == "aligned" and len(cell.setting.experts) == 1:
        found["SLERP, grid"] = _most_accurate(cell, list(_arc(cell)))
    return found


def mergealign(cell: Cell) -> dict[str, Merged]:
    """MergeAlign: base + a (domain vectors) + b (alignment vector), picked by the loss of safety and domains."""
    engine = cell.engine()
    candidates = [
        Merged(
            engine,
            engine.space.constant({**dict.fromkeys(cell.setting.experts, a), "aligned": b}),
            {},
            picked=f"a {a:g}, b {b:g}",
        )
        for a, b in product(cell.study.vectors, repeat=2)
    ]
    terms = cell.validation.only([SAFETY, *cell.setting.experts])
    return {"MergeAlign, grid": _picked(candidates, terms, lambda scores: (-terms.loss(scores),))}


def cocktails(cell: Cell) -> dict[str, Merged]:
    """LM-Cocktail: models weighted by softmax(-loss), on the domains' rows, and with the safety rows."""
    engine, found = cell.engine(), {}
    for name, terms in _data(cell).items():
        objective, losses = cell.search.only(terms), {}
        for expert in engine.space.experts:
            engine.apply(engine.space.constant({expert: 1.0}))
            losses[expert] = objective.loss(objective.scores(engine))
        cost = float(objective.sequences * len(losses))
        point = baselines.lm_cocktail(engine.space, losses, temperature=1.0)
        found[f"LM-Cocktail, {name}"] = Merged(engine, point, {}, cost)
    return found


def evomm(cell: Cell) -> dict[str, Merged]:
    """EvoMM: paper 1's CMA-ES per layer on TIES, on the domains' rows, and with the safety rows."""
    return {f"EvoMM, {name}": _evolved(cell, terms, cell.study.alpha) for name, terms in _data(cell).items()}


def _evolved(cell: Cell, terms: Sequence[str], alpha: float) -> Merged:
    weights = {term: 1.0 if term == SAFETY else alpha / len(cell.setting.experts) for term in terms}
    config = cell.config(
        weights,
        **{
            "merge.method": "ties",
            "merge.groups": "layer",
            "search.sampler": "evomm",
            "search.pruning": 0,
            "search.black_box.trials": cell.study.evaluations,
            "search.black_box.patience": 0,
        },
    )
    searched, engine, cost = cell.searched(config, validated=False)
    best = min((t for t in searched.trials if NAME not in t.user_attrs), key=lambda trial: trial.user_attrs[LOSS])
    return Merged(engine, *searched.domain.point(best.params), sequences=cost)


def goodbunch(cell: Cell) -> dict[str, Merged]:
    """Ours, by variant."""
    found = {}
    for name, overrides in cell.study.goodbunch.items():
        searched, engine, cost = cell.searched(cell.config(None, **overrides))
        found[name] = Merged(engine, searched.coefficients, {}, cost)
    return found


def ablated(cell: Cell, variant: Variant) -> Merged:
    """Ours with something changed, or EvoMM with another weight of the domains."""
    changed = cell.varied(variant)
    if variant.alpha is not None:
        return _evolved(changed, [SAFETY, *changed.setting.experts], variant.alpha)
    default = next(iter(cell.study.goodbunch.values()))
    searched, engine, cost = changed.searched(changed.config(None, **(default | variant.overrides)))
    return Merged(engine, searched.coefficients, {}, cost)


def several(cell: Cell) -> dict[str, Merged]:
    """Ours for two objectives; of the front the point that the single objective would choose."""
    pareto = {"alignment": [SAFETY, BORDERLINE], "expertise": list(cell.setting.experts)}
    changes = next(iter(cell.study.goodbunch.values())) | {"search.pareto": pareto}
    searched, engine, cost = cell.searched(cell.config(None, **changes))
    best = ranked(searched.front, cell.validation)[0]
    point = searched.domain.point(best.params)
    return {"goodbunch, front": Merged(engine, *point, sequences=cost, picked=f"of {len(searched.front)}")}


def ways(cell: Cell) -> Iterator[Way]:
    """All that run in a cell, cheap ones first."""
    yield from (parents, averaged, cocktails, grids, mergealign, goodbunch)
    if cell.setting.several:
        yield several
    yield evomm


def _data(cell: Cell) -> dict[str, list[str]]:
    """The rows that a baseline may see."""
    return {"D_expert": cell.setting.experts, "D_expert + D_safety": [SAFETY, *cell.setting.experts]}


def _arc(cell: Cell) -> Iterator[Merged]:
    (expert,) = cell.setting.experts
    alone = tuple(one for one in cell.bunch.experts if one.name == expert)
    bunch = replace(cell.bunch, experts=alone, aligned=expert)
    merge = cell.bench.config.merge.model_copy(update={"method": "slerp", "groups": "model"})
    engine = ScoringEngine(bunch, Space.of(bunch, "model"), bank_of(bunch, merge))
    for t in cell.study.arcs:
        yield Merged(engine, engine.space.constant({expert: t}), {}, picked=f"t {t:g}")


def _most_accurate(cell: Cell, candidates: list[Merged]) -> Merged:
    """By domain accuracy, whatever becomes of alignment; of equal ones by the domains' loss."""
    terms = cell.validation.only(cell.setting.experts)
    return _picked(candidates, terms, lambda scores: (terms.exact(scores), -terms.loss(scores)))


def _picked(candidates: list[Merged], terms: Objective, quality: Callable[[Scores], tuple[float, ...]]) -> Merged:
    judged = []
    for one in candidates:
        one.engine.apply(one.coefficients, one.settings)
        judged.append(quality(terms.scores(one.engine)))
    best = max(range(len(candidates)), key=lambda place: judged[place])
    chosen = candidates[best]
    cost = float(terms.sequences * len(candidates))
    return Merged(chosen.engine, chosen.coefficients, chosen.settings, cost, chosen.picked)
