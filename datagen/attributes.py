"""What questions differ in besides their topic, and who gets what.

Attribute-driven prompts after ProgGen (arXiv 2403.11103): asked the same thing again, a model writes the same question
again; asked for another style, length or persona, it writes another one.
"""

import itertools
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from datagen.errors import ConfigError
from datagen.frozen import Frozen
from datagen.reading import read_yaml
from datagen.topics import Topic

_SHIPPED = Path(__file__).parent / "attributes"

#: Name of the attributes that come with Goodbunch.
_DEFAULT = "default"

_ATTRIBUTES: TypeAdapter[dict[str, list[str]]] = TypeAdapter(dict[str, list[str]])

#: Combinations beyond which covering them evenly is no longer a matter of moments, or of use.
_MOST = 10_000


class Assignment(Frozen):
    """What one question is to be about, and how.

    Attributes:
        attributes: name -> value.
    """

    topic: Topic
    attributes: dict[str, str]


def load_attributes(wanted: str | Mapping[str, Sequence[str]] = _DEFAULT) -> dict[str, list[str]]:
    """Attribute -> its values.

    Args:
        wanted: `default`, a YAML file, or the attributes themselves.

    Raises:
        ConfigError: there is no such file, or an attribute has no values or one twice.
    """
    path = _SHIPPED / f"{_DEFAULT}.yaml" if wanted == _DEFAULT else Path(str(wanted)).expanduser()
    where, held = (str(path), read_yaml(path, ConfigError)) if isinstance(wanted, str) else ("attributes", wanted)
    try:
        found = _ATTRIBUTES.validate_python(held)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{where}: an attribute must be a name and a list: {place}: {first['msg']}") from error
    for name, values in found.items():
        if not values or len(set(values)) < len(values):
            raise ConfigError(
                f"{where}: an attribute must have values, each once, but {name} has {values}; mend the list"
            )
    return found


def assign(topics: Sequence[Topic], attributes: Mapping[str, Sequence[str]], count: int, seed: int) -> list[Assignment]:
    """Gives each of so many questions a topic and a value of each attribute.

    Topics come in turn. Each topic gets every combination of values equally often, up to one; until it has had all of
    them, it gets the one whose values, and pairs of values, have been rarest.

    Args:
        count: of questions.
        seed: of the order of the topics, and of the choice among combinations that are equally rare.

    Raises:
        ConfigError: there are too many combinations.
    """
    combinations = [*itertools.product(*attributes.values())]
    if len(combinations) > _MOST:
        raise ConfigError(
            f"attributes: at most {_MOST} combinations must be possible, but there are {len(combinations)}; drop values"
        )
    generator = random.Random(f"{seed}-attributes")
    order = generator.sample(range(len(topics)), len(topics))
    generator.shuffle(combinations)
    # values: (combinations, attributes), the number of each value within its attribute.
    places = [{value: i for i, value in enumerate(values)} for values in attributes.values()]
    values = np.array([[place[v] for place, v in zip(places, one, strict=True)] for one in combinations], np.int64)
    chosen = _chosen(values.reshape(len(combinations), len(attributes)), len(topics), count)
    return [
        Assignment(
            topic=topics[order[i % len(topics)]], attributes=dict(zip(attributes, combinations[place], strict=True))
        )
        for i, place in enumerate(chosen)
    ]


def _chosen(values: npt.NDArray[np.int64], topics: int, count: int) -> list[int]:
    """The combination of every question in turn.

    Args:
        values: (combinations, attributes).
    """
    size, width = values.shape
    given = np.zeros((topics, size), np.int64)
    # How often a combination's values have been given: to the topic, and in pairs to anyone.
    to_topic = np.zeros((topics, size), np.int64)
    to_anyone = np.zeros(size, np.int64)
    found = []
    for i in range(count):
        topic = i % topics
        rarest = np.flatnonzero(given[topic] == given[topic].min())
        best = int(rarest[np.argmin(_most(to_topic[topic], to_anyone)[rarest])])
        found.append(best)
        common = (values == values[best]).sum(axis=1) if width else np.zeros(size, np.int64)
        given[topic, best] += 1
        to_topic[topic] += common
        to_anyone += common * (common + 1) // 2
    return found


def _most(to_topic: npt.NDArray[np.int64], to_anyone: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Ranks by the topic's own counts first."""
    return to_topic * (int(to_anyone.max()) + 1) + to_anyone
