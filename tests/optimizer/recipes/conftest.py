"""mergekit itself, as far as it resolves parameters: what it would give each tensor, before any is read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from transformers import LlamaConfig

from optimizer.merging.methods import METHODS
from optimizer.recipes import TensorRecipe
from optimizer.recipes.recipe import beyond_defaults
from tests.optimizer.recipes.mergekit_configs import DEPTHS

Planned = dict[str, TensorRecipe]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, str]]:
    """Depth -> name -> a folder that mergekit can plan with; there are no weights but a head's."""
    made: dict[int, dict[str, str]] = {}
    for depth in DEPTHS:
        made[depth] = {}
        for name in "abcd":
            folder = tmp_path_factory.mktemp(f"depth{depth}") / name
            config = LlamaConfig(num_hidden_layers=depth, hidden_size=4, intermediate_size=4, num_attention_heads=1)
            config.architectures = ["LlamaForCausalLM"]
            config.save_pretrained(folder)
            safetensors.torch.save_file({"lm_head.weight": torch.zeros(1)}, folder / "model.safetensors")
            made[depth][name] = str(folder)
    return made


@pytest.fixture(scope="session")
def oracle() -> Callable[[dict[str, Any]], Planned]:
    """A mergekit config -> every tensor's recipe as mergekit plans it; sources are named by their folders."""
    pytest.importorskip("mergekit")
    from mergekit.architecture import get_architecture_info
    from mergekit.config import MergeConfiguration
    from mergekit.options import MergeOptions
    from mergekit.plan import MergePlanner

    def plan(values: dict[str, Any]) -> Planned:
        config, options = MergeConfiguration.model_validate(values), MergeOptions()
        example = config.referenced_models()[0].config()
        planner = MergePlanner(config, get_architecture_info(config, options), options, example)
        planner._plan()
        return {weight.name: _recipe(config.merge_method, task) for weight, task in planner._tensors}

    return plan


def _recipe(method_name: str, task: Any) -> TensorRecipe:
    method = METHODS[method_name]
    base = None if method.base == "unused" else task.base_model
    experts = [model for model in task.model_order if model != base]
    shared = dict(task.parameters.items())
    own = {model: dict(values.items()) for model, values in task.input_parameters.items()}
    coefficient = method.coefficient.name
    if not coefficient:
        coefficients = [1.0] * len(experts)
    elif method.coefficient.shared:
        coefficients = [shared[coefficient]] * len(experts)
    else:
        coefficients = [own[model][coefficient] for model in experts]
    given = {
        one.name: tuple(own[model][one.name] for model in experts) if one.per_expert else shared[one.name]
        for one in method.parameters
    }
    return TensorRecipe(
        base=Path(str(base)).name if base else None,
        experts=tuple(Path(str(model)).name for model in experts),
        coefficients=tuple(1.0 if one is None else one for one in coefficients),
        settings=beyond_defaults(method, given, len(experts)),
    )
