"""Independent PPO in plain PyTorch, all in one file: what a good single-file implementation would do.

It is the measuring stick for what RLlib's machinery and the generality of this project cost. Same batched world, same networks
and same update as the agents of kind "ppo"; a Python loop over agents, `torch.nn` layers, one process.
Shapes: T steps, B games, N agents.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from env_registry import World


@dataclass(frozen=True)
class Settings:
    """Hyperparameters."""

    epochs: int = 2
    minibatches: int = 4
    lr: float = 1e-3
    gamma: float = 0.98
    lambda_: float = 0.95
    clip: float = 0.2
    entropy_coeff: float = 0.01
    value_coeff: float = 0.5
    grad_clip: float = 1.0
    adam_epsilon: float = 1e-5
    filters: tuple[int, int] = (16, 32)
    hidden: int = 128


class Network(nn.Module):
    """Two 3x3 convolutions without padding, a hidden layer, policy and value."""

    def __init__(self, observation_shape: tuple[int, ...], num_actions: int, settings: Settings) -> None:
        super().__init__()
        channels, height, width = observation_shape
        first, second = settings.filters
        self.body = nn.Sequential(
            nn.Conv2d(channels, first, 3),
            nn.ReLU(),
            nn.Conv2d(first, second, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(second * (height - 4) * (width - 4), settings.hidden),
            nn.ReLU(),
        )
        self.policy = nn.Linear(settings.hidden, num_actions)
        self.value = nn.Linear(settings.hidden, 1)
        for layer, gain in ((self.body, 2**0.5), (self.policy, 0.01), (self.value, 1.0)):
            for parameter in layer.parameters():
                nn.init.orthogonal_(parameter, gain) if parameter.ndim > 1 else nn.init.zeros_(parameter)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of all actions `[rows, A]`, and values `[rows]`."""
        features = self.body(observations.float())
        return torch.log_softmax(self.policy(features), -1), self.value(features).squeeze(-1)


class PlainPPO:
    """N independent learners in one batched world.

    Args:
        world: B games in which nobody dies.
        steps: T, of a batch.
        settings: hyperparameters of all learners.
    """

    def __init__(self, world: World, steps: int, settings: Settings) -> None:
        self.world, self.steps, self.settings = world, steps, settings
        space = world.observation_space
        self.networks = [Network(space.shape, int(world.action_space.n), settings) for _ in range(world.num_agents)]
        self.optimizers = [
            torch.optim.Adam(network.parameters(), settings.lr, eps=settings.adam_epsilon, fused=True)
            for network in self.networks
        ]
        rows = (world.num_agents, steps, world.num_games)
        self.observations = torch.zeros(*rows, *space.shape, dtype=torch.uint8)
        self.actions = torch.zeros(rows, dtype=torch.int64)
        self.log_probs, self.values, self.next_values, self.rewards = (torch.zeros(rows) for _ in range(4))
        self.ended = torch.zeros(rows, dtype=torch.bool)
        self.shown = torch.from_numpy(world.reset(seed=0))

    def iterate(self) -> None:
        """One iteration: sample, then learn."""
        self.sample()
        self.learn()

    @torch.no_grad()
    def sample(self) -> None:
        """Fills the buffers with T steps of all games."""
        for step in range(self.steps):
            for agent, network in enumerate(self.networks):
                self.observations[agent, step] = self.shown[:, agent]
                log_policy, values = network(self.observations[agent, step])
                actions = torch.multinomial(log_policy.exp(), 1)
                self.actions[agent, step] = actions.squeeze(-1)
                self.log_probs[agent, step] = log_policy.gather(-1, actions).squeeze(-1)
                self.values[agent, step] = values
            taken = self.world.step(self.actions[:, step].T.numpy())
            self.rewards[:, step] = torch.from_numpy(taken.rewards).T
            self.ended[:, step] = torch.from_numpy(taken.terminated | taken.truncated)
            self.next_values[:, step] = 0
            if taken.final_observations is not None:
                self._bootstrap(step, torch.from_numpy(taken.final_observations), torch.from_numpy(taken.truncated))
            self.shown = torch.from_numpy(taken.observations)
        self._bootstrap(self.steps - 1, self.shown, ~self.ended[0, -1])

    def _bootstrap(self, step: int, observations: Tensor, games: Tensor) -> None:
        """Values behind the last step of games that are cut off there."""
        if games.any():
            for agent, network in enumerate(self.networks):
                self.next_values[agent, step, games] = network(observations[games, agent])[1]

    def advantages(self) -> Tensor:
        """Generalised advantage estimation, `[N, T, B]`."""
        following = self.next_values.clone()
        going = ~self.ended[:, :-1]
        following[:, :-1][going] = self.values[:, 1:][going]
        errors = self.rewards + self.settings.gamma * following - self.values
        advantages = torch.zeros_like(errors)
        advantage = torch.zeros_like(errors[:, 0])
        for step in reversed(range(self.steps)):
            decay = self.settings.gamma * self.settings.lambda_ * ~self.ended[:, step]
            advantages[:, step] = advantage = errors[:, step] + decay * advantage
        return advantages

    def learn(self) -> None:
        """All epochs of all agents."""
        raw = self.advantages()
        for agent, (network, optimizer) in enumerate(zip(self.networks, self.optimizers, strict=True)):
            observations = self.observations[agent].flatten(0, 1)
            actions, log_probs = self.actions[agent].flatten(), self.log_probs[agent].flatten()
            returns = (raw[agent] + self.values[agent]).flatten()
            advantages = ((raw[agent] - raw[agent].mean()) / raw[agent].std().clamp(min=1e-8)).flatten()
            for _ in range(self.settings.epochs):
                for chosen in torch.randperm(len(actions)).tensor_split(self.settings.minibatches):
                    columns = (observations, actions, log_probs, advantages, returns)
                    loss = self.loss(network, *(column.index_select(0, chosen) for column in columns))
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    nn.utils.clip_grad_norm_(network.parameters(), self.settings.grad_clip)
                    optimizer.step()

    def loss(
        self,
        network: Network,
        observations: Tensor,
        actions: Tensor,
        before: Tensor,
        advantages: Tensor,
        returns: Tensor,
    ) -> Tensor:
        """PPO's loss of one agent on a minibatch; `before` are the actions' log-probabilities when they were taken."""
        log_policy, values = network(observations)
        ratio = (log_policy.gather(-1, actions.unsqueeze(-1)).squeeze(-1) - before).exp()
        clipped = ratio.clamp(1 - self.settings.clip, 1 + self.settings.clip)
        policy_loss = -torch.minimum(ratio * advantages, clipped * advantages).mean()
        entropy = -(log_policy.exp() * log_policy).sum(-1).mean()
        value_loss = functional.mse_loss(values, returns)
        return policy_loss + self.settings.value_coeff * value_loss - self.settings.entropy_coeff * entropy
