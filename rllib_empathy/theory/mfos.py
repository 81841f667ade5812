"""Model-free opponent shaping (M-FOS, Lu et al. 2022): an agent that learns by reinforcement how to steer another learner.

A step of the meta-game is one game of two memory-one policies, played out exactly. The meta-state is both policies of the last
game, the meta-action the own policy of the next one, the meta-reward what the agent earns in it per step. Meanwhile the other
learns in its own way, of which M-FOS is told nothing. A Gaussian meta-policy is trained by PPO.

The authors take observed returns and whole batches of 4096 x 100 meta-steps; advantages over fewer steps (GAE) and minibatches
need a hundredth of the games.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from rllib_empathy.learning.advantages import discounted
from rllib_empathy.theory.ipd import Learner, course


class MetaTraining(NamedTuple):
    """How meta-agents are trained; the authors' settings where nothing else is said.

    Args:
        episodes: meta-episodes (1024).
        pairs: K, that play at once, from random starts (4096).
        steps: T, games of a meta-episode (100).
        learning_rate: of Adam (0.002).
        epochs: passes over a meta-episode.
        minibatches: of an epoch (1).
        clip: of PPO's ratio.
        discount: of meta-rewards.
        trace: lambda of generalised advantage estimation (1).
        entropy: weight of the meta-policy's entropy.
    """

    episodes: int = 32
    pairs: int = 256
    steps: int = 50
    learning_rate: float = 0.012
    epochs: int = 4
    minibatches: int = 8
    clip: float = 0.2
    discount: float = 0.99
    trace: float = 0.6
    entropy: float = 0.01


def meta_state(policies: Tensor, agent: int) -> Tensor:
    """Own five probabilities and then the other's, scaled to [-1, 1]: `[K, 10]` of policies `[2, K, 5]`."""
    return 2 * torch.cat([policies[agent], policies[1 - agent]], -1) - 1


class MetaPolicy(nn.Module):
    """A Gaussian over the logits of the own next policy, and the value of a meta-state.

    As a learner, it takes the mean.

    Args:
        seed: of the first weights.
        hidden: width of both hidden layers.
    """

    def __init__(self, seed: int, hidden: int = 64) -> None:
        super().__init__()

        def network(outputs: int) -> nn.Module:
            layers = nn.Linear(10, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, outputs)
            return nn.Sequential(*layers)

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.mean, self.value_network = network(5), network(1)
        self.log_deviation = nn.Parameter(torch.zeros(5))

    def distribution(self, states: Tensor) -> Normal:
        """Of the next logits, `[..., 5]`, in meta-states `[..., 10]`."""
        return Normal(self.mean(states), self.log_deviation.exp(), validate_args=False)

    def value(self, states: Tensor) -> Tensor:
        """(1 - discount) times the discounted meta-rewards to come, `[...]`: their weighted mean."""
        return self.value_network(states).squeeze(-1)

    @torch.no_grad()
    def step(self, logits: Tensor, agent: int, gamma: float) -> Tensor:
        """The mean of its next logits."""
        return self.mean(meta_state(logits.sigmoid(), agent).float()).to(logits.dtype)


class Explorer:
    """A learner that draws from a meta-policy, and remembers what it saw and did."""

    def __init__(self, policy: MetaPolicy, random: torch.Generator) -> None:
        self.policy, self.random = policy, random
        self.states: list[Tensor] = []
        self.actions: list[Tensor] = []

    @torch.no_grad()
    def step(self, logits: Tensor, agent: int, gamma: float) -> Tensor:
        """Logits drawn from the meta-policy."""
        self.states.append(meta_state(logits.sigmoid(), agent))
        drawn = self.policy.distribution(self.states[-1])
        noise = torch.randn(drawn.loc.shape, generator=self.random)
        self.actions.append(drawn.loc + drawn.scale * noise)
        return self.actions[-1]


def advantages(rewards: Tensor, values: Tensor, discount: float, trace: float) -> Tensor:
    """Generalised advantage estimates `[T, K]`:  A_t = sum_n (discount trace)^n (r_t+n + discount V_t+n+1 - V_t+n).

    Args:
        rewards: `[T, K]`.
        values: `[T + 1, K]`, that of the last state too: meta-games go on.
        discount: in [0, 1].
        trace: in [0, 1]; 1: discounted rewards less the value.
    """
    errors = rewards + discount * values[1:] - values[:-1]
    return discounted(errors, torch.ones_like(errors), discount * trace)


def clipped_surrogate(ratio: Tensor, gains: Tensor, clip: float) -> Tensor:
    """What PPO maximises, `[...]`:  min(ratio A, clip(ratio, 1 - clip, 1 + clip) A)."""
    return torch.minimum(ratio * gains, ratio.clamp(1 - clip, 1 + clip) * gains)


def improve(
    policy: MetaPolicy,
    optimizer: torch.optim.Optimizer,
    states: Tensor,
    actions: Tensor,
    rewards: Tensor,
    training: MetaTraining,
    random: torch.Generator,
) -> None:
    """Some epochs of PPO (clipped ratios) on a meta-episode.

    Args:
        policy: which acted.
        optimizer: of its weights.
        states: `[T + 1, K, 10]`.
        actions: `[T, K, 5]`, logits.
        rewards: `[T, K]`.
        training: its settings.
        random: which rows are in a minibatch.
    """
    with torch.no_grad():
        values = policy.value(states)
        gains = advantages((1 - training.discount) * rewards, values, training.discount, training.trace)
        acted = policy.distribution(states[:-1]).log_prob(actions).sum(-1)
    columns = states[:-1], actions, acted, (gains - gains.mean()) / (gains.std() + 1e-8), gains + values[:-1]
    rows = [column.flatten(0, 1) for column in columns]
    for _ in range(training.epochs):
        for chosen in torch.randperm(len(rows[0]), generator=random).chunk(training.minibatches):
            state, action, old, gain, target = (column[chosen] for column in rows)
            distribution = policy.distribution(state)
            ratio = (distribution.log_prob(action).sum(-1) - old).exp()
            surrogate = clipped_surrogate(ratio, gain, training.clip).mean()
            entropy = distribution.entropy().sum(-1).mean()
            # Policy and value share no weights, and Adam knows no scale: their losses need no balance.
            loss = (policy.value(state) - target).square().mean() - surrogate - training.entropy * entropy
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def train(
    pair: tuple[Learner, Learner],
    training: MetaTraining,
    gamma: float,
    random: torch.Generator,
    watch: Callable[[float], object] = lambda share: None,
) -> None:
    """Trains every meta-policy of a pair, against the other as it learns, or both together.

    Args:
        pair: the learners; the meta-policies among them change.
        training: settings.
        gamma: discount of the games.
        random: of starts, exploration and minibatches.
        watch: called with the share that is done, after each meta-episode.
    """
    meta = {agent: learner for agent, learner in enumerate(pair) if isinstance(learner, MetaPolicy)}
    optimizers = {agent: torch.optim.Adam(each.parameters(), training.learning_rate) for agent, each in meta.items()}
    for episode in range(training.episodes):
        explorers = {agent: Explorer(policy, random) for agent, policy in meta.items()}
        players = explorers.get(0, pair[0]), explorers.get(1, pair[1])
        starts = torch.randn(2, training.pairs, 5, generator=random)
        rewards, policies = course(starts, players, gamma, training.steps)
        for agent, explorer in explorers.items():
            states = torch.stack([*explorer.states, meta_state(policies, agent)])
            actions = torch.stack(explorer.actions)
            improve(meta[agent], optimizers[agent], states, actions, rewards[1:, agent], training, random)
        watch((episode + 1) / training.episodes)
