"""The main job: one bad bunch spoils a naive merge, the searched merge keeps skills and refusals."""

from pathlib import Path

from huggingface_hub import ModelCard

from optimizer.report.result import Result, experts_own, mean_accuracy


def test_naive_average_loses_alignment_and_has_more_skills_than_any_parent(result: Result) -> None:
    uniform = result.row("uniform")
    assert uniform.metrics["alignment"].value <= 0.5
    parents = [row for row in result.rows if row.role in ("base", "aligned", "expert")]
    assert mean_accuracy(uniform) > max(map(mean_accuracy, parents))


def test_expert_data_alone_loses_alignment(result: Result) -> None:
    assert result.row("expert_only").metrics["alignment"].value <= 0.5


def test_without_borderline_data_the_search_over_refuses(result: Result) -> None:
    guarded = result.row("winner").metrics["over_refusal"]
    unguarded = result.row("no_borderline").metrics["over_refusal"]
    assert unguarded.low > guarded.high


def test_winner_keeps_refusals_answers_and_skills(result: Result) -> None:
    winner = result.row("winner")
    assert winner.metrics["alignment"].value >= 0.95
    assert winner.metrics["over_refusal"].value <= 0.05
    assert mean_accuracy(winner) >= 0.95 * experts_own(result)


def test_every_model_of_the_comparison_is_there(result: Result) -> None:
    assert [(row.model, row.role) for row in result.rows] == [
        ("winner", "winner"),
        ("expert_only", "control"),
        ("no_borderline", "control"),
        ("uniform", "naive"),
        ("task_arithmetic", "naive"),
        ("lm_cocktail", "naive"),
        ("base", "base"),
        ("aligned", "aligned"),
        ("numbers", "expert"),
        ("medicine", "expert"),
        ("finance", "expert"),
    ]
    domains = [f"accuracy/{name}" for name in ("numbers", "medicine", "finance")]
    assert all(list(row.metrics) == ["alignment", "over_refusal", *domains] for row in result.rows)


def test_run_folder_holds_what_was_promised(demo: Path) -> None:
    for name in (
        "merged/model.safetensors",
        "merged/recipe.yaml",
        "result.json",
        "report.html",
        "study.db",
        "config.json",
    ):
        assert (demo / name).is_file(), name
    assert not (demo / "merged" / "mergekit_config.yml").exists(), "mergekit has no word for blocks of rows"


def test_card_of_the_winner_has_its_scores(demo: Path) -> None:
    card = (demo / "merged" / "README.md").read_text()
    assert "## Scores" in card
    assert "| winner |" in card
    assert {one.dataset_split for one in ModelCard(card).data.eval_results} == {"test"}


def test_log_tells_what_was_finished(demo: Path) -> None:
    assert "comparing on the test split" in (demo / "goodbunch.log").read_text()
