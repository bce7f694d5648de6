"""What README and docs tell to type can be typed: commands parse, configs and recipes hold, links lead somewhere."""

import ast
import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
import typer
import yaml
from omegaconf import OmegaConf

from optimizer.cli import app
from optimizer.config import Config
from optimizer.recipes.reading import read_recipe
from tests.support import DEMO_CONFIG, ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")


class Snippet(NamedTuple):
    page: Path
    text: str


def snippets(language: str) -> Iterator[Snippet]:
    """Fenced blocks of a language, of pages and of notebooks' texts."""
    for page in [*PAGES, *NOTEBOOKS]:
        text = re.sub(r"^# ?", "", page.read_text(), flags=re.MULTILINE) if page in NOTEBOOKS else page.read_text()
        for found in _FENCE.finditer(text):
            if found[1] == language:
                yield Snippet(page, found[2])


def lines(snippet: Snippet) -> Iterator[list[str]]:
    """Command lines, in words."""
    for line in snippet.text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def commands() -> list[tuple[str, list[str]]]:
    return [
        (snippet.page.name, words)
        for snippet in snippets("bash")
        for words in lines(snippet)
        if words[0] == "goodbunch"
    ]


def test_there_are_commands() -> None:
    named = {words[1] for _, words in commands()}
    assert {"init", "datagen", "search", "merge", "evaluate", "plan", "blame"} <= named
    assert {page for page, _ in commands()} >= {"README.md", "index.md", "new-expert.md", "05-to-llama-3.py"}


@pytest.mark.parametrize(("page", "words"), commands(), ids=lambda value: value if isinstance(value, str) else None)
def test_commands_parse(page: str, words: list[str]) -> None:
    group = typer.main.get_command(app)
    context = group.make_context("goodbunch", words[1:2])
    command = group.get_command(context, words[1])  # type: ignore[attr-defined]
    assert command is not None, f"{page}: there is no goodbunch {words[1]}"
    arguments = [word for word in words[2:] if word != "..."]
    command.make_context(words[1], arguments, parent=context)
    assert all((ROOT / word).exists() for word in arguments if word.startswith("configs/"))


def test_make_targets_are_there() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {words[1] for snippet in snippets("bash") for words in lines(snippet) if words[0] == "make"}
    named |= {name for page in PAGES for name in re.findall(r"`make ([a-z-]+)`", page.read_text())}
    assert "demo" in named
    assert named <= targets


@pytest.mark.parametrize("snippet", snippets("yaml"), ids=lambda snippet: snippet.page.name)
def test_yaml_holds(snippet: Snippet, tmp_path: Path) -> None:
    values = yaml.safe_load(snippet.text)
    if "method" in values:
        (tmp_path / "recipe.yaml").write_text(snippet.text)
        assert read_recipe(tmp_path / "recipe.yaml").method.name == values["method"]
        return
    demo = OmegaConf.to_container(OmegaConf.load(DEMO_CONFIG), resolve=True)
    assert isinstance(demo, dict)
    del demo["search"]["controls"]
    for other in ("numbers", "finance"):
        del demo["data"]["domains"][other], demo["objective"][other]
    Config.model_validate(OmegaConf.to_container(OmegaConf.merge(demo, values)))


@pytest.mark.parametrize("snippet", snippets("python"), ids=lambda snippet: snippet.page.name)
def test_python_names_what_there_is(snippet: Snippet) -> None:
    for node in ast.walk(ast.parse(snippet.text)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = node.value.id
            assert name not in ("optimizer", "datagen") or hasattr(importlib.import_module(name), node.attr)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    generated = {ROOT / "docs/reference/config.md", ROOT / "docs/reference/cli.md"}
    generated |= {ROOT / "docs/notebooks" / f"{path.stem}.md" for path in NOTEBOOKS}
    targets = [(page.parent / link).resolve() for link in _LINK.findall(page.read_text())]
    assert [target for target in targets if not target.exists() and target not in generated] == []


@pytest.fixture(scope="module")
def generated() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generated", ROOT / "docs" / "generated.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_config_page_has_every_key_with_its_default(generated: ModuleType) -> None:
    page = generated.config_page()
    assert "| `rate` | number, > 0 | `0.1` | Adam's, on the coefficients, decayed by a cosine to 0. |" in page
    assert "| `refine` | [refine](#refine) or nothing |" in page
    assert "## data.domains.NAME {#domain}" in page
    assert all(f"| `{key}` |" in page for key in Config.model_fields)
    anchors = re.findall(r"\{#(\w+)\}", page)
    assert len(set(anchors)) == len(anchors)
    assert set(re.findall(r"\(#(\w+)\)", page)) <= set(anchors)


def test_the_command_page_has_every_command(generated: ModuleType) -> None:
    page = generated.command_page()
    assert all(
        f"## `goodbunch {command.name or command.callback.__name__}`" in page for command in app.registered_commands
    )


def test_the_site_leads_to_every_notebook() -> None:
    nav = (ROOT / "mkdocs.yml").read_text()
    assert NOTEBOOKS
    assert all(f"notebooks/{path.stem}.md" in nav for path in NOTEBOOKS)
