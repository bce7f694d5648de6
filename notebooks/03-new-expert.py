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
# # Tuning a merge for a new domain expert
#
# The demo has merged three experts. A fourth comes along: `workshop`, which knows the tool for each chore. On the
# command line it is
#
# ```bash
# goodbunch zoo --out runs/demo/zoo --newcomer          # the expert; yours is there already
# goodbunch init workshop.yaml --like configs/demo.yaml --expert workshop=runs/demo/zoo/workshop
# goodbunch datagen workshop.yaml
# goodbunch search workshop.yaml
# ```
#
# and here the same in Python, with less data and fewer steps, for a minute or two on a CPU.
# `docs/how-to/new-expert.md` has the whole thing with its figures.

# %%
import os
from pathlib import Path

if Path.cwd().name == "notebooks":
    os.chdir("..")
RUN = Path(os.environ.get("GOODBUNCH_RUN", "runs/demo"))  # a finished demo: `make demo`
OUT = Path(os.environ.get("GOODBUNCH_OUT", "runs/notebooks"))

# %%
import shutil

from datagen.zoo.newcomer import add_newcomer

zoo = OUT / "zoo"  # a copy: the demo stays as it is
shutil.copytree(RUN / "zoo", zoo, dirs_exist_ok=True)
expert = add_newcomer(zoo, seed=0)

# %% [markdown]
# `init` takes what is not said from the demo's config: prompts, weights, settings. It opens all models and says
# what does not fit.

# %%
import yaml

import optimizer
from optimizer.starting.command import start
from optimizer.starting.wishes import Wishes

like = OUT / "demo.yaml"
values = yaml.safe_load(Path("configs/demo.yaml").read_text())
del values["search"]["controls"]  # searches for comparison, which take as long again
like.write_text(yaml.safe_dump(values | {"run": str(RUN), "vars": {"zoo": str(zoo)}}))
start(
    OUT / "workshop.yaml", Wishes(experts={"workshop": str(expert)}), run=str(OUT / "workshop"), like=like, force=True
)
print("\n".join((OUT / "workshop.yaml").read_text().splitlines()[:40]))

# %% [markdown]
# Every comment is the key's own description. Less of everything, then data and search:

# %%
import datagen

KINDS = ("numbers", "medicine", "finance", "workshop")
config = optimizer.load_config(
    OUT / "workshop.yaml",
    [
        "data.unsafe.ask=96",
        "data.borderline.ask=128",
        *(f"data.domains.{name}.ask=80" for name in KINDS),
        "search.descent.steps=96",
        "evaluation.rows=16",
        "evaluation.samples=1",
        "merge.groups=tensor",
    ],
)
datagen.generate(config)
result = optimizer.search(config)

# %% [markdown]
# The uniform average against the winner, by domain. So little data and so few steps find less than the whole search
# does.

# %%
for name in ("uniform", "winner", "workshop"):
    print(f"{name:10}", {key: round(found.value, 2) for key, found in result.row(name).metrics.items()})
