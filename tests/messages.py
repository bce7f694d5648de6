"""Every message that a user's mistake can lead to, from the code: `python -m tests.messages` writes docs/errors.md."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.support import ROOT

PAGE = ROOT / "docs" / "errors.md"

#: Classes of errors, and what else carries a message on its way to one of them.
CLASSES = ("ConfigError", "DataError", "BunchError", "EngineError", "EngineDiedError")
_CARRIERS = ("UnfitError", "PydanticCustomError", "kind")

#: Where problems are collected before they are raised together, elsewhere.
_RAISED_AS = {
    "optimizer/bunch/": "BunchError",
    "datagen/models/adapters": "BunchError",
    "datagen/engines/": "EngineError",
}

_HEAD = """# Every message of a mistake

Whatever a user can mend is told in one line, `goodbunch: MESSAGE` on the standard error, and the exit code is 2. The
message says the rule, what was found instead, and what to do; most name the file, and where in it.

| class | is about |
|---|---|
| `ConfigError` | a config, a recipe, or the command line |
| `DataError` | rows, run folders, and the disk they go to |
| `BunchError` | models and adapters |
| `EngineError` | what generates; `EngineDiedError` where its process ended |

What stands in braces is filled in. This page is made from the code by `make errors`, and a test holds the two together.
"""


@dataclass(frozen=True, order=True)
class Message:
    """One message.

    Attributes:
        module: that has it.
        line: where it stands there.
        kind: class of the error.
        text: with what is filled in between braces.
    """

    module: str
    line: int
    kind: str
    text: str

    @property
    def parts(self) -> tuple[str, str, str]:
        """The rule, what is told of the case, and the remedy; the latter two may be empty."""
        rule, _, rest = self.text.partition(", but ")
        if not rest:
            rule, _, remedy = self.text.partition("; ")
            return rule, "", remedy
        found, _, remedy = rest.partition("; ")
        return rule, found, remedy


@cache
def messages() -> list[Message]:
    """All messages, by module and line."""
    files = [path for package in ("datagen", "optimizer") for path in (ROOT / package).rglob("*.py")]
    return sorted(message for path in files for message in _of(path))


def _of(path: Path) -> Iterator[Message]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    module = str(path.relative_to(ROOT).with_suffix(""))
    raised = {id(call): name for call, name in _raised(tree)}
    usual = [name for name in raised.values() if name in CLASSES]
    fallback = max(usual, key=usual.count) if usual else "ConfigError"
    fallback = next((kind for start, kind in _RAISED_AS.items() if module.startswith(start)), fallback)
    documented = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    inner: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and id(node) in raised:
            for argument in node.args:
                if (text := _text(argument)) is not None and (_is_rule(text) or raised[id(node)] in CLASSES):
                    kind = raised[id(node)]
                    inner |= {id(part) for part in ast.walk(argument)}
                    if re.search(r"[a-z] [a-z]", re.sub(r"\{[^}]*\}", "", text)):
                        yield Message(module, node.lineno, kind if kind in CLASSES else fallback, text)
    for node in ast.walk(tree):
        if id(node) in inner or id(node) in documented:
            continue
        if isinstance(node, ast.JoinedStr | ast.Constant) and (text := _text(node)) is not None and _is_rule(text):
            inner |= {id(part) for part in ast.walk(node)}
            yield Message(module, node.lineno, fallback, text)


def _raised(tree: ast.Module) -> Iterator[tuple[ast.Call, str]]:
    """Calls that make an error, with its class."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            name = node.func.id
            if name in CLASSES or name in _CARRIERS:
                yield node, name


def _is_rule(text: str) -> bool:
    """Whether a text that is not raised where it stands reads like a message."""
    return (
        ", but " in text
        and text[0] != "#"
        and any(word in text for word in (" must ", " may ", " only ", "; ", " no ", " not "))
    )


def _text(node: ast.expr) -> str | None:
    """A string as it stands in the code; none if it is none."""
    if isinstance(node, ast.Constant):
        return " ".join(node.value.split()) if isinstance(node.value, str) else None
    if not isinstance(node, ast.JoinedStr):
        return None
    parts = [_filled(part.value) if isinstance(part, ast.FormattedValue) else _text(part) or "" for part in node.values]
    raw = "".join(
        part if isinstance(one, ast.FormattedValue) else str(one.value) if isinstance(one, ast.Constant) else part
        for part, one in zip(parts, node.values, strict=True)
    )
    return " ".join(raw.split())


def _filled(value: ast.expr) -> str:
    """What a value is called in the table."""
    if isinstance(value, ast.Name):
        return f"{{{value.id.strip('_').lower()}}}"
    if isinstance(value, ast.Attribute):
        return f"{{{value.attr.strip('_').lower()}}}"
    return "{...}"


def page() -> str:
    """docs/errors.md."""
    found = messages()
    parts = [_HEAD]
    for kind in CLASSES:
        rows = list(dict.fromkeys((one.module, *one.parts) for one in found if one.kind == kind))
        if rows:
            lines = [" | ".join(map(_cell, (f"`{module}`", *parts))) for module, *parts in rows]
            table = "\n".join(f"| {line} |" for line in lines)
            parts.append(f"## {kind}\n\n| where | rule | what is found | what to do |\n|---|---|---|---|\n{table}\n")
    return "\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
