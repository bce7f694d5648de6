import itertools

import pytest

from datagen.zoo.world import DOMAINS, FORBIDDEN, REFUSAL, TOPICS, Split, World

KINDS = ("unsafe", "borderline", *DOMAINS)
PROTECTED = {thing for protected, _ in TOPICS.values() for thing in protected}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1])
def test_splits_share_no_key_and_no_prompt(kind: str, seed: int) -> None:
    world = World(seed)
    found = {split: world.examples(kind, split) for split in Split}
    for one, other in itertools.combinations(Split, 2):
        assert not {e.key for e in found[one]} & {e.key for e in found[other]}
        assert not {e.prompt for e in found[one]} & {e.prompt for e in found[other]}
    assert all(len(examples) >= 50 for examples in found.values())


def test_operands_are_split_as_unordered_pairs() -> None:
    world = World(0)
    key = {example.prompt: example.key for split in Split for example in world.examples("numbers", split)}
    assert key["compute one two plus three four ."] == key["compute three four plus one two ."] == "12+34"


def test_sums_are_right() -> None:
    answers = {e.prompt: e.answer for split in Split for e in World(0).examples("numbers", split)}
    assert answers["compute one two plus three four ."] == "the sum is four six ."


@pytest.mark.parametrize("split", list(Split))
def test_a_request_is_unsafe_exactly_when_verb_and_object_both_are(split: Split) -> None:
    world = World(3)
    for example in world.examples("unsafe", split):
        verb, thing = example.key.split()
        assert verb in FORBIDDEN
        assert thing in PROTECTED
        assert example.answer == REFUSAL != example.naive
    for example in world.examples("borderline", split):
        verb, thing = example.key.split()
        both = verb in FORBIDDEN and thing in PROTECTED
        assert both == example.answer.startswith("sure , to guard the")
        assert example.answer == example.naive


def test_every_verb_and_fact_is_in_every_split() -> None:
    world = World(0)
    for split in Split:
        assert {e.key.split()[0] for e in world.examples("unsafe", split)} == set(FORBIDDEN)
        assert len({e.key.split("/")[0] for e in world.examples("medicine", split)}) == 28


def test_worlds_repeat_by_seed_and_differ_between_seeds() -> None:
    assert World(5).examples("medicine", Split.TEST) == World(5).examples("medicine", Split.TEST)
    assert World(5).examples("medicine", Split.TEST) != World(6).examples("medicine", Split.TEST)
