"""Random checkpoints in the shape of real models: a base, and experts that are the base plus noise."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

#: Standard deviations of random weights, and of the experts' distance from the base.
_WEIGHTS, _NOISE = 0.02, 0.002


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama-like decoder.

    Attributes:
        hidden: width of the residual stream.
        inner: width of the mlp.
        layers: how many.
        heads: of attention.
        key_value: heads of keys and values.
        vocabulary: tokens.
        tied: whether the head is the embeddings.
        biases: whether queries, keys and values have biases.
    """

    hidden: int
    inner: int
    layers: int
    heads: int
    key_value: int
    vocabulary: int
    tied: bool
    biases: bool

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of every tensor."""
        kv = self.hidden // self.heads * self.key_value
        yield "model.embed_tokens.weight", (self.vocabulary, self.hidden)
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}."
            for part, rows in (("q", self.hidden), ("k", kv), ("v", kv)):
                yield f"{prefix}self_attn.{part}_proj.weight", (rows, self.hidden)
                if self.biases:
                    yield f"{prefix}self_attn.{part}_proj.bias", (rows,)
            yield f"{prefix}self_attn.o_proj.weight", (self.hidden, self.hidden)
            for part in ("gate", "up"):
                yield f"{prefix}mlp.{part}_proj.weight", (self.inner, self.hidden)
            yield f"{prefix}mlp.down_proj.weight", (self.hidden, self.inner)
            yield f"{prefix}input_layernorm.weight", (self.hidden,)
            yield f"{prefix}post_attention_layernorm.weight", (self.hidden,)
        yield "model.norm.weight", (self.hidden,)
        if not self.tied:
            yield "lm_head.weight", (self.vocabulary, self.hidden)

    def config(self) -> dict[str, object]:
        """As config.json has it."""
        return {
            "architectures": ["Qwen2ForCausalLM" if self.biases else "LlamaForCausalLM"],
            "model_type": "qwen2" if self.biases else "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": self.tied,
            "hidden_act": "silu",
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-6,
            "rope_theta": 500000.0,
            "torch_dtype": "bfloat16",
        }


SHAPES = {
    "tiny": Shape(64, 128, 2, 4, 2, 512, tied=False, biases=False),
    "0.5B": Shape(896, 4864, 24, 14, 2, 151936, tied=True, biases=True),
    "1B": Shape(2048, 8192, 16, 32, 8, 128256, tied=True, biases=False),
    "8B": Shape(4096, 14336, 32, 32, 8, 128256, tied=False, biases=False),
}


class Random:
    """A model of random bfloat16 weights that are made when they are asked for; the same ones every time.

    Args:
        shape: of the model.
        number: 0 is the base, others are experts.
        device: where tensors are made.
    """

    def __init__(self, shape: Shape, number: int, device: str = "cpu") -> None:
        self.name = "base" if number == 0 else f"expert{number}"
        self.shapes = dict(shape.tensors())
        self.dtypes = dict.fromkeys(self.shapes, torch.bfloat16)
        self._number, self._device = number, device
        self._seeds = {name: i for i, name in enumerate(self.shapes)}

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor."""
        made = self._draw(name, 0) * _WEIGHTS
        if self._number:
            made += self._draw(name, self._number) * _NOISE
        return made.bfloat16()

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows of one tensor."""
        return self.tensor(name)[start:stop]

    def _draw(self, name: str, number: int) -> torch.Tensor:
        generator = torch.Generator(self._device).manual_seed(1000 * self._seeds[name] + number)
        return torch.randn(self.shapes[name], generator=generator, device=self._device)


def write_models(shape: Shape, folder: Path, experts: int) -> list[Path]:
    """Writes a base and experts as Hugging Face folders without a tokenizer; those that are there are kept."""
    folders = []
    for number in range(experts + 1):
        model = Random(shape, number)
        out = folder / model.name
        folders.append(out)
        if (out / "config.json").is_file():
            continue
        out.mkdir(parents=True, exist_ok=True)
        save_file({name: model.tensor(name) for name in model.shapes}, out / "model.safetensors", {"format": "pt"})
        (out / "config.json").write_text(json.dumps(shape.config()))
    return folders
