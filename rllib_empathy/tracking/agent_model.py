"""A trained population as an MLflow model that acts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow.pyfunc import PythonModel
from numpy.typing import NDArray

from env_registry.observations import check_finite
from env_registry.parameters import SettingError
from rllib_empathy.experiments.checkpoints import read_agent, read_config
from rllib_empathy.sampling.acting import JointPolicy


class AgentModel(PythonModel):
    """All agents of a checkpoint: observations in, actions out.

    Agents that remember or keep account of others do so from call to call (see `predict`); `restart` makes them forget.
    Actions are sampled as in training; set `greedy` for always the most probable one:

        model = mlflow.pyfunc.load_model("models:/cleanup/1")
        model.unwrap_python_model().greedy = True
        actions = model.predict(observations)
    """

    greedy = False

    def load_context(self, context: Any) -> None:
        """Reads the checkpoint, which can run code: load only models that you trust.

        Raises:
            SettingError: the world has masks of actions, which a model is not told.
        """
        checkpoint = Path(context.artifacts["checkpoint"])
        config = read_config(checkpoint)
        self._population = config.resolved_population()
        agents = {member.module_id: read_agent(checkpoint, member.agents[0]) for member in self._population.members}
        if any(agent.masked for agent in agents.values()):
            raise SettingError(
                "The world of these agents has masks of actions, which an MLflow model is not told. Use load_agent(...) with "
                "act(observation, action_mask=...)."
            )
        self._modules = {module_id: agent.module() for module_id, agent in agents.items()}
        self._generator = torch.Generator().manual_seed(config.seed or 0)
        self._num_games = 0

    def restart(self) -> None:
        """The next call begins new episodes."""
        self._num_games = 0

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> NDArray[np.int64]:
        """Actions `[B, N]` for observations `[B, N, *shape]` of all N agents in B games.

        Consecutive calls are consecutive steps of the same B games, in which all agents take part and do what the call answers.
        Episodes begin with the first call, after `restart`, and with a call for another number of games. Observations are rows as
        `env_registry.make` gives them: pictures channels first, dictionaries flattened.

        Raises:
            ValueError: the observations have another shape, or hold numbers that are not finite.
        """
        observations = np.asarray(model_input, np.float32)
        agents, shape = (
            len(self._population.module_of_agent),
            next(iter(self._modules.values())).observation_space.shape,
        )
        if observations.shape[1:] != (agents, *shape):
            raise ValueError(
                f"Observations have shape {observations.shape}; needed is [games, {agents} agents, "
                f"{', '.join(map(str, shape))}], as env_registry.make gives them."
            )
        check_finite(observations, "The observations [game, agent, ...]")
        starts = np.zeros(len(observations), np.bool_)
        if len(observations) != self._num_games:
            self._num_games = len(observations)
            self._policy = JointPolicy(self._population, self._modules, self._num_games, self._generator)
            starts[:] = True
        actions, _ = self._policy.act(observations, starts, not self.greedy)
        self._policy.notice(observations, actions, np.ones(actions.shape, np.bool_))
        return actions
