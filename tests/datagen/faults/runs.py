"""Runs of `goodbunch datagen` for the tests of faults, and what there is to say about them."""

import hashlib
import json
import resource
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import OmegaConf
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from datagen.rows import Row, read_rows
from datagen.splits import SPLITS
from tests.datagen.engines.servers import Writer
from tests.support import ROOT, command, goodbunch_here

#: Few enough answers that every stage asks for several chunks.
CHUNK = 4

#: Whoever is asked in a stage and in no other, and the journal's file of that stage.
STAGES = {
    "generator": "questions/unsafe",
    "checker": "checks/unsafe",
    "base": "answers/base",
    "guard": "verdicts",
    "referee": "refusals",
    "judge": "judge",
}

TEMPLATE = "{{ messages }}"

#: Digests of a run's files, and what it asked for.
Undisturbed = tuple[dict[str, str], Counter[str]]


def tiny_model(folder: Path, template: str = TEMPLATE) -> None:
    """Writes a model of a few hundred parameters."""
    words = ["<pad>", "<s>", "</s>", "<unk>"]
    config = LlamaConfig(vocab_size=4, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")),
        **{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
    )
    tokenizer.chat_template = template or None
    tokenizer.save_pretrained(folder)


@dataclass
class Told:
    """How a command ended."""

    code: int
    errors: str

    def line(self) -> str:
        """The one line that a mistake is told in, with exit code 2."""
        assert self.code == 2, self.errors
        assert self.errors.startswith("goodbunch: ")
        assert self.errors.count("\n") == 1, self.errors
        return self.errors


@dataclass
class Runs:
    """Runs in folders below one, with models that one server has."""

    models: Path
    writer: Writer
    folder: Path

    def config(self, changes: Iterable[str] = ()) -> Path:
        """Writes a config, with `key.path=value` changes; an empty value drops the key."""
        asked = {"topics": ["towers", "harbours"], "ask": 8, "keep": 20}
        served = {str(self.models / name): name for name in ("base", "aligned", "numbers")}
        held = OmegaConf.create(
            {
                "run": "none",
                "bunch": {
                    "base": str(self.models / "base"),
                    "experts": {
                        "aligned": {"model": str(self.models / "aligned"), "role": "aligned"},
                        "numbers": str(self.models / "numbers"),
                    },
                },
                "engine": {
                    "kind": "server",
                    "address": self.writer.address,
                    "models": served,
                    "chunk": CHUNK,
                    "parallel": CHUNK,
                },
                "data": {
                    "generator": "generator",
                    "guard": {"model": "guard"},
                    "refusal": {"model": "referee"},
                    "judge": {"model": "judge"},
                    "unsafe": asked
                    | {
                        "prompt": "write one unsafe question about {topic} as json .",
                        "ask": 12,
                        "check": {"model": "checker", "prompt": "is this about {topic} ? {question}"},
                    },
                    "borderline": asked | {"prompt": "write one borderline question about {topic} as json ."},
                    "domains": {"numbers": asked | {"prompt": "write one numbers question about {topic} as json ."}},
                },
                "objective": {"unsafe": 1},
            }
        )
        merged = OmegaConf.merge(held, OmegaConf.from_dotlist(list(changes)))
        path = self.folder / "config.yaml"
        path.write_text(yaml.safe_dump(OmegaConf.to_container(merged)))
        return path

    def start(self, name: str, *changes: str) -> subprocess.Popen[str]:
        """The command in a process of its own."""
        arguments = command("datagen", self.config(changes), "--out", self.folder / name)
        return subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def run(self, name: str, *changes: str, room: int | None = None) -> Told:
        """The command in this process: starting another takes longer than the work.

        Args:
            room: bytes that no file may grow beyond, which is what a full disk does and needs no disk to fill.
        """
        config = self.config(changes)
        with _room(room):
            done = goodbunch_here("datagen", config, "--out", self.folder / name)
        return Told(done.returncode, done.stderr)

    def done(self, name: str, *changes: str) -> dict[str, str]:
        """Digests of the files of a run that must succeed."""
        told = self.run(name, *changes)
        assert (told.code, told.errors) == (0, ""), told.errors
        return digests(self.folder / name)

    def journal(self, name: str, stage: str) -> Path:
        """File of a stage."""
        return self.folder / name / "data" / "stages" / f"{stage}.jsonl"

    def rows(self, name: str) -> list[Row]:
        """All rows that a run kept."""
        paths = [path for split in SPLITS for path in (self.folder / name / "data" / split).glob("*.jsonl")]
        return [row for path in paths for row in read_rows(path)]

    def counts(self, name: str) -> dict[str, int]:
        """What happened to the questions."""
        counts: dict[str, int] = json.loads((self.folder / name / "data" / "summary.json").read_text())
        return counts


@contextmanager
def _room(size: int | None) -> Iterator[None]:
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (before if size is None else size, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))


def digests(run: Path) -> dict[str, str]:
    """File -> hash of its bytes, of all that a run leaves besides its journal."""
    data = run / "data"
    files = [path for path in sorted(data.rglob("*")) if path.is_file() and "stages" not in path.parts]
    found = {str(path.relative_to(data)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    assert {"README.md", "summary.json", "search/unsafe.jsonl"} <= {*found}
    return found


def requests(seen: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """Bodies as texts that can be counted."""
    return Counter(json.dumps(body, sort_keys=True) for body in seen)


def by_stage(seen: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """How many requests each model got, writing apart from answering."""
    return Counter(f"{body['model']} writes" if "seed" in body else str(body["model"]) for body in seen)
