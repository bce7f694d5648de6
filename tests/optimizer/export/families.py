"""Tiny models of several architectures, written as transformers writes them: a base, and two tuned a little."""

import json
import string
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

LAYERS, VOCABULARY = 3, 48

_SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16,
}

CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**_SMALL, tie_word_embeddings=False),
    "llama_bf16": LlamaConfig(**_SMALL, tie_word_embeddings=False, dtype="bfloat16"),
    "llama_tied": LlamaConfig(**_SMALL, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**_SMALL, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**_SMALL, head_dim=8, tie_word_embeddings=False),
    "mistral": MistralConfig(**_SMALL, tie_word_embeddings=False),
    "gemma2": Gemma2Config(**_SMALL, head_dim=8, dtype="bfloat16"),
    "gpt_neox": GPTNeoXConfig(**{key: value for key, value in _SMALL.items() if key != "num_key_value_heads"}),
}

#: Written in several files.
SHARDED = ("mistral",)

#: Families that a quick run merges: tied, with biases, of 16 bits, and of another layout than Llama's.
QUICK = ("llama_bf16", "qwen2", "gpt_neox")


@dataclass(frozen=True)
class Family:
    """A base and its experts `a` and `b`, by folder."""

    name: str
    folder: Path

    def __getitem__(self, name: str) -> str:
        return str(self.folder / name)

    @property
    def sources(self) -> list[dict[str, torch.Tensor]]:
        return [tensors_in(self.folder / name) for name in ("base", "a", "b")]


def tensors_in(folder: Path | str) -> dict[str, torch.Tensor]:
    """All tensors of a model."""
    files = sorted(Path(folder).glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in safetensors.torch.load_file(file).items()}


def write_family(name: str, folder: Path, tokens: int = VOCABULARY) -> Family:
    """Writes a base and two experts.

    Args:
        name: of the config.
        folder: that gets a folder of each.
        tokens: in the vocabulary; embeddings may have more rows.
    """
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]).eval()
    for expert in ("base", "a", "b"):
        if expert != "base":
            tuned = AutoModelForCausalLM.from_config(CONFIGS[name])
            tuned.load_state_dict(model.state_dict())
            for parameter in tuned.parameters():
                parameter.data += 0.02 * torch.randn_like(parameter.data)
        else:
            tuned = model
        size = "16kB" if name in SHARDED else "1GB"
        tuned.save_pretrained(folder / expert, max_shard_size=size)
        if name == "gpt_neox":
            _add_buffers(folder / expert / "model.safetensors")
        tokenizer(tokens, template=f"{expert}: {{{{ messages[0].content }}}}").save_pretrained(folder / expert)
        card = f"---\nlicense: apache-2.0\nbase_model: org/{expert}\n---\n# {expert}\n"
        (folder / expert / "README.md").write_text(card)
    return Family(name, folder)


def tokenizer(tokens: int, template: str) -> PreTrainedTokenizerFast:
    """One letter per token, the third is `a`; of a kind that the tokenizer classes of all families take."""
    words = ["<unk>", "<s>", "</s>", *string.ascii_letters][:tokens]
    made = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, [], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        chat_template=template,
    )


def _add_buffers(path: Path) -> None:
    """What older versions of transformers saved of GPT-NeoX; mergekit refuses models without."""
    tensors = safetensors.torch.load_file(path)
    for layer in range(LAYERS):
        attention = f"gpt_neox.layers.{layer}.attention"
        tensors[f"{attention}.bias"] = torch.ones(1, 1, 16, 16, dtype=torch.uint8).tril()
        tensors[f"{attention}.masked_bias"] = torch.tensor(-1e9)
        tensors[f"{attention}.rotary_emb.inv_freq"] = torch.tensor([1.0])
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


def index_of(folder: Path) -> dict[str, str]:
    """Tensor name -> file, as the index says."""
    return json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]


def tiered(families: Iterable[str]) -> list[Any]:
    """Families as test parameters, most of them slow ones."""
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in families]
