"""References name models, headers tell without reading, rows read only themselves, damage is told by name."""

import json
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from datagen.errors import BunchError
from datagen.models.checkpoints import Checkpoint
from datagen.models.opening import iterate_tensors, open_weights
from datagen.models.references import local_folder, split_reference
from datagen.models.tensor_files import Header


def save(folder: Path, tensors: dict[str, torch.Tensor], **config: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"} | config))
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """Two shards."""
    shards = {
        "one.safetensors": {"b": torch.arange(6).view(3, 2).float(), "a": torch.ones(2, dtype=torch.bfloat16)},
        "two.safetensors": {"c": torch.tensor(7), "d": torch.tensor([True])},
    }
    for shard, tensors in shards.items():
        save_file(tensors, tmp_path / shard)
    weight_map = {name: shard for shard, tensors in shards.items() for name in tensors}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return tmp_path


def test_headers_of_shards(sharded: Path) -> None:
    weights = Checkpoint(sharded)
    assert weights.headers["b"] == Header((3, 2), torch.float32)
    assert weights.headers["a"] == Header((2,), torch.bfloat16)
    assert weights.headers["c"] == Header((), torch.int64)
    assert weights.headers["d"] == Header((1,), torch.bool)
    assert list(weights.headers) == list(weights.files) == [name for name, _ in iterate_tensors(str(sharded))]
    assert weights.files["d"].name == "two.safetensors"


def test_rows_are_slices_of_tensors(sharded: Path) -> None:
    weights = Checkpoint(sharded)
    assert weights.tensor("b").tolist() == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
    assert weights.rows("b", 1, 2).tolist() == [[2.0, 3.0]]
    assert weights.rows("b", 2, 9).tolist() == [[4.0, 5.0]]
    assert weights.rows("c", 0, 1).tolist() == weights.tensor("c").tolist() == 7


def test_memory_is_given_back(tmp_path: Path) -> None:
    size = 48 << 20
    weights = Checkpoint(save(tmp_path / "large", {name: torch.zeros(size // 4096, 1024) for name in "abcd"}))
    before = _resident()
    for name in weights.headers:
        weights.tensor(name).sum()
        for start in range(0, size // 4096, 4096):
            weights.rows(name, start, start + 4096).sum()
    assert _resident() - before < size // 2


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_an_index_that_lists_what_no_shard_has(sharded: Path) -> None:
    index = sharded / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": weight_map | {"e": "one.safetensors"}}))
    with pytest.raises(BunchError, match="every tensor it lists must be in its shard, but 1 are not, such as e"):
        Checkpoint(sharded)
    index.write_text("[]")
    with pytest.raises(BunchError, match="must be a JSON object"):
        Checkpoint(sharded)


def test_types_that_torch_lacks(tmp_path: Path) -> None:
    header = json.dumps({"x": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    with pytest.raises(BunchError, match="must be of a type that PyTorch has, but x is F4; use an unquantised"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize(("shift", "same"), [(0.0, True), (1.0, False)])
def test_a_head_that_is_tied_is_left_out(tmp_path: Path, shift: float, same: bool) -> None:
    embeddings = torch.randn(9000, 2)
    tensors = {"model.embed_tokens.weight": embeddings, "lm_head.weight": embeddings.clone()}
    tensors["lm_head.weight"][-1] += shift
    weights = Checkpoint(save(tmp_path / "tied", tensors, tie_word_embeddings=True))
    assert list(weights.headers) == ["model.embed_tokens.weight"]
    assert weights.head_copy == "lm_head.weight"
    assert weights.head_is_embeddings() is same
    untied = Checkpoint(save(tmp_path / "untied", tensors, tie_word_embeddings=False))
    assert set(untied.headers) == set(tensors)
    assert untied.head_is_embeddings()


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        ("org/model", ("org/model", None)),
        ("org/model+org/adapter", ("org/model", "org/adapter")),
        ("org/model@main+org/adapter@v2", ("org/model@main", "org/adapter@v2")),
        ("with+plus", ("with+plus", None)),
        ("with+plus+ad+apter", ("with+plus", "ad+apter")),
        ("with+plus+org/adapter@refs/pr/1", ("with+plus", "org/adapter@refs/pr/1")),
        ("org/model+ad+apter", ("org/model", "ad+apter")),
        ("no/such/folder+neither", ("no/such/folder", "neither")),
    ],
)
def test_references(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str, parts: tuple[str, str | None]
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("with+plus", "ad+apter"):
        Path(folder).mkdir()
    assert split_reference(reference) == parts


def test_a_folder_with_marks_in_its_name(tmp_path: Path) -> None:
    folder = save(tmp_path / "a+b@c", {"x": torch.ones(2)})
    assert open_weights(str(folder)).tensor("x").tolist() == [1.0, 1.0]
    assert open_weights(str(folder)).fingerprint() == Checkpoint(folder).fingerprint()


def test_a_revision_of_a_folder(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", {"x": torch.ones(2)})
    with pytest.raises(BunchError, match=r"a revision must follow a Hugging Face name, but .* is a folder; drop @main"):
        open_weights(f"{folder}@main")


def test_a_revision_is_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def snapshot_download(name: str, *, revision: str | None, **_: object) -> str:
        asked.append((name, revision))
        return str(save(tmp_path / "cached", {"x": torch.ones(2)}))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    open_weights("org/model@refs/pr/3")
    local_folder("org/model")
    assert asked == [("org/model", "refs/pr/3"), ("org/model", None)]
