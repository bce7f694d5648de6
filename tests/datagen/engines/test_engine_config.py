"""One line of config picks the engine; a key never stands in it, nor in what is said about it."""

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from datagen.config import EngineConfig
from datagen.engines.base import open_engine

ADDRESS = "http://localhost:8000/v1"


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "VllmEngine"),
        ({"kind": "vllm"}, "VllmEngine"),
        ({"kind": "transformers"}, "TransformersEngine"),
        ({"kind": "server", "address": ADDRESS, "key_variable": "VLLM_API_KEY"}, "ServerEngine"),
    ],
)
def test_kinds(settings: dict[str, Any], name: str) -> None:
    with open_engine(EngineConfig(**settings)) as engine:
        assert type(engine).__name__ == name


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "server"}, "engine.address must be the server's base URL, .* but got none"),
        ({"kind": "server", "address": "localhost:8000"}, "base URL, .* but got localhost:8000"),
        ({"address": ADDRESS}, "engine.kind is vllm; set engine.kind=server"),
        ({"kind": "ray"}, "'vllm', 'server' or 'transformers'"),
    ],
)
def test_what_does_not_fit_together_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        EngineConfig(**settings)


def test_a_key_in_place_of_its_variable_is_not_repeated() -> None:
    with pytest.raises(ValidationError) as refused:
        EngineConfig(kind="server", address=ADDRESS, key_variable="sk-secret-1")
    (problem,) = refused.value.errors()
    assert "must be the name of an environment variable" in problem["msg"]
    assert "sk-secret-1" not in problem["msg"]


def test_a_server_needs_neither_torch_nor_vllm() -> None:
    lines = [
        "import sys",
        "from datagen.config import EngineConfig",
        "from datagen.engines.base import open_engine",
        f"open_engine(EngineConfig(kind='server', address='{ADDRESS}'))",
        "assert not {'torch', 'transformers', 'vllm'} & set(sys.modules)",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)
