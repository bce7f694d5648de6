"""mergekit itself, in process, and small models for it and for us."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import yaml
from transformers.utils import logging

from optimizer.cli import app
from tests.optimizer.export.families import Family, tensors_in, write_family

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="session", autouse=True)
def quiet() -> None:
    logging.disable_progress_bar()


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Family]:
    """Name of a config -> its models, written when first asked for."""
    made: dict[str, Family] = {}

    def family(name: str) -> Family:
        if name not in made:
            made[name] = write_family(name, tmp_path_factory.mktemp(name))
        return made[name]

    return family


@pytest.fixture(scope="session")
def mergekit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Any], Tensors]]:
    """A config -> the tensors that mergekit makes of it, ties of its sorts broken by position."""
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    def run(values: Any) -> Tensors:
        out = tmp_path_factory.mktemp("mergekit")
        options = MergeOptions(quiet=True, lora_merge_cache=str(out / "cache"))
        stable = {
            "argsort": partial(torch.argsort, stable=True),
            "sort": partial(torch.sort, stable=True),
            "topk": _largest,
        }
        with mock.patch.multiple(torch, **stable):
            run_merge(MergeConfiguration.model_validate(values), str(out / "merged"), options)
        return tensors_in(out / "merged")

    yield run


def _largest(values: torch.Tensor, k: int, largest: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    found = torch.Tensor.sort(values, descending=largest, stable=True)
    return found.values[:k], found.indices[:k]


@pytest.fixture
def merge(tmp_path: Path) -> Callable[..., Path]:
    """Runs `goodbunch merge` in process on a recipe's values, and returns the folder."""

    def run(values: Any, *options: object, out: Path | None = None) -> Path:
        out, file = out or tmp_path / "ours", tmp_path / "recipe.yml"
        file.write_text(yaml.safe_dump(values))
        app(["merge", str(file), "--out", str(out), *map(str, options)], standalone_mode=False)
        return out

    return run
