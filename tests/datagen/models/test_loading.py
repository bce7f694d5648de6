"""Models from elsewhere: none of their code runs, pickles are read only where allowed, links are not followed."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from transformers import LlamaConfig

from datagen.errors import BunchError
from datagen.models.loading import open_config, open_tokenizer
from datagen.models.opening import iterate_tensors, open_weights
from datagen.models.references import local_folder
from datagen.models.trust import ALLOWED
from tests.optimizer.export.families import tokenizer

TENSORS = {"model.embed_tokens.weight": torch.arange(12.0).view(3, 4), "model.norm.weight": torch.ones(4)}


class Evil:
    """What a pickle can hold: a call that is made where it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(ALLOWED, raising=False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of one file, with a tokenizer."""
    folder = tmp_path / "model"
    LlamaConfig(vocab_size=48, hidden_size=4, num_attention_heads=1, tie_word_embeddings=True).save_pretrained(folder)
    tokenizer(48, "{{ messages[0].content }}").save_pretrained(folder)
    safetensors.torch.save_file(TENSORS, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_in_a_models_folder_is_never_run(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    marker = tmp_path / "ran"
    (model / "evil.py").write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\nclass Evil: pass\n")
    maps = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil", "AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    told = json.loads((model / file).read_text())
    told |= {"auto_map": maps, "model_type": "evil", "tokenizer_class": "Evil"}
    (model / file).write_text(json.dumps(told))
    monkeypatch.setattr("builtins.input", lambda *_: "yes")  # who would be asked says yes
    with pytest.raises(BunchError):
        open_config(model)
        open_tokenizer(model)
    assert not marker.exists()


def test_pickles_are_refused(model: Path) -> None:
    (model / "model.safetensors").unlink()
    torch.save(TENSORS, model / "pytorch_model.bin")
    with pytest.raises(
        BunchError, match=r"weights must be safetensors, but pytorch_model.bin is a pickle.*say --allow-pickle"
    ):
        open_weights(str(model))


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_that_are_allowed_are_read_as_tensors(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    monkeypatch.setenv(ALLOWED, "1")
    (model / "model.safetensors").unlink()
    halves = [{name: tensor} for name, tensor in TENSORS.items()]
    for i, half in enumerate(halves):
        file = model / f"pytorch_model-{i}.bin"
        torch.save(half, file, _use_new_zipfile_serialization=zipped)
    found = dict(iterate_tensors(str(model)))
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
    (place,) = (tmp_path / "cache" / "goodbunch" / "unpickled").iterdir()
    assert local_folder(str(model)) == place  # made once
    assert open_tokenizer(place).get_vocab() == open_tokenizer(model).get_vocab()


def test_a_pickle_that_holds_a_call_makes_none(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOWED, "1")
    (model / "model.safetensors").unlink()
    for data in (pickle.dumps({"a": Evil(tmp_path / "ran")}), b"", b"PK\x03\x04"):
        (model / "pytorch_model.bin").write_bytes(data)
        with pytest.raises(BunchError, match=r"pytorch_model.bin: must hold tensors alone, but"):
            open_weights(str(model))
    torch.save({"a": 1}, model / "pytorch_model.bin")
    with pytest.raises(BunchError, match="must hold tensors by name alone, but holds something else"):
        open_weights(str(model))
    assert not (tmp_path / "ran").exists()
    assert not any((tmp_path / "cache" / "goodbunch" / "unpickled").iterdir())


def test_links_out_of_a_models_folder_are_refused(model: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("{}")
    (model / "generation_config.json").unlink(missing_ok=True)
    (model / "generation_config.json").symlink_to(secret)
    with pytest.raises(BunchError, match=r"a model's files must lie in its folder, but this is a link to .*secret"):
        open_weights(str(model))


def test_links_of_the_hubs_cache_are_followed(model: Path, tmp_path: Path) -> None:
    """It keeps files in `blobs` and links to them in `snapshots`."""
    snapshot, blobs = tmp_path / "models--org--x" / "snapshots" / "abc", tmp_path / "models--org--x" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for i, file in enumerate(model.iterdir()):
        (blobs / str(i)).write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(os.path.relpath(blobs / str(i), snapshot))
    assert dict(iterate_tensors(str(snapshot))).keys() == TENSORS.keys()


@pytest.mark.parametrize(
    "shard", ["../outside.safetensors", "/tmp/x.safetensors", "a/b.safetensors", "a\0b", "x" * 300]
)
def test_shards_lie_in_the_models_folder(model: Path, tmp_path: Path, shard: str) -> None:
    (tmp_path / "outside.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    index = {"weight_map": dict.fromkeys(TENSORS, shard)}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BunchError, match=r"a shard must be a file in the same folder, but .* is none"):
        open_weights(str(model))


def test_long_names_of_tensors_are_refused(model: Path) -> None:
    safetensors.torch.save_file({f"model.layers.{'9' * 5000}.w": torch.ones(1)}, model / "model.safetensors")
    with pytest.raises(BunchError, match=r"a tensor's name must have at most 512 letters, but model\.layers\.99"):
        open_weights(str(model))


@pytest.mark.parametrize("file", ["tokenizer.json", "vocab.json"])
@pytest.mark.parametrize("number", [1 << 24, 2**63])
def test_ids_of_tokenizers_are_bounded(model: Path, file: str, number: int) -> None:
    """The library makes a list as long as the greatest."""
    told = json.loads((model / "tokenizer.json").read_text())
    if file == "vocab.json":
        (model / "tokenizer.json").unlink()
        told = told["model"]["vocab"]
        told["a"] = number
    else:
        told["model"]["vocab"]["a"] = number
    (model / file).write_text(json.dumps(told))
    with pytest.raises(BunchError, match=rf"{file}: its ids must be below 16777216, but a has \d+; download it again"):
        open_tokenizer(model)


def test_a_tokenizer_that_panics_is_refused(model: Path) -> None:
    """A template for one text that asks for a second."""
    told = json.loads((model / "tokenizer.json").read_text())
    told["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "B", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {},
    }
    (model / "tokenizer.json").write_text(json.dumps(told))
    with pytest.raises(BunchError, match="must have a tokenizer that transformers loads, but index out of bounds"):
        open_tokenizer(model)
