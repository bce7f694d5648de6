"""Every mistake in a config is told in one line, with a suggestion; every shipped config is valid."""

from pathlib import Path

import pytest

from datagen.errors import ConfigError
from optimizer.loading import load_config
from tests.support import DEMO_CONFIG as DEMO
from tests.support import RUN_CONFIGS


def test_every_shipped_config_is_valid() -> None:
    assert DEMO in RUN_CONFIGS
    for path in RUN_CONFIGS:
        load_config(path)


def test_overrides_are_stronger_than_the_file_and_reach_interpolations() -> None:
    config = load_config(DEMO, ["search.seed=3", "run=elsewhere"])
    assert config.search.seed == 3
    assert config.bunch.base == "elsewhere/zoo/base"
    assert config.data_folder == Path("elsewhere/data")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.sed=3", "search.sed: unknown key; did you mean 'seed'?"),
        ("serch.seed=3", "serch: unknown key; did you mean 'search'?"),
        ("data.domains.numbers.exprt=x", "data.domains.numbers.exprt: unknown key; did you mean 'expert'?"),
        ("bunch.experts.aligned.rol=x", "did you mean 'role'?"),
        ("objective.safety.wieght=2", "did you mean 'weight'?"),
        ("search.descent.steps=none", "search.descent.steps"),
        ("objective.safety.weight=-1", "greater than 0, but got -1"),
        ("objective.safety.kind=unsave", "its kind must be one of"),
        (
            "objective.safety.metric=margn",
            "objective.safety.metric: there is no metric 'margn'; did you mean 'margin'?",
        ),
        (
            "objective.finance.metric=kl",
            "objective.finance.of: 'kl' must be taken from a source, one of base, aligned,",
        ),
        ("objective.finance={metric: kl, of: finanse}", "but got finanse; name one"),
        (
            "objective.finance.of=finance",
            "objective.finance.of: only a metric that is taken from a source may name one",
        ),
        ("objective.safety.metric=exact", "objective.safety.metric: a descent needs a gradient, but 'exact' has none"),
        ("search.controls.x=[nothing]", "search.controls.x: terms must be of the objective"),
        ("bunch.experts.numbers={model: a, role: aligned}", "exactly one expert must have `role: aligned`"),
        ("data.validation=0.99999", "validation"),
        ("nonsense", "an override must read key=value, but got 'nonsense'"),
        ("run=${no.such.key}", "no.such.key"),
    ],
)
def test_mistakes_are_named_in_one_line(override: str, message: str) -> None:
    overrides = [override, "data.test=0.5"] if override.startswith("data.validation") else [override]
    with pytest.raises(ConfigError) as caught:
        load_config(DEMO, overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_metric_without_a_gradient_is_for_black_boxes() -> None:
    config = load_config(DEMO, ["objective.safety.metric=exact", "search.sampler=cmaes"])
    assert config.objective["safety"].metric == "exact"


def test_all_mistakes_in_metrics_are_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"objective\.safety\.metric: .*; objective\.numbers\.of: "):
        load_config(DEMO, ["objective.safety.metric=x", "objective.numbers.metric=kl"])


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"search\.sed.*merge\.metod|merge\.metod.*search\.sed"):
        load_config(DEMO, ["search.sed=1", "merge.metod=x"])


@pytest.mark.parametrize("text", ["a: [1", "a: 1\na: 2", "\x00", "- 1\n- 2", "just text"])
def test_what_is_no_config_is_told_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.yaml") as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


def test_missing_file() -> None:
    with pytest.raises(ConfigError, match="no such config file"):
        load_config(Path("nowhere.yaml"))
