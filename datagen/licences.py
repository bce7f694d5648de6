"""What a model's own card says of its licence; nothing is downloaded for it."""

from pathlib import Path
from typing import Any

from datagen.models.references import split_reference
from datagen.reading import UnfitError, parse_yaml

NOT_STATED = "not stated"

#: Bytes of a card that are looked at.
_FRONT = 1 << 20


def licence_of(reference: str) -> str:
    """The licence of a model, and of the adapter beside it if it has another.

    Args:
        reference: `MODEL` or `MODEL+ADAPTER`, each a folder or a Hugging Face name.
    """
    named = [_licence(part) for part in split_reference(reference) if part is not None]
    return " and ".join(dict.fromkeys(named))


def front_of(card: Path) -> dict[str, Any]:
    """The front matter of a card; empty if there is none or it is damaged."""
    with card.open("rb") as file:
        return front_matter(file.read(_FRONT).decode(errors="replace"))


def front_matter(text: str) -> dict[str, Any]:
    """The YAML between the dashes that a card begins with; empty if there is none or it is damaged."""
    if not text.startswith("---"):
        return {}
    try:
        front = parse_yaml(text.split("---", 2)[1])
    except (UnfitError, IndexError):
        return {}
    return front if isinstance(front, dict) else {}


def _licence(part: str) -> str:
    card = _card(part)
    front = front_of(card) if card is not None else {}
    told = front.get("license_name") or front.get("license") or NOT_STATED
    return ", ".join(map(str, told)) if isinstance(told, list) else str(told)


def _card(part: str) -> Path | None:
    folder = Path(part).expanduser()
    if folder.is_dir():
        card = folder / "README.md"
        return card if card.is_file() else None
    name, _, revision = part.partition("@")
    if name.count("/") != 1 or folder.is_absolute():
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "README.md", revision=revision or None)
    return Path(found) if isinstance(found, str) else None
