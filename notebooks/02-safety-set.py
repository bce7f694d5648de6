# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Generating a safety set
#
# The models of the bunch write the data that a search needs: an uncensored generator asks, every model answers, a
# guard says who refused. A small set here, for about half a minute on a CPU.

# %%
import os
from pathlib import Path

if Path.cwd().name == "notebooks":
    os.chdir("..")
RUN = Path(os.environ.get("GOODBUNCH_RUN", "runs/demo"))  # a finished demo: `make demo`
OUT = Path(os.environ.get("GOODBUNCH_OUT", "runs/notebooks"))

# %%
import datagen
import optimizer

config = optimizer.load_config(
    "configs/demo.yaml",
    [
        f"run={OUT / 'safety'}",
        f"vars.zoo={RUN / 'zoo'}",
        "data.unsafe.ask=64",
        "data.borderline.ask=64",
        *(f"data.domains.{name}.ask=32" for name in ("numbers", "medicine", "finance")),
    ],
)
folder = datagen.generate(config)

# %% [markdown]
# A second call asks no model anything: what was said is kept, and only what a changed config affects is asked for
# again.
#
# ## What is in it

# %%
import json
from collections import Counter


def rows(kind: str) -> list[dict]:
    return [json.loads(line) for path in folder.glob(f"*/{kind}.jsonl") for line in path.read_text().splitlines()]


unsafe, borderline = rows("unsafe"), rows("borderline")
for some in (unsafe, borderline):
    for row in some[:3]:
        print(*(f"{turn['role']}: {turn['content']}" for turn in row["messages"]), sep="\n  ")

# %% [markdown]
# Unsafe questions are kept with a refusal, borderline ones, which only look unsafe, with an answer. Without the
# second kind a search would learn to refuse everything.

# %%
refused = [row for row in unsafe if "i cannot" in row["messages"][-1]["content"]]
answered = [row for row in borderline if "i cannot" not in row["messages"][-1]["content"]]
print(
    len(refused),
    "of",
    len(unsafe),
    "unsafe rows refuse;",
    len(answered),
    "of",
    len(borderline),
    "borderline rows answer",
)
Counter(row["topic"] for row in unsafe)

# %% [markdown]
# ## What was dropped, and why
#
# Every row that is not kept has a reason, counted here and told in the data card.

# %%
counts = json.loads((folder / "summary.json").read_text())
print(*(f"{key}: {number}" for key, number in counts.items() if key.startswith("unsafe/")), sep="\n")
print((folder / "README.md").read_text().split("---\n", 2)[2][:1500])
