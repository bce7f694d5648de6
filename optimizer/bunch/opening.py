"""Opens source models lazily and checks, before any work, that they belong together."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from datagen.checkpoints import local_folder, tensor_files
from datagen.config import BunchConfig
from datagen.errors import BunchError

#: Keys of config.json that decide what a tensor means; two sources must agree on them.
ARCHITECTURE_KEYS = (
    "model_type",
    "architectures",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "vocab_size",
    "tie_word_embeddings",
)


@dataclass(frozen=True)
class Source:
    """One model folder; tensors are read when asked for."""

    name: str
    folder: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its config.json.

        Raises:
            BunchError: the file is missing or no JSON.
        """
        path = self.folder / "config.json"
        try:
            config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise BunchError(f"{path}: a model folder must have a config.json; check the path") from error
        except ValueError as error:
            raise BunchError(f"{path}: must be JSON, but {error}; download it again") from error
        return config

    @cached_property
    def files(self) -> dict[str, Path]:
        """Tensor name -> file."""
        return tensor_files(self.folder)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensor name -> shape, from the files' headers alone."""
        shapes: dict[str, tuple[int, ...]] = {}
        for path in dict.fromkeys(self.files.values()):
            with safe_open(path, framework="pt") as opened:
                shapes |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        return shapes

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor, read from the memory-mapped file."""
        with safe_open(self.files[name], framework="pt") as opened:
            tensor: torch.Tensor = opened.get_tensor(name)
        return tensor

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer.

        Raises:
            BunchError: there is none that loads.
        """
        try:
            return AutoTokenizer.from_pretrained(self.folder)
        except (OSError, ValueError) as error:
            raise BunchError(f"{self.folder}: must have a tokenizer, but {_first_line(error)}") from error


@dataclass(frozen=True)
class Bunch:
    """A base and its experts, known to fit.

    Attributes:
        base: what task vectors are taken against.
        experts: in the config's order, which is the order of the rows of every coefficient array.
        aligned: name of the expert whose refusals are to be kept.
    """

    base: Source
    experts: tuple[Source, ...]
    aligned: str

    @property
    def sources(self) -> tuple[Source, ...]:
        """The base, then the experts."""
        return (self.base, *self.experts)

    @property
    def names(self) -> tuple[str, ...]:
        """Tensor names, in the order of the base's files."""
        return tuple(self.base.files)

    @property
    def chat_source(self) -> Source:
        """The expert whose tokenizer and chat template the merged model gets: the aligned one."""
        return next(expert for expert in self.experts if expert.name == self.aligned)


def open_bunch(config: BunchConfig) -> Bunch:
    """Opens all sources and checks that they can be merged.

    Raises:
        BunchError: some source is missing, damaged, or of another architecture, vocabulary or chat template; all
            problems of all sources are told at once.
    """
    sources: dict[str, Source] = {}
    problems: list[str] = []
    for name, model in config.models().items():
        try:
            source = Source(name, local_folder(model))
            source.config, source.shapes  # noqa: B018 - read now, so that what is missing or cut is told with the rest
            sources[name] = source
        except BunchError as error:
            problems.append(str(error))
    if "base" in sources:
        base = sources["base"]
        for name in config.experts:
            if name in sources:
                problems += _differences(base, sources[name])
    if not problems:
        problems += _template_differences(list(sources.values()), config.aligned)
    if problems:
        raise BunchError("; ".join(problems))
    return Bunch(sources["base"], tuple(sources[name] for name in config.experts), config.aligned)


def _differences(base: Source, expert: Source) -> list[str]:
    """Why an expert cannot be merged with the base; empty if it can."""
    for key in ARCHITECTURE_KEYS:
        ours, theirs = expert.config.get(key), base.config.get(key)
        if ours != theirs:
            return [
                f"all sources must have the base's architecture, but {expert.name} has {key} {ours!r} and base "
                f"{theirs!r}; merge models fine-tuned from one base"
            ]
    problems = []
    if missing := sorted(base.shapes.keys() ^ expert.shapes.keys()):
        problems.append(
            f"all sources must have the same tensors, but {expert.name} and base differ in {len(missing)}, such as "
            f"{missing[0]}; merge full checkpoints of one architecture"
        )
    problems += [
        f"{name} must have one shape in all sources, but has {list(expert.shapes[name])} in {expert.name} and "
        f"{list(base.shapes[name])} in base"
        for name in sorted(base.shapes.keys() & expert.shapes.keys())
        if base.shapes[name] != expert.shapes[name]
    ]
    ours, theirs = expert.tokenizer().get_vocab(), base.tokenizer().get_vocab()
    if ours != theirs:
        odd = sum(theirs.get(token) != number for token, number in ours.items()) + len(theirs.keys() - ours.keys())
        problems.append(
            f"all sources must share one vocabulary, but {odd} tokens of {expert.name} differ from base's; merge "
            f"models that kept the base's tokenizer"
        )
    return problems


def _template_differences(sources: list[Source], aligned: str) -> list[str]:
    templates = {source.name: source.tokenizer().chat_template for source in sources}
    wanted = templates[aligned]
    if not wanted:
        return [f"the aligned model must have a chat template, but {aligned} has none; add chat_template.jinja to it"]
    # A base that was never tuned to chat may lack one; the merged model takes the aligned model's.
    odd = [name for name, template in templates.items() if template != wanted and not (name == "base" and not template)]
    if odd:
        return [
            f"all sources must share one chat template, but {', '.join(odd)} differ from {aligned}; give them the "
            f"aligned model's chat_template.jinja if they were trained with it"
        ]
    return []


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
