#!/usr/bin/env bash
# Ray RLlib 2.60.0: a seeded multi-agent PPO whose agents are named by strings trains differently in each process.
#
# Guess: with .debugging(seed=...) and no remote runner, the same program gives the same weights twice.
# Seen: only if PYTHONHASHSEED is the same, too. MultiAgentEpisode walks over its agents as a set, so the order in which
#   observations reach the policies, and with it which random draw an agent gets, follows the hashes of the agents' names. With
#   integers as agents' names, whose hashes are fixed, the same program repeats bit for bit.
# So: pin PYTHONHASHSEED where runs are compared bit for bit, or name agents by integers.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check 'ray[rllib]==2.60.0' 'torch==2.13.0' 'numpy==2.4.6' 2>/dev/null
cat > "$scratch/train.py" <<'PROGRAM'
import hashlib
import logging
import sys

import numpy as np
import ray
from gymnasium.spaces import Box, Discrete
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.env.multi_agent_env import MultiAgentEnv

NAMES = {"strings": ["red", "green", "blue"], "integers": [0, 1, 2]}[sys.argv[1]]


class Guess(MultiAgentEnv):
    def __init__(self, config=None):
        super().__init__()
        self.agents = self.possible_agents = NAMES
        self.observation_spaces = {name: Box(-1, 1, (2,), np.float32) for name in NAMES}
        self.action_spaces = {name: Discrete(2) for name in NAMES}

    def look(self):
        return {name: np.array([self.time / 10, place / 10], np.float32) for place, name in enumerate(NAMES)}

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return self.look(), {}

    def step(self, actions):
        self.time += 1
        return self.look(), {n: float(a) for n, a in actions.items()}, {"__all__": self.time == 10}, {"__all__": False}, {}


ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level=logging.ERROR)
algorithm = (
    PPOConfig()
    .environment(Guess)
    .env_runners(num_env_runners=0)
    .multi_agent(policies=["shared"], policy_mapping_fn=lambda agent, episode, **kwargs: "shared")
    .training(train_batch_size_per_learner=200, minibatch_size=100, num_epochs=1)
    .debugging(seed=1, log_level="ERROR")
    .build_algo()
)
algorithm.train()
weights = algorithm.get_module("shared").state_dict()
print("weights", hashlib.sha256(b"".join(weights[name].numpy().tobytes() for name in sorted(weights))).hexdigest()[:12])
ray.shutdown()
PROGRAM
train() {
  OMP_NUM_THREADS=1 RAY_USAGE_STATS_ENABLED=0 PYTHONHASHSEED=$2 "$scratch/venv/bin/python" -W ignore "$scratch/train.py" "$1" 2>/dev/null |
    grep '^weights'
}
"$scratch/venv/bin/python" -c 'from importlib.metadata import version; print("ray", version("ray"), "torch", version("torch"))'
for names in strings integers; do
  for hashes in 0 0 1; do
    train $names $hashes > "$scratch/$names" || { echo "the training did not run"; exit 1; }
    echo "agents named by $names, PYTHONHASHSEED=$hashes: $(cat "$scratch/$names")"
    cat "$scratch/$names" >> "$scratch/all_$names"
  done
done
{ [ "$(sed -n 1p "$scratch/all_strings")" = "$(sed -n 2p "$scratch/all_strings")" ] &&
  [ "$(sed -n 1p "$scratch/all_strings")" != "$(sed -n 3p "$scratch/all_strings")" ] &&
  [ "$(sort -u "$scratch/all_integers" | wc -l)" = 1 ]; } || { echo "The behaviour has changed."; exit 1; }
