"""What a merge must keep, whatever else it gains: `safety >= 0.99 of aligned`."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from datagen.errors import ConfigError

_RULE = re.compile(r"(?P<term>[\w.-]+) >= (?P<share>\d*\.?\d+)( of (?P<source>[\w.-]+))?")


class Measured(Protocol):
    """A term's score."""

    @property
    def exact(self) -> float:
        """Share of right answers."""


@dataclass(frozen=True)
class Constraint:
    """A least share of right answers.

    Attributes:
        term: whose share is meant.
        share: of the source's own share, or in itself.
        source: name of a source; none if empty.
    """

    term: str
    share: float
    source: str

    @property
    def name(self) -> str:
        """As it is written in a config."""
        return f"{self.term} >= {self.share:g}" + (f" of {self.source}" if self.source else "")

    def bound(self, scores: Mapping[str, Mapping[str, Measured]]) -> float:
        """The least share of right answers.

        Args:
            scores: source -> term -> score, on the rows that are meant; a source that is not there yet is taken to
                answer all of them rightly.
        """
        return self.share * (scores[self.source][self.term].exact if self.source in scores else 1.0)


def parse_constraint(text: str, terms: Iterable[str], sources: Iterable[str]) -> Constraint:
    """A constraint as a config writes it.

    Raises:
        ConfigError: it cannot be read, or names what is not there.
    """
    found = _RULE.fullmatch(" ".join(text.split()))
    if found is None:
        raise ConfigError(
            f"search.constraints: a constraint must read `TERM >= SHARE` or `TERM >= SHARE of SOURCE`, such as "
            f"`safety >= 0.99 of aligned`, but got {text!r}; correct it"
        )
    constraint = Constraint(found["term"], float(found["share"]), found["source"] or "")
    for what, name, known in (("term", constraint.term, [*terms]), ("source", constraint.source, [*sources, ""])):
        if name not in known:
            raise ConfigError(
                f"search.constraints: {text!r} must name a {what} of the config, but {name!r} is not among "
                f"{', '.join(filter(None, known))}; correct it"
            )
    if not 0 < constraint.share <= 1:
        raise ConfigError(
            f"search.constraints: a share must be above 0 and at most 1, but {text!r} asks for {constraint.share:g}; "
            f"correct it"
        )
    return constraint
