"""The live model computes what the exported one would, its losses are the definition's, its gradients are right."""

import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from datagen.batches import IGNORED, pack, pad
from optimizer.bunch import Bunch
from optimizer.config import Config
from optimizer.engines.banks import bank_of
from optimizer.engines.scoring import ScoringEngine
from optimizer.export import is_exported, write_merge
from optimizer.merging.space import Space
from optimizer.objective.terms import Objective, load_objective
from optimizer.recipes.searched import recipe_of
from optimizer.search.domain import Point
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
    out = write_merge(recipe_of(grouped(config, "module"), engine.space, Point(point, {})), tmp_path / "merged")
    shipped = load_file(out / "model.safetensors")
    live = dict(engine.model.named_parameters())
    assert set(shipped) == set(bunch.names)
    assert all(torch.equal(shipped[name].view(torch.int32), live[name].data.view(torch.int32)) for name in shipped)
    assert is_exported(recipe_of(grouped(config, "module"), engine.space, Point(point, {})), out)
    assert not is_exported(recipe_of(grouped(config, "module"), engine.space, Point(point + 1e-9, {})), out)


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
    shipped = load_file(
        write_merge(recipe_of(config, engine.space, Point(point, {})), tmp_path / "merged") / "model.safetensors"
    )
    live = dict(engine.model.named_parameters())
    assert all(torch.equal(shipped[name].view(torch.int32), live[name].data.view(torch.int32)) for name in shipped)


def test_loss_is_that_of_transformers_on_the_exported_model(
    config: Config, bunch: Bunch, engine: ScoringEngine, objective: Objective, tmp_path: Path
) -> None:
    point = random_point(engine.space, 1)
    out = write_merge(recipe_of(grouped(config, "module"), engine.space, Point(point, {})), tmp_path / "merged")
    model = AutoModelForCausalLM.from_pretrained(out)
    term = objective.terms[0]
    losses = []
    for prompt, answer in term.examples:
        labels = torch.tensor([[IGNORED] * len(prompt) + answer])
        with torch.no_grad():
            losses.append(model(input_ids=torch.tensor([prompt + answer]), labels=labels).loss.item())
    engine.apply(point)
    assert objective.scores(engine)[term.name].loss == pytest.approx(statistics.fmean(losses), rel=1e-5)


def test_scores_do_not_depend_on_the_batching(engine: ScoringEngine, objective: Objective) -> None:
    engine.apply(random_point(engine.space, 2))
    examples = objective.terms[1].examples
    one_by_one = engine.score([pad(examples, [i]) for i in range(len(examples))])
    packed = engine.score(pack(examples, tokens=300))
    assert torch.equal(one_by_one.tokens, packed.tokens)
    assert torch.equal(one_by_one.exact, packed.exact)
    assert one_by_one.losses.tolist() == pytest.approx(packed.losses.tolist(), rel=1e-4, abs=1e-5)


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
    step = objective.step_batch([0] * len(objective.terms))
    gradient, exact = engine.gradient(point, *step)
    assert exact == engine.score([step.batch]).exact.tolist()

    def loss(at: np.ndarray) -> float:
        engine.apply(at)
        return step.reduction(engine.score([step.batch]))[0].item()

    # Half of it uphill: float32's rounding would hide a slope that is nearly level.
    direction = np.random.default_rng(4).normal(size=point.shape)
    direction += gradient * np.linalg.norm(direction) / np.linalg.norm(gradient)
    slope = (loss(point + 1e-3 * direction) - loss(point - 1e-3 * direction)) / 2e-3
    assert (gradient * direction).sum() == pytest.approx(slope, rel=2e-3)
    assert all(parameter.grad is None for parameter in engine.model.parameters()), "a gradient was kept"
