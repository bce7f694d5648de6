"""What a notebook imports: light until it is called, and then the same as the commands."""

import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

import datagen
import optimizer
from datagen.errors import ConfigError
from optimizer.search.study import Searched
from tests.optimizer.tiny_zoo import EXPERTS, TinyZoo
from tests.support import DEMO_CONFIG, ROOT


@pytest.fixture(scope="module")
def tiny_zoo(tmp_path_factory: pytest.TempPathFactory) -> TinyZoo:
    return TinyZoo(tmp_path_factory.mktemp("api-zoo"))


def test_importing_imports_nothing_heavy() -> None:
    heavy = {"torch", "vllm", "transformers", "optuna", "pydantic"}
    code = f"import sys, datagen, optimizer; print({heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_package_of_the_search_can_be_called_and_is_still_one() -> None:
    assert optimizer.search is sys.modules["optimizer.search"]
    assert Searched.__module__ == "optimizer.search.study"


def test_a_search_checks_its_config_as_the_command_does() -> None:
    config = optimizer.load_config(DEMO_CONFIG, ["engine.kind=transformers"])
    with pytest.raises(ConfigError, match="a search merges inside vLLM"):
        optimizer.search(config)


def test_data_are_checked_as_the_command_does() -> None:
    config = optimizer.load_config(str(DEMO_CONFIG), ["data.domains.numbers.expert=nobody"])
    with pytest.raises(ConfigError, match="its expert must be in the bunch, but 'nobody'"):
        datagen.generate(config)


def test_a_merge_at_an_end_is_that_source(tiny_zoo: TinyZoo, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    experts = ", ".join(f"{name}: {tiny_zoo.folder / name}" for name in EXPERTS)
    recipe.write_text(
        f"method: task_arithmetic\nbase: {tiny_zoo.folder / 'base'}\nexperts: {{{experts}}}\n"
        "coefficients: {aligned: 0, math: 1, code: 0}\n"
    )
    out = optimizer.merge(recipe, tmp_path / "merged")
    merged, source = (folder / "model.safetensors" for folder in (out, tiny_zoo.folder / "math"))
    expected, found = load_file(source), load_file(merged)
    assert found.keys() == expected.keys()
    assert all(found[name].equal(tensor) for name, tensor in expected.items())
    with pytest.raises(ConfigError, match="--force"):
        optimizer.merge(recipe, out)
