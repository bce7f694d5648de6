"""A short run of the fuzzing, by one seed, and what longer runs found."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datagen.errors import GoodbunchError
from optimizer.loading import load_config
from tests.fuzz.running import run
from tests.support import DEMO_CONFIG

CASES, SEED = 1500, 0

KEYS = st.sampled_from(["run", "seed", "bunch.base", "bunch.experts.a", "data.unsafe.topics", "search.seed", "merge.x"])
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["${run}", "${"])
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))


def test_damaged_files_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    outcome = run(tmp_path, CASES, SEED)
    assert not outcome.failures, "\n".join(f"{failure}\n    {data}" for failure, data in outcome.failures.items())
    read = sum(count for said, count in outcome.counts.items() if said.endswith(" read"))
    assert 0.1 * CASES < read < 0.6 * CASES  # neither is all refused at the first look, nor all left as it was


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(KEYS, VALUES)
def test_any_value_of_any_key(key: str, value: object) -> None:
    try:
        load_config(DEMO_CONFIG, [f"{key}={value}"])
    except GoodbunchError as error:
        assert len(str(error).splitlines()) == 1
        assert len(str(error)) < 4100
    else:
        assert key in ("run", "seed", "bunch.base", "search.seed", "bunch.experts.a", "data.unsafe.topics")


@pytest.mark.parametrize("name", ["oc.env:FUZZ_SECRET", "oc.env:FUZZ_SECRET,x", "oc.decode:a", "run.${run}", ""])
def test_nothing_but_keys_is_filled_in(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUZZ_SECRET", "sk-secret")
    for overrides in (
        [f"run=${{{name}}}"],
        [f"vars.x=${{{name}}}", "run=${vars.x}"],
        [f"vars={{x: '\\\\${{{name}}}'}}"],
    ):
        with pytest.raises(GoodbunchError, match=r"only keys of this file are filled in|must read key=value") as caught:
            load_config(DEMO_CONFIG, overrides)
        assert "sk-secret" not in str(caught.value)


def test_what_stands_for_itself_or_for_too_much_is_refused() -> None:
    for overrides, message in (
        (["vars={a: '${vars.b}', b: '${vars.a}'}", "run=${vars.a}"], "a key must not stand for itself, nor through 32"),
        (["run=${bunch}"], "must be the value of a key, but 'bunch' holds several"),
        (["run=${no.such}"], "must be the value of a key, but 'no.such' is missing"),
        (
            [f"vars.a{i}={'${vars.a' + str(i - 1) + '}' if i else 'x'}" for i in range(40)] + ["run=${vars.a39}"],
            "nor through 32 others",
        ),
        (
            [f"vars.a{i}={'x' if not i else (f'${{vars.a{i - 1}}}' * 9)}" for i in range(12)],
            "must have at most 1048576",
        ),
    ):
        with pytest.raises(GoodbunchError, match=message):
            load_config(DEMO_CONFIG, overrides)
