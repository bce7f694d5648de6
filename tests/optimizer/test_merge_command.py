"""`goodbunch merge` as a user runs it: in a process of its own, beside mergekit's own command."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from optimizer.merging.methods import METHODS
from tests.optimizer.export.families import Family, tensors_in, write_family
from tests.optimizer.export.mergekit_files import config
from tests.support import ROOT, command, goodbunch, goodbunch_here


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return write_family("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture
def recipe(llama: Family, tmp_path: Path) -> Path:
    file = tmp_path / "recipe.yml"
    file.write_text(yaml.safe_dump(config("ties", llama, dtype="float32")))
    return file


def test_both_commands_make_the_same_model(recipe: Path, tmp_path: Path) -> None:
    done = goodbunch("merge", recipe, "--out", tmp_path / "ours")
    assert done.returncode == 0, done.stderr
    theirs = subprocess.run(
        [Path(sys.executable).with_name("mergekit-yaml"), recipe, tmp_path / "theirs"], capture_output=True, text=True
    )
    assert theirs.returncode == 0, theirs.stderr
    ours, wanted = tensors_in(tmp_path / "ours"), tensors_in(tmp_path / "theirs")
    assert ours.keys() == wanted.keys()
    assert all(torch.equal(ours[name], wanted[name]) for name in wanted)
    *notes, line = done.stdout.strip().splitlines()
    assert notes[0].startswith("note: int8_mask: ")
    size = (tmp_path / "ours" / "model.safetensors").stat().st_size
    assert line.startswith(f"ties: 30 tensors, {size / 1000:.1f} kB in ")
    assert line.endswith(f" s: {tmp_path / 'ours'}")


def refused(*args: object, **limits: int) -> str:
    def limited() -> None:
        for name, value in limits.items():
            resource.setrlimit(getattr(resource, name), (value, value))

    done = subprocess.run(command(*args), cwd=ROOT, capture_output=True, text=True, timeout=60, preexec_fn=limited)
    assert done.returncode == 2, done.stdout + done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("goodbunch: ")
    return done.stderr


def test_what_is_unsupported_is_one_line(recipe: Path, tmp_path: Path) -> None:
    values = yaml.safe_load(recipe.read_text())
    recipe.write_text(yaml.safe_dump(values | {"tokenizer_source": "union"}))
    assert "a union of vocabularies is not supported" in refused("merge", recipe, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_room_is_one_line(recipe: Path, tmp_path: Path) -> None:
    told = refused("merge", recipe, "--out", tmp_path / "new" / "out", RLIMIT_FSIZE=40_000)
    assert f"{tmp_path / 'new' / 'out'}: must be written whole, but File too large" in told
    assert list((tmp_path / "new").iterdir()) == []


def test_a_plain_merge_imports_little(recipe: Path, tmp_path: Path) -> None:
    heavy = ("transformers", "huggingface_hub", "peft", "optuna", "vllm", "torch._dynamo", "torch._inductor", "sympy")
    program = (
        "import sys; from optimizer.cli import app; app(sys.argv[1:], standalone_mode=False);"
        f"assert not [name for name in {heavy} if name in sys.modules], sys.modules.keys() & set({heavy})"
    )
    arguments = ["merge", str(recipe), "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_methods_are_all_listed() -> None:
    done = goodbunch_here("methods")
    assert done.returncode == 0, done.stderr
    assert all(f" {name} " in done.stdout for name in METHODS)


def test_help_has_an_example() -> None:
    done = goodbunch_here("merge", "--help")
    assert done.returncode == 0
    assert "Example: goodbunch merge" in done.stdout
