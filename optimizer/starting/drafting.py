"""A config of what is wanted, begun from the template or like another config."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from datagen.config import Expert
from datagen.data_config import SAFETY_KINDS
from datagen.errors import ConfigError
from optimizer.config import Config
from optimizer.loading import describe, load_config
from optimizer.starting.wishes import GENERATOR, GUARD, Wishes

TEMPLATE = Path(__file__).parent / "template.yaml"

#: The template's only domain, which those that are wanted are made after.
_ANY = "any"


def draft(wishes: Wishes, run: str, like: Path | None = None) -> Config:
    """A config of what is wanted.

    Args:
        wishes: what is said so far.
        run: folder for everything.
        like: a config whose models and settings hold where nothing else is said; experts are added to its own.

    Raises:
        ConfigError: something needed is not said, or does not fit together.
    """
    values = _begun(like) if like else _template(wishes)
    values |= {"run": run}
    values.pop("vars", None)
    values["data"].pop("folder", None)
    bunch, data = values["bunch"], values["data"]
    bunch["base"] = wishes.base or bunch.get("base", "")
    bunch["experts"] = _experts(bunch.get("experts", {}), wishes)
    aligned = next(name for name, expert in bunch["experts"].items() if expert.get("role") == "aligned")
    for key, model in (("guard", wishes.guard), ("judge", wishes.judge)):
        if model:
            data[key] = data.get(key, {}) | {"model": model}
    data["generator"] = wishes.generator or data["generator"]
    if like is None:
        bunch["tokenizer"] = aligned
    _add_domains(values, aligned, wishes.topics)
    return validated(values)


def validated(values: Any) -> Config:
    """A config of values.

    Raises:
        ConfigError: they do not fit together.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"the config that was asked for does not hold: {describe(error, Config)}") from error


def _template(wishes: Wishes) -> dict[str, Any]:
    if not wishes.base:
        raise ConfigError("--base must name the model that all experts were tuned from, but is not there; add it")
    values: dict[str, Any] = yaml.safe_load(TEMPLATE.read_text(encoding="utf-8"))
    values["data"] = {"generator": GENERATOR, "guard": {"model": GUARD}} | values["data"]
    return values


def _begun(like: Path) -> dict[str, Any]:
    return load_config(like).model_dump(mode="json", exclude_unset=True)


def _experts(there: Mapping[str, Any], wishes: Wishes) -> dict[str, dict[str, str]]:
    """Every expert, one of them with its role."""
    found = {name: dict(expert) for name, expert in there.items()}
    found |= {name: found.get(name, {}) | {"model": model} for name, model in wishes.experts.items()}
    marked = [name for name, expert in found.items() if expert.get("role") == "aligned"]
    aligned = wishes.aligned or (marked or ["aligned"])[0]
    if aligned not in found:
        raise ConfigError(
            f"--aligned must name the expert whose refusals are to be kept, one of {', '.join(found) or 'none'}, but "
            f"is {wishes.aligned or 'not there'}; correct it, or add --expert {aligned}=MODEL"
        )
    for name, expert in found.items():
        expert.pop("role", None)
        if name == aligned:
            expert["role"] = Expert(model="", role="aligned").role
    return found


def _add_domains(values: dict[str, Any], aligned: str, topics: Mapping[str, str | list[str]]) -> None:
    """Gives every expert without a domain one, after the first that there is, and its new ones their topics."""
    data, objective = values["data"], values["objective"]
    domains: dict[str, Any] = data["domains"]
    # Examples of one domain are none of another, so a domain that shows some is a pattern only if all do.
    pattern = min(domains, key=lambda name: bool(domains[name].get("examples")))
    spoken_for = {domain.get("expert") or name for name, domain in domains.items()}
    new = [name for name in values["bunch"]["experts"] if name != aligned and name not in spoken_for]
    known = [name for name in dict.fromkeys((*domains, *new)) if name != _ANY]
    if unknown := [name for name in topics if name not in known]:
        raise ConfigError(
            f"--topics must be of an expert that has a domain, one of {', '.join(known) or 'none'}, but "
            f"{unknown[0]!r} is none; correct it, or add --expert {unknown[0]}=MODEL"
        )
    if taken := [name for name in new if name in SAFETY_KINDS]:
        raise ConfigError(f"no expert may be called {taken[0]!r}, which is a kind of data; rename it")
    asked = {key: value for key, value in domains[pattern].items() if key not in ("expert", "topics", "examples")}
    for name in new:
        domains[name] = asked | {"topics": [name]}
        objective[name] = _without_kind(objective.get(pattern, 1))
        for group in _groups(values["search"]):
            if pattern in group:
                group.append(name)
    for name, listed in topics.items():
        domains[name]["topics"] = listed
    if pattern == _ANY:
        del domains[_ANY], objective[_ANY]
        for group in _groups(values["search"]):
            group.remove(_ANY)


def _without_kind(term: Any) -> Any:
    return {key: value for key, value in term.items() if key != "kind"} if isinstance(term, dict) else term


def _groups(search: Mapping[str, Any]) -> list[list[str]]:
    """Lists of terms within a search: of controls, and of objectives."""
    return [*search.get("controls", {}).values(), *search.get("pareto", {}).values()]
