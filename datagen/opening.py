"""What transformers makes of a model's folder; none of the folder's own code is ever run."""

from pathlib import Path
from typing import TYPE_CHECKING

from datagen.checkpoints import check_links
from datagen.errors import BunchError
from datagen.model_config import read_config
from datagen.reading import JSON_BYTES, read_json
from datagen.templates import check_template

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

#: Bytes of a tokenizer's files at most.
_TOKENIZER_BYTES = 4 * JSON_BYTES


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
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever a damaged file makes the library say
        raise BunchError(f"{folder}: must have a tokenizer that transformers loads, but {first_line(error)}") from error
    told = tokenizer.chat_template
    for template in told.values() if isinstance(told, dict) else [told] if told else []:
        check_template(str(template), str(folder))
    return tokenizer


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
