"""Who meets in meta-games: naive learners, and agents of model-free opponent shaping (M-FOS, Lu et al. 2022).

In each of K meta-games two players meet in M games of a world at once. A meta-episode consists of inner episodes, after each of
which learners learn. K naive learners sit in the same seat of all meta-games, and so does one M-FOS agent.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from rllib_empathy.policies.actor_critic import architecture_for
from rllib_empathy.policies.networks import NetworkOptions, State, initial_state
from rllib_empathy.theory.mfos import advantages
from rllib_empathy.theory.stacked_ppo import Acted, Agents, Learning, Rows

NAIVE = Learning(
    learning_rate=0.01, epochs=4, minibatches=4, clip=0.2, discount=0.96, trace=0.95, entropy=0.01, reward_scale=0.1
)
"""Learns to take most coins within ten inner episodes of eight games."""

SHAPING = Learning(
    learning_rate=0.01, epochs=4, minibatches=8, clip=0.2, discount=0.995, trace=0.97, entropy=0.01, reward_scale=0.1
)
"""Of M-FOS agents."""


WIDTH = 32
"""Of all layers."""


class Times(NamedTuple):
    """Shares in [0, 1) that are gone before a step."""

    of_episode: float  # the inner one
    of_meta_episode: float


class Player(Protocol):
    """Whoever sits in one seat of all B = K M games."""

    def begin(self) -> None:
        """A meta-episode begins."""

    def act(self, observations: Tensor, times: Times) -> Tensor:
        """Actions `[B]` on observations `[B, *observation_shape]`."""

    def earn(self, rewards: Tensor) -> None:
        """What the step gave, `[B]`."""

    def end_episode(self, meta_episode_ends: bool) -> None:
        """An inner episode has ended."""


class Memories:
    """What G agents saw, did and earned, step by step."""

    def __init__(self) -> None:
        self.seen: list[tuple[Tensor, Tensor]] = []
        self.states: list[State] = []
        self.acted: list[Acted] = []
        self.rewards: list[Tensor] = []

    def note(self, observations: Tensor, inputs: Tensor, state: State, acted: Acted) -> None:
        """Notes a step; what it gave is appended to `rewards`."""
        self.seen.append((observations, inputs))
        self.states.append(state)
        self.acted.append(acted)

    def rows(self, learning: Learning, span: int, piece: int) -> Rows:
        """To learn from: games are cut into pieces, which begin with the memory that the agents had while they played.

        Args:
            learning: how advantages are estimated.
            span: steps after which returns end, a divisor of all steps.
            piece: steps of a row, a divisor of all steps.
        """
        observations, inputs = (torch.stack(column) for column in zip(*self.seen, strict=True))
        actions, log_probs, values = (torch.stack(column) for column in list(zip(*self.acted, strict=True))[:3])
        rewards, before = (
            column.unflatten(0, (-1, span)).transpose(0, 1) for column in (torch.stack(self.rewards), values)
        )
        known = torch.cat([before, torch.zeros_like(before[:1])])
        gains = advantages(learning.reward_scale * rewards, known, learning.discount, learning.trace)
        gains = gains.transpose(0, 1).flatten(0, 1)

        def cut(column: Tensor) -> Tensor:
            """`[T, G, M, ...]` -> `[G, piece, T / piece * M, ...]`."""
            return column.unflatten(0, (-1, piece)).movedim(2, 0).transpose(1, 2).flatten(2, 3)

        starts = self.states[::piece]
        state = {name: torch.cat([each[name] for each in starts], 1) for name in starts[0]}
        return Rows(state, *map(cut, (observations, inputs, actions, log_probs, gains, gains + values)))


class NaiveLearners:
    """A naive learner for each meta-game: PPO, with a fresh network in each meta-episode.

    It learns after every inner episode, from that one, and looks no further than its end.

    Args:
        world: what is played.
        meta_games: K.
        random: of everything random.
    """

    def __init__(self, world: Any, meta_games: int, random: torch.Generator) -> None:
        options = NetworkOptions(conv_filters=(), hidden=(WIDTH,))
        self._architecture = architecture_for(world.observation_space, world.action_space, options, critic_inputs=1)
        self._meta_games, self._random = meta_games, random

    def begin(self) -> None:
        self.agents = Agents(self._architecture, self._meta_games, NAIVE, self._random)
        self._memories = Memories()

    def act(self, observations: Tensor, times: Times) -> Tensor:
        observations = observations.unflatten(0, (self._meta_games, -1))
        inputs = torch.full((*observations.shape[:2], 1), 1 - times.of_episode)
        acted = self.agents.act(observations, inputs, {})
        self._memories.note(observations, inputs, {}, acted)
        return acted.actions.flatten()

    def earn(self, rewards: Tensor) -> None:
        self._memories.rewards.append(rewards.unflatten(0, (self._meta_games, -1)))

    def end_episode(self, meta_episode_ends: bool) -> None:
        self.agents.improve(self._memories.rows(NAIVE, span=len(self._memories.rewards), piece=1))
        self._memories = Memories()


class MetaAgent:
    """One recurrent PPO agent that remembers whole meta-episodes, and learns from them when they end.

    Beside the observation it sees what it did and earned in the step before, and whether an inner episode has just begun. Its
    value also sees how much is left of both episodes. Of how the other learns it is told nothing. Gradients of what it remembers
    flow through two inner episodes (one, where meta-episodes have an odd number of them).

    Args:
        world: what is played.
        games: B.
        random: of everything random.
        far_sighted: whether returns run through the whole meta-episode. Else they end with the inner episode: such an agent
            has no reason to shape anybody.
    """

    def __init__(self, world: Any, games: int, random: torch.Generator, far_sighted: bool = True) -> None:
        self._games, self._far_sighted = games, far_sighted
        self._episode_length, self._actions = int(world.episode_length), int(world.action_space.n)
        options = NetworkOptions(conv_filters=(), hidden=(WIDTH,), memory="gru", memory_size=WIDTH)
        spaces = world.observation_space, world.action_space
        architecture = architecture_for(*spaces, options, inputs=self._actions + 2, critic_inputs=2)
        self.agents = Agents(architecture, 1, SHAPING, random)
        self.frozen = False

    def begin(self) -> None:
        self.state = initial_state(self.agents.architecture, 1, self._games)
        self._before = torch.zeros(1, self._games, self._actions + 1)
        self._memories = Memories()

    def act(self, observations: Tensor, times: Times) -> Tensor:
        observations = observations.unsqueeze(0)
        left = torch.tensor([times.of_episode == 0, 1 - times.of_episode, 1 - times.of_meta_episode])
        inputs = torch.cat([self._before, left.expand(1, self._games, -1)], -1)
        acted = self.agents.act(observations, inputs, self.state)
        if not self.frozen:
            self._memories.note(observations, inputs, self.state, acted)
        self.state, self._done = acted.state, one_hot(acted.actions, self._actions)
        return acted.actions.squeeze(0)

    def earn(self, rewards: Tensor) -> None:
        rewards = rewards.unsqueeze(0)
        self._before = torch.cat([self._done, rewards.unsqueeze(-1)], -1)
        if not self.frozen:
            self._memories.rewards.append(rewards)

    def end_episode(self, meta_episode_ends: bool) -> None:
        if self.frozen or not meta_episode_ends:
            return
        steps = len(self._memories.rewards)
        span = steps if self._far_sighted else self._episode_length
        piece = 2 * self._episode_length if steps % (2 * self._episode_length) == 0 else self._episode_length
        self.agents.improve(self._memories.rows(SHAPING, span, piece))
