"""What transformers makes of a model's folder; none of the folder's own code is ever run."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from datagen.checkpoints import check_links
from datagen.errors import BunchError
from datagen.model_config import read_config
from datagen.reading import JSON_BYTES, read_json
from datagen.templates import check_template

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

#: Bytes of a tokenizer's files at most.
_TOKENIZER_BYTES = 4 * JSON_BYTES

#: An id of a tokenizer must be below it: the library makes a list as long as the greatest.
_IDS = 1 << 24

#: Files with a vocabulary, and the keys that lead to it.
_VOCABULARIES = {"tokenizer.json": ("model", "vocab"), "vocab.json": ()}


def open_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer in a folder, with a chat template that ends.

    Raises:
        BunchError: there is none that loads without code of its own.
    """
    from transformers import AutoTokenizer

    check_links(folder)
    for name in ("config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        if (folder / name).is_file():
            read_json(folder / name)
    for file in folder.glob("tokenizer.*"):
        if file.stat().st_size > _TOKENIZER_BYTES:
            raise BunchError(
                f"{file}: must have at most {_TOKENIZER_BYTES >> 20} MiB, but has {file.stat().st_size >> 20}; use "
                f"another"
            )
    for name, keys in _VOCABULARIES.items():
        _check_ids(folder / name, keys)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        tokenizer.encode("a")
    except BaseException as error:  # whatever a damaged file makes the library say
        # Where its Rust panics, what is raised is no Exception, and no module has its class.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise BunchError(f"{folder}: must have a tokenizer that transformers loads, but {first_line(error)}") from error
    told = tokenizer.chat_template
    for template in told.values() if isinstance(told, dict) else [told] if told else []:
        check_template(str(template), str(folder))
    return tokenizer


def _check_ids(file: Path, keys: tuple[str, ...]) -> None:
    if not file.is_file():
        return
    value: Any = read_json(file, most=_TOKENIZER_BYTES)
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    for token, number in value.items() if isinstance(value, dict) else ():
        if isinstance(number, int) and number >= _IDS:
            raise BunchError(f"{file}: its ids must be below {_IDS}, but {token} has {number}; download it again")


def open_config(folder: Path) -> "PretrainedConfig":
    """The config in a folder, as transformers has it.

    Raises:
        BunchError: there is none that loads without code of its own.
    """
    from transformers import AutoConfig

    read_config(folder)
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever a damaged file makes the library say
        raise BunchError(
            f"{folder / 'config.json'}: must be a config that transformers loads, but {first_line(error)}; use a model "
            f"whose architecture it has"
        ) from error


def first_line(error: BaseException) -> str:
    """What an error says first."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
