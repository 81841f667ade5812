"""All agents of all games act: one forward pass per group of like agents and step."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from env_registry.parameters import SettingError
from rllib_empathy.policies.kind import CONTEXT, AgentModule, check_action_masks
from rllib_empathy.policies.networks import Parameters, State
from rllib_empathy.population import Population


class JointPolicy:
    """The policies of a whole population, with what they carry through B games.

    Args:
        population: who plays what.
        modules: module id -> RLModule.
        num_games: B.
        generator: the source of all chance.
    """

    def __init__(
        self, population: Population, modules: dict[str, AgentModule], num_games: int, generator: torch.Generator
    ) -> None:
        groups: dict[tuple[Hashable, int], list[tuple[AgentModule, tuple[int, ...]]]] = {}
        for member in population.members:
            module = modules[member.module_id]
            groups.setdefault((module.group, len(member.agents)), []).append((module, member.agents))
        self._groups = [
            _Group([module for module, _ in members], torch.tensor([agents for _, agents in members]), num_games)
            for members in groups.values()
        ]
        self._num_agents = sum(group.agents.numel() for group in self._groups)
        self._module_of = population.module_of_agent
        self._generator = generator

    def weights_changed(self) -> None:
        """To be called when modules got new weights."""
        for group in self._groups:
            group.parameters = None

    def context(self, starts: NDArray[np.bool_] | None = None) -> NDArray[np.float32] | None:
        """What the agents keep of their episodes, `[B, N, E]`, zeros behind it for those that keep less; None: nobody does.

        Args:
            starts: `[B]`, games that have just begun: the context is zero there. Default: none.
        """
        kept = [group for group in self._groups if CONTEXT in group.state]
        if not kept:
            return None
        size = max(group.state[CONTEXT].shape[-1] for group in kept)
        out = np.zeros((kept[0].num_games, self._num_agents, size), np.float32)
        for group in kept:
            found = group.state[CONTEXT].reshape(-1, group.num_games, group.state[CONTEXT].shape[-1])
            out[:, group.agents.flatten().numpy(), : found.shape[-1]] = found.transpose(0, 1).numpy()
        if starts is not None:
            out[starts] = 0
        return out

    @torch.no_grad()
    def notice(
        self,
        observations: NDArray,
        actions: NDArray[np.int64],
        alive: NDArray[np.bool_],
        masks: NDArray[np.bool_] | None = None,
    ) -> None:
        """Tells agents that keep a context what all have done.

        Args:
            observations: `[B, N, *shape]` on which they acted.
            actions: `[B, N]`.
            alive: `[B, N]`, who takes part.
            masks: `[B, N, A]`, what all might do; None: everything.
        """
        might = None if masks is None else torch.from_numpy(masks)
        for group in self._groups:
            if CONTEXT in group.state:
                group.notice(torch.from_numpy(observations), torch.from_numpy(actions), torch.from_numpy(alive), might)

    @torch.no_grad()
    def act(
        self,
        observations: NDArray,
        starts: NDArray[np.bool_],
        explore: bool,
        masks: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Actions and their log-probabilities, both `[B, N]`.

        Args:
            observations: `[B, N, *shape]`.
            starts: `[B]`, games that have just begun: states are cleared there.
            explore: sample; otherwise the most probable action.
            masks: `[B, N, A]`, what is allowed, see `env_registry.action_masks.allowed_actions`; None: everything.

        Raises:
            SettingError: an agent cannot be told, or does not care, what is allowed.
        """
        seen = torch.from_numpy(observations)
        begun = torch.from_numpy(starts)
        actions = np.empty(observations.shape[:2], np.int64)
        log_probs = np.empty(observations.shape[:2], np.float32)
        allowed = None if masks is None else torch.from_numpy(masks)
        for group in self._groups:
            group.act(seen, begun, self._generator, explore, actions, log_probs, allowed)
        if masks is not None:
            self._check_allowed(actions, masks)
        return actions, log_probs

    def _check_allowed(self, actions: NDArray[np.int64], masks: NDArray[np.bool_]) -> None:
        """Whatever the kinds are: no forbidden action goes to the world."""
        forbidden = ~np.take_along_axis(masks, actions[..., None], -1)[..., 0]
        if forbidden.any():
            game, agent = np.argwhere(forbidden)[0].tolist()
            raise SettingError(
                f"Agent {agent} ({self._module_of[agent]!r}) chose action {actions[game, agent]} in game {game}, where the world "
                f"allows {np.flatnonzero(masks[game, agent]).tolist()}: its kind does not keep to masks of actions. Choose "
                "another kind for this world."
            )

    def states(self) -> tuple[dict[str, NDArray], ...]:
        """What every agent carries through its episode, name -> `[B, size]`."""
        found: list[dict[str, NDArray]] = [{} for _ in range(self._num_agents)]
        for group in self._groups:
            for name, value in group.state.items():
                per_agent = value.reshape(*group.agents.shape, group.num_games, -1)
                for module, agents in enumerate(group.agents.tolist()):
                    for place, agent in enumerate(agents):
                        found[agent][name] = per_agent[module, place].numpy().copy()
        return tuple(found)

    def set_states(self, states: tuple[dict[str, NDArray], ...]) -> None:
        """Continues from `states`' answer."""
        for group in self._groups:
            for name in group.state:
                rows = [[torch.tensor(states[agent][name]) for agent in agents] for agents in group.agents.tolist()]
                group.state[name] = torch.stack([torch.cat(of_module) for of_module in rows])


class _Group:
    """Like agents: G modules that play n agents each; rows are the first agent's B games, then the second's."""

    def __init__(self, modules: list[AgentModule], agents: Tensor, num_games: int) -> None:
        self.modules = modules
        self.agents = agents
        self.num_games = num_games
        self.parameters: Parameters | None = None
        rows = agents.shape[1] * num_games
        initial = [module.initial_state(rows) for module in modules]
        self.state: State = {name: torch.stack([state[name] for state in initial]) for name in initial[0]}

    def act(
        self,
        observations: Tensor,
        starts: Tensor,
        generator: torch.Generator,
        explore: bool,
        actions: NDArray[np.int64],
        log_probs: NDArray[np.float32],
        masks: Tensor | None = None,
    ) -> None:
        if self.parameters is None:
            self.parameters = self.modules[0].stacked(self.modules, self.agents.shape[1] * self.num_games)
        if self.state:
            going = (~starts).repeat(self.agents.shape[1]).unsqueeze(-1)
            self.state = {name: value * going for name, value in self.state.items()}
        mine = observations[:, self.agents.flatten()].transpose(0, 1)
        mine = mine.reshape(len(self.modules), -1, *observations.shape[2:])
        told = {} if masks is None else {"allowed": self._allowed(masks)}
        answer = self.modules[0].act(self.modules, self.parameters, mine, self.state, generator, explore, **told)
        self.state = answer.state
        columns = self.agents.flatten().numpy()
        actions[:, columns] = answer.actions.reshape(len(columns), -1).T.numpy()
        log_probs[:, columns] = answer.log_probs.reshape(len(columns), -1).T.numpy()

    def _allowed(self, masks: Tensor) -> Tensor:
        """The rows' masks, `[G, M, A]` with A of these agents, from those of all, `[B, N, A]`."""
        check_action_masks(type(self.modules[0]).__name__, type(self.modules[0]))
        own = masks[:, self.agents.flatten(), : int(self.modules[0].action_space.n)].transpose(0, 1)
        return own.reshape(len(self.modules), -1, own.shape[-1])

    def notice(self, observations: Tensor, actions: Tensor, alive: Tensor, masks: Tensor | None = None) -> None:
        assert self.parameters is not None
        told = {} if masks is None else {"masks": masks}
        self.state[CONTEXT] = self.modules[0].notice(
            self.modules, self.parameters, self.agents, observations, actions, alive, self.state[CONTEXT], **told
        )
