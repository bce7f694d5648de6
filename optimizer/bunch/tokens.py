"""Whether sources speak of the same tokens, told from their files where these are alike, else from the tokenizers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datagen.errors import BunchError
from datagen.models.references import TOKENIZERS
from datagen.reading import read_json, read_text
from optimizer.bunch.source import Source

#: Files that decide which tokens there are; tokenizer_config.json is compared key by key.
_FILES = (*TOKENIZERS, "merges.txt", "added_tokens.json", "special_tokens_map.json")

#: Keys of tokenizer_config.json that decide nothing about tokens.
_COSMETIC = frozenset(
    "chat_template model_max_length padding_side truncation_side clean_up_tokenization_spaces name_or_path backend "
    "transformers_version is_local local_files_only processor_class model_input_names max_length stride".split()
)

#: Names of special tokens; a base that was never tuned to chat may end and pad in its own way.
_ROLES, _CHAT_ROLES = ("bos_token", "unk_token"), ("eos_token", "pad_token")


@dataclass(frozen=True)
class Tokens:
    """What a tokenizer knows.

    Attributes:
        numbers: token -> id.
        special: id -> token, of those added as special.
        roles: `bos_token` and the like -> token, or None.
    """

    numbers: Mapping[str, int]
    special: Mapping[int, str]
    roles: Mapping[str, str | None]


def has_tokenizer(source: Source) -> bool:
    """Whether a source brings a tokenizer."""
    return any((source.tokenizer_folder / name).is_file() for name in TOKENIZERS)


def token_differences(sources: Sequence[Source]) -> list[str]:
    """How vocabularies and special tokens differ.

    Args:
        sources: all with a tokenizer; the first is what the others are compared with.
    """
    if len(sources) < 2 or all(_same_files(sources[0].tokenizer_folder, one.tokenizer_folder) for one in sources[1:]):
        return []
    problems = []
    read: dict[str, Tokens] = {}
    for source in sources:
        try:
            read[source.name] = _tokens(source)
        except BunchError as error:
            problems.append(str(error))
    base = sources[0].name
    experts = [name for name in read if name != base]
    if base in read:
        for name in experts:
            problems += _vocabulary_differences(base, read[base], name, read[name])
            problems += _role_differences(base, read[base], name, read[name], _ROLES)
    for name in experts[1:]:
        problems += _role_differences(experts[0], read[experts[0]], name, read[name], _CHAT_ROLES)
    return problems


def template_differences(sources: Sequence[Source], aligned: str, base: str) -> list[str]:
    """Why sources cannot be asked in one and the same way.

    Args:
        aligned: name of the source whose template is kept.
        base: name of the base, which may lack a template.
    """
    templates = {source.name: chat_template(source.tokenizer_folder) for source in sources}
    wanted = templates.get(aligned)
    if aligned in templates and not wanted:
        return [f"the aligned model must have a chat template, but {aligned} has none; add chat_template.jinja to it"]
    # A base that was never tuned to chat may lack one; the merged model takes the aligned model's.
    odd = [name for name, template in templates.items() if template != wanted and not (name == base and not template)]
    if wanted and odd:
        return [
            f"all sources must share one chat template, but {', '.join(odd)} differ from {aligned}; set "
            f"bunch.tokenizer={aligned} to ask all of them by the aligned model's"
        ]
    return []


def chat_template(folder: Path) -> str | None:
    """The chat template in a tokenizer's folder, as transformers finds it.

    Raises:
        BunchError: tokenizer_config.json is no JSON.
    """
    path = folder / "chat_template.jinja"
    if path.is_file():
        return read_text(path, BunchError)
    template = _tokenizer_config(folder).get("chat_template")
    if isinstance(template, list):
        named = [one for one in template if isinstance(one, dict) and one.get("name") == "default"]
        template = named[0].get("template") if named else None
    if not isinstance(template, str | None):
        raise BunchError(
            f"{folder / 'tokenizer_config.json'}: chat_template must be a text, but is a {type(template).__name__}; "
            f"copy the file again"
        )
    return template


def _same_files(one: Path, other: Path) -> bool:
    if one.resolve() == other.resolve():
        return True
    if not all(_same_bytes(one / name, other / name) for name in _FILES):
        return False
    return _deciding(_tokenizer_config(one)) == _deciding(_tokenizer_config(other))


def _same_bytes(one: Path, other: Path) -> bool:
    if not one.is_file() or not other.is_file():
        return one.is_file() == other.is_file()
    return one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes()


def _tokenizer_config(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    return read_json(path) if path.is_file() else {}


def _deciding(config: Mapping[str, Any]) -> str:
    return json.dumps({key: value for key, value in config.items() if key not in _COSMETIC}, sort_keys=True)


def _tokens(source: Source) -> Tokens:
    tokenizer = source.tokenizer()
    return Tokens(
        numbers=tokenizer.get_vocab(),
        special={number: str(token) for number, token in tokenizer.added_tokens_decoder.items() if token.special},
        roles={role: getattr(tokenizer, role) for role in _ROLES + _CHAT_ROLES},
    )


def _vocabulary_differences(base: str, theirs: Tokens, name: str, ours: Tokens) -> list[str]:
    problems = []
    if ours.numbers != theirs.numbers:
        odd = {token for token, number in ours.numbers.items() if theirs.numbers.get(token) != number}
        odd |= theirs.numbers.keys() - ours.numbers.keys()
        problems.append(
            f"all sources must share one vocabulary, but {len(odd)} tokens of {name} differ from {base}'s, such as "
            f"{min(odd)!r}; merge models that kept the base's tokenizer, or set bunch.tokenizer"
        )
    if unlike := sorted(token for _, token in set(ours.special.items()) ^ set(theirs.special.items())):
        problems.append(
            f"all sources must share their special tokens, but {len(unlike)} of {name} differ from {base}'s, such as "
            f"{unlike[0]!r}; merge models that kept the base's tokenizer, or set bunch.tokenizer"
        )
    return problems


def _role_differences(one: str, theirs: Tokens, name: str, ours: Tokens, roles: Sequence[str]) -> list[str]:
    return [
        f"all sources must share one {role}, but {name} has {ours.roles[role]!r} and {one} {theirs.roles[role]!r}; "
        f"give them one tokenizer_config.json if they were trained alike"
        for role in roles
        if ours.roles[role] != theirs.roles[role]
    ]
