"""An adapter over a base gives what PEFT's own merge gives; what is no plain LoRA, or does not fit, is refused."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedModel

from datagen.errors import BunchError
from datagen.models.adapters import Adapted
from datagen.models.checkpoints import Checkpoint
from datagen.models.opening import open_weights

LLAMA: dict[str, Any] = {
    "vocab_size": 640,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}
ATTENTION = ["q_proj", "v_proj"]

# What is asked of PEFT: model settings, adapter settings.
ADAPTERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "attention": ({}, {"target_modules": ATTENTION}),
    "every linear": ({}, {"target_modules": "all-linear", "lora_alpha": 3}),
    "rank-stabilised": ({}, {"target_modules": ATTENTION, "use_rslora": True, "lora_alpha": 5}),
    "patterns": (
        {},
        {
            "target_modules": ["q_proj", "down_proj"],
            "rank_pattern": {"down_proj": 3, r"layers\.1\.self_attn\.q_proj": 7},
            "alpha_pattern": {r"^model\.layers\.0\.self_attn\.q_proj": 11},
        },
    ),
    "embeddings and head": ({}, {"target_modules": ["embed_tokens", "lm_head", "q_proj"]}),
    "saved modules": ({}, {"target_modules": ATTENTION, "modules_to_save": ["lm_head", "embed_tokens"]}),
    "biases of the adapted": ({"attention_bias": True}, {"target_modules": ATTENTION, "bias": "lora_only"}),
    "all biases": ({"attention_bias": True, "mlp_bias": True}, {"target_modules": ATTENTION, "bias": "all"}),
    "gaussian start": ({}, {"target_modules": ATTENTION, "init_lora_weights": "gaussian"}),
    "tied": ({"tie_word_embeddings": True}, {"target_modules": ATTENTION}),
    "tied saved modules": (
        {"tie_word_embeddings": True},
        {"target_modules": ATTENTION, "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ),
}


def tiny_llama(folder: Path, dtype: torch.dtype = torch.float32, **settings: Any) -> Path:
    """A Llama of random weights."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(LlamaConfig(**(LLAMA | settings)), dtype=dtype).save_pretrained(folder)
    return folder


def adapter_over(base: Path, folder: Path, seed: int = 1, **settings: Any) -> Path:
    """A LoRA as PEFT saves it; what would be trained is random."""
    model = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = get_peft_model(model, LoraConfig(**({"r": 4, "lora_alpha": 8} | settings)))
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.data.copy_(parameter.data + 0.1 * torch.randn_like(parameter.data))
        tuned.save_pretrained(folder)
    return folder


def peft_merges(base: Path, adapter: Path) -> Mapping[str, torch.Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(base)
        return PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()


def assert_within_ulps(ours: torch.Tensor, theirs: torch.Tensor, ulps: float) -> None:
    assert ours.dtype == theirs.dtype
    spacing = torch.finfo(ours.dtype).eps * theirs.float().abs().clamp(min=0.05)
    assert ((ours.float() - theirs.float()).abs() <= ulps * spacing).all()


def edit(adapter: Path, **changes: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("base"))


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    """A plain adapter, to be damaged."""
    return adapter_over(base, tmp_path / "adapter", target_modules=ATTENTION)


def refused(base: Path, adapter: Path) -> str:
    with pytest.raises(BunchError) as caught:
        open_weights(f"{base}+{adapter}")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_every_tensor_is_what_peft_merges(tmp_path: Path, kind: str) -> None:
    of_model, of_adapter = ADAPTERS[kind]
    base = tiny_llama(tmp_path / "base", **of_model)
    adapter = adapter_over(base, tmp_path / "adapter", **of_adapter)
    weights, plain, merged = open_weights(f"{base}+{adapter}"), Checkpoint(base), peft_merges(base, adapter)
    assert list(weights.headers) == list(plain.headers)
    changed = [name for name in weights.headers if not torch.equal(weights.tensor(name), plain.tensor(name))]
    assert changed
    for name in weights.headers:
        assert_within_ulps(weights.tensor(name), merged[name], 2)
        if name not in changed:
            assert torch.equal(merged[name], plain.tensor(name)), name


@torch.no_grad()
def test_embeddings_tuned_with_their_head_say_what_peft_says(tmp_path: Path) -> None:
    # PEFT's merge adds the shared factors twice to a tied tensor, so the adapter itself is what is compared with.
    base = tiny_llama(tmp_path / "base", tie_word_embeddings=True)
    settings = {"target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True}
    adapter = adapter_over(base, tmp_path / "adapter", **settings)
    ids = torch.arange(20)[None]
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)(ids).logits
    weights, model = open_weights(f"{base}+{adapter}"), AutoModelForCausalLM.from_pretrained(base)
    model.load_state_dict({name: weights.tensor(name) for name in weights.headers}, strict=False)
    assert not torch.allclose(theirs, AutoModelForCausalLM.from_pretrained(base)(ids).logits, atol=1e-3)
    assert torch.allclose(model(ids).logits, theirs, atol=1e-5)


def test_conv1d_keeps_its_weights_turned(tmp_path: Path) -> None:
    config = GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=40, n_positions=16)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    adapter = adapter_over(tmp_path / "base", tmp_path / "adapter", target_modules=["c_attn", "c_proj"])
    edit(adapter, fan_in_fan_out=False)  # what PEFT writes depends on the order of modules
    merged = peft_merges(tmp_path / "base", adapter)
    weights = open_weights(f"{tmp_path / 'base'}+{adapter}")
    assert isinstance(weights, Adapted)
    assert {low.turned for low in weights.low_rank.values()} == {True}
    assert "transformer.h.0.attn.c_proj.weight" in weights.low_rank  # square, so its shape does not tell
    for name in weights.headers:
        assert_within_ulps(weights.tensor(name), merged[name], 2)


def test_bfloat16_is_rounded_once(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base", torch.bfloat16)
    adapter = adapter_over(base, tmp_path / "adapter", target_modules="all-linear")
    weights, merged = open_weights(f"{base}+{adapter}"), peft_merges(base, adapter)
    assert isinstance(weights, Adapted)
    for name, low in weights.low_rank.items():
        down, up = weights.factors(name)
        exact = weights.base.tensor(name).double() + low.scaling * (up.double() @ down.double())
        assert_within_ulps(weights.tensor(name), exact.to(torch.bfloat16), 0.5)
        assert_within_ulps(weights.tensor(name), merged[name], 1)


def test_values_by_hand(tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    base.mkdir()
    adapter.mkdir()
    (base / "config.json").write_text(json.dumps({"model_type": "llama", "tie_word_embeddings": False}))
    save_file({"up.weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}, base / "model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 2}))
    stored = {
        "lora_A.default.weight": torch.tensor([[1.0, 10.0]]),
        "lora_B.default.weight": torch.tensor([[1.0], [2.0]]),
    }
    save_file(
        {f"base_model.model.up.{key}": value for key, value in stored.items()}, adapter / "adapter_model.safetensors"
    )
    weights = open_weights(f"{base}+{adapter}")
    # scaling 2 / 1; B A = [[1, 10], [2, 20]]
    assert weights.tensor("up.weight").tolist() == [[3.0, 22.0], [7.0, 44.0]]
    assert weights.rows("up.weight", 1, 2).tolist() == [[7.0, 44.0]]


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_rows_have_the_bits_of_the_whole(base: Path, tmp_path: Path, target: str) -> None:
    adapter = adapter_over(base, tmp_path / "adapter", target_modules=[target])
    weights = open_weights(f"{base}+{adapter}")
    name = "model.embed_tokens.weight" if target == "embed_tokens" else "lm_head.weight"
    whole = weights.tensor(name)
    for start, stop in [(0, 1), (7, 500), (511, 513), (630, 640), (5, 5), (600, 900)]:
        assert torch.equal(weights.rows(name, start, stop), whole[start:stop])


def test_fingerprint_follows_base_and_adapter(base: Path, adapter: Path) -> None:
    before = open_weights(f"{base}+{adapter}").fingerprint()
    assert before == open_weights(f"{base}+{adapter}").fingerprint() != open_weights(str(base)).fingerprint()
    edit(adapter, lora_alpha=9)
    assert open_weights(f"{base}+{adapter}").fingerprint() != before


def test_its_own_tokenizer_is_preferred(base: Path, adapter: Path) -> None:
    assert open_weights(f"{base}+{adapter}").tokenizer_folder == base
    (adapter / "tokenizer.json").write_text("{}")
    assert open_weights(f"{base}+{adapter}").tokenizer_folder == adapter


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "must be a LoRA, but peft_type is 'IA3'"),
        ({"use_dora": True}, "must be a plain LoRA, but use_dora is True"),
        ({"layer_replication": [[0, 2]]}, "but layer_replication is [[0, 2]]"),
        ({"trainable_token_indices": [1]}, "but trainable_token_indices is [1]"),
        ({"lora_bias": True}, "but lora_bias is True"),
        ({"megatron_config": {"a": 1}}, "but megatron_config is"),
        ({"a_later_invention": 3}, "but a_later_invention is 3"),
        ({"init_lora_weights": "pissa"}, "must tune its base unchanged, but init_lora_weights 'pissa' changes it"),
        (
            {"r": 5},
            "lora_A must be [5, in] and lora_B [out, 5] by r and rank_pattern, but they are [4, 32] and [32, 4]",
        ),
    ],
)
def test_no_plain_lora(base: Path, adapter: Path, changes: dict[str, Any], message: str) -> None:
    edit(adapter, **changes)
    assert message in refused(base, adapter)


def test_all_that_does_not_fit_is_told_at_once(base: Path, adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    first = "base_model.model.model.layers.0.self_attn"
    tensors[f"{first}.no_proj.lora_A.weight"] = tensors[f"{first}.q_proj.lora_A.weight"].clone()
    tensors[f"{first}.no_proj.lora_B.weight"] = tensors[f"{first}.q_proj.lora_B.weight"].clone()
    tensors[f"{first}.q_proj.lora_A.weight"] = tensors[f"{first}.q_proj.lora_A.weight"][:, :8].clone()
    tensors[f"{first}.q_proj.lora_magnitude_vector"] = torch.ones(3)
    del tensors[f"{first}.v_proj.lora_B.weight"]
    tensors["base_model.model.model.norm.weight"] = torch.ones(3)
    save_file(tensors, path)
    message = refused(base, adapter)
    assert "no_proj.lora_A.weight has no model.layers.0.self_attn.no_proj.weight" in message
    assert "q_proj: lora_B times lora_A must have the base's shape [32, 32], but has [32, 8]" in message
    assert "lora_magnitude_vector is not" in message
    assert "v_proj: must have one lora_A and one lora_B, but has {'A': 1, 'B': 0}" in message
    assert "model.norm.weight must have the base's shape [32], but has [3]" in message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_modules": ["lm_head"]}, "must not be tuned apart, but lora_A and lora_B of the head do"),
        ({"target_modules": ["embed_tokens"]}, "model.embed_tokens.weight was tuned apart from the head"),
        ({"target_modules": ATTENTION, "modules_to_save": ["lm_head"]}, "must stay equal to them, but"),
        ({"target_modules": ATTENTION, "modules_to_save": ["embed_tokens"]}, "was tuned apart from the head"),
    ],
)
def test_what_would_untie_a_tied_model(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    base = tiny_llama(tmp_path / "base", tie_word_embeddings=True)
    assert message in refused(base, adapter_over(base, tmp_path / "adapter", **settings))


def test_missing_files(base: Path, adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "elsewhere")
    assert "weights must be in adapter_model.safetensors, but it is missing" in refused(base, adapter)
    (adapter / "adapter_config.json").unlink()
    assert "adapter_config.json must be there" in refused(base, adapter)


def test_an_adapter_alone_is_no_model(adapter: Path) -> None:
    with pytest.raises(BunchError, match=r"must be a whole model, but is an adapter; write BASE"):
        open_weights(str(adapter))
