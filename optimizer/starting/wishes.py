"""What a user wants merged, from flags or from answers to questions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import typer

from datagen.errors import ConfigError

#: Models that write and judge, where none are named: an uncensored one, and a guard.
GENERATOR = "cognitivecomputations/dolphin-2.9-llama3-8b"
GUARD = "meta-llama/Llama-Guard-3-8B"


@dataclass(frozen=True)
class Wishes:
    """What is to be merged, by whom its data are written, and where it will run; what is empty is not said.

    Attributes:
        experts: name -> model.
        aligned: name of the expert whose refusals are to be kept.
        topics: domain -> its topics, or the name of a list of them.
        gpu: a device by name; empty for the machine at hand.
    """

    base: str = ""
    experts: Mapping[str, str] = field(default_factory=dict)
    aligned: str = ""
    topics: Mapping[str, str | list[str]] = field(default_factory=dict)
    generator: str = ""
    guard: str = ""
    judge: str = ""
    gpu: str = ""


def parse_named(option: str, told: Iterable[str]) -> dict[str, str]:
    """Options of the form NAME=VALUE.

    Raises:
        ConfigError: one has another form, or a name stands twice.
    """
    found: dict[str, str] = {}
    for one in told:
        name, _, value = one.partition("=")
        if not name.strip() or not value.strip():
            raise ConfigError(f"{option} must read NAME=VALUE, but is {one!r}; correct it")
        if name.strip() in found:
            raise ConfigError(f"{option}: every name must stand once, but {name.strip()!r} does twice; drop one")
        found[name.strip()] = value.strip()
    return found


def parse_topics(told: str) -> str | list[str]:
    """Topics by commas, or a single list: a shipped one by name, or a YAML file."""
    from datagen.topics import shipped_topics

    parts = [part.strip() for part in told.split(",") if part.strip()]
    if len(parts) == 1 and (parts[0] in shipped_topics() or Path(parts[0]).suffix in (".yaml", ".yml")):
        return parts[0]
    return parts


def ask(wishes: Wishes) -> Wishes:
    """Asks for everything that is not said yet."""
    base = wishes.base or typer.prompt("Base model (a folder or a Hugging Face name)")
    aligned = wishes.aligned or ("" if wishes.experts else "aligned")
    experts = dict(wishes.experts)
    if not experts:
        experts[aligned] = typer.prompt("Aligned model, whose refusals are to be kept")
        while told := typer.prompt(
            "An expert as NAME=MODEL, or nothing if these are all", default="", show_default=False
        ):
            experts |= parse_named("an expert", [told])
    if not aligned:
        aligned = typer.prompt(f"Which of {', '.join(experts)} is the aligned one")
    topics = dict(wishes.topics)
    for name in experts:
        if name != aligned and name not in topics:
            topics[name] = parse_topics(typer.prompt(f"Topics of {name}, by commas", default=name))
    return replace(
        wishes,
        base=base,
        experts=experts,
        aligned=aligned,
        topics=topics,
        generator=wishes.generator
        or typer.prompt("Who writes unsafe questions, an uncensored model", default=GENERATOR),
        guard=wishes.guard or typer.prompt("Who judges answers, a guard model", default=GUARD),
        gpu=wishes.gpu or typer.prompt("GPU, such as H200 or 4xA100-80GB; nothing for this machine", default=""),
    )
