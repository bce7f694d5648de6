"""A merged folder is whole or not there, says what it is, and is made again from what it says."""

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, metadata_load
from safetensors.torch import load_file

from datagen.errors import BunchError, ConfigError, DataError
from optimizer.export import is_exported, shards, write_merge
from optimizer.export.folder import whole_folder
from optimizer.recipes.reading import read_recipe
from tests.optimizer.export.families import Family, index_of, tensors_in, tokenizer, write_family
from tests.optimizer.export.mergekit_files import config

Merge = Callable[..., Path]


@pytest.fixture
def llama(families: Callable[[str], Family]) -> Family:
    return families("llama")


@pytest.fixture
def values(llama: Family) -> dict[str, Any]:
    """A recipe of ours."""
    return {
        "method": "task_arithmetic",
        "base": llama["base"],
        "experts": {"x": llama["a"], "y": llama["b"]},
        "coefficients": {"x": 0.5, "y": 0.25},
    }


def contents(folder: Path) -> dict[str, bytes]:
    """Everything under a folder, hidden or not."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_that_is_there_is_left_alone(merge: Merge, values: dict[str, Any], tmp_path: Path) -> None:
    out = merge(values)
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match="is there already and would be replaced; choose another folder, or say"):
        merge(values | {"coefficients": {"x": 1, "y": 1}})
    del before["recipe.yml"]
    assert {name: data for name, data in contents(tmp_path).items() if name != "recipe.yml"} == before
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [out.name]


def test_force_replaces_all_of_it(merge: Merge, values: dict[str, Any], tmp_path: Path) -> None:
    out = merge(values, "--shard-size", 1e-5)
    assert len(list(out.glob("model-*.safetensors"))) > 1
    merge(values | {"coefficients": {"x": 1, "y": 1}}, "--force")
    assert [path.name for path in out.glob("*.safetensors*")] == ["model.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "recipe.yml"]


def test_force_replaces_nothing_else(merge: Merge, values: dict[str, Any], llama: Family, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "data").mkdir(parents=True)
    (run / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="must be new, or hold a model or an adapter, but holds something else"):
        merge(values, "--force", out=run)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="holds something else"):
        merge(values, "--force", out=tmp_path / "file")
    with pytest.raises(ConfigError, match="must not hold a source of the merge"):
        merge(values, "--force", out=Path(llama["a"]))
    assert (run / "data").is_dir()
    assert (Path(llama["a"]) / "model.safetensors").is_file()


def test_an_old_folder_stays_until_the_new_one_is_whole(
    merge: Merge, values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = merge(values)
    before = contents(out)
    monkeypatch.setattr(shards, "_write_all", full_disk)
    with pytest.raises(BunchError):
        merge(values | {"coefficients": {"x": 1, "y": 1}}, "--force")
    assert contents(out) == before
    monkeypatch.undo()

    rename = Path.rename

    def renamed(path: Path, target: Path) -> Path:
        if path.name == ".ours.part":
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", renamed)
    with pytest.raises(BunchError, match="Input/output error"):
        merge(values | {"coefficients": {"x": 1, "y": 1}}, "--force")
    assert contents(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "recipe.yml"]


def test_parents_are_made(merge: Merge, values: dict[str, Any], tmp_path: Path) -> None:
    assert (merge(values, out=tmp_path / "new" / "deep" / "merged") / "model.safetensors").is_file()
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"merged: must be a folder that can be written to, but .*File exists"):
        merge(values, out=tmp_path / "file" / "merged")


def test_what_a_killed_merge_left_is_put_right(
    merge: Merge, values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = merge(values)
    before = contents(out)
    # Killed between two renames.
    out.rename(tmp_path / ".ours.old")
    (tmp_path / ".ours.part").mkdir()
    (tmp_path / ".ours.part" / "model.safetensors").write_bytes(b"half")
    with pytest.raises(ConfigError, match="ours: is there already and would be replaced"):
        merge(values)
    assert contents(out) == before
    # Killed when the old one was to be removed.
    out.rename(tmp_path / ".ours.old")
    assert contents(merge(values | {"coefficients": {"x": 1, "y": 1}}, "--force")) != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "recipe.yml"]


def test_two_merges_into_one_folder(merge: Merge, values: dict[str, Any], tmp_path: Path) -> None:
    told = r"ours: one command at a time may write here, but a merge, process \d+ on .+ does; wait"
    with whole_folder(tmp_path / "ours", force=False) as beside:
        with pytest.raises(ConfigError, match=told):
            merge(values)
        assert beside.is_dir()
        (beside / "model.safetensors").write_bytes(b"first")
    assert contents(tmp_path / "ours") == {"model.safetensors": b"first"}


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("when", ["at once", "in a tensor", "beside the weights"])
def test_full_disk(
    merge: Merge, values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    if when == "at once":
        monkeypatch.setattr(os, "posix_fallocate", full_disk)
    elif when == "in a tensor":
        write = shards._write
        done: list[object] = []

        def fails_on_the_ninth(file: Any, tensor: torch.Tensor) -> None:
            done.append(file)
            (full_disk if len(done) == 9 else write)(file, tensor)

        monkeypatch.setattr(shards, "_write", fails_on_the_ninth)
    else:
        monkeypatch.setattr(shutil, "copyfile", full_disk)
    with pytest.raises(BunchError, match="No space left on device; make room or choose another place"):
        merge(values, "--shard-size", 1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yml"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_really_full(merge: Merge, values: dict[str, Any], small_disk: Path) -> None:
    with pytest.raises(BunchError, match=f"{small_disk}/m: must be written whole, but No space left on device"):
        merge(values, out=small_disk / "m")
    assert list(small_disk.iterdir()) == []


def test_a_file_system_that_cannot_promise_space(
    merge: Merge, values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    wanted = merge(values)
    monkeypatch.setattr(os, "posix_fallocate", cannot)
    made = merge(values, out=tmp_path / "other")
    assert (made / "model.safetensors").read_bytes() == (wanted / "model.safetensors").read_bytes()


def test_interruption_leaves_nothing(llama: Family, values: dict[str, Any], tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(yaml.safe_dump(values))

    def interrupted(done: int, _: int) -> None:
        assert (tmp_path / ".out.part").is_dir()
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_merge(read_recipe(recipe), tmp_path / "out", on_tensor=interrupted)
    assert list(tmp_path.iterdir()) == [recipe]


def test_what_a_killed_merge_left_is_cleared_away(merge: Merge, values: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / ".ours.part").mkdir()
    (tmp_path / ".ours.part" / "model-00007-of-00009.safetensors").write_text("half")
    out = merge(values)
    assert not list(out.glob("model-*"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "recipe.yml"]


@pytest.mark.parametrize(("limit", "count"), [(2, 30), (20_000, 6), (1 << 30, 1)])
def test_shards(merge: Merge, values: dict[str, Any], tmp_path: Path, limit: int, count: int) -> None:
    whole = tensors_in(merge(values))
    out = merge(values, "--shard-size", limit / 2**30, out=tmp_path / "sharded")
    files = sorted(path.name for path in out.glob("*.safetensors"))
    if count == 1:
        assert files == ["model.safetensors"]
        return
    assert files == [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    index = index_of(out)
    assert index.keys() == whole.keys()
    for file in files:
        held = load_file(out / file)
        assert held.keys() == {name for name, where in index.items() if where == file}
        assert all(torch.equal(tensor, whole[name]) for name, tensor in held.items())
        assert len(held) == 1 or sum(tensor.nbytes for tensor in held.values()) <= limit


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"method": "ties", "groups": "layer", "parameters": {"density": {"x": 0.3, "y": 0.6}}, "tokenizer": "y"},
        {"method": "dare_ties", "parameters": {"density": 0.5}, "seed": 3, "dtype": "float32", "out_dtype": "bfloat16"},
        {"chat_template": "{{ messages[0].content }}\n\n  é"},
    ],
    ids=["plain", "ties", "dare", "template"],
)
def test_a_merge_is_made_again_from_its_own_recipe(
    merge: Merge, values: dict[str, Any], tmp_path: Path, keys: dict[str, Any]
) -> None:
    if keys.get("groups"):
        layers = ("embeddings", "layer 0", "layer 1", "layer 2", "final norm", "head")
        keys = keys | {"coefficients": {"x": {layer: i / 7 for i, layer in enumerate(layers)}, "y": -1e-9}}
    out = merge(values | keys)
    again = merge(yaml.safe_load((out / "recipe.yaml").read_text()), out=tmp_path / "again")
    assert contents(again) == contents(out)
    assert is_exported(read_recipe(out / "recipe.yaml"), again)


def test_a_mergekit_file_is_kept_as_it_was(merge: Merge, llama: Family, tmp_path: Path) -> None:
    """Also where its slices have sources of their own, which no list of models can say."""
    values = config("passthrough", llama)
    out = merge(values)
    written = yaml.safe_load((out / "mergekit_config.yml").read_text())
    assert written == values
    assert contents(merge(written, out=tmp_path / "again")) == contents(out)


def test_model_card(merge: Merge, values: dict[str, Any], llama: Family, tmp_path: Path) -> None:
    out = merge(values)
    front = metadata_load(out / "README.md")
    assert front == {
        "library_name": "transformers",
        "tags": ["mergekit", "merge", "goodbunch"],
        "license": "apache-2.0",
    }
    card = ModelCard.load(out / "README.md")
    assert card.data.to_dict() == front
    assert "# A Goodbunch merge" in card.text
    assert f"| x | `{llama['a']}` | apache-2.0 |" in card.text
    assert (out / "recipe.yaml").read_text().strip() in card.text


def test_licences_that_differ_are_told_apart(
    merge: Merge, values: dict[str, Any], llama: Family, tmp_path: Path
) -> None:
    cards = {
        "x": "---\nlicense: other\nlicense_name: llama3.2\n---\n",
        "y": "---\nlicense: [mit, bsd]\n---\n",
        "z": "---\n{no: yaml\n---\n",
    }
    experts = {}
    for name, text in cards.items():
        folder = Path(shutil.copytree(llama["a"], tmp_path / "sources" / name))
        (folder / "README.md").write_text(text)
        experts[name] = str(folder)
    out = merge(values | {"experts": experts, "coefficients": dict.fromkeys(experts, 0.1)})
    assert "license" not in metadata_load(out / "README.md")
    text = (out / "README.md").read_text()
    for name, told in {"base": "apache-2.0", "x": "llama3.2", "y": "mit, bsd", "z": "not stated"}.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
        assert row.endswith(f"| {told} |")


@pytest.mark.parametrize("old", ["dtype", "torch_dtype"])
def test_the_config_says_the_type_by_the_bases_own_name(merge: Merge, tmp_path: Path, old: str) -> None:
    family = write_family("llama", tmp_path / "sources")
    for name in ("base", "a", "b"):
        path = Path(family[name]) / "config.json"
        stored = json.loads(path.read_text())
        stored[old] = stored.pop("dtype")
        path.write_text(json.dumps(stored))
    out = merge(config("linear", family, out_dtype="bfloat16"))
    written = json.loads((out / "config.json").read_text())
    assert {key: written[key] for key in ("dtype", "torch_dtype") if key in written} == {old: "bfloat16"}


def test_a_tokenizer_of_another_expert(merge: Merge, values: dict[str, Any], llama: Family) -> None:
    out = merge(values | {"tokenizer": "y"})
    assert (out / "chat_template.jinja").read_text() == "b: {{ messages[0].content }}"
    assert yaml.safe_load((out / "mergekit_config.yml").read_text())["tokenizer_source"] == llama["b"]


def test_a_template_in_the_tokenizers_config_is_taken_out(merge: Merge, tmp_path: Path) -> None:
    family = write_family("llama", tmp_path / "sources")
    base = Path(family["base"])
    tokenizer(48, "old").save_pretrained(base, save_jinja_files=False)
    (base / "chat_template.jinja").unlink()
    out = merge(config("linear", family, base_model=family["base"], chat_template="{{ new }}"))
    assert "chat_template" not in (out / "tokenizer_config.json").read_text()
    assert (out / "chat_template.jinja").read_text() == "{{ new }}"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"merge_method": "slurp"}, "there is no merge method 'slurp'; did you mean 'slerp'?"),
        ({"tokenizer_source": "union"}, "a union of vocabularies is not supported"),
        ({"chat_template": "chatml"}, "templates by name are not supported"),
        ({"parameters": {"denisty": 0.5}}, "ties has no parameter 'denisty'; did you mean 'density'?"),
        ({"modules": {}}, "modules: not supported; only text models of one stack can be merged"),
        ({"base_model": "/no/such/model"}, "must be a folder or a Hugging Face name, but '/no/such/model' is neither"),
    ],
)
def test_what_is_unsupported_is_named(merge: Merge, llama: Family, keys: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, BunchError)) as caught:
        merge(config("ties", llama) | keys)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
