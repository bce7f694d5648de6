"""Every metric is its definition, computed by plain transformers in float64; its gradient is the finite difference."""

import random
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datagen.batches import Encoded, pack
from datagen.errors import DataError
from datagen.rows import Row, write_rows
from optimizer.engines.scoring import ScoringEngine
from optimizer.engines.teachers import Teacher
from optimizer.merging.space import Space
from optimizer.objective.metrics import METRICS
from optimizer.objective.terms import Objective, Term, load_objective, retention
from tests.optimizer.objective.bunches import (
    VOCABULARY,
    TinyBunch,
    answer_logs,
    greedy,
    is_greedy,
    log_likelihoods,
)

ROWS = 12
POINT_SEED = 1

#: Where the metrics are tried: the name of one, and whether log-likelihoods are means.
CASES = [
    *((name, True) for name in METRICS),
    *((name, False) for name in ("loss", "kl", "margin", "choice")),
]


@pytest.fixture(scope="module")
def engine(tiny: TinyBunch) -> ScoringEngine:
    return tiny.engine()


@pytest.fixture(scope="module")
def point(engine: ScoringEngine) -> np.ndarray:
    return point_of(engine.space, POINT_SEED)


@pytest.fixture(scope="module")
def merged(tiny: TinyBunch, engine: ScoringEngine, point: np.ndarray) -> torch.nn.Module:
    return tiny.merged(engine.space, point)


@pytest.fixture(scope="module")
def examples(merged: torch.nn.Module) -> list[list[Encoded]]:
    """One to four options per example, of several lengths; every third answer is what the merge itself would say."""
    rng = random.Random(0)
    made = []
    for number in range(ROWS):
        prompt = some_tokens(rng, 2, 12)
        options = [(prompt, some_tokens(rng, 1, 8)) for _ in range(2 + number % 3)]
        if number % 3 == 0:
            options[0] = greedy(merged, prompt, 4)
        made.append(options)
    return made


def some_tokens(rng: random.Random, least: int, most: int) -> list[int]:
    return [rng.randrange(3, VOCABULARY) for _ in range(rng.randint(least, most))]


def point_of(space: Space, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.4, 0.5, space.shape)


def term_of(metric: str, examples: Sequence[list[Encoded]], *, per_token: bool = True, weight: float = 1.0) -> Term:
    kind = METRICS[metric]
    answers = [options[0] for options in examples]
    rest = slice(1, None if kind.alternatives is None else 1 + kind.alternatives)
    return Term(
        f"{metric}-{per_token}",
        weight,
        answers,
        kind,
        [options[rest] for options in examples] if kind.alternatives != 0 else (),
        Teacher("skill", answers) if kind.taught else None,
        per_token,
    )


def defined(
    metric: str, model: torch.nn.Module, options: list[Encoded], teacher: torch.nn.Module, *, per_token: bool
) -> tuple[float, bool]:
    """Loss and rightness of one example."""
    reduced = torch.mean if per_token else torch.sum
    likelihoods = [reduced(log_likelihoods(model, one)).item() for one in options]
    if metric == "margin":
        margin = likelihoods[0] - likelihoods[1]
        return float(np.log1p(np.exp(-margin))), margin > 0
    if metric == "choice":
        shares = np.exp(likelihoods) / np.exp(likelihoods).sum()
        return -float(np.log(shares[0])), likelihoods[0] > max(likelihoods[1:])
    right = is_greedy(model, options[0])
    if metric == "exact":
        return 1.0 - right, right
    if metric == "kl":
        theirs, ours = answer_logs(teacher, options[0]), answer_logs(model, options[0])
        return reduced((theirs.exp() * (theirs - ours)).sum(1)).item(), right
    return -likelihoods[0], right


@pytest.mark.parametrize(("metric", "per_token"), CASES)
def test_scores_are_the_definitions(
    tiny: TinyBunch,
    engine: ScoringEngine,
    merged: torch.nn.Module,
    point: np.ndarray,
    examples: list[list[Encoded]],
    metric: str,
    per_token: bool,
) -> None:
    teacher = tiny.plain("skill")
    by_hand = [defined(metric, merged, options, teacher, per_token=per_token) for options in examples]
    engine.apply(point)
    (score,) = Objective([term_of(metric, examples, per_token=per_token)]).scores(engine).values()
    assert score.loss == pytest.approx(statistics.fmean(loss for loss, _ in by_hand), rel=1e-5)
    assert score.exact == pytest.approx(statistics.fmean(right for _, right in by_hand))
    assert 0 < score.exact < 1, "examples that are all alike show little"
    assert score.rows == ROWS


@pytest.mark.parametrize(("metric", "per_token"), [case for case in CASES if METRICS[case[0]].differentiable])
def test_gradients_are_finite_differences_of_the_definitions(
    tiny: TinyBunch,
    engine: ScoringEngine,
    point: np.ndarray,
    examples: list[list[Encoded]],
    metric: str,
    per_token: bool,
) -> None:
    teacher = tiny.plain("skill")
    objective = Objective([term_of(metric, examples, per_token=per_token)])
    for number in (0, 1, 2):
        slopes, right = engine.gradient(point, *objective.step_batch([number]))
        direction = np.random.default_rng(number).normal(size=point.shape)
        ends = [
            defined(metric, tiny.merged(engine.space, at), examples[number], teacher, per_token=per_token)
            for at in (point + 1e-3 * direction, point - 1e-3 * direction)
        ]
        assert (slopes * direction).sum() == pytest.approx((ends[0][0] - ends[1][0]) / 2e-3, rel=1e-3)
        assert right == [ends[0][1]]
    assert all(parameter.grad is None for parameter in engine.model.parameters()), "a gradient was kept"


def test_a_step_adds_its_terms_up(engine: ScoringEngine, point: np.ndarray, examples: list[list[Encoded]]) -> None:
    terms = [term_of(name, examples, weight=weight) for name, weight in (("loss", 1), ("kl", 2), ("choice", 5))]
    picks, multipliers = [3, 1, 2], [1.0, 4.0, 0.5]
    together, rights = engine.gradient(point, *Objective(terms).step_batch(picks, multipliers))
    alone = [
        engine.gradient(point, *Objective([term]).step_batch([pick])) for term, pick in zip(terms, picks, strict=True)
    ]
    factors = [1 / 8 * 1.0, 2 / 8 * 4.0, 5 / 8 * 0.5]
    expected = sum(factor * slopes for factor, (slopes, _) in zip(factors, alone, strict=True))
    assert together == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert rights == [right for _, (right,) in alone]


def test_scores_do_not_depend_on_the_batching(
    engine: ScoringEngine, point: np.ndarray, examples: list[list[Encoded]]
) -> None:
    sequences = [one for options in examples for one in options]
    teacher = Teacher("aligned", sequences)
    teachers = {number: (teacher, number) for number in range(0, len(sequences), 2)}
    engine.apply(point)
    whole, single, small = (engine.score(pack(sequences, tokens=tokens), teachers) for tokens in (10_000, 1, 40))
    for other in (single, small):
        assert torch.equal(whole.tokens, other.tokens)
        assert torch.equal(whole.exact, other.exact)
        torch.testing.assert_close(whole.losses, other.losses, rtol=1e-5, atol=1e-6)


def test_blocks_hold_even_shares_and_add_up(
    engine: ScoringEngine, point: np.ndarray, examples: list[list[Encoded]]
) -> None:
    objective = Objective([term_of("choice", examples), term_of("kl", examples[:7])])
    assert len(objective.blocks) == 7
    for term in objective.terms:
        shares = [{one.name: numbers for one, numbers in block.picks}[term.name] for block in objective.blocks]
        assert Counter(number for some in shares for number in some) == Counter(range(len(term.examples)))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    engine.apply(point)
    whole = objective.scores(engine)
    for term in objective.terms:
        (alone,) = Objective([term]).scores(engine).values()
        assert whole[term.name].rows == alone.rows == len(term.examples)
        assert whole[term.name].loss == pytest.approx(alone.loss, rel=1e-5)
        assert whole[term.name].exact == pytest.approx(alone.exact)


def test_costs_are_counted_in_sequences(examples: list[list[Encoded]]) -> None:
    terms = [term_of(name, examples) for name in ("loss", "kl", "margin", "choice")]
    options = 2 + 3 + 4
    assert [term.sequences for term in terms] == [ROWS, ROWS, 2 * ROWS, ROWS // 3 * options]
    assert Objective(terms).sequences == 4 * ROWS + ROWS // 3 * options
    assert Objective(terms).rows == 4 * ROWS


@pytest.mark.parametrize("merge", [{}, {"method": "ties", "parameters": {"density": 0.3}}])
def test_a_teacher_is_the_source_itself_and_asked_once(
    tiny: TinyBunch, examples: list[list[Encoded]], merge: dict[str, Any]
) -> None:
    engine = tiny.engine("layer", **merge)
    term = term_of("kl", examples)
    objective = Objective([term])
    at = point_of(engine.space, 2)
    # A resumed search may begin with a step.
    engine.gradient(at, *objective.step_batch([0]))
    assert term.teacher is not None
    asked = term.teacher.tops
    applied = {name: parameter.detach().clone() for name, parameter in engine.model.named_parameters()}
    assert engine.applied is not None and (engine.applied == at).all()
    loss = objective.scores(engine)["kl-True"].loss
    assert term.teacher.tops is asked
    live = {name: parameter.double() for name, parameter in applied.items()}
    model, teacher = tiny.plain("base"), tiny.plain("skill")
    model.load_state_dict(live)
    by_hand = [defined("kl", model, options, teacher, per_token=True)[0] for options in examples]
    assert loss == pytest.approx(statistics.fmean(by_hand), rel=1e-5)

    term = term_of("kl", examples)
    engine.apply(at)
    assert Objective([term]).scores(engine)["kl-True"].loss == pytest.approx(loss, rel=1e-6)
    assert all(torch.equal(applied[name], live) for name, live in engine.model.named_parameters()), "not put back"
    engine.load("skill")
    assert Objective([term_of("kl", examples)]).scores(engine)["kl-True"].loss == pytest.approx(0, abs=1e-6)
    assert all(torch.equal(tiny.sources["skill"][name].float(), p) for name, p in engine.model.named_parameters())


def row(question: str, answer: str, *alternatives: str) -> Row:
    return Row.of(question, answer, kind="skill", alternatives=alternatives)


Load = Callable[..., Term]


@pytest.fixture
def load(tiny: TinyBunch, tmp_path: Path) -> Load:
    """Reads rows as a term of some settings."""

    def loaded(rows: Sequence[Row], **settings: Any) -> Term:
        config = tiny.config({"skill": settings}, run=str(tmp_path))
        write_rows(config.data_folder / "search" / "skill.jsonl", rows)
        (term,) = load_objective(config, "search", tiny.bunch.chat_source.tokenizer()).terms
        return term

    return loaded


def test_rows_become_sequences(load: Load) -> None:
    rows = [row("ab", "c"), row("ba", "c", "d", "ee"), row("bb", "c", "d")]
    plain = load(rows, examples=2)
    question, end = 3 + 26 + 16, 2
    assert plain.options(0) == [([question, 3, 4], [5, end])]
    assert (len(plain.examples), plain.sequences, plain.teacher) == (2, 2, None)
    kl = load(rows, metric="kl", of="aligned")
    assert kl.teacher is not None and (kl.teacher.source, kl.teacher.examples) == ("aligned", kl.examples)
    margin = load(rows, metric="margin", examples=2, per_token=False)
    prompt = [question, 4, 3]
    assert margin.options(0) == [(prompt, [5, end]), (prompt, [6, end])]
    assert (len(margin.examples), margin.sequences, margin.per_token) == (2, 4, False)
    choice = load(rows, metric="choice")
    assert choice.options(0) == [*margin.options(0), (prompt, [7, 7, end])]
    assert choice.sequences == 5


@pytest.mark.parametrize("metric", ["margin", "choice"])
def test_rows_without_alternatives_are_not_enough(load: Load, metric: str) -> None:
    rule = rf"skill\.jsonl: '{metric}', the metric of 'skill', needs rows with `alternatives`, but no row has any"
    with pytest.raises(DataError, match=rule) as raised:
        load([row("ab", "c")], metric=metric)
    assert "\n" not in str(raised.value)
    assert "run `goodbunch datagen` again" in str(raised.value)


def test_an_objective_refuses_the_test_split(tiny: TinyBunch) -> None:
    with pytest.raises(DataError, match="must not see the test split"):
        load_objective(tiny.config({"skill": 1}), "test", tiny.bunch.chat_source.tokenizer())


def test_retention_runs_from_the_base_to_the_best_source() -> None:
    assert retention(2.0, base=2.0, best=0.5) == 0
    assert retention(0.5, base=2.0, best=0.5) == 1
    assert retention(0.2, base=2.0, best=0.5) == pytest.approx(1.2)
