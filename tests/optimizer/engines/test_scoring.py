"""The live model computes what the exported one would, its losses are the definition's, its gradients are right."""

import statistics
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from datagen.batches import IGNORED, pack, pad
from datagen.errors import DataError
from optimizer.bunch import Bunch
from optimizer.config import Config
from optimizer.engines.banks import bank_of
from optimizer.engines.scoring import ScoringEngine
from optimizer.export import is_exported, write_merge
from optimizer.merging.space import Space
from optimizer.objective.terms import Objective, load_objective, retention
from optimizer.run import recipe_of
from tests.support import grouped

#: Half of every task vector is trimmed away.
DENSE = {"density": 0.5}


@pytest.fixture(scope="module")
def engine(config: Config, bunch: Bunch) -> ScoringEngine:
    return ScoringEngine(bunch, Space.of(bunch, "module"), bank_of(bunch, grouped(config, "module").merge))


@pytest.fixture(scope="module")
def objective(config: Config, bunch: Bunch) -> Objective:
    return load_objective(config, "validation", bunch.chat_source.tokenizer())


def random_point(space: Space, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.4, 0.5, space.shape)


def test_what_was_scored_is_what_ships(config: Config, bunch: Bunch, engine: ScoringEngine, tmp_path: Path) -> None:
    point = random_point(engine.space)
    engine.apply(point)
    out = write_merge(recipe_of(grouped(config, "module"), engine.space, point), tmp_path / "merged")
    shipped = load_file(out / "model.safetensors")
    live = dict(engine.model.named_parameters())
    assert set(shipped) == set(bunch.names)
    assert all(torch.equal(shipped[name].view(torch.int32), live[name].data.view(torch.int32)) for name in shipped)
    assert is_exported(recipe_of(grouped(config, "module"), engine.space, point), out)
    assert not is_exported(recipe_of(grouped(config, "module"), engine.space, point + 1e-9), out)


@pytest.mark.parametrize(
    ("method", "parameters"),
    [("ties", {"density": 0.4}), ("dare_ties", {"density": 0.5}), ("della_linear", {"density": 0.5, "epsilon": 0.2})],
)
def test_what_was_scored_with_trims_is_what_ships(
    config: Config, bunch: Bunch, tmp_path: Path, method: str, parameters: dict[str, float]
) -> None:
    merge = config.merge.model_copy(update={"groups": "layer", "method": method, "parameters": parameters, "seed": 3})
    config = config.model_copy(update={"merge": merge})
    engine = ScoringEngine(bunch, Space.of(bunch, "layer"), bank_of(bunch, merge))
    point = random_point(engine.space)
    engine.apply(point)
    shipped = load_file(write_merge(recipe_of(config, engine.space, point), tmp_path / "merged") / "model.safetensors")
    live = dict(engine.model.named_parameters())
    assert all(torch.equal(shipped[name].view(torch.int32), live[name].data.view(torch.int32)) for name in shipped)


def test_loss_is_that_of_transformers_on_the_exported_model(
    config: Config, bunch: Bunch, engine: ScoringEngine, objective: Objective, tmp_path: Path
) -> None:
    point = random_point(engine.space, 1)
    out = write_merge(recipe_of(grouped(config, "module"), engine.space, point), tmp_path / "merged")
    model = AutoModelForCausalLM.from_pretrained(out)
    term = objective.terms[0]
    losses = []
    for prompt, answer in term.examples:
        labels = torch.tensor([[IGNORED] * len(prompt) + answer])
        with torch.no_grad():
            losses.append(model(input_ids=torch.tensor([prompt + answer]), labels=labels).loss.item())
    engine.apply(point)
    assert objective.scores(engine)[term.name].loss == pytest.approx(statistics.fmean(losses), rel=1e-5)


def test_blocks_hold_even_shares_and_add_up(engine: ScoringEngine, objective: Objective) -> None:
    owners = [Counter(block.owners) for block in objective.blocks]
    for term in objective.terms:
        shares = [owner[term.name] for owner in owners]
        assert sum(shares) == len(term.examples)
        assert max(shares) - min(shares) <= 1
    engine.apply(random_point(engine.space, 5))
    whole = objective.scores(engine)
    for term in objective.terms:
        (alone,) = Objective([term]).scores(engine).values()
        assert whole[term.name].rows == alone.rows == len(term.examples)
        assert whole[term.name].loss == pytest.approx(alone.loss, rel=1e-4)
        assert whole[term.name].exact == pytest.approx(alone.exact)


def test_scores_do_not_depend_on_the_batching(engine: ScoringEngine, objective: Objective) -> None:
    engine.apply(random_point(engine.space, 2))
    examples = objective.terms[1].examples
    one_by_one = engine.score([pad(examples, [i]) for i in range(len(examples))])
    packed = engine.score(pack(examples, tokens=300))
    assert [row[1:] for row in one_by_one] == [row[1:] for row in packed]
    assert [row[0] for row in one_by_one] == pytest.approx([row[0] for row in packed], rel=1e-4, abs=1e-5)


# TIES elects signs anew wherever it is evaluated, so that its losses jump; its own test holds the signs.
@pytest.mark.parametrize("method", ["task_arithmetic", "dare_linear", "breadcrumbs"])
@pytest.mark.parametrize("groups", ["anchors", "module"])
def test_gradient_is_the_finite_difference(
    config: Config, bunch: Bunch, objective: Objective, method: str, groups: str
) -> None:
    merge = config.merge.model_copy(
        update={"method": method, "parameters": {} if method == "task_arithmetic" else DENSE}
    )
    engine = ScoringEngine(bunch, Space.of(bunch, groups), bank_of(bunch, merge))
    point = random_point(engine.space, 3)
    batch, weights = objective.step_batch([0] * len(objective.terms))
    gradient, exact = engine.gradient(point, batch, weights)
    assert exact == [right for _, _, right in engine.score([batch])]

    def loss(at: np.ndarray) -> float:
        engine.apply(at)
        scores = engine.score([batch])
        return sum(w * total / tokens for w, (total, tokens, _) in zip(weights.tolist(), scores, strict=True))

    direction = np.random.default_rng(4).normal(size=point.shape)
    slope = (loss(point + 1e-3 * direction) - loss(point - 1e-3 * direction)) / 2e-3
    assert (gradient * direction).sum() == pytest.approx(slope, rel=2e-3)
    assert all(parameter.grad is None for parameter in engine.model.parameters()), "a gradient was kept"


def test_objective_refuses_the_test_split(config: Config, bunch: Bunch) -> None:
    with pytest.raises(DataError, match="must not see the test split"):
        load_objective(config, "test", bunch.chat_source.tokenizer())


def test_retention_runs_from_the_base_to_the_best_source() -> None:
    assert retention(2.0, base=2.0, best=0.5) == 0
    assert retention(0.5, base=2.0, best=0.5) == 1
    assert retention(0.2, base=2.0, best=0.5) == pytest.approx(1.2)
