"""Coefficients by block of rows, from the search to the folder: the same tensors, or one line that says why not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from datagen.errors import ConfigError
from optimizer.bunch import open_bunch
from optimizer.engines.banks import space_of
from optimizer.export import write_merge
from optimizer.export.adapter import write_adapter
from optimizer.recipes.mergekit_out import mergekit_config
from optimizer.recipes.ours import GroupedRecipe
from optimizer.recipes.reading import read_recipe
from optimizer.recipes.searched import recipe_of
from optimizer.search.domain import Point
from tests.optimizer.export.families import tensors_in
from tests.optimizer.tiny_zoo import EXPERTS, TinyZoo


def recipe_at(tiny_zoo: TinyZoo, groups: str = "block", **merge: Any) -> tuple[GroupedRecipe, dict[str, torch.Tensor]]:
    """A merge at a random point, and what it is in an engine."""
    config = tiny_zoo.config(Path("run"), merge={"groups": groups} | merge)
    engine = tiny_zoo.engine(config)
    point = np.random.default_rng(0).normal(0.4, 0.5, engine.space.shape)
    engine.apply(point)
    live = {name: parameter.detach() for name, parameter in engine.model.named_parameters()}
    return recipe_of(config, engine.space, Point(point, {})), live


@pytest.mark.parametrize("blocks", [2, 3, 8])
@pytest.mark.parametrize(
    "merge",
    [
        {},
        {"method": "ties", "parameters": {"density": 0.5}},
        {"method": "dare_linear", "parameters": {"density": 0.5}, "seed": 4},
    ],
)
def test_what_was_searched_is_what_ships(tiny_zoo: TinyZoo, tmp_path: Path, blocks: int, merge: dict[str, Any]) -> None:
    recipe, live = recipe_at(tiny_zoo, blocks=blocks, **merge)
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    read = read_recipe(tmp_path / "recipe.yaml")
    assert isinstance(read, GroupedRecipe)
    assert read.resolve(tiny_zoo.bunch.names) == recipe.resolve(tiny_zoo.bunch.names)
    assert read.to_yaml() == recipe.to_yaml()
    shipped = tensors_in(write_merge(read, tmp_path / "merged"))
    assert shipped.keys() == live.keys()
    assert all(torch.equal(shipped[name], live[name]) for name in live)
    assert not (tmp_path / "merged" / "mergekit_config.yml").exists(), "mergekit has no way to say it"
    assert yaml.safe_load((tmp_path / "merged" / "recipe.yaml").read_text())["groups"] == "block"


def test_rows_are_merged_by_their_own_blocks(tiny_zoo: TinyZoo) -> None:
    """By the definition in float64: of 16 rows in 3 blocks the first has 5, the second 5, the last 6."""
    recipe, live = recipe_at(tiny_zoo, blocks=3)
    name = "model.layers.1.self_attn.q_proj.weight"
    base, *experts = (tensors_in(tiny_zoo.folder / source)[name].double() for source in ("base", *EXPERTS))
    rows = torch.tensor([0] * 5 + [1] * 5 + [2] * 6)
    by_hand = base.clone()
    for expert, tuned in zip(EXPERTS, experts, strict=True):
        coefficients = recipe.coefficients[expert]
        assert isinstance(coefficients, dict)
        factors = torch.tensor([coefficients[f"{name} {block}"] for block in range(3)], dtype=torch.float64)
        by_hand += factors[rows, None] * (tuned - base)
    assert live[name].double().numpy() == pytest.approx(by_hand.numpy(), abs=1e-6)


def test_mergekits_file_cannot_say_it(tiny_zoo: TinyZoo) -> None:
    recipe, _ = recipe_at(tiny_zoo)
    with pytest.raises(
        ConfigError, match="has one coefficient per tensor and expert, but the recipe's groups are blo"
    ) as told:
        mergekit_config(recipe, tiny_zoo.bunch.names, "float32", with_tokenizer=True)
    assert "\n" not in str(told.value)


def test_nor_can_an_adapter(tiny_zoo: TinyZoo, tmp_path: Path, adapters: Callable[[], dict[str, str]]) -> None:
    given = adapters()
    bunch = {"base": given.pop("base"), "experts": {n: {"model": m, "role": "aligned"} for n, m in given.items()}}
    config = tiny_zoo.config(Path("run"), merge={"groups": "block", "blocks": 2}, bunch=bunch)
    opened = open_bunch(config.bunch)
    space = space_of(opened, config.merge)
    recipe = recipe_of(config, space, Point(space.constant({"tuned": 0.5}), {}))
    with pytest.raises(
        ConfigError, match="has one coefficient per tensor and expert, but the recipe's groups are blo"
    ) as told:
        write_adapter(recipe, tmp_path / "adapter")
    assert "\n" not in str(told.value)
    assert not (tmp_path / "adapter").exists()
    write_merge(recipe, tmp_path / "whole")


@pytest.fixture
def adapters(tiny_zoo: TinyZoo, tmp_path: Path) -> Callable[[], dict[str, str]]:
    """Writes an adapter over the base."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    def write() -> dict[str, str]:
        base = tiny_zoo.folder / "base"
        tuned = get_peft_model(
            AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules=["q_proj", "down_proj"])
        )
        tuned.save_pretrained(tmp_path / "lora")
        return {"base": str(base), "tuned": f"{base}+{tmp_path / 'lora'}"}

    return write
