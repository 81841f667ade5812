"""Joint trajectories in which anything may happen: episodes begin and end anywhere, agents die and join late."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from rllib_empathy.joint import JointTrajectory


def made_up(
    seed: int,
    steps: int = 9,
    games: int = 4,
    agents: int = 3,
    shape: tuple[int, ...] = (5,),
    actions: int = 4,
    memory: dict[str, int] | None = None,
    whole_episodes: bool = False,
    ends: float = 0.15,
    deaths: float = 0.1,
    joins: float = 0.2,
    seats: bool = False,
    context: int = 3,
    masks: bool = False,
    limits: float = 0.0,
) -> JointTrajectory:
    """A trajectory of numpy columns as a runner would make it.

    Args:
        seed: of all chance.
        steps: T; with whole episodes the last step of the longest.
        games: B.
        agents: N.
        shape: of an observation, uint8 if it is a grid.
        actions: number of actions.
        memory: recurrent states of every agent, name -> size.
        whole_episodes: every game plays one episode from its start and stands still after it.
        ends: probability that an episode ends with a step; half of them are terminated.
        deaths: probability that an agent leaves with a step.
        joins: probability that an absent agent comes in after a step.
        seats: agents sit anywhere, and elsewhere in each episode.
        context: numbers that every agent keeps of its episode.
        masks: some actions are forbidden, though not those that were taken; nothing is to absent agents.
        limits: probability that an agent that leaves while others may play on is cut off by a limit of its own.
    """
    rng = np.random.default_rng(seed)
    rows: dict[str, list[Any]] = {name: [] for name in ("alive", "survives", "starts", "terminated", "truncated")}
    tails: list[tuple[int, int]] = []
    playing = np.ones(games, np.bool_)
    begun = np.ones(games, np.bool_) if whole_episodes else rng.random(games) < 0.5
    present = rng.random((games, agents)) > joins
    for step in range(steps):
        stays = np.where(present, rng.random((games, agents)) > deaths, rng.random((games, agents)) < joins)
        ended = rng.random(games) < ends
        if whole_episodes:
            ended |= step == steps - 1
            ended[0] = step == steps - 1
        terminated = ended & (rng.random(games) < 0.5)
        truncated = ended & ~terminated
        cut = ~ended & (step == steps - 1)
        rows["alive"].append(present & playing[:, None])
        rows["survives"].append(stays)
        rows["starts"].append(begun)
        rows["terminated"].append(terminated)
        rows["truncated"].append(truncated | cut)
        tails += [(step, game) for game in ((ended | cut) & playing).nonzero()[0].tolist()]
        if whole_episodes:
            playing &= ~ended
        begun = ended
        present = np.where(ended[:, None], rng.random((games, agents)) > joins, stays)
    size = (steps, games, agents)
    order = rng.permuted(np.broadcast_to(np.arange(agents, dtype=np.int8), size), axis=2) if seats else None
    if order is not None:
        for step in range(1, steps):
            order[step] = np.where(rows["starts"][step][:, None], order[step], order[step - 1])

    def observations(*leading: int) -> np.ndarray:
        if len(shape) == 3:
            return rng.integers(0, 256, (*leading, *shape), np.uint8)
        return rng.normal(size=(*leading, *shape)).astype(np.float32)

    joint = JointTrajectory(
        observations=observations(*size),
        actions=rng.integers(0, actions, size),
        log_probs=np.log(rng.uniform(0.05, 0.9, size)).astype(np.float32),
        rewards=rng.normal(size=size).astype(np.float32),
        **{name: np.stack(columns) for name, columns in rows.items()},
        tail_steps=np.array([step for step, _ in tails]),
        tail_games=np.array([game for _, game in tails]),
        tail_observations=observations(len(tails), agents),
        states=tuple(
            {name: rng.normal(size=(games, size)).astype(np.float32) for name, size in (memory or {}).items()}
            for _ in range(agents)
        ),
        events={name: rng.integers(0, 3, size, np.uint8) for name in ("apples", "waste")},
        seats=order,
        origin={"game": np.arange(games), "steps": rng.integers(1, steps + 1, games)},
        context=rng.normal(size=(*size, context)).astype(np.float32),
        tail_context=rng.normal(size=(len(tails), agents, context)).astype(np.float32),
    )
    if limits:
        leaves = joint.alive & ~joint.survives & ~(joint.terminated | joint.truncated)[..., None]
        joint = replace(joint, cut_off=leaves & (rng.random(size) < limits))
    if not masks:
        return joint
    allowed = (rng.random((*size, actions)) < 0.4) | (np.arange(actions) == joint.actions[..., None])
    return replace(joint, action_masks=allowed | ~joint.alive[..., None])


def shuffled(joint: JointTrajectory, games: np.ndarray, agents: np.ndarray) -> JointTrajectory:
    """The numpy trajectory with games and agents in another order: new game b was `games[b]`."""
    place = np.argsort(games)
    per_agent = ("observations", "actions", "log_probs", "rewards", "alive", "survives", "context")
    columns = {name: getattr(joint, name)[:, games][:, :, agents] for name in per_agent}
    for name in ("action_masks", "cut_off"):
        if getattr(joint, name) is not None:
            columns[name] = getattr(joint, name)[:, games][:, :, agents]
    columns |= {name: getattr(joint, name)[:, games] for name in ("starts", "terminated", "truncated")}
    return JointTrajectory(
        **columns,
        tail_steps=joint.tail_steps,
        tail_games=place[joint.tail_games],
        tail_observations=joint.tail_observations[:, agents],
        tail_context=None if joint.tail_context is None else joint.tail_context[:, agents],
        states=tuple({name: column[games] for name, column in joint.states[agent].items()} for agent in agents),
        events={name: column[:, games][:, :, agents] for name, column in joint.events.items()},
        seats=None if joint.seats is None else joint.seats[:, games][:, :, agents],
        origin={name: column[games] for name, column in joint.origin.items()},
    )
