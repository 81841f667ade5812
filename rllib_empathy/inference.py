"""Trained agents outside of RLlib: they act one observation at a time, without Ray, or as an ONNX file without Python."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from env_registry.action_masks import as_mask, parted
from env_registry.observations import ObservationLayout, check_observation
from env_registry.parameters import SettingError
from rllib_empathy.policies.actor_critic import ActorCriticModule
from rllib_empathy.policies.frozen import TrainedAgent
from rllib_empathy.policies.kind import CONTEXT, check_action_masks
from rllib_empathy.policies.networks import Prepared, evaluate

Source = Literal["environment", "world"]
"""Whose observations and actions are meant: "environment" is one game as a PettingZoo environment (`env_registry.parallel_env`:
pictures channels last, dictionaries, own sizes and action numbers); "world" is the batched world (`env_registry.make`: rows of
one common box, pictures channels first, actions from 0)."""


class Agent:
    """One agent of a run, ready to play one game.

    It takes what the environment shows in which it was trained: an agent from a PettingZoo environment (wrappers included) that
    environment's observations. An agent from a batched world, such as the registered ones, takes the world's rows and also what
    `parallel_env` shows of it: these differ for pictures only, and are told apart by their shape. `source` says which is meant
    where that cannot be seen, or where the other one is.

    Args:
        trained: the agent, weights and all.
        greedy: always the most probable action, instead of sampling as in training.
        seed: of its choices; None: others each time.

    Attributes:
        kind: name of its kind.
        observation_space: what it is shown: its space in the PettingZoo environment, or in the batched world.
        action_space: what it does.
    """

    def __init__(self, trained: TrainedAgent, greedy: bool = False, seed: int | None = None) -> None:
        self.kind = trained.kind
        self.observation_space, self.action_space = trained.observation_space, trained.action_space
        if isinstance(trained.layout, ObservationLayout):
            self.observation_space = trained.layout.original_space(trained.layout.agents[trained.agent])
        self._trained = trained
        self._greedy = greedy
        self._module = trained.module()
        with torch.no_grad():  # as parameters are stacked for acting
            self._parameters = type(self._module).stacked([self._module], 1)
        self._generator = torch.Generator()
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)
        self.reset()

    def reset(self) -> None:
        """Begins an episode: what the agent remembers of the last one is forgotten."""
        self._state = {name: value.unsqueeze(0) for name, value in self._module.initial_state(1).items()}
        self._waits = False

    @property
    def keeps_account(self) -> bool:
        """Whether what all agents do is among what it acts on (Reciprocators): `notice` has to follow each `act`."""
        return isinstance(self._module, ActorCriticModule) and self._module.num_inputs[0] > 0

    @torch.no_grad()
    def notice(
        self,
        observations: Any,
        actions: Any,
        agent: int | None = None,
        alive: Any = None,
        action_masks: Any = None,
        source: Source | None = None,
    ) -> None:
        """Tells an agent that keeps account of others what all have done in the step that it has just acted in.

        Args:
            observations: of all agents, on which they acted: in order, or by name as a PettingZoo environment gives them. Who is
                not among the names is absent.
            actions: of all agents, `[N]`, or by name.
            agent: which of them this one is; default: its number in its run.
            alive: who took part, `[N]`; default: all.
            action_masks: what all were allowed to do, `[N, actions]`; needed in worlds with masks of actions, unless they lie
                beside the observations.
            source: what the observations and actions are; default: as in `act`.

        Raises:
            ValueError: the masks are missing; an observation does not fit, or an action or a number of agents is not that of the
                agent's run.
        """
        observations, beside = self._parted(observations)
        action_masks = beside if action_masks is None else action_masks
        if self.keeps_account and self._trained.masked and action_masks is None:
            raise ValueError(
                "This agent's world has masks of actions: hand over those of all agents as action_masks=..."
            )
        if CONTEXT in self._state:
            seen, taken, there = (each[None] for each in self._joint(observations, actions, alive, source))
            told = {} if action_masks is None else {"masks": torch.from_numpy(np.array(action_masks) != 0)[None]}
            self._state[CONTEXT] = type(self._module).notice(
                [self._module],
                self._parameters,
                torch.tensor([[self._trained.agent if agent is None else agent]]),
                torch.from_numpy(seen),
                torch.from_numpy(taken),
                torch.from_numpy(there),
                self._state[CONTEXT],
                **told,
            )
        self._waits = False

    @torch.no_grad()
    def act(self, observation: Any, action_mask: Any = None, source: Source | None = None) -> int:
        """The action for one observation; what the agent remembers is kept for the next one.

        Args:
            observation: what the environment shows this agent, see `observation_space`; a mask of actions may lie beside it, as
                in `{"observation": ..., "action_mask": ...}`.
            action_mask: a number for each action, 0 where it is forbidden; default: the one beside the observation. Needed in
                worlds with masks of actions.
            source: what the observation is, and the action shall be; default: what is said above of this class.

        Raises:
            ValueError: the observation is not of the agent's space, or holds a number that is not finite; the mask is missing or
                forbids everything; or the agent keeps account of others and has not been told what they did.
        """
        if self._waits:
            raise ValueError(f"Agents of kind {self.kind!r} act on what all did: call notice(...) after each step.")
        observation, beside = parted(observation)
        allowed = self._allowed(beside if action_mask is None else action_mask)
        observations = torch.from_numpy(self._row(observation, self._trained.agent, source))[None, None]
        answer = type(self._module).act(
            [self._module], self._parameters, observations, self._state, self._generator, not self._greedy, **allowed
        )
        self._state = answer.state
        self._waits = self.keeps_account
        return int(answer.actions) + self._first_action(self._trained.agent, source)

    def _row(self, observation: Any, agent: int, source: Source | None) -> NDArray[Any]:
        """What an agent of the run sees in the form that its network knows."""
        layout, space = self._trained.layout, self._trained.observation_space
        if source not in (None, "environment", "world"):
            raise ValueError(f"'source' = {source!r}: 'environment' or 'world' is needed, or None.")
        if layout is None or layout.space.shape != space.shape:
            if source == "environment":
                raise ValueError(
                    f"What the environment of this agent looked like is not known. Give rows of its world, of shape "
                    f"{space.shape} (env_registry.make), with source='world'."
                )
            source = "world"
        if source is None:
            source = "environment" if isinstance(layout, ObservationLayout) else self._told_apart(observation)
        if source == "environment":
            assert layout is not None
            return layout.row(layout.agents[agent], observation).astype(space.dtype)
        seen = np.asarray(observation)
        if seen.shape != space.shape:
            raise ValueError(
                f"The observation has shape {seen.shape}, this agent knows {space.shape}, a row of its world "
                "(env_registry.make). Hand over one observation of one agent at a time."
            )
        check_observation(space, seen, "The observation")
        return seen.astype(space.dtype)

    def _told_apart(self, observation: Any) -> Source:
        """Whether an observation in a batched world is the world's row, or a picture as `parallel_env` shows it."""
        space, seen = self._trained.observation_space, np.shape(observation)
        if len(space.shape) != 3 or seen not in (space.shape, (*space.shape[1:], space.shape[0])):
            return "world"
        if space.shape == (*space.shape[1:], space.shape[0]):
            raise ValueError(
                f"Pictures of shape {space.shape} have as many channels as rows and columns: say whether this one is of "
                "parallel_env, with channels last (source='environment'), or of env_registry.make, with channels first "
                "(source='world')."
            )
        return "world" if seen == space.shape else "environment"

    def _first_action(self, agent: int, source: Source | None) -> int:
        """The number of the first action: the world counts from 0, a PettingZoo environment as its spaces say."""
        of_environment = isinstance(self._trained.layout, ObservationLayout) and source != "world"
        return self._trained.first_actions[agent] if of_environment and self._trained.first_actions else 0

    def _joint(
        self, observations: Any, actions: Any, alive: Any, source: Source | None
    ) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.bool_]]:
        """What all N agents saw `[N, *shape]` and did `[N]`, and who was there `[N]`."""
        space, layout = self._trained.observation_space, self._trained.layout
        if isinstance(observations, Mapping) != isinstance(actions, Mapping):
            raise ValueError("Give observations and actions of all agents both by name, or both in order.")
        if isinstance(observations, Mapping):
            if layout is None:
                raise ValueError("The names of the agents are not known: give observations and actions in order.")
            strangers = [name for name in {**observations, **actions} if name not in layout.agents]
            if strangers or set(observations) < set(actions):
                raise ValueError(
                    f"Observations of {list(observations)} and actions of {list(actions)} came; needed are both of everybody who "
                    f"took part, of {list(layout.agents)}."
                )
            numbers = {number: name for number, name in enumerate(layout.agents) if name in actions}
            given = {number: (observations[name], actions[name]) for number, name in numbers.items()}
            count = len(layout.agents)
        else:
            if len(observations) != len(actions):
                raise ValueError(
                    f"{len(observations)} observations and {len(actions)} actions came: one of each agent is needed."
                )
            given, count = dict(enumerate(zip(observations, actions, strict=True))), len(actions)
            known = len(self._trained.first_actions)
            if known and count != known:
                raise ValueError(f"{count} agents came; this agent played among {known}.")
        there = np.isin(np.arange(count), list(given))
        if alive is not None:
            there &= np.array(alive, np.bool_)
        seen, taken = np.zeros((count, *space.shape), space.dtype), np.zeros(count, np.int64)
        for number in np.flatnonzero(there).tolist():
            observation, action = given[number]
            seen[number] = self._row(observation, number, source)
            taken[number] = int(action) - self._first_action(number, source)
        return seen, taken, there

    def _parted(self, observations: Any) -> tuple[Any, NDArray[np.bool_] | None]:
        """What all agents saw, and the masks `[N, actions]` beside it, all of them; those of absent agents allow everything."""
        names = list(observations) if isinstance(observations, Mapping) else list(range(len(observations)))
        parts = {name: parted(observations[name]) for name in names}
        seen = {name: part for name, (part, _) in parts.items()}
        seen_alike = seen if isinstance(observations, Mapping) else list(seen.values())
        masks = {name: mask for name, (_, mask) in parts.items() if mask is not None}
        if not masks or len(masks) < len(names):
            return seen_alike, None
        layout = self._trained.layout
        order = layout.agents if isinstance(observations, Mapping) and layout is not None else names
        size = len(next(iter(masks.values())))
        return seen_alike, np.stack([np.asarray(masks.get(name, np.ones(size))) != 0 for name in order])

    def _allowed(self, action_mask: Any) -> dict[str, Tensor]:
        """What `AgentModule.act` is told of a mask."""
        if action_mask is None:
            if self._trained.masked:
                raise ValueError(
                    "This agent's world has masks of actions: hand over act(observation, action_mask=...), or the observation "
                    "with its mask beside it."
                )
            return {}
        check_action_masks(self.kind, type(self._module))
        mask = as_mask(f"agent {self._trained.agent}", action_mask, int(self.action_space.n))
        if not mask.any():
            raise ValueError("The action_mask is all zeros: at least one action has to be allowed.")
        return {"allowed": torch.from_numpy(mask)[None, None]}

    def to_onnx(self, path: str | Path) -> None:
        """Writes the acting network as an ONNX file.

        Its input `observations` is `[M, *shape]` in float32: rows as `env_registry.make` gives them, not the environment's own
        observations (pictures channels first, dictionaries flattened, unscaled). The file checks nothing: numbers that are not
        finite give logits that are not. Its output `logits` `[M, actions]`, from whose softmax actions are
        drawn. With memory there are further inputs `h` (and `c`) `[M, size]`, zeros at the start of an episode, and outputs
        `next_h` (and `next_c`).

        Raises:
            SettingError: the agent is no network of its observations alone, or the packages for ONNX are missing.
        """
        if not isinstance(self._module, ActorCriticModule):
            raise SettingError(f"Agents of kind {self.kind!r} have no network to be exported.")
        if self.keeps_account:
            raise SettingError(
                f"Agents of kind {self.kind!r} act on an account of what all did, which is no part of their network. Use "
                "load_agent(...) with notice(...), or train without: balance_input: false."
            )
        if self._trained.masked:
            raise SettingError(
                "This agent's world has masks of actions, and an ONNX file would not look at them. Use load_agent(...) with "
                "act(observation, action_mask=...)."
            )
        try:
            import onnxscript  # noqa: F401  (which torch.onnx needs)
        except ImportError:
            raise SettingError("ONNX needs more packages: pip install 'rllib-empathy[onnx]'.") from None
        network = _ActingNetwork(self._module)
        rows = 2  # one would be taken for a constant
        observations = torch.zeros(rows, *self._trained.observation_space.shape)
        state = tuple(self._module.initial_state(rows)[name] for name in network.state_names)
        any_number = {0: torch.export.Dim.DYNAMIC}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's exporter still calls some of what PyTorch has deprecated
            torch.onnx.export(
                network.eval(),
                (observations, *state),
                str(path),
                input_names=["observations", *network.state_names],
                output_names=["logits", *(f"next_{name}" for name in network.state_names)],
                dynamic_shapes=(any_number, *([(any_number,) * len(state)] if state else [])),
                dynamo=True,
                external_data=False,
                verbose=False,
            )


class _ActingNetwork(nn.Module):
    """Logits and next state of one step, from plain tensors."""

    def __init__(self, module: ActorCriticModule) -> None:
        super().__init__()
        self.architecture = module.architecture
        self.state_names = list(module.get_initial_state())
        self.names = []
        for number, (name, value) in enumerate(module.stacked([module], 1).items()):
            self.names.append(name)
            self.register_buffer(f"parameter_{number}", value.detach())

    def forward(self, observations: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        parameters = {name: getattr(self, f"parameter_{number}") for number, name in enumerate(self.names)}
        before = {name: value.unsqueeze(0) for name, value in zip(self.state_names, state, strict=True)}
        answer = evaluate(self.architecture, Prepared(parameters), observations[None, None], before)
        return (answer.logits[0, 0], *(answer.state[name][0] for name in self.state_names))


def load_agent(checkpoint: str | Path, agent: int = 0, greedy: bool = False, seed: int | None = None) -> Agent:
    """An agent of a run, ready to play without Ray.

    Checkpoints are pickles, which can run code when they are read: load only those that you trust.

    Args:
        checkpoint: a checkpoint's folder, or a run folder for its last one.
        agent: its number in that run.
        greedy: always the most probable action, instead of sampling as in training.
        seed: of its choices; None: others each time.

    Raises:
        CheckpointError: the checkpoint cannot be used, or it has no such agent.
    """
    from rllib_empathy.experiments.checkpoints import read_agent

    return Agent(read_agent(checkpoint, agent), greedy, seed)
