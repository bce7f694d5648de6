"""What names stand for, and which recipes an engine may merge itself."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from optimizer.engines.generating import merges_inside
from optimizer.evaluate.subjects import subjects_of
from optimizer.recipes.reading import read_recipe
from tests.optimizer.tiny_zoo import TinyZoo


def test_names_are_short_and_differ(tmp_path: Path) -> None:
    recipe = tmp_path / "half.yaml"
    recipe.touch()
    for run in ("one", "two"):
        (tmp_path / run / "merged").mkdir(parents=True)
        for file in ("study.db", "merged/recipe.yaml"):
            (tmp_path / run / file).touch()
    named = [tmp_path / "one", tmp_path / "two", recipe, "org/model@main", "org/model+my/adapter", "aligned", "half"]
    found = subjects_of([str(one) for one in named], {"aligned": "org/instruct"})
    assert [(one.name, one.reference) for one in found] == [
        ("winner", str(tmp_path / "one" / "merged")),
        ("winner-2", str(tmp_path / "two" / "merged")),
        ("half", str(recipe)),
        ("model", "org/model@main"),
        ("adapter", "org/model+my/adapter"),
        ("aligned", "org/instruct"),
        ("half-2", "half"),
    ]


def recipe(zoo: TinyZoo, folder: Path, **more: Any) -> Path:
    path = folder / "recipe.yaml"
    sources = {"aligned": str(zoo.folder / "aligned"), "math": str(zoo.folder / "math")}
    told = {"method": "task_arithmetic", "base": str(zoo.folder / "base"), "experts": sources}
    path.write_text(yaml.safe_dump(told | {"coefficients": {"aligned": 1.0, "math": 1.0}} | more))
    return path


@pytest.mark.parametrize(
    ("more", "dtype", "inside"),
    [
        ({}, "auto", True),
        ({"tokenizer": "aligned"}, "auto", True),
        ({"chat_template": "{{ messages }}"}, "auto", False),  # the engine's model has another
        ({"out_dtype": "bfloat16"}, "auto", False),  # the engine would go on in float32
        ({"out_dtype": "bfloat16"}, "float32", True),  # as it would with the export
        ({"dtype": "bfloat16", "out_dtype": "float32"}, "auto", True),
    ],
)
def test_recipes_merged_inside(
    tiny_zoo: TinyZoo, tmp_path: Path, more: dict[str, str], dtype: str, inside: bool
) -> None:
    assert merges_inside(read_recipe(recipe(tiny_zoo, tmp_path, **more)), dtype) == inside


def test_a_source_with_another_config_cannot_stand_for_the_merge(tiny_zoo: TinyZoo, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tiny_zoo.folder / "aligned", tmp_path / "aligned"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 64}))
    sources = {"aligned": str(other), "math": str(tiny_zoo.folder / "math")}
    for speaker, inside in (("aligned", False), ("base", True)):
        assert (
            merges_inside(read_recipe(recipe(tiny_zoo, tmp_path, experts=sources, tokenizer=speaker)), "auto") == inside
        )
