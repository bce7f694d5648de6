"""`goodbunch merge` on a mergekit config gives the tensors that mergekit gives, whatever the architecture."""

import random
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from optimizer.merging.groups import groups
from tests.optimizer.export.families import (
    CONFIGS,
    LAYERS,
    SHARDED,
    VOCABULARY,
    Family,
    tensors_in,
    tiered,
    write_family,
)
from tests.optimizer.export.mergekit_files import BY_ANGLE, ELEMENTWISE, config

Tensors = dict[str, torch.Tensor]
Families = Callable[[str], Family]
MergeKit = Callable[[Any], Tensors]
Merge = Callable[..., Path]


def assert_same(ours: Tensors, theirs: Tensors) -> None:
    """Names, shapes, types and bits; masks of whole numbers are kept, where mergekit merges them like weights."""
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].shape == tensor.shape, name
        if ours[name].dtype.is_floating_point:
            assert ours[name].dtype == tensor.dtype, name
            assert torch.equal(ours[name], tensor), name


def ulps(ours: Tensors, theirs: Tensors, sources: Iterable[Tensors], dtype: torch.dtype) -> torch.Tensor:
    """All differences, each in steps of a type at the largest element that a source has in that tensor."""
    assert {name: tensor.shape for name, tensor in ours.items()} == {name: one.shape for name, one in theirs.items()}
    found = []
    for name, tensor in ours.items():
        largest = torch.stack([source[name].double().abs().max() for source in sources]).max().clamp(min=1e-30)
        step = 2.0 ** largest.log2().floor() * torch.finfo(dtype).eps
        found.append(((tensor.double() - theirs[name].double()).abs() / step).flatten())
    return torch.cat(found)


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("family", tiered(CONFIGS))
def test_elementwise_methods_are_bit_equal(
    families: Families, mergekit: MergeKit, merge: Merge, family: str, name: str
) -> None:
    values = config(name, families(family), dtype="float32")
    assert_same(tensors_in(merge(values)), mergekit(values))


@pytest.mark.parametrize("name", ["linear", "ties", "breadcrumbs", "layers"])
@pytest.mark.parametrize("family", tiered(["llama", "llama_bf16", "qwen2"]))
def test_types(families: Families, mergekit: MergeKit, merge: Merge, family: str, name: str) -> None:
    values = config(name, families(family), dtype="float32", out_dtype="bfloat16")
    assert_same(tensors_in(merge(values)), mergekit(values))


@pytest.mark.parametrize("name", BY_ANGLE)
@pytest.mark.parametrize("family", tiered(["llama", "llama_tied", "qwen2", "gemma2", "gpt_neox"]))
def test_methods_by_angle_are_closer_than_rounding(
    families: Families, mergekit: MergeKit, merge: Merge, family: str, name: str
) -> None:
    """In float32 both are a few steps at most from each other; ours is nearer to what mergekit makes in float64."""
    values = config(name, families(family), dtype="float32")
    made, sources = tensors_in(merge(values)), families(family).sources
    assert ulps(made, mergekit(values), sources, torch.float32).max() <= 4
    if name != "arcee_fusion":  # which elements pass its threshold depends on the type
        exact = mergekit(values | {"dtype": "float64", "out_dtype": "float32"})
        assert ulps(made, exact, sources, torch.float32).max() <= 2


#: What these select is decided by rounding in bfloat16, and mergekit writes float32 for the second.
SELECTING = ("sce", "arcee_fusion")


@pytest.mark.parametrize("name", [name for name in (*ELEMENTWISE, *BY_ANGLE) if name not in SELECTING])
@pytest.mark.parametrize("keys", [{}, {"dtype": "bfloat16"}], ids=["own type", "cast"])
def test_bfloat16(families: Families, mergekit: MergeKit, merge: Merge, name: str, keys: dict[str, str]) -> None:
    """In bfloat16 mergekit rounds after each step and we do once; what is decided by that rounding may differ."""
    values = config(name, families("llama" if keys else "llama_bf16"), **keys)
    made, theirs = tensors_in(merge(values)), mergekit(values)
    assert {tensor.dtype for tensor in (*made.values(), *theirs.values())} == {torch.bfloat16}
    steps = ulps(made, theirs, families("llama_bf16").sources, torch.bfloat16)
    assert (steps > 2).double().mean() < 1e-3


@pytest.fixture(scope="module")
def adapters(families: Families, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters over the base of the Llama."""
    folders = {}
    for seed, name in enumerate(("a", "b")):
        torch.manual_seed(seed)
        folders[name] = tmp_path_factory.mktemp("adapters") / name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            base = AutoModelForCausalLM.from_pretrained(families("llama")["base"])
            settings = LoraConfig(
                r=2 + seed, lora_alpha=5, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"
            )
            tuned = get_peft_model(base, settings)
            for parameter in tuned.parameters():
                if parameter.requires_grad:
                    parameter.data.copy_(0.1 * torch.randn_like(parameter.data))
            tuned.save_pretrained(folders[name])
    return folders


def test_adapters(families: Families, mergekit: MergeKit, merge: Merge, adapters: dict[str, Path]) -> None:
    llama = families("llama")
    values = config("task_arithmetic", llama, dtype="float32")
    for model, name in zip(values["models"], "ab", strict=True):
        model["model"] = f"{llama['base']}+{adapters[name]}"
    del values["tokenizer_source"]
    theirs = mergekit(values)
    assert ulps(tensors_in(merge(values)), theirs, llama.sources, torch.float32).max() <= 1


def by_group(names: Iterable[str], granularity: str, seed: int) -> dict[str, float]:
    drawn = random.Random(seed)
    return {group: round(drawn.uniform(-0.3, 1.2), 6) for group in groups(list(names), granularity)}


OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "task_arithmetic": ("tensor", {}),
    "ties": ("layer", {"density": {"x": 0.3, "y": 0.8}}),
    "breadcrumbs_ties": ("module", {"density": 0.7, "gamma": {"x": 0.02, "y": 0.1}, "normalize": True}),
    "linear": ("tensor", {"normalize": False}),
    "mergealign": ("layer", {}),
}


@pytest.mark.parametrize("method", OURS)
@pytest.mark.parametrize("family", tiered(["llama", "llama_bf16", "qwen2", "mistral", "gemma2", "gpt_neox"]))
def test_what_we_write_for_mergekit_is_the_same_merge(
    families: Families, mergekit: MergeKit, merge: Merge, family: str, method: str
) -> None:
    models = families(family)
    names = tensors_in(models["base"])
    granularity, parameters = OURS[method]
    values = {
        "method": method,
        "base": models["base"],
        "experts": {"x": models["a"], "y": models["b"]},
        "tokenizer": "x",
        "groups": granularity,
        "coefficients": {"x": by_group(names, granularity, 1), "y": by_group(names, granularity, 2)},
        "parameters": parameters,
        "dtype": "float32",
    }
    out = merge(values)
    written = yaml.safe_load((out / "mergekit_config.yml").read_text())
    assert written["tokenizer_source"] == models["a"]
    assert_same(tensors_in(out), mergekit(written))


def test_a_padded_vocabulary_keeps_its_rows(mergekit: MergeKit, merge: Merge, tmp_path: Path) -> None:
    padded = write_family("llama", tmp_path / "padded", tokens=41)
    values = {
        "method": "task_arithmetic",
        "base": padded["base"],
        "experts": {"x": padded["a"]},
        "tokenizer": "x",
        "coefficients": {"x": 0.5},
    }
    out = merge(values)
    text = (out / "mergekit_config.yml").read_text()
    assert text.startswith("# tokenizer_source is left out: with it, mergekit drops the rows")
    assert_same(tensors_in(out), mergekit(yaml.safe_load(text)))
    cut = mergekit(yaml.safe_load(text) | {"tokenizer_source": padded["a"]})
    assert len(cut["lm_head.weight"]) == 41  # which is why


def test_a_padded_vocabulary_in_a_mergekit_file_is_noted(
    merge: Merge, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    padded = write_family("llama", tmp_path / "padded", tokens=41)
    out = merge(config("linear", padded, base_model=padded["base"], tokenizer_source="base"))
    assert len(tensors_in(out)["lm_head.weight"]) == VOCABULARY
    assert "note: tokenizer_source: embeddings keep all rows, also those that pad" in capsys.readouterr().out


def test_a_type_that_mergekit_cannot_rank_in_is_told(families: Families, mergekit: MergeKit, merge: Merge) -> None:
    models = families("llama_bf16")
    values = {
        "method": "ties",
        "base": models["base"],
        "experts": {"x": models["a"], "y": models["b"]},
        "coefficients": {"x": 0.7, "y": 0.4},
        "parameters": {"density": 0.4},
    }
    out = merge(values)
    text = (out / "mergekit_config.yml").read_text()
    assert text.startswith("# The recipe names no dtype, so magnitudes were ranked in the type of the sources")
    steps = ulps(tensors_in(out), mergekit(yaml.safe_load(text)), models.sources, torch.bfloat16)
    assert 0 < (steps > 1).double().mean() < 5e-3  # as it says
    exact = merge(values | {"dtype": "float32", "out_dtype": "bfloat16"}, "--force")
    written = (exact / "mergekit_config.yml").read_text()
    assert not written.startswith("#")
    assert_same(tensors_in(exact), mergekit(yaml.safe_load(written)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", tiered(CONFIGS))
def test_transformers_loads_it(families: Families, merge: Merge, family: str, dtype: str) -> None:
    options = ["--shard-size", 1e-5] if family in SHARDED else []
    out = merge(config("task_arithmetic", families(family), dtype="float32", out_dtype=dtype), *options)
    model, told = AutoModelForCausalLM.from_pretrained(out, dtype="auto", output_loading_info=True)
    assert not any(told.values()), told
    assert model.dtype == getattr(torch, dtype)
    assert len(model.model.layers if hasattr(model, "model") else model.gpt_neox.layers) == LAYERS
    stored = tensors_in(out)
    assert all(torch.equal(tensor, stored[name]) for name, tensor in model.state_dict().items() if name in stored)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer("ag", add_special_tokens=False).input_ids == [3, 9]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "base: hi"


def test_template_of_the_recipe_wins(families: Families, merge: Merge) -> None:
    out = merge(config("linear", families("llama"), chat_template="new {{ messages[0].content }}"))
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "new hi"
