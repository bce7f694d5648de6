"""What is fuzzed: a valid file of each kind, how it is changed, and the function by which a command reads it."""

import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import safetensors.torch
import torch
import yaml
from transformers import LlamaConfig

from datagen.attributes import load_attributes
from datagen.chat import answer_ids, user
from datagen.cleaning.evaluations import texts_of
from datagen.importing import import_file
from datagen.licences import licence_of
from datagen.models.loading import open_config
from datagen.models.opening import open_weights
from datagen.planning.sizes import size_of
from datagen.rows import Row, read_rows
from datagen.topics import load_topics
from optimizer.blame.result import read_blame
from optimizer.bunch import Source, open_sources
from optimizer.export import write_merge
from optimizer.loading import load_config
from optimizer.planning.shape import shape_of
from optimizer.recipes.ours import read_ours
from optimizer.recipes.reading import read_recipe
from optimizer.report.result import read_result
from optimizer.trials import run_config
from tests.fuzz.mutation import Mutator
from tests.optimizer.export.families import tokenizer
from tests.support import DEMO_CONFIG, ROOT, RUN_CONFIGS

_LAYERS, _VOCABULARY, _WIDTH = 2, 48, 8

_TEMPLATE = "{% for m in messages %}{{ 'Q' + m.content if m.role == 'user' else m.content + '</s>' }}{% endfor %}"

_OURS = [
    {
        "method": "ties",
        "base": "org/base",
        "experts": {"a": "org/a", "b": "org/b@main+org/c"},
        "groups": "layer",
        "coefficients": {
            "a": 0.5,
            "b": {"embeddings": 0.1, "layer 0": 0.2, "layer 1": 0.3, "final norm": 1, "head": 0.4},
        },
        "parameters": {"density": {"a": 0.5, "b": 0.25}, "normalize": True},
        "dtype": "float32",
        "chat_template": "{{ messages[0].content }}",
        "seed": 3,
    },
    {"method": "linear", "experts": {"a": "x", "b": "y"}, "coefficients": {"a": 0.5, "b": 0.5}},
    {"method": "slerp", "base": "org/base", "experts": {"a": "org/a"}, "coefficients": {"a": 0.3}},
]

_THEIRS = [
    {
        "merge_method": "dare_ties",
        "base_model": "org/base",
        "models": [
            {"model": "org/base"},
            {"model": "org/a+org/b", "parameters": {"weight": [0, 0.5, 1], "density": 0.5}},
            {"model": {"model": {"path": "x y", "revision": "main"}}, "parameters": {"weight": 0.3}},
        ],
        "parameters": {"normalize": True, "int8_mask": True, "lambda": [{"filter": "mlp", "value": 0.5}, {"value": 1}]},
        "dtype": "bfloat16",
        "tokenizer": {"source": "base"},
        "chat_template": "{{ messages }}",
    },
    {
        "merge_method": "slerp",
        "base_model": "org/a",
        "slices": [
            {"sources": [{"model": "org/a", "layer_range": [0, 1]}, {"model": "org/b", "layer_range": [0, 1]}]},
            {"sources": [{"model": "org/a", "layer_range": [1, 2]}, {"model": "org/b", "layer_range": [1, 2]}]},
        ],
        "parameters": {"t": [{"filter": "self_attn", "value": [0, 0.5, 1]}, {"value": 0.5}]},
        "out_dtype": "float16",
        "tokenizer_source": "org/a",
    },
]

_EVOLVE = {
    "genome": {
        "models": ["org/base", "org/a", "org/b"],
        "base_model": "org/base",
        "merge_method": "ties",
        "layer_granularity": 8,
        "normalize": True,
        "allow_negative_weights": False,
    },
    "tasks": [{"name": "gsm8k", "weight": 1.0, "metric": "exact_match,none"}],
    "limit": 10,
    "num_fewshot": 2,
    "shuffle": True,
}

_CHAT = [{"role": "user", "content": "why ?"}, {"role": "assistant", "content": "because ."}]

_LINES = [
    Row.of("why ?", "because .", kind="k", topic="t", provenance={"seed": 3}).model_dump(),
    {"messages": [{"role": "system", "content": "be kind"}, *_CHAT], "kind": "k", "split": "search"},
    {"prompt": "why ?", "response": "because .", "type": "k", "alternatives": ["no"]},
    {"instruction": "add", "input": "1 2", "output": "3", "category": {"a": True}},
    {"question": "why ?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B", "kind": "k"},
    {"question": "why ?", "choices": ["a", "b"], "answer": 1, "kind": "k"},
    {"question": "why ?", "answers": {"m": "because"}, "attributes": {"style": "short"}, "seed": 4, "kind": "k"},
]


@dataclass(frozen=True)
class Target:
    """A kind of file.

    Attributes:
        name: of the target.
        file: its path in a case's folder, which holds all that a case needs besides.
        samples: valid files.
        change: how one is changed: of a `Mutator`, given the samples besides.
        read: reads it as a command does.
        share: how often it is drawn, in proportion.
    """

    name: str
    file: str
    samples: Sequence[bytes]
    change: Callable[[Mutator, bytes, Sequence[bytes]], bytes]
    read: Callable[[Path], object]
    share: int = 4


class Targets:
    """All targets, over one folder.

    Args:
        folder: that gets a small model, an adapter over it and a run; it is changed by every case.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        _write_model(folder / "base", 0)
        _write_model(folder / "sharded", 0)
        _split(folder / "sharded")
        _write_model(folder / "model", 1)
        _write_adapter(folder / "adapter")
        (folder / "run").mkdir()

    @cached_property
    def all(self) -> list[Target]:
        """In the order in which they are drawn from."""
        return [*self._texts(), *self._lines(), *self._models()]

    def _texts(self) -> list[Target]:
        configs = [path.read_bytes() for path in RUN_CONFIGS]
        evolve = [yaml.safe_dump(_EVOLVE).encode()]
        ours, theirs = ([yaml.safe_dump(one).encode() for one in some] for some in (_OURS, _THEIRS))
        names = list(safetensors.torch.load_file(self.folder / "base" / "model.safetensors"))
        lists = [path.read_bytes() for path in sorted((ROOT / "datagen" / "topics").glob("*.yaml"))]
        features = [path.read_bytes() for path in sorted((ROOT / "datagen" / "attributes").glob("*.yaml"))]

        def resolved(path: Path) -> object:
            return read_recipe(path).resolve(names)

        return [
            Target("config", "config.yaml", configs, Mutator.yaml, load_config, 8),
            Target("evolve", "evolve.yaml", evolve, Mutator.yaml, load_config),
            Target("override", "override", _OVERRIDES, Mutator.bytes, _overridden),
            Target("recipe", "recipe.yaml", ours, Mutator.yaml, resolved, 8),
            Target("mergekit", "mergekit.yaml", theirs, Mutator.yaml, resolved, 8),
            Target("reference", "reference", _REFERENCES, Mutator.bytes, _referred, 2),
            Target("topics", "topics.yaml", lists, Mutator.yaml, lambda path: load_topics(str(path)), 2),
            Target("attributes", "attributes.yaml", features, Mutator.yaml, lambda path: load_attributes(str(path)), 2),
        ]

    def _lines(self) -> list[Target]:
        rows = b"".join(json.dumps(_LINES[0]).encode() + b"\n" for _ in range(2))
        many = b"".join(json.dumps(line).encode() + b"\n" for line in _LINES)
        config = load_config(DEMO_CONFIG).model_dump_json().encode()
        results = [path.read_bytes() for path in sorted((ROOT / "tests" / "fuzz" / "samples").glob("result*.json"))]
        return [
            Target("rows", "rows.jsonl", [rows], Mutator.lines, read_rows, 8),
            Target("import", "import.jsonl", [many], Mutator.lines, lambda path: import_file(path, "k", ("k", "u")), 8),
            Target("evaluation", "evaluation.jsonl", [many], Mutator.lines, texts_of, 2),
            Target("table", "evaluation.csv", [b'a,"b\nc",d\n1,2,3\n'], Mutator.bytes, texts_of, 1),
            Target("parquet", "evaluation.parquet", [_parquet()], Mutator.bytes, texts_of, 1),
            Target("run", "run/config.json", [config], Mutator.json, lambda path: run_config(path.parent), 2),
            Target("result", "run/result.json", results or [b"{}"], Mutator.json, read_result, 1),
            Target("blame", "run/blame.json", [b"{}"], Mutator.json, read_blame, 1),
        ]

    def _models(self) -> list[Target]:
        def target(
            name: str,
            file: str,
            change: Callable[[Mutator, bytes, Sequence[bytes]], bytes],
            read: Callable[[Path], object],
            share: int,
        ) -> Target:
            return Target(name, file, [(self.folder / file).read_bytes()], change, read, share)

        weights = "model.safetensors"
        card = b"---\nlicense: apache-2.0\nbase_model: org/a\n---\n# A model\n"
        (self.folder / "model" / "README.md").write_bytes(card)
        return [
            target("safetensors", f"model/{weights}", Mutator.safetensors, self._merge, 8),
            target("index", f"sharded/{weights}.index.json", Mutator.json, self._merge, 6),
            target("config.json", "model/config.json", Mutator.json, self._merge, 6),
            target("plan", "model/config.json", Mutator.json, self._plan, 3),
            target("transformers", "model/config.json", Mutator.json, lambda path: open_config(path.parent), 1),
            target("tokenizer.json", "model/tokenizer.json", Mutator.json, self._speak, 1),
            target("tokenizer_config", "model/tokenizer_config.json", Mutator.json, self._speak, 1),
            target("adapter_config", "adapter/adapter_config.json", Mutator.json, self._adapt, 6),
            target("adapter", "adapter/adapter_model.safetensors", Mutator.safetensors, self._adapt, 6),
            target("card", "model/README.md", Mutator.bytes, lambda path: licence_of(str(path.parent)), 2),
        ]

    def _merge(self, path: Path) -> None:
        models = {"plain": str(self.folder / "base"), "other": str(path.parent)}
        sources = open_sources(models, "plain", chat=False)
        for source in sources.values():
            for name in source.names:
                source.tensor(name)
        recipe = read_ours(
            {"method": "linear", "experts": models, "coefficients": {"plain": 0.5, "other": 0.5}, "tokenizer": "plain"}
        )
        write_merge(recipe, self.folder / "merged", force=True)

    def _plan(self, path: Path) -> None:
        size_of(str(path.parent))
        shape_of(str(path.parent))

    def _adapt(self, path: Path) -> None:
        weights = open_weights(f"{self.folder / 'base'}+{path.parent}")
        for name in weights.headers:
            weights.tensor(name)

    def _speak(self, path: Path) -> None:
        answer_ids(Source("model", str(path.parent)).tokenizer(), [*user("ab"), {"role": "assistant", "content": "c"}])


_OVERRIDES = [
    b"search.seed=3",
    b"run=elsewhere",
    b"objective.finance={metric: kl, of: finance}",
    b"bunch.experts.numbers={model: a, role: aligned}",
    b"data.cleaning.overlap.files=[a, b]",
    b"data.unsafe.topics[0]=a",
    b"a\\.b=${run}/x",
]


_REFERENCES = [b"org/model", b"./model+adapter", b"org/model@main+org/adapter@v2", b"~/model", b"/tmp/model@x"]


def _referred(path: Path) -> object:
    reference = path.read_bytes().decode(errors="surrogateescape")
    return open_weights(reference)


def _overridden(path: Path) -> object:
    return load_config(DEMO_CONFIG, [path.read_bytes().decode(errors="surrogateescape")])


def _tensors(seed: int) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    shapes = {"model.embed_tokens.weight": (_VOCABULARY, _WIDTH), "model.norm.weight": (_WIDTH,)}
    for layer in range(_LAYERS):
        inside = f"model.layers.{layer}"
        shapes |= {f"{inside}.self_attn.{part}_proj.weight": (_WIDTH, _WIDTH) for part in "qkvo"}
        shapes |= {f"{inside}.mlp.{part}_proj.weight": (16, _WIDTH) for part in ("gate", "up")}
        shapes |= {f"{inside}.mlp.down_proj.weight": (_WIDTH, 16), f"{inside}.input_layernorm.weight": (_WIDTH,)}
    shapes["lm_head.weight"] = (_VOCABULARY, _WIDTH)
    return {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}


def _write_model(folder: Path, seed: int) -> None:
    config = LlamaConfig(
        vocab_size=_VOCABULARY,
        hidden_size=_WIDTH,
        intermediate_size=16,
        num_hidden_layers=_LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=False,
        architectures=["LlamaForCausalLM"],
    )
    config.save_pretrained(folder)
    tokenizer(_VOCABULARY, _TEMPLATE).save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": _TEMPLATE}))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    safetensors.torch.save_file(_tensors(seed), folder / "model.safetensors", metadata={"format": "pt"})


def _split(folder: Path) -> None:
    """Two shards and an index, as the hub has large models."""
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    weight_map = {}
    for i, names in enumerate((list(tensors)[::2], list(tensors)[1::2]), 1):
        file = f"model-{i:05}-of-00002.safetensors"
        safetensors.torch.save_file({name: tensors[name] for name in names}, folder / file)
        weight_map |= dict.fromkeys(names, file)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map})
    )


def _write_adapter(folder: Path) -> None:
    folder.mkdir()
    rng = torch.Generator().manual_seed(2)
    tensors = {}
    for layer in range(_LAYERS):
        module = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{module}.lora_A.weight"] = torch.randn(2, _WIDTH, generator=rng)
        tensors[f"{module}.lora_B.weight"] = torch.randn(_WIDTH, 2, generator=rng)
    safetensors.torch.save_file(tensors, folder / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "org/base",
        "r": 2,
        "lora_alpha": 4,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["q_proj"],
        "rank_pattern": {"layers.0.self_attn.q_proj": 2},
        "alpha_pattern": {".*v_proj": 3},
        "use_rslora": False,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))


def _parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = pa.BufferOutputStream()
    pq.write_table(pa.table({"question": ["a", "b"], "answer": ["c", "d"]}), out)
    return bytes(out.getvalue())


def drawn(targets: Sequence[Target], rng: random.Random) -> Target:
    """One of the targets, by their shares."""
    return rng.choices(targets, [target.share for target in targets])[0]


def restored(folder: Path, target: Target) -> None:
    """Puts the valid file back."""
    (folder / target.file).write_bytes(target.samples[0])
    shutil.rmtree(folder / "merged", ignore_errors=True)
