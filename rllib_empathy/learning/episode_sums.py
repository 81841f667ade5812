"""Sums over whole episodes of what only a Learner knows, such as rewards after gifts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rllib_empathy.joint import JointTrajectory


class EpisodeSums:
    """Adds up a quantity over episodes that may spread over several batches.

    What an unfinished episode has come to is kept by the game's number, and taken up again only by the fragment that begins
    with the very step after it. Where that never comes (it was lost with a runner), the episode is left out.
    """

    def __init__(self) -> None:
        self._unfinished: dict[int, tuple[int, NDArray[np.float64]]] = {}  # game -> its next step, sums [N]

    def add(self, joint: JointTrajectory, values: Tensor) -> NDArray[np.float64]:
        """Adds a batch.

        Args:
            joint: torch columns, with their `origin`. Fragments of one game stand in the order in which they were played.
            values: `[T, B, N]`.

        Returns:
            `[K, N]`, the sums of the K episodes that ended in the batch and are known from their start.
        """
        origin = {name: column.cpu().numpy() for name, column in joint.origin.items()}
        numbers, goes_on, lengths, begin = (origin[name] for name in ("game", "goes_on", "steps", "steps_before"))
        own = np.arange(joint.shape[0])[:, None] < lengths
        summands = values.cpu().numpy() * own[..., None]
        starts = joint.starts.cpu().numpy()
        ended = (joint.terminated | joint.truncated).cpu().numpy() & own
        ended[lengths[goes_on] - 1, goes_on] = False  # cut off by the fragment, not by the world
        finished = [np.zeros((0, summands.shape[2]))]
        for games in _rounds(numbers.tolist()):
            sums = np.zeros((len(games), summands.shape[2]))
            known = np.zeros(len(games), np.bool_)
            for row, game in enumerate(games):
                step, carried = self._unfinished.pop(int(numbers[game]), (None, 0.0))
                if step == begin[game]:
                    sums[row], known[row] = carried, True
            for starting, ending, summand in zip(starts[:, games], ended[:, games], summands[:, games], strict=True):
                sums[starting], known = 0.0, known | starting
                sums += summand
                finished.append(sums[ending & known])
            for row, game in enumerate(games):
                if goes_on[game] and known[row]:
                    self._unfinished[int(numbers[game])] = (int(begin[game] + lengths[game]), sums[row])
        return np.concatenate(finished)

    def get_state(self) -> dict[int, Any]:
        """For a checkpoint."""
        return {game: (step, sums.copy()) for game, (step, sums) in self._unfinished.items()}

    def set_state(self, state: dict[int, Any]) -> None:
        """Continues from `get_state`'s answer."""
        self._unfinished = {game: (step, sums.copy()) for game, (step, sums) in state.items()}


def _rounds(numbers: list[int]) -> list[list[int]]:
    """Columns of a batch in rounds in which every game comes once at most."""
    rounds: list[list[int]] = []
    times: dict[int, int] = {}
    for column, number in enumerate(numbers):
        seen = times[number] = times.get(number, -1) + 1
        if seen == len(rounds):
            rounds.append([])
        rounds[seen].append(column)
    return rounds
