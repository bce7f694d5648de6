"""What transformers makes of a model's folder; its own code is run only where the user named the model as trusted."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from datagen.errors import BunchError
from datagen.models.config import read_config
from datagen.models.references import check_links, local_folder
from datagen.models.templates import check_template
from datagen.models.trust import trusted_models
from datagen.reading import JSON_BYTES, read_json

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
        BunchError: there is none that loads, or it asks for code of its own, and the model is not trusted.
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
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=is_trusted(folder))
        tokenizer.encode("a")
    except BaseException as error:  # whatever a damaged file makes the library say
        # Where its Rust panics, what is raised is no Exception, and no module has its class.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise BunchError(
            f"{folder}: must have a tokenizer that transformers loads, but {first_line(error)}; "
            f"{remedy(folder, 'tokenizer_config.json', 'download it again')}"
        ) from error
    told = tokenizer.chat_template
    for template in told.values() if isinstance(told, dict) else [told] if told else []:
        check_template(str(template), str(folder))
    return tokenizer


def is_trusted(folder: Path) -> bool:
    """Whether the user named the model in a folder as one whose own code may run, or it has that very code.

    The latter is so for what is merged from it.

    Raises:
        BunchError: what the user named is no model.
    """
    named = [local_folder(model).resolve() for model in trusted_models()]
    return folder.resolve() in named or any(_code(folder) == _code(one) for one in named)


def _code(folder: Path) -> tuple[dict[str, bytes], list[Any]]:
    """A model's own code, and what of it is asked for, which may lie elsewhere."""
    asking = [folder / name for name in ("config.json", "tokenizer_config.json")]
    maps = [read_json(file).get("auto_map") if file.is_file() else None for file in asking]
    return {name: (folder / name).read_bytes() for name in code_of(folder)}, maps


def code_of(folder: Path) -> list[str]:
    """Files of a model's own code, from its folder; it may import some of folders below."""
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*.py"))


def remedy(folder: Path, file: str, otherwise: str) -> str:
    """What to do about a model that transformers does not load.

    Args:
        folder: of the model.
        file: that may ask for code of the model's own.
        otherwise: the remedy if it does not, or if that code may run.
    """
    if is_trusted(folder) or not (folder / file).is_file() or "auto_map" not in read_json(folder / file):
        return otherwise
    return f"it comes with code of its own: read that, then add --trust-remote-code {folder}, or {otherwise}"


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
        BunchError: there is none that loads, or it asks for code of its own, and the model is not trusted.
    """
    from transformers import AutoConfig

    read_config(folder)
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=is_trusted(folder))
    except Exception as error:  # whatever a damaged file makes the library say
        raise BunchError(
            f"{folder / 'config.json'}: must be a config that transformers loads, but {first_line(error)}; "
            f"{remedy(folder, 'config.json', 'use a model whose architecture it has')}"
        ) from error


def first_line(error: BaseException) -> str:
    """What an error says first."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
