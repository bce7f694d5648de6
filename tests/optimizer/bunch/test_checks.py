"""Each way in which sources can fail to fit is told by name; what merely looks different is let through."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from datagen.config import BunchConfig, Expert
from datagen.errors import BunchError
from datagen.models.weights import TIED_UNLESS_SAID
from optimizer.bunch import Bunch, open_bunch, open_sources
from optimizer.bunch.tokens import chat_template

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "one", "two", "three", "four"]
Folders = dict[str, Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny tied Llama with a chat template."""
    folder = tmp_path_factory.mktemp("made")
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer(WORDS).save_pretrained(folder)
    return folder


@pytest.fixture
def folders(made: Path, tmp_path: Path) -> Folders:
    """Three copies, to be changed."""
    return {name: Path(shutil.copytree(made, tmp_path / name)) for name in ("base", "safe", "maths")}


def tokenizer(words: list[str], **roles: str) -> PreTrainedTokenizerFast:
    numbers = {word: i for i, word in enumerate(words)}
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(numbers, unk_token="<unk>")),
        **({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"} | roles),
    )
    made.chat_template = "{{ messages }}"
    return made


def opened(folders: Folders, extra: str = "", **settings: Any) -> Bunch:
    experts = {
        "safe": Expert(model=str(folders["safe"]), role="aligned"),
        "maths": Expert(model=f"{folders['maths']}{extra}"),
    }
    return open_bunch(BunchConfig(base=str(folders["base"]), experts=experts, **settings))


def refused(folders: Folders) -> str:
    with pytest.raises(BunchError) as caught:
        opened(folders)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def set_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def drop_config(folder: Path, *keys: str) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key not in keys}))


def set_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def with_head(folder: Path, shift: float) -> None:
    set_tensors(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"] + shift}))


def test_identical_sources_fit_without_transformers(folders: Folders) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from optimizer.bunch import open_sources; "
        f"open_sources({ {name: str(folder) for name, folder in folders.items()} }, 'base', chat=True); "
        "print('transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_every_problem_of_every_source_is_told(folders: Folders) -> None:
    set_config(folders["maths"], model_type="qwen2", vocab_size=9, quantization_config={"quant_method": "gptq"})
    set_tensors(folders["maths"], lambda t: t.update({"model.norm.weight": torch.ones(3), "more": torch.ones(1)}))
    tokenizer([*WORDS[:-1], "five"]).save_pretrained(folders["maths"])
    (folders["safe"] / "model.safetensors").write_bytes(b"")
    set_config(folders["safe"], hidden_size=16)
    message = refused(folders)
    for part in (
        "maths has model_type 'qwen2' and base 'llama'",
        "maths has vocab_size 9 and base 8",
        "maths has quantization_config 'gptq'; use the checkpoint it was made from",
        "maths and base differ in 1, such as more",
        "1 tensors of maths differ from base's, such as model.norm.weight, [3] for [8]",
        "2 tokens of maths differ from base's, such as 'five'",
        "must be a whole safetensors file",
        "safe has hidden_size 16 and base 8",
    ):
        assert part in message


def test_defaults_that_are_not_written_out_are_no_difference(folders: Folders) -> None:
    drop_config(folders["maths"], "num_key_value_heads", "head_dim", "rope_parameters")
    set_config(folders["maths"], rope_theta=10000.0)
    opened(folders)


@pytest.mark.parametrize(("key", "value"), [("rope_theta", 5e5), ("hidden_act", "gelu"), ("rms_norm_eps", 1e-3)])
def test_tensors_used_otherwise(folders: Folders, key: str, value: object) -> None:
    drop_config(folders["maths"], "rope_parameters")
    set_config(folders["maths"], **{key: value})
    assert f"maths has {key} {value!r} and base" in refused(folders)


def test_mixed_floats_are_fine_and_other_types_are_not(folders: Folders) -> None:
    set_tensors(folders["safe"], lambda t: t.update({name: value.half() for name, value in t.items()}))
    set_tensors(folders["maths"], lambda t: t.update({name: value.bfloat16() for name, value in t.items()}))
    opened(folders)
    set_tensors(folders["maths"], lambda t: t.update({"model.norm.weight": torch.ones(8).to(torch.float8_e4m3fn)}))
    assert "1 of maths are not, such as model.norm.weight, float8_e4m3fn; use an unquantised" in refused(folders)


def test_whole_numbers_must_be_equal(folders: Folders) -> None:
    for folder in folders.values():
        set_tensors(folder, lambda t: t.update({"mask": torch.tensor([True, False]), "step": torch.tensor(3)}))
    opened(folders)
    set_tensors(folders["maths"], lambda t: t.update({"mask": torch.tensor([True, True])}))
    assert "must be equal in all sources, but 1 of maths differ from base's, such as mask, bool" in refused(folders)


def test_a_tied_head_that_was_saved_is_left_out(folders: Folders) -> None:
    with_head(folders["maths"], 0.0)
    opened(folders)
    with_head(folders["maths"], 1.0)
    assert "must equal them, but lm_head.weight of maths differs; set tie_word_embeddings" in refused(folders)


def test_tied_and_untied_do_not_mix(folders: Folders) -> None:
    set_config(folders["maths"], tie_word_embeddings=False)
    with_head(folders["maths"], 1.0)
    message = refused(folders)
    assert "maths has tie_word_embeddings False and base True" in message
    assert "differ in 1, such as lm_head.weight" in message


@pytest.mark.parametrize("model_type", sorted(TIED_UNLESS_SAID))
def test_models_tied_unless_said(model_type: str) -> None:
    assert CONFIG_MAPPING[model_type]().tie_word_embeddings is True


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ({"bos_token": "<pad>"}, "must share one bos_token, but maths has '<pad>' and base '<s>'"),
        ({"eos_token": "<s>"}, "must share one eos_token, but maths has '<s>' and safe '</s>'"),
        ({"pad_token": "</s>"}, "must share one pad_token, but maths has '</s>' and safe '<pad>'"),
    ],
)
def test_other_special_tokens(folders: Folders, roles: dict[str, str], message: str) -> None:
    tokenizer(WORDS, **roles).save_pretrained(folders["maths"])
    assert message in refused(folders)


def test_other_added_special_tokens(folders: Folders) -> None:
    other = tokenizer(WORDS)
    other.add_special_tokens({"additional_special_tokens": ["four"]})
    other.save_pretrained(folders["maths"])
    assert "special tokens, but 1 of maths differ from base's, such as 'four'" in refused(folders)


def test_a_base_may_end_and_pad_in_its_own_way(folders: Folders) -> None:
    path = folders["base"] / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["pad_token"]
    path.write_text(json.dumps(config | {"eos_token": "<pad>"}))
    (folders["base"] / "chat_template.jinja").unlink()
    opened(folders)


def test_cosmetic_keys_of_a_tokenizer_are_no_difference(folders: Folders) -> None:
    path = folders["maths"] / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"padding_side": "left", "model_max_length": 12}))
    opened(folders)


def test_missing_tokenizers_matter_only_where_one_chats(folders: Folders) -> None:
    models = {name: str(folder) for name, folder in folders.items()}
    for path in [*folders["maths"].glob("*token*"), folders["maths"] / "chat_template.jinja"]:
        path.unlink()
    assert list(open_sources(models, "base", chat=False)) == ["base", "safe", "maths"]
    with pytest.raises(BunchError, match="every source must have a tokenizer, but maths has none"):
        open_sources(models, "base", chat=True)
    assert "every source must have a tokenizer, but maths has none" in refused(folders)


def test_templates_matter_only_where_one_is_aligned(folders: Folders) -> None:
    (folders["maths"] / "chat_template.jinja").write_text("another")
    open_sources({name: str(folder) for name, folder in folders.items()}, "base", chat=False)
    assert "must share one chat template, but maths differ from safe" in refused(folders)


def test_template_in_the_config(folders: Folders) -> None:
    folder = folders["maths"]
    (folder / "chat_template.jinja").unlink()
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    assert chat_template(folder) is None
    path.write_text(json.dumps(config | {"chat_template": "plain"}))
    assert chat_template(folder) == "plain"
    named = [{"name": "tools", "template": "a"}, {"name": "default", "template": "b"}]
    path.write_text(json.dumps(config | {"chat_template": named}))
    assert chat_template(folder) == "b"


def test_an_adapter_is_a_source(folders: Folders, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1}))
    q_proj = "base_model.model.model.layers.0.self_attn.q_proj"
    factors = {f"{q_proj}.lora_A.weight": torch.ones(1, 8), f"{q_proj}.lora_B.weight": torch.ones(8, 1)}
    save_file(factors, adapter / "adapter_model.safetensors")
    opened(folders, f"+{adapter}")
    models = {"base": str(folders["base"]), "tuned": f"{folders['base']}+{adapter}"}
    base, tuned = open_sources(models, "base", chat=True).values()
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.allclose(tuned.tensor(name), base.tensor(name) + 1)
    assert tuned.folder == tuned.tokenizer_folder == folders["base"]


def test_one_tokenizer_for_all_ends_the_talk_about_the_others(folders: Folders) -> None:
    tokenizer([*WORDS[:-1], "other"], pad_token="</s>").save_pretrained(folders["maths"])
    for path in folders["base"].glob("*token*"):
        path.unlink()
    assert "set bunch.tokenizer" in refused(folders)
    bunch = opened(folders, tokenizer="safe")
    assert bunch.chat_source.name == "safe"


def test_accepted_differences_are_let_through(folders: Folders) -> None:
    drop_config(folders["maths"], "rope_parameters")
    set_config(folders["maths"], rope_theta=5e5)
    assert "or add rope_theta to bunch.accept" in refused(folders)
    opened(folders, accept=["rope_theta"])


def test_tokenizer_must_be_a_sources(folders: Folders) -> None:
    with pytest.raises(ValueError, match="must name a source, but 'mathz' is not among base, safe, maths"):
        opened(folders, tokenizer="mathz")
