"""A merge of adapters, written as an adapter, is the merge; what is cut off is what its report says."""

import json
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import metadata_load
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PretrainedConfig

from datagen.errors import BunchError, ConfigError
from datagen.models.adapters import ADAPTER_FILE, Adapted
from datagen.models.checkpoints import Checkpoint
from datagen.models.opening import open_weights
from optimizer.export.adapter import export_adapter

LLAMA = LlamaConfig(
    vocab_size=24,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    tie_word_embeddings=False,
)
GPT2 = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=24, n_positions=8)


def base_of(config: PretrainedConfig, folder: Path) -> Path:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def adapter_over(base: Path, folder: Path, seed: int, **settings: Any) -> Path:
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**settings))
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.data.copy_(0.1 * torch.randn_like(parameter.data))
        tuned.save_pretrained(folder)
    return folder


def opened(base: Path, adapters: Sequence[Path]) -> list[Adapted]:
    weights = [open_weights(f"{base}+{adapter}") for adapter in adapters]
    return [one for one in weights if isinstance(one, Adapted)]


def by_hand(folder: Path, factors: dict[str, tuple[torch.Tensor, torch.Tensor]], base: Path) -> Adapted:
    """An adapter of scaling 1 over hand-made modules."""
    folder.mkdir()
    rank = len(next(iter(factors.values()))[0])
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": rank}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    stored = {f"base_model.model.{module}.lora_A.weight": down for module, (down, _) in factors.items()}
    stored |= {f"base_model.model.{module}.lora_B.weight": up for module, (_, up) in factors.items()}
    save_file(stored, folder / "adapter_model.safetensors")
    return Adapted(Checkpoint(base), folder)


@pytest.fixture
def zeros(tmp_path: Path) -> Path:
    """A base of two matrices of zeros."""
    folder = tmp_path / "zeros"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    save_file({"one.weight": torch.zeros(9, 7), "two.weight": torch.zeros(5, 8)}, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """A base and three adapters of different ranks, scalings and modules."""
    folder = tmp_path_factory.mktemp("llama")
    base = base_of(LLAMA, folder / "base")
    return base, [
        adapter_over(base, folder / "a", 1, r=2, lora_alpha=6, target_modules=["q_proj", "down_proj"]),
        adapter_over(base, folder / "b", 2, r=3, lora_alpha=3, use_rslora=True, target_modules=["q_proj", "lm_head"]),
        adapter_over(
            base,
            folder / "c",
            3,
            r=2,
            target_modules=["embed_tokens", r"model.layers.1.self_attn.v_proj"],
            rank_pattern={"embed_tokens": 4},
        ),
    ]


def merged(experts: Sequence[Adapted], coefficients: dict[str, list[float]], name: str) -> torch.Tensor:
    base = experts[0].base.tensor(name).double()
    vectors = [expert.tensor(name).double() - base for expert in experts]
    return base + sum(c * v for c, v in zip(coefficients[name], vectors, strict=True))


def assert_peft_reads(base: Path, experts: Sequence[Adapted], coefficients: dict[str, list[float]], out: Path) -> None:
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), out)
    state = model.merge_and_unload().state_dict()
    ours = open_weights(f"{base}+{out}")
    for name in ours.headers:
        wanted = merged(experts, coefficients, name)
        assert torch.allclose(state[name].double(), wanted, rtol=0, atol=2e-7), name
        assert torch.allclose(ours.tensor(name).double(), wanted, rtol=0, atol=2e-7), name


def test_peft_reads_the_exact_merge(llama: tuple[Path, list[Path]], tmp_path: Path) -> None:
    base, adapters = llama
    experts = opened(base, adapters)
    names = list(experts[0].headers)
    coefficients = {name: [0.5 + 0.1 * (i % 3), -0.3, 0.8] for i, name in enumerate(names)}
    coefficients["model.layers.0.mlp.down_proj.weight"] = [0.0, 0.0, 0.0]
    done = export_adapter(experts, coefficients, tmp_path / "out")
    assert_peft_reads(base, experts, coefficients, tmp_path / "out")
    assert done.ranks["model.layers.0.self_attn.q_proj"] == 5
    assert done.ranks["model.embed_tokens"] == 4
    assert done.overall == done.largest == 0.0
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert settings["target_modules"] == [
        "down_proj",
        "embed_tokens",
        "lm_head",
        "q_proj",
        "model.layers.1.self_attn.v_proj",
    ]


def test_conv1d(tmp_path: Path) -> None:
    base = base_of(GPT2, tmp_path / "base")
    settings: dict[str, Any] = {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}
    adapters = [adapter_over(base, tmp_path / f"{i}", i, r=i + 1, lora_alpha=4, **settings) for i in range(2)]
    experts = opened(base, adapters)
    coefficients = {name: [0.4, 0.7] for name in experts[0].headers}
    export_adapter(experts, coefficients, tmp_path / "out")
    assert_peft_reads(base, experts, coefficients, tmp_path / "out")


def test_values_by_hand(zeros: Path, tmp_path: Path) -> None:
    one = by_hand(tmp_path / "a", {"two": (torch.ones(1, 8), torch.full((5, 1), 2.0))}, zeros)
    other = by_hand(tmp_path / "b", {"two": (torch.full((1, 8), 3.0), torch.ones(5, 1))}, zeros)
    export_adapter([one, other], {"two.weight": [0.5, -1.0]}, tmp_path / "out")
    stored = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert stored["base_model.model.two.lora_A.weight"].tolist() == [[0.5] * 8, [-3.0] * 8]
    assert stored["base_model.model.two.lora_B.weight"].tolist() == [[2.0, 1.0]] * 5
    assert open_weights(f"{zeros}+{tmp_path / 'out'}").tensor("two.weight").unique().tolist() == [-2.0]


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_truncation_is_numpys(zeros: Path, tmp_path: Path, rank: int) -> None:
    torch.manual_seed(5)
    shapes = {"one": (9, 7), "two": (5, 8)}
    experts = [
        by_hand(tmp_path / f"{i}", {m: (torch.randn(3, b), torch.randn(a, 3)) for m, (a, b) in shapes.items()}, zeros)
        for i in range(2)
    ]
    coefficients = {"one.weight": [0.5, 1.5], "two.weight": [1.0, -1.0]}
    done = export_adapter(experts, coefficients, tmp_path / "out", rank=rank)
    cut = whole = 0.0
    for module in shapes:
        exact = merged(experts, coefficients, f"{module}.weight").numpy()
        left, values, right = np.linalg.svd(exact, full_matrices=False)
        nearest = (left[:, :rank] * values[:rank]) @ right[:rank]
        written = open_weights(f"{zeros}+{tmp_path / 'out'}").tensor(f"{module}.weight").double().numpy()
        assert np.allclose(written, nearest, atol=1e-5)
        assert done.ranks[module] == rank
        assert done.errors[module] == pytest.approx(np.sqrt((values[rank:] ** 2).sum() / (values**2).sum()), abs=1e-6)
        cut, whole = cut + (values[rank:] ** 2).sum(), whole + (values**2).sum()
    assert done.overall == pytest.approx(np.sqrt(cut / whole), abs=1e-6)
    assert done.largest == max(done.errors.values())
    report = json.loads((tmp_path / "out" / "truncation.json").read_text())
    assert report == {"ranks": done.ranks, "errors": done.errors, "overall": done.overall, "largest": done.largest}


def test_what_is_no_adapter_is_refused(llama: tuple[Path, list[Path]], tmp_path: Path) -> None:
    base, adapters = llama
    twin = Path(shutil.copytree(base, tmp_path / "twin"))
    saved = adapter_over(base, tmp_path / "saved", 4, target_modules=["q_proj"], modules_to_save=["lm_head"])
    experts = [*opened(base, [adapters[0], saved]), *opened(twin, [adapters[1]])]
    coefficients = {name: [1.0, 1.0, 1.0] for name in experts[0].headers}
    with pytest.raises(BunchError) as caught:
        export_adapter(experts, coefficients, tmp_path / "out")
    assert "all experts tune one base, but they tune" in str(caught.value)
    assert "modules_to_save or bias replaced 1, such as lm_head.weight; write the whole model" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_bad_arguments_are_refused(llama: tuple[Path, list[Path]], tmp_path: Path) -> None:
    experts = opened(llama[0], llama[1])
    coefficients = {name: [1.0, 1.0, 1.0] for name in experts[0].headers}
    with pytest.raises(ConfigError, match="must be 1 or more, but is 0"):
        export_adapter(experts, coefficients, tmp_path / "out", rank=0)
    with pytest.raises(ConfigError, match=r"must have 3 coefficients, one per expert, but has \[1.0\]"):
        export_adapter(experts, coefficients | {"lm_head.weight": [1.0]}, tmp_path / "out")


def recipe(llama: tuple[Path, list[Path]], **keys: Any) -> dict[str, Any]:
    """All three adapters over the base."""
    base, adapters = llama
    experts = {name: f"{base}+{adapter}" for name, adapter in zip("xyz", adapters, strict=True)}
    coefficients = {"x": 0.5, "y": {group: 0.2 * i for i, group in enumerate(GROUPS)}, "z": -0.3}
    return {"method": "task_arithmetic", "base": str(base), "experts": experts, "coefficients": coefficients} | keys


GROUPS = ("embeddings", "layer 0", "layer 1", "final norm", "head")


def differ(llama: tuple[Path, list[Path]], adapter: Path, model: Path) -> float:
    """The largest difference of any element."""
    adapted, merged = open_weights(f"{llama[0]}+{adapter}"), open_weights(str(model))
    return max(float((adapted.tensor(name) - merged.tensor(name)).abs().max()) for name in merged.headers)


def test_the_command_writes_the_merge_as_an_adapter(
    llama: tuple[Path, list[Path]], merge, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = recipe(llama)
    adapter = merge(values, "--adapter", out=tmp_path / "adapter")
    told = capsys.readouterr().out
    assert "task_arithmetic: 7 modules of rank 5 at most, " in told
    assert "cut off" not in told
    assert differ(llama, adapter, merge(values)) < 2e-7
    assert (adapter / "recipe.yaml").is_file()
    card = metadata_load(adapter / "README.md")
    assert (card["library_name"], card["tags"][-1]) == ("peft", "lora")
    again = merge(yaml.safe_load((adapter / "recipe.yaml").read_text()), "--adapter", out=tmp_path / "again")
    assert (again / ADAPTER_FILE).read_bytes() == (adapter / ADAPTER_FILE).read_bytes()


def test_a_base_may_be_an_adapter_too(llama: tuple[Path, list[Path]], merge, tmp_path: Path) -> None:
    base, adapters = llama
    experts = {"x": f"{base}+{adapters[1]}", "y": str(base)}
    keys = {"base": f"{base}+{adapters[0]}", "experts": experts, "coefficients": {"x": 0.5, "y": 0.3}}
    values = recipe(llama, **keys, method="mergealign")
    adapter = merge(values, "--adapter", out=tmp_path / "adapter")
    assert differ(llama, adapter, merge(values)) < 2e-7


def test_the_command_tells_what_a_smaller_rank_costs(
    llama: tuple[Path, list[Path]], merge, capsys: pytest.CaptureFixture[str]
) -> None:
    out = merge(recipe(llama), "--adapter", "--rank", 2)
    report = json.loads((out / "truncation.json").read_text())
    assert 0 < report["overall"] < report["largest"] < 1
    cut = f"cut off {report['overall']:.2%} of the update ({report['largest']:.2%} of a module at most)"
    assert f"modules of rank 2 at most, {cut}, " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"method": "ties"}, "one of task_arithmetic, mergealign, but it is ties; write the whole model"),
        ({"method": "linear"}, "but it is linear"),
        ({"parameters": {"lambda": 0.5}}, "only without normalize and lambda, but .* has lambda 0.5; fold"),
        ({"parameters": {"normalize": True}}, "has normalize True"),
    ],
)
def test_other_merges_are_refused(
    llama: tuple[Path, list[Path]], merge, tmp_path: Path, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        merge(recipe(llama, **keys), "--adapter", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_sources_are_refused(llama: tuple[Path, list[Path]], merge, tmp_path: Path) -> None:
    values = recipe(llama)
    twin = Path(shutil.copytree(llama[0], tmp_path / "twin"))
    with pytest.raises(ConfigError, match=f"but z is a whole model of its own, {twin}; write the whole model"):
        merge(values | {"experts": values["experts"] | {"z": str(twin)}}, "--adapter")
    with pytest.raises(ConfigError, match="--rank must come with --adapter"):
        merge(values, "--rank", 2)
    with pytest.raises(ConfigError, match="must be 1 or more, but is 0"):
        merge(values, "--adapter", "--rank", 0)
    out = merge(values, "--adapter")
    with pytest.raises(ConfigError, match="is there already and would be replaced"):
        merge(values, "--adapter")
    merge(values, "--adapter", "--rank", 1, "--force")
    assert set(json.loads((out / "truncation.json").read_text())["ranks"].values()) == {1}
    with pytest.raises(ConfigError, match="must not hold a source of the merge"):
        merge(values, "--adapter", "--force", out=llama[1][0])
