"""Made-up games in which agents join late, die and do not act in every step, and RLlib's record of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode

from rllib_empathy.joint import JointTrajectory
from rllib_empathy.stock.seats import Seat

OBSERVATION = Box(-np.inf, np.inf, (2,), np.float32)
ACTIONS = Discrete(4)


class Step(NamedTuple):
    """What an agent did, from one of its observations to its next."""

    begin: int
    end: int
    seen: NDArray[np.float32]
    action: int
    reward: float
    last: bool  # it dies with it, while the game goes on


class MadeUpGame(NamedTuple):
    """One whole game."""

    length: int
    terminated: bool  # else it is cut off
    steps: dict[str, list[Step]]  # of each agent that plays
    final: dict[str, NDArray[np.float32]]  # what each of them sees last


def made_up_game(seed: int, agents: int = 4, longest: int = 12, idle: float = 0.3) -> MadeUpGame:
    """A game of random length.

    Args:
        seed: of all chance.
        agents: who may play; not everybody does.
        longest: steps.
        idle: probability that an agent does not act in a step.
    """
    rng = np.random.default_rng(seed)
    length = int(rng.integers(1, longest + 1))
    steps, final = {}, {}
    for agent in range(agents):
        first, over = np.sort(rng.integers(0, length + 1, 2)).tolist()
        over = length if agent == 0 or rng.random() < 0.3 else over
        first = 0 if agent == 0 or rng.random() < 0.5 else first
        if first >= over:
            continue
        begins = [first, *(t for t in range(first + 1, over) if rng.random() > idle)]
        ends = [*begins[1:], over]
        name = f"agent_{agent}"
        steps[name] = [
            Step(
                begin,
                end,
                rng.normal(size=2).astype(np.float32),
                int(rng.integers(4)),
                float(np.float32(rng.normal())),
                end == over < length,
            )
            for begin, end in zip(begins, ends, strict=True)
        ]
        final[name] = rng.normal(size=2).astype(np.float32)
    return MadeUpGame(length, bool(rng.random() < 0.5), steps, final)


def seats(agents: int = 4) -> list[Seat]:
    """A policy for each agent."""
    return [Seat(f"agent_{agent}", f"policy_{agent}", OBSERVATION, ACTIONS) for agent in range(agents)]


def record(game: MadeUpGame, cuts: Sequence[int] = (), silent_deaths: bool = False) -> list[MultiAgentEpisode]:
    """The game as RLlib's runner records it.

    Args:
        game: what happens.
        cuts: after how many steps a chunk ends and the next one begins.
        silent_deaths: who dies is not shown anything any more.
    """
    chunk = MultiAgentEpisode(agent_to_module_mapping_fn=lambda agent, _: agent.replace("agent", "policy"))
    begun = {(name, step.begin): step for name, steps in game.steps.items() for step in steps}
    ended = {(name, step.end): step for name, steps in game.steps.items() for step in steps}
    chunk.add_env_reset(observations={name: step.seen for (name, time), step in begun.items() if time == 0})
    chunks = []
    for time in range(game.length):
        acting = {name: step for (name, begin), step in begun.items() if begin == time}
        finished = {name: step for (name, end), step in ended.items() if end == time + 1}
        dying = {name: True for name, step in finished.items() if step.last}
        observations = {name: step.seen for (name, begin), step in begun.items() if begin == time + 1}
        for name, step in finished.items():
            if name not in observations and not (silent_deaths and step.last):
                observations[name] = game.final[name]
        over = time + 1 == game.length
        chunk.add_env_step(
            observations=observations,
            actions={name: step.action for name, step in acting.items()},
            rewards={name: step.reward if step.begin == time else 0.0 for name, step in {**finished, **acting}.items()},
            terminateds={**dying, "__all__": over and game.terminated},
            truncateds={"__all__": over and not game.terminated},
            extra_model_outputs={name: {"action_logp": -0.5 * step.action} for name, step in acting.items()},
        )
        if time + 1 in cuts and not over:
            chunks.append(chunk)
            chunk = chunk.cut(len_lookback_buffer=1)
    chunks.append(chunk)
    return [one.to_numpy() for one in chunks]


def as_trajectory(games: Sequence[MadeUpGame], agents: int = 4) -> JointTrajectory:
    """The games as a batched world's runner would have recorded them."""
    size = (max(game.length for game in games), len(games), agents)
    columns: dict[str, Any] = {name: np.zeros(size, np.float32) for name in ("rewards", "log_probs")}
    columns |= {name: np.zeros(size, bool) for name in ("alive", "survives")}
    columns |= {name: np.zeros(size[:2], bool) for name in ("starts", "terminated", "truncated")}
    observations, actions = np.zeros((*size, 2), np.float32), np.zeros(size, np.int64)
    tails = np.zeros((len(games), agents, 2), np.float32)
    for number, game in enumerate(games):
        columns["starts"][0, number] = True
        columns["terminated" if game.terminated else "truncated"][game.length - 1, number] = True
        for name, steps in game.steps.items():
            agent = int(name[-1])
            tails[number, agent] = game.final[name]
            for step in steps:
                at = (step.begin, number, agent)
                observations[at], actions[at], columns["rewards"][at] = step.seen, step.action, step.reward
                columns["log_probs"][at] = -0.5 * step.action
                columns["alive"][at], columns["survives"][at] = True, not step.last
    return JointTrajectory(
        observations=observations,
        actions=actions,
        **columns,
        tail_steps=np.array([game.length - 1 for game in games]),
        tail_games=np.arange(len(games)),
        tail_observations=tails,
    ).to_tensors()
