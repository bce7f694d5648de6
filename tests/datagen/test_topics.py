from collections import Counter
from itertools import product
from pathlib import Path

import pytest

from datagen.attributes import assign, load_attributes
from datagen.errors import ConfigError
from datagen.topics import Topic, load_topics, shipped_topics


def test_shipped_lists() -> None:
    assert {name: len(load_topics(name)) for name in shipped_topics()} == {
        "beavertails": 14,
        "mlcommons": 12,
        "xstest": 10,
    }
    assert all(topic.about for topic in load_topics("xstest"))


def test_topics_are_names_not_instructions() -> None:
    for name in shipped_topics():
        for topic in load_topics(name):
            assert len(topic.name) < 60
            assert not {"how", "write", "ask", "generate", "?"} & set(topic.name.split())


def test_users_own(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("topics: [harbours, {name: towers, about: tall ones}]\n")
    (tmp_path / "bare.yml").write_text("- harbours\n")
    assert load_topics(str(tmp_path / "mine.yaml")) == [Topic(name="harbours"), Topic(name="towers", about="tall ones")]
    assert load_topics(str(tmp_path / "bare.yml")) == [Topic(name="harbours")]
    assert load_topics(["a", "b"]) == [Topic(name="a"), Topic(name="b")]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("beavertail", "no list is named 'beavertail'; did you mean 'beavertails'"),
        ("zzz", "no list is named 'zzz'; available: beavertails, mlcommons, xstest"),
        ("none.yaml", r"none\.yaml: must be a readable file"),
        ("broken.yaml", r"broken\.yaml: must be YAML"),
        ("text.yaml", r"text\.yaml: there must be a list of topics, but got 'words'"),
        (["a", "a"], "a topic must be listed once, but 'a' is there 2 times"),
        ([{"nam": "a"}], "a topic must be a name"),
        ([], "there must be a list"),
        ([""], "a topic must be a name"),
    ],
)
def test_bad_topics(tmp_path: Path, wanted: str | list[str], message: str) -> None:
    (tmp_path / "broken.yaml").write_text("topics: [a\nb: ]")
    (tmp_path / "text.yaml").write_text("words\n")
    if isinstance(wanted, str) and wanted.endswith(".yaml"):
        wanted = str(tmp_path / wanted)
    with pytest.raises(ConfigError, match=message) as raised:
        load_topics(wanted)
    assert "\n" not in str(raised.value)


ATTRIBUTES = {"style": ["s1", "s2"], "length": ["l1", "l2", "l3"], "persona": ["p1", "p2"]}
TOPICS = [Topic(name=name) for name in "abcde"]


@pytest.mark.parametrize("count", [7, 30, 60, 77])
def test_every_topic_meets_every_value_about_as_often(count: int) -> None:
    given = assign(TOPICS, ATTRIBUTES, count, 0)
    topics = Counter(one.topic.name for one in given)
    assert max(topics.values()) - min(topics.values()) <= 1
    for name, values in ATTRIBUTES.items():
        found = Counter((one.topic.name, one.attributes[name]) for one in given)
        numbers = [found[topic.name, value] for topic in TOPICS for value in values]
        assert max(numbers) - min(numbers) <= 1
    for one, other in (("style", "length"), ("style", "persona"), ("length", "persona")):
        pairs = Counter((some.attributes[one], some.attributes[other]) for some in given)
        numbers = [pairs[key] for key in product(ATTRIBUTES[one], ATTRIBUTES[other])]
        assert max(numbers) - min(numbers) <= 3


def test_the_whole_product_is_covered_evenly() -> None:
    found = Counter((one.topic.name, *one.attributes.values()) for one in assign(TOPICS, ATTRIBUTES, 5 * 12 * 2, 0))
    assert len(found) == 60
    assert set(found.values()) == {2}


def test_assignments_are_seeded() -> None:
    assert assign(TOPICS, ATTRIBUTES, 20, 0) == assign(TOPICS, ATTRIBUTES, 20, 0) != assign(TOPICS, ATTRIBUTES, 20, 1)
    assert [one.attributes for one in assign(TOPICS, {}, 3, 0)] == [{}] * 3


def test_attributes(tmp_path: Path) -> None:
    assert set(load_attributes()) == {"style", "length", "persona", "indirectness"}
    (tmp_path / "mine.yaml").write_text("tone: [calm, excited]\n")
    assert load_attributes(str(tmp_path / "mine.yaml")) == {"tone": ["calm", "excited"]}
    assert load_attributes({"tone": ["calm"]}) == {"tone": ["calm"]}
    with pytest.raises(ConfigError, match=r"each once, but tone has \['a', 'a'\]"):
        load_attributes({"tone": ["a", "a"]})
    with pytest.raises(ConfigError, match=r"must be a name and a list: tone"):
        load_attributes({"tone": "calm"})
    with pytest.raises(ConfigError, match="at most 10000 combinations"):
        assign(TOPICS, {name: [str(i) for i in range(30)] for name in "abc"}, 3, 0)
