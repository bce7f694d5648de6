"""What config.json says of a model, with the kinds of values that the rest relies on."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from datagen.errors import BunchError
from datagen.reading import read_json

_Count = Annotated[int, Field(ge=1, lt=1 << 31)]


class _Text(BaseModel):
    """Keys that are reckoned with; all others are kept as they are."""

    model_config = ConfigDict(strict=True)

    model_type: str | None = None
    hidden_size: _Count | None = None
    n_embd: _Count | None = None
    num_hidden_layers: _Count | None = None
    n_layer: _Count | None = None
    num_attention_heads: _Count | None = None
    n_head: _Count | None = None
    num_key_value_heads: _Count | None = None
    head_dim: _Count | None = None
    vocab_size: _Count | None = None
    tie_word_embeddings: bool | None = None
    rope_parameters: dict[str, Any] | None = None


class _Model(_Text):
    text_config: _Text = _Text()


def read_config(folder: Path) -> dict[str, Any]:
    """A model's config.json.

    Raises:
        BunchError: the file is missing, no JSON, or has a key of another kind than it must be.
    """
    path = folder / "config.json"
    values = read_json(path)
    try:
        _Model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise BunchError(
            f"{path}: {place}: {first['msg'].lower()}, but got {str(first['input'])[:40]!r}; download it again"
        ) from error
    return values
