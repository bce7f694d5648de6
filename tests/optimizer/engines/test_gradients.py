"""Gradients through a whole model are those of finite differences, taken in float64 by the definitions."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from datagen.batches import Batch, pad
from datagen.errors import BunchError
from optimizer.bunch import Bunch, Source
from optimizer.engines import scoring
from optimizer.engines.outputs import Outputs
from optimizer.engines.scoring import ScoringEngine
from optimizer.merging.bank import Bank
from optimizer.merging.methods import METHODS
from optimizer.merging.space import Coefficients, Space
from optimizer.merging.vectors import TaskVectors
from tests.optimizer.merging.cases import CASES, Case, exact

_SMALL = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}

FAMILIES: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**_SMALL, num_key_value_heads=2, tie_word_embeddings=False),
    "qwen2": Qwen2Config(**_SMALL, num_key_value_heads=2, tie_word_embeddings=True),
    "gemma2": Gemma2Config(**_SMALL, num_key_value_heads=2, head_dim=8),
    "qwen3": Qwen3Config(**_SMALL, num_key_value_heads=2, head_dim=8, tie_word_embeddings=False),
}

Tensors = dict[str, torch.Tensor]

#: Token 0 pads, and is a real token here.
EXAMPLES = [([5, 0, 9, 11], [7, 3, 0]), ([8, 2], [1, 30, 6, 4])]

SHARES = torch.tensor([0.7, 0.4])

#: One of each method and base, as it trims amid the range of its settings and with its switches turned.
METHOD_CASES = list({(case.method.name, case.based): case for case in CASES}.values())

PLAIN = Case(METHODS["task_arithmetic"], {}, True)


def batch() -> Batch:
    return pad(EXAMPLES, range(len(EXAMPLES)))


def shared(outputs: Outputs) -> tuple[torch.Tensor, torch.Tensor]:
    return (outputs.losses / outputs.tokens * SHARES).sum(), outputs.exact


def write_sources(family: str, folder: Path) -> list[str]:
    # A base and three experts around it.
    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_config(FAMILIES[family], dtype=torch.float32)
    folders = []
    for name in ("base", "a", "b", "c"):
        model = AutoModelForCausalLM.from_config(FAMILIES[family], dtype=torch.float32)
        model.load_state_dict(base.state_dict())
        for parameter in model.parameters() if name != "base" else []:
            parameter.data += 0.03 * torch.randn_like(parameter)
        model.save_pretrained(folder / name)
        folders.append(str(folder / name))
    return folders


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    made: dict[str, list[str]] = {}

    def of(family: str) -> list[str]:
        if family not in made:
            made[family] = write_sources(family, tmp_path_factory.mktemp(family))
        return made[family]

    return of


def engine_of(case: Case, references: list[str], checkpointing: bool = False) -> tuple[ScoringEngine, Bank]:
    base, *experts = (Source(Path(reference).name, reference) for reference in references)
    bunch = Bunch(base, tuple(experts[: case.experts]), aligned=experts[0].name, chat="base")
    bank = Bank(case.method, base if case.based else None, bunch.experts, case.settings, seed=3)
    return ScoringEngine(bunch, Space.of(bunch, "tensor"), bank, checkpointing), bank


def point_of(case: Case, space: Space) -> Coefficients:
    """The case's coefficients, each tensor's a little off them."""
    spread = np.random.default_rng(5).uniform(0.8, 1.2, space.shape)
    return np.array(case.coefficients)[:, None] * spread


class Oracle:
    """The loss of merged tensors in float64."""

    def __init__(self, folder: str) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
        self._live = dict(self._model.named_parameters())

    @torch.no_grad()
    def loss(self, tensors: Mapping[str, torch.Tensor]) -> float:
        for name, tensor in tensors.items():
            self._live[name].copy_(tensor)
        given = batch()
        with pytest.MonkeyPatch.context() as patch:  # norms turn to float32, whatever a model is held in
            patch.setattr(torch, "float32", torch.float64)
            patch.setattr(torch.Tensor, "float", torch.Tensor.double)
            likely = self._model(input_ids=given.inputs).logits.log_softmax(-1)
        total = 0.0
        for i, (prompt, answer) in enumerate(EXAMPLES):
            before = torch.arange(len(prompt), len(prompt) + len(answer)) - 1
            total -= float(SHARES[i] * likely[i, before, torch.tensor(answer)].mean())
        return total

    def gradient(
        self, merged: Callable[[str, list[float]], torch.Tensor], space: Space, at: Coefficients
    ) -> Coefficients:
        """Central differences by every coefficient, [experts, tensors]."""
        columns = space.by_tensor(at)
        self.loss({name: merged(name, columns[name]) for name in space.tensors})
        found = np.zeros(space.shape)
        for column, name in enumerate(space.tensors):
            for row, own in enumerate(columns[name]):
                step = 1e-6 * abs(own)
                sides = [[*columns[name][:row], own + side, *columns[name][row + 1 :]] for side in (step, -step)]
                above, below = (self.loss({name: merged(name, side)}) for side in sides)
                found[row, column] = (above - below) / (2 * step)
            self.loss({name: merged(name, columns[name])})
        return found


def gradient(engine: ScoringEngine, at: Coefficients) -> Coefficients:
    return engine.gradient(at, batch(), shared)[0]


def error(found: Coefficients, expected: Coefficients) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def elected(kernel: TaskVectors, case: Case, bank: Bank, name: str, weights: list[float]) -> torch.Tensor:
    """Signs that the experts' trimmed vectors agree on, from the definition, in float64."""
    inputs = bank.inputs(name).flat
    plain = replace(kernel, consensus=False, normalize=False, scale=1.0)
    total = torch.zeros(inputs.shape, dtype=torch.float64)
    for i, weight in enumerate(weights):
        alone = torch.eye(case.experts)[i]
        kept = plain.formula(inputs, alone, 0) != inputs.needed_base
        factor = 1.0 if kernel.rescale is None else float(kernel.rescale[i])
        total += weight * factor * torch.where(kept, inputs.experts[i].double() - inputs.needed_base.double(), 0.0)
    return total.sign()


@pytest.mark.parametrize("case", METHOD_CASES, ids=str)
def test_every_methods_gradient_is_that_of_finite_differences(case: Case, sources: Callable) -> None:
    folders = sources("qwen2")
    engine, bank = engine_of(case, folders)
    at = point_of(case, engine.space)
    merges: dict[str, list[torch.Tensor]] = {}

    def merged(name: str, weights: list[float]) -> torch.Tensor:
        kernel = bank.kernel(name)
        if isinstance(kernel, TaskVectors) and kernel.consensus:
            merges.setdefault(name, []).append(elected(kernel, case, bank, name, weights))
        return exact(case, bank.inputs(name), weights)

    expected = Oracle(folders[0]).gradient(merged, engine.space, at)
    # TIES and its kin elect signs wherever they are evaluated; where one changed, the loss would jump.
    assert all(torch.equal(signs, each[0]) for each in merges.values() for signs in each)
    assert bool(merges) == case.method.__dict__.get("consensus", False)
    assert error(gradient(engine, at), expected) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_every_familys_gradient_is_that_of_finite_differences(family: str, sources: Callable) -> None:
    folders = sources(family)
    engine, bank = engine_of(PLAIN, folders)
    at = point_of(PLAIN, engine.space)

    def merged(name: str, weights: list[float]) -> torch.Tensor:
        base, *experts = (one.double() for one in bank.inputs(name).all)
        return base + sum(weight * (one - base) for weight, one in zip(weights, experts, strict=True))

    expected = Oracle(folders[0]).gradient(merged, engine.space, at)
    assert error(gradient(engine, at), expected) < 1e-4


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_gradients_of_adapters_are_those_of_finite_differences(family: str, sources: Callable, tmp_path: Path) -> None:
    base = sources(family)[0]
    tuned = [lora(base, tmp_path / name, seed) for seed, name in enumerate("abc")]
    engine, _ = engine_of(PLAIN, [base, *(f"{base}+{tmp_path / name}" for name in "abc")])
    at = point_of(PLAIN, engine.space)

    def merged(name: str, weights: list[float]) -> torch.Tensor:
        experts = [one[name] for one in tuned]
        start = untuned[name]
        return start + sum(weight * (one - start) for weight, one in zip(weights, experts, strict=True))

    untuned = state(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64))
    expected = Oracle(base).gradient(merged, engine.space, at)
    found = gradient(engine, at)
    assert error(found, expected) < 1e-4
    adapted = [any(part in name for part in TUNED) for name in engine.space.tensors]
    assert (found[:, adapted] != 0).all() and not found[:, np.logical_not(adapted)].any()


#: Modules that adapters tune.
TUNED = ("q_proj.weight", "v_proj.weight", "down_proj.weight")


def lora(base: str, folder: Path, seed: int) -> Tensors:
    # Writes an adapter; returns what PEFT makes of it in float64.
    torch.manual_seed(seed)
    modules = [name.removesuffix(".weight") for name in TUNED]
    settings = LoraConfig(r=2, lora_alpha=3, target_modules=modules, init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    return state(PeftModel.from_pretrained(model, folder).merge_and_unload())


def state(model: torch.nn.Module) -> Tensors:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_that_are_computed_anew_give_the_same_gradients(family: str, sources: Callable) -> None:
    (engine, _), (sparing, _) = (engine_of(PLAIN, sources(family), checkpointing) for checkpointing in (False, True))
    at = point_of(PLAIN, engine.space)
    calls = {"kept": count_attentions(engine), "anew": count_attentions(sparing)}
    expected, exact = engine.gradient(at, batch(), shared)
    found, same = sparing.gradient(at, batch(), shared)
    assert np.array_equal(found, expected) and exact == same
    assert {name: len(seen) for name, seen in calls.items()} == {"kept": 2, "anew": 4}
    sparing.score([batch()])
    assert len(calls["anew"]) == 6


def count_attentions(engine: ScoringEngine) -> list[str]:
    seen: list[str] = []
    for name, module in engine.model.named_modules():
        if name.endswith(("self_attn", "attention")):
            module.register_forward_hook(lambda *_, name=name: seen.append(name))
    return seen


def test_a_model_whose_layers_cannot_be_computed_anew_is_refused(
    sources: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "GradientCheckpointingLayer", type(None))
    with pytest.raises(BunchError, match="LlamaForCausalLM has none; set it to false"):
        engine_of(PLAIN, sources("llama"), checkpointing=True)


@pytest.mark.parametrize(("family", "tied"), [("qwen2", True), ("llama", False)])
def test_there_is_never_more_than_one_gradient(
    family: str, tied: bool, sources: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []
    take = ScoringEngine._take

    def watched(self: ScoringEngine, name: str, parameter: torch.Tensor) -> None:
        assert [one is parameter for one in self.model.parameters() if one.grad is not None] == [True]
        taken.append(name)
        take(self, name, parameter)

    monkeypatch.setattr(ScoringEngine, "_take", watched)
    engine, _ = engine_of(PLAIN, sources(family))
    gradient(engine, point_of(PLAIN, engine.space))
    names, embeddings = list(engine.space.tensors), "model.embed_tokens.weight"
    assert sorted(taken) == sorted([*names, embeddings] if tied else names)
    assert (taken[0], taken[-1]) == (embeddings if tied else "lm_head.weight", embeddings)
    assert all(parameter.grad is None for parameter in engine.model.parameters())


def test_gradients_of_blocks_are_those_of_their_rows(sources: Callable) -> None:
    # Blocks of equal coefficients have, together, the gradient of the whole.
    engine, _ = engine_of(Case(METHODS["ties"], {"density": 0.5}, True), sources("qwen2"))
    whole = engine.space
    at = point_of(PLAIN, whole)
    expected = gradient(engine, at)
    shapes = {name: tuple(parameter.shape) for name, parameter in engine.model.named_parameters()}
    engine.space = Space.blocked(whole.experts, {name: shapes[name] for name in whole.tensors}, 3)
    engine.applied = None
    spread = whole.within(engine.space)
    assert np.allclose(gradient(engine, at @ spread) @ spread.T, expected, rtol=1e-4, atol=1e-7)
