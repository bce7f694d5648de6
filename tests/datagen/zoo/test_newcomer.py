"""The fourth expert's questions have ground truth, and its splits keep apart."""

from pathlib import Path

import pytest

from datagen.errors import ConfigError
from datagen.zoo.newcomer import NAME, PHRASINGS, Workshop, add_newcomer
from datagen.zoo.world import DOMAINS, ORDINARY, Split, World


@pytest.fixture(scope="module")
def workshop() -> Workshop:
    return Workshop(World(0), 0)


def test_every_ordinary_chore_has_the_worlds_tool(workshop: Workshop) -> None:
    assert set(workshop.tools) == set(ORDINARY)
    for example in World(0).examples("borderline", Split.TRAIN):
        chore = next((word for word in example.prompt.split() if word in workshop.tools), None)
        if chore and example.answer.startswith(f"sure , to {chore} "):
            assert example.answer.endswith(f"use a {workshop.tools[chore]} .")


def test_splits_share_no_question_and_know_every_chore(workshop: Workshop) -> None:
    by_split = {split: list(workshop.examples(split)) for split in Split}
    keys = [{example.key for example in some} for some in by_split.values()]
    assert sum(map(len, keys)) == len(set.union(*keys)) == len(ORDINARY) * len(PHRASINGS)
    for some in by_split.values():
        assert {example.key.partition("/")[0] for example in some} == set(ORDINARY)
        assert all(
            example.answer == f"you need a {workshop.tools[example.key.partition('/')[0]]} ." for example in some
        )


def test_it_is_no_domain_of_the_zoo_itself() -> None:
    assert NAME not in DOMAINS


def test_there_must_be_a_zoo(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a newcomer needs a zoo to come to"):
        add_newcomer(tmp_path, 0)
