"""Pages that are written by the code: what configs and commands take, and the notebooks as text. A hook of mkdocs."""

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import jupytext
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typer.cli import get_docs_for_click

from optimizer.cli import app
from optimizer.config import Config
from optimizer.describing import headline, meanings, models_in

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"

#: Bounds of numbers, as pydantic names them.
_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages to a site."""
    pages = {"reference/config.md": config_page(), "reference/cli.md": command_page()}
    pages |= {f"notebooks/{path.stem}.md": notebook_page(path) for path in sorted(NOTEBOOKS.glob("*.py"))}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def config_page() -> str:
    """Every key of a config, model by model, from the models themselves."""
    lines = [
        "# Config",
        "",
        "Every key of a config, written by the code that reads it. Values are YAML; `key.path=value` on the command "
        "line is stronger than the file, and `${key}` in it stands for another key's value.",
        "",
    ]
    for model, path in _models(Config, ""):
        lines += [f"## {path or 'A run'} {{#{_anchor(model)}}}", "", headline(model), ""]
        lines += ["| key | value | default | |", "|---|---|---|---|"]
        told = meanings(model)
        for name, field in model.model_fields.items():
            cells = [f"`{name}`", _value(field), _default(field), told.get(name, "")]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def command_page() -> str:
    """Every command and option, from the commands themselves."""
    command = typer.main.get_command(app)
    return str(get_docs_for_click(obj=command, ctx=typer.Context(command), name="goodbunch", title="Command line"))


def notebook_page(path: Path) -> str:
    """A notebook's texts and code."""
    return str(jupytext.writes(jupytext.read(path), "md")).partition("---\n\n")[2]


def _models(model: type[BaseModel], path: str, found: set[type[BaseModel]] | None = None) -> Iterator[Any]:
    """A model and those within it, each once, with the key that it is first found under."""
    found = set() if found is None else found
    if model in found:
        return
    found.add(model)
    yield model, path
    for name, field in model.model_fields.items():
        for nested in models_in(field.annotation):
            named = ".NAME" if _is_named(field.annotation) else ""
            yield from _models(nested, f"{path}.{name}{named}".lstrip("."), found)


def _is_named(annotation: Any) -> bool:
    origin = get_origin(annotation)
    return origin is dict or (origin is Annotated and _is_named(get_args(annotation)[0]))


def _anchor(model: type[BaseModel]) -> str:
    return model.__name__.removesuffix("Config").lower() or "run"


def _value(field: FieldInfo) -> str:
    bounds = [
        f"{sign} {getattr(part, key)}" for part in field.metadata for key, sign in _BOUNDS.items() if hasattr(part, key)
    ]
    return ", ".join([_type(field.annotation), *bounds])


def _type(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(parts[0])
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts if part)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(part) for part in parts))
    if origin is dict:
        return f"name: {_type(parts[1])}"
    if origin in (list, tuple):
        return f"list of {_type(parts[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{_anchor(annotation)}](#{_anchor(annotation)})"
    words = {str: "text", bool: "true or false", int: "integer", float: "number", type(None): "nothing"}
    return words.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be set"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "its defaults"
    if value is None or value in ("", [], {}):
        return ""
    told = (
        str(value).lower()
        if isinstance(value, bool)
        else ", ".join(map(str, value))
        if isinstance(value, list)
        else str(value)
    )
    return f"`{told}`"
