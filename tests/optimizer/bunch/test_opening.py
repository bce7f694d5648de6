"""What does not belong together is told before any work, all of it at once."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from datagen.config import BunchConfig, Expert
from datagen.errors import BunchError
from optimizer.bunch import open_bunch
from optimizer.config import Config


@pytest.fixture
def damaged(zoo: Path, tmp_path: Path) -> Path:
    """A copy of an expert, to be damaged."""
    return Path(shutil.copytree(zoo / "numbers", tmp_path / "numbers"))


def with_expert(config: Config, model: str | Path) -> BunchConfig:
    return config.bunch.model_copy(update={"experts": config.bunch.experts | {"numbers": Expert(model=str(model))}})


def refused(bunch: BunchConfig) -> str:
    with pytest.raises(BunchError) as caught:
        open_bunch(bunch)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_folder(config: Config) -> None:
    assert "neither; check the path" in refused(with_expert(config, "/no/such/model"))


def test_file_cut_in_half(config: Config, damaged: Path) -> None:
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    assert "must be a whole safetensors file" in refused(with_expert(config, damaged))


def test_missing_shard(config: Config, damaged: Path) -> None:
    (damaged / "model.safetensors").unlink()
    assert "that file is missing; copy the whole model" in refused(with_expert(config, damaged))


def test_shard_outside_the_folder(config: Config, damaged: Path) -> None:
    index = {"weight_map": {"model.norm.weight": "../base/model.safetensors"}}
    (damaged / "model.safetensors.index.json").write_text(json.dumps(index))
    told = refused(with_expert(config, damaged))
    assert "a shard must be a file in the same folder, but '../base/model.safetensors' is none" in told


def test_other_architecture(config: Config, damaged: Path) -> None:
    path = damaged / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "qwen2"}))
    assert "numbers has model_type 'qwen2' and base 'llama'" in refused(with_expert(config, damaged))


def test_other_shape(config: Config, damaged: Path) -> None:
    tensors = load_file(damaged / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:64].clone()
    save_file(tensors, damaged / "model.safetensors")
    assert "such as model.norm.weight, [64] for [128]" in refused(with_expert(config, damaged))


def test_missing_tensor(config: Config, damaged: Path) -> None:
    tensors = load_file(damaged / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, damaged / "model.safetensors")
    assert "differ in 1, such as model.norm.weight" in refused(with_expert(config, damaged))


def test_other_vocabulary(config: Config, damaged: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(damaged)
    tokenizer.add_tokens(["brand-new"])
    tokenizer.save_pretrained(damaged)
    assert "1 tokens of numbers differ from base's, such as 'brand-new'" in refused(with_expert(config, damaged))


def test_other_chat_template(config: Config, zoo: Path) -> None:
    assert "must share one chat template, but numbers differ" in refused(with_expert(config, zoo / "guard"))


def test_no_config_json(config: Config, damaged: Path) -> None:
    (damaged / "config.json").unlink()
    assert "config.json must be there" in refused(with_expert(config, damaged))


def test_all_problems_at_once(config: Config, damaged: Path) -> None:
    (damaged / "model.safetensors").write_bytes(b"")
    experts = config.bunch.experts | {
        "numbers": Expert(model=str(damaged)),
        "finance": Expert(model="/no/such/model"),
    }
    message = refused(config.bunch.model_copy(update={"experts": experts}))
    assert "safetensors" in message
    assert "/no/such/model" in message


def test_order_is_the_configs(config: Config) -> None:
    bunch = open_bunch(config.bunch)
    assert [source.name for source in bunch.sources] == ["base", "aligned", "numbers", "medicine", "finance"]
    assert bunch.chat_source.name == "aligned"
