"""Worlds that misbehave on purpose."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from env_registry.matrix_game import MatrixGame, MatrixGameParameters


class BadRewardParameters(MatrixGameParameters):
    """When a reward that is no number comes."""

    bad_step: int = 30
    bad_value: str = "nan"


class BadReward(MatrixGame):
    """A matrix game that gives one bad reward to agent 1 of game 0, in a given step of its first episode."""

    Parameters = BadRewardParameters
    parameters: BadRewardParameters

    def setup(self) -> None:
        super().setup()
        self.steps = self.array("steps", (), np.int64)

    def advance(self, actions: NDArray[np.int64], rewards: NDArray[np.float32], events: NDArray[np.uint8]) -> None:
        super().advance(actions, rewards, events)
        if self.steps[0] == self.parameters.bad_step:
            rewards[0, 1] = float(self.parameters.bad_value)
        self.steps += 1
