"""Trained agents outside of RLlib: they act one observation at a time, without Ray, or as an ONNX file without Python."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from env_registry.action_masks import as_mask, parted
from env_registry.parameters import SettingError
from rllib_empathy.policies.actor_critic import ActorCriticModule
from rllib_empathy.policies.frozen import TrainedAgent
from rllib_empathy.policies.kind import CONTEXT, check_action_masks
from rllib_empathy.policies.networks import Prepared, evaluate


class Agent:
    """One agent of a run, ready to play one game.

    Args:
        trained: the agent, weights and all.
        greedy: always the most probable action, instead of sampling as in training.
        seed: of its choices; None: others each time.

    Attributes:
        kind: name of its kind.
        observation_space: what it sees; in a PettingZoo environment, what `env_registry.make` makes of the observation.
        action_space: what it does.
    """

    def __init__(self, trained: TrainedAgent, greedy: bool = False, seed: int | None = None) -> None:
        self.kind = trained.kind
        self.observation_space, self.action_space = trained.observation_space, trained.action_space
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
        self, observations: Any, actions: Any, agent: int | None = None, alive: Any = None, action_masks: Any = None
    ) -> None:
        """Tells an agent that keeps account of others what all have done in the step that it has just acted in.

        Args:
            observations: of all agents, `[N, *shape]`, on which they acted.
            actions: of all agents, `[N]`.
            agent: which of them this one is; default: its number in its run.
            alive: who took part, `[N]`; default: all.
            action_masks: what all were allowed to do, `[N, actions]`; needed in worlds with masks of actions.

        Raises:
            ValueError: the masks are missing.
        """
        if self.keeps_account and self._trained.masked and action_masks is None:
            raise ValueError(
                "This agent's world has masks of actions: hand over those of all agents as action_masks=..."
            )
        if CONTEXT in self._state:
            seen = np.array(observations, self.observation_space.dtype)[None]
            taken = np.array(actions, np.int64)[None]
            told = {} if action_masks is None else {"masks": torch.from_numpy(np.array(action_masks) != 0)[None]}
            there = np.ones(taken.shape, np.bool_) if alive is None else np.array(alive, np.bool_)[None]
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
    def act(self, observation: Any, action_mask: Any = None) -> int:
        """The action for one observation; what the agent remembers is kept for the next one.

        Args:
            observation: of the shape of `observation_space`; a mask of actions may lie beside it, as in
                `{"observation": ..., "action_mask": ...}`.
            action_mask: a number for each action, 0 where it is forbidden; default: the one beside the observation. Needed in
                worlds with masks of actions.

        Raises:
            ValueError: it is of another shape, the mask is missing or forbids everything, or the agent keeps account of others
                and has not been told what they did.
        """
        if self._waits:
            raise ValueError(f"Agents of kind {self.kind!r} act on what all did: call notice(...) after each step.")
        observation, beside = parted(observation)
        allowed = self._allowed(beside if action_mask is None else action_mask)
        seen = np.asarray(observation)
        if seen.shape != self.observation_space.shape:
            raise ValueError(
                f"The observation has shape {seen.shape}, this agent knows {self.observation_space.shape}. Hand over one "
                "observation of one agent at a time."
            )
        observations = torch.from_numpy(np.array(seen, self.observation_space.dtype))[None, None]
        answer = type(self._module).act(
            [self._module], self._parameters, observations, self._state, self._generator, not self._greedy, **allowed
        )
        self._state = answer.state
        self._waits = self.keeps_account
        return int(answer.actions)

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

        Its input `observations` is `[M, *shape]` in float32, its output `logits` `[M, actions]`, from whose softmax actions are
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
        observations = torch.zeros(rows, *self.observation_space.shape)
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
