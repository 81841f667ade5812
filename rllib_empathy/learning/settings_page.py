"""The docs page on RLlib's settings, written from the table.

`python -m rllib_empathy.learning.settings_page > docs/settings.md`
"""

from __future__ import annotations

import sys

from rllib_empathy.learning.settings import arguments_of, attribute_of, setting
from rllib_empathy.learning.settings_table import CALLBACKS, FORMER_NAMES, METHODS, Setting

BEGIN = """\
# RLlib's settings

`EmpathyConfig` is an `AlgorithmConfig` of RLlib's and takes all of its settings. Each one is either honoured or refused: a
setting that nothing would read stops the run before anything starts, with an error that says why and what to do instead. It does
not matter how the setting was written, by a method, as an attribute, in a dict, or by Ray Tune. This page lists all of Ray 2.60.

```python
from rllib_empathy import EmpathyConfig

config = EmpathyConfig().environment("snowdrift").population(["ppo", "ppo", "ppo", {"kind": "lase", "gamma": 0.99}])
config.training(gamma=0.9)  # the default of all agents
config.lr = 0.002  # the same as .training(lr=0.002); so are config["lr"] = 0.002 and update_from_dict({"lr": 0.002})
config.multi_agent(algorithm_config_overrides_per_module={"ppo_1": EmpathyConfig.overrides(lr=0.01)})
config.validate()

options = {member.module_id: member.options for member in config.resolved_population().members}
print(options["ppo_0"].gamma, options["ppo_0"].lr, options["ppo_1"].lr, options["lase_3"].gamma)  # 0.9 0.002 0.01 0.99
```

- **Options of agents** (`rllib-empathy agents KIND` lists them) are settings like RLlib's. What is set for all agents is weaker
  than an entry of the population, and that is weaker than an override of a single module. What is not set is each kind's own
  default. `config.gamma` is what all agents that have the option use; where they differ, what was set for all, or None.
- **Ray Tune** may search over them by their names: `{"lr": tune.uniform(0.0001, 0.001)}`, a scheduler's `hyperparam_mutations`
  likewise. A trial that takes over another one's state learns with its own options from the first update on. An option that is
  set for all while each entry of the population has its own is refused in a trial: loggers would report what nobody learned with.
- **Evaluation** with settings of its own (`evaluation_config`) is held against the same table.
- `.experimental(_validate_config=False)` takes everything, as in RLlib, at your own risk.
"""

AFTER = """
## Callbacks

Methods of a class in `.callbacks(...)`, and functions given there by the same names. RLlib's callbacks for single episodes have
no place here, since runners play all games at once and hold no episode objects.

"""

FORMER = """
## Former names

RLlib still has arguments for older code. It refuses them itself, or takes them for the newer ones:
"""


def page() -> str:
    """The page, in Markdown."""
    parts = [BEGIN]
    for method in METHODS:
        names = [name for name in arguments_of(method) if name not in FORMER_NAMES]
        if method == "callbacks":
            continue
        parts.append(f"\n## {method}\n\n" + _table([(name, setting(attribute_of(name))) for name in names]))
    parts.append(AFTER + _table(list(CALLBACKS.items())))
    parts.append(f"{FORMER}{', '.join(f'`{name}`' for name in sorted(FORMER_NAMES))}.\n")
    return "".join(parts)


def _table(rows: list[tuple[str, Setting]]) -> str:
    """A row for each thing that becomes of some of the settings."""
    names: dict[Setting, list[str]] = {}
    for name, found in rows:
        names.setdefault(found, []).append(f"`{name}`")
    lines = ["| setting | | what becomes of it |", "|---|---|---|"]
    for found, alike in names.items():
        what = found.note if found.honoured else f"{found.note}. {found.instead}."
        lines.append(
            f"| {', '.join(alike)} | {'honoured' if found.honoured else 'refused'} | {what[0].upper()}{what[1:]} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
