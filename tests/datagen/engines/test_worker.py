"""Weights that vLLM did not take are refused, whichever of the two said so; vLLM itself only warns."""

from collections.abc import Iterable, Iterator
from types import SimpleNamespace

import pytest
import torch

from datagen.engines.worker import LoadWeights

NAMES = ["body.weight", "head.weight"]


class Model(torch.nn.Module):
    """Loads what it is given, but for tensors that it overlooks, and tells which it has loaded, or nothing."""

    def __init__(self, overlooked: str = "", tells: bool = True) -> None:
        super().__init__()
        self.body, self.head = torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 3, bias=False)
        self.overlooked, self.tells = overlooked, tells

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str] | None:
        loaded = {name for name, _ in weights if name != self.overlooked}
        return loaded if self.tells else None


def tensors(names: list[str]) -> Iterator[tuple[str, torch.Tensor]]:
    return ((name, torch.zeros(2)) for name in names)


def load(model: Model, yielded: list[str]) -> int:
    worker = LoadWeights()
    worker.model_runner = SimpleNamespace(  # type: ignore[assignment]
        get_model=lambda: model,
        reload_weights=lambda weights_iterator, is_checkpoint_format: model.load_weights(weights_iterator),
    )
    return worker.load(f"{tensors.__module__}:tensors", [yielded], NAMES)


def test_all_is_loaded() -> None:
    for model in (Model(), Model(tells=False)):
        assert load(model, NAMES) == 2
        assert "load_weights" not in vars(model)


def test_a_tensor_that_is_not_yielded_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"must yield every tensor once, but 1 differ, such as head\.weight"):
        load(Model(), NAMES[:1])
    with pytest.raises(RuntimeError, match="but 1 differ, such as tail"):
        load(Model(), [*NAMES, "tail"])


def test_a_tensor_that_vllm_overlooks_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"load every tensor of its Model, but 1 got nothing, such as body\.weight"):
        load(Model("body.weight"), NAMES)
