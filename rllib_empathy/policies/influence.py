"""Estimators of the value influence that the players of a game have on each other.

    VI_i|j(s, a) = Q_j(s, a) - sum_a' pi_i(a') Q_j(s, a_-i, a'),      Q_j = r_j + gamma E[V_j(next state)]

What player i does to the others is estimated from what i sees: where i stands and what is near it decide what its actions do,
and grid worlds show that most plainly from its own place. One estimator serves all players and is told whose view it has. It is
an nn.Module of its own, independent of whatever acts. Several of one form are evaluated at once: methods take the parameters of G
estimators, stacked (`stack_parameters`).

Shapes: G estimators, R rows (one player's view of one step of one game each), N players, A actions, H hidden units. Players of a
row are in order of place: place 0 sees, place k is its co-player (i + k) mod N. Time is the number of steps since the episode
began, in units of its length.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import pairwise, starmap
from math import prod
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from env_registry.parameters import Settings
from rllib_empathy.joint import JointTrajectory, in_order_of_place
from rllib_empathy.learning.advantages import discounted
from rllib_empathy.learning.distributed import average
from rllib_empathy.learning.statistics import explained_variance
from rllib_empathy.policies.kind import Statistics
from rllib_empathy.policies.networks import (
    Architecture,
    Parameters,
    encode,
    linear,
    log_policies,
    masked,
    prepare,
    renormalised,
    scaled,
    stack_parameters,
)
from rllib_empathy.reshaping.reciprocity import value_influence

ROWS_AT_ONCE = 1024
"""Rows whose influences or values are computed at a time: few enough for what is computed of them to stay in the caches."""


class EstimatorOptions(Settings):
    """Options of an estimator of value influence."""

    form: Literal["auto", "tabular", "counterfactual", "twins"] = Field(
        "auto",
        description="counterfactual: one network and clones of the policies; twins: a second network that misses the action; "
        "tabular: counts, matrix games only; auto: tabular there, else counterfactual",
    )
    shared: bool | None = Field(
        None,
        description="whether like agents of the population have one estimator together; null: where all see the whole state",
    )
    lambda_: float = Field(0.95, ge=0, le=1, description="of the returns that values are fitted to (counterfactual)")
    hidden: int = Field(64, ge=1, description="width of its layers")
    lr: float = Field(5e-3, gt=0, description="Adam's learning rate")
    refit_every: int = Field(10, ge=1, description="iterations from one fit to the next")
    buffer_size: int = Field(1, ge=1, description="recent joint trajectories that it is fitted to")
    epochs: int = Field(1, ge=1, description="passes over them per fit")
    minibatch_size: int = Field(256, ge=1, description="rows per gradient step, one player's view of a step each")


class Views(NamedTuple):
    """Steps as each player sees them: `[*, N, ...]`, the players who see along N, then players in order of place."""

    observations: Tensor  # [*, N, *observation_shape]
    actions: Tensor  # [*, N, N]
    alive: Tensor  # [*, N, N]
    time: Tensor  # [*, N]
    seats: Tensor  # [*, N] who sees
    allowed: Tensor | None = None  # [*, N, A] what those who see might do; None: everything

    @classmethod
    def of(
        cls, observations: Tensor, actions: Tensor, alive: Tensor, time: Tensor, masks: Tensor | None = None
    ) -> Views:
        """From joint columns `[*, N, ...]` in order of seats, and times `[*]`."""
        players = actions.shape[-1]
        places = in_order_of_place(players, actions.device)
        seats = torch.arange(players, device=actions.device).expand(actions.shape)
        return cls(
            observations,
            actions.long()[..., places],
            alive[..., places],
            time.unsqueeze(-1).expand(actions.shape),
            seats,
            masks,
        )

    def each(self, function: Callable[[Tensor], Tensor]) -> Views:
        """The same with `function` applied to every column."""
        return Views(*(None if column is None else function(column) for column in self))  # type: ignore[arg-type]

    def rows(self) -> Views:
        """All views on one axis, `[R, ...]`."""
        return self.each(lambda column: column.flatten(0, self.seats.ndim - 1))

    def parts(self) -> Iterator[Views]:
        """Rows `[R, ...]` in parts that stay in the cache."""
        if len(self.seats) <= ROWS_AT_ONCE:
            return iter([self])
        return starmap(Views, zip(*(c.split(ROWS_AT_ONCE) for c in self if c is not None), strict=True))


class Lessons(NamedTuple):
    """What estimators are fitted to: T steps of B games as the players see them, co-players in order of place."""

    views: Views  # [T, B, N, ...]
    rewards: Tensor  # [T, B, N, N - 1] extrinsic
    goes_on: Tensor  # [T, B, N, N - 1] the co-player's future goes on in the next row

    @classmethod
    def of(cls, joint: JointTrajectory, time_unit: float) -> Lessons:
        """From a trajectory of whole episodes (torch columns)."""
        places = in_order_of_place(joint.shape[2], joint.rewards.device)[:, 1:]
        ended = (joint.terminated | joint.truncated).unsqueeze(-1)
        goes_on = joint.alive & joint.survives & ~ended
        time = elapsed_steps(joint.starts) / time_unit
        views = Views.of(joint.observations, joint.actions, joint.alive, time, joint.action_masks)
        return cls(views, joint.rewards[:, :, places], goes_on[:, :, places])

    @classmethod
    def side_by_side(cls, lessons: Sequence[Lessons]) -> Lessons:
        """The games of several trajectories; shorter ones end with steps in which nobody is alive."""
        longest = max(len(lesson.rewards) for lesson in lessons)

        def joined(columns: Sequence[Tensor]) -> Tensor:
            missing = [column.new_zeros(longest - len(column), *column.shape[1:]) for column in columns]
            return torch.cat([torch.cat(pair) for pair in zip(columns, missing, strict=True)], 1)

        views = Views(*map(joined, zip(*_alike([lesson.views for lesson in lessons]), strict=True)))
        return cls(
            views, joined([lesson.rewards for lesson in lessons]), joined([lesson.goes_on for lesson in lessons])
        )


def _alike(views: Sequence[Views]) -> list[list[Tensor]]:
    """Their columns, with masks for all if one has some."""
    sizes = [view.allowed.shape[-1] for view in views if view.allowed is not None]
    if not sizes:
        return [[column for column in view if column is not None] for view in views]
    everything = (torch.ones(*v.seats.shape, sizes[0], dtype=torch.bool, device=v.seats.device) for v in views)
    full = [v if v.allowed is not None else v._replace(allowed=e) for v, e in zip(views, everything, strict=True)]
    return [[column for column in view if column is not None] for view in full]


class Weights(NamedTuple):
    """Of rows, 0 where somebody is absent: their mean over the whole batch, on all Learners together, is 1."""

    own: Tensor  # [R], of what is fitted to the one who sees
    pairs: Tensor  # [R, N - 1], and to each co-player

    @classmethod
    def of(cls, rows: Views) -> Weights:
        """Of all rows of a batch."""
        own, pairs = rows.alive[:, 0], rows.alive[:, :1] & rows.alive[:, 1:]
        return cls(*(here / average(here.double().mean()).clamp(min=1e-12).float() for here in (own, pairs)))


def elapsed_steps(starts: Tensor) -> Tensor:
    """Steps since the episode's start, `[T, B]` float32, in a trajectory of whole episodes."""
    number = torch.arange(len(starts), device=starts.device).unsqueeze(1).expand(starts.shape)
    return (number - torch.where(starts, number, 0).cummax(0).values).float()


def received(given: Tensor) -> Tensor:
    """What co-players did for each player, given what each did for them; both `[..., N, N - 1]` in order of place."""
    return given.flatten(-2)[..., _from_others(given.shape[-2], given.device)]


@cache
def _from_others(players: int, device: torch.device) -> Tensor:
    """`[N, N - 1]`: where `received` is found in what is given, flattened."""
    co_player = in_order_of_place(players, device)[:, 1:]
    place_there = torch.arange(players - 1, 0, -1, device=device)  # who is k places behind sees one N - k behind
    return co_player * (players - 1) + place_there - 1


def one_hot(numbers: Tensor, count: int) -> Tensor:
    """`[*]` integers as `[*, count]` float32; much faster than torch's own, which looks at the numbers first."""
    return _unit_vectors(count, numbers.device).index_select(0, numbers.flatten()).view(*numbers.shape, count)


@cache
def _unit_vectors(count: int, device: torch.device) -> Tensor:
    return torch.eye(count, device=device)


def one_hot_actions(actions: Tensor, count: int, own: bool = True) -> Tensor:
    """Joint actions `[R, N]` as `[R, N, A]`; without the own one, place 0 is all zeros."""
    found = one_hot(actions, count)
    if not own:
        found[:, 0] = 0
    return found


class Estimator(nn.Module, ABC):
    """An estimator of value influence.

    Args:
        architecture: of the convolutions over observations, and how these are scaled.
        players: N.
        actions: A, the largest number of actions that a player has.
        gamma: discount of values.
        options: sizes and schedule.
    """

    def __init__(
        self, architecture: Architecture, players: int, actions: int, gamma: float, options: EstimatorOptions
    ) -> None:
        super().__init__()
        self.architecture, self.players, self.actions = architecture, players, actions
        self.gamma, self.options = gamma, options

    def influence(self, parameters: Parameters, views: Views) -> Tensor:
        """What each player did for its co-players, `[G, *, N, N - 1]` in order of place; 0 from and for the absent.

        Args:
            parameters: of G estimators.
            views: of steps `[*, N, ...]`.
        """
        found = torch.cat([self._influence(parameters, part) for part in views.rows().parts()], 1)
        both = views.alive[..., :1] & views.alive[..., 1:]
        return found.view(-1, *both.shape) * both

    @abstractmethod
    def _influence(self, parameters: Parameters, rows: Views) -> Tensor:
        """What those who see do for each co-player, `[G, R, N - 1]`."""

    @classmethod
    @abstractmethod
    def fit(
        cls, estimators: Sequence[Any], lessons: Lessons, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Statistics]]:
        """Fits G estimators: the loss `[G]` of each gradient step, to be taken by the caller, and what to log, `[G]` each.

        Args:
            estimators: G of this class, with equal options.
            lessons: what to fit them to.
            generator: the source of all chance.
        """


class Tabular(Estimator):
    """Counts, for matrix games: their states are one-hot observations, and rewards depend on the joint action alone.

        VI_i|j(s, a) = r_j(a) - sum_a' f_i(a' | s) r_j(a_-i, a')

    f_i are i's frequencies in state s, equal ones where s was never visited. What an action does for the future is left out, as
    in the authors' special case for matrix games. Where actions are forbidden, f_i are shares of the others.
    """

    def __init__(
        self, architecture: Architecture, players: int, actions: int, gamma: float, options: EstimatorOptions
    ) -> None:
        super().__init__(architecture, players, actions, gamma, options)
        frequencies = torch.full((players, architecture.features, actions), 1 / actions)  # [seat, state, action]
        self.frequencies = nn.Parameter(frequencies, requires_grad=False)
        shape = (players, *[actions] * players, players - 1)  # [seat, joint action in order of place, co-player]
        self.rewards = nn.Parameter(torch.zeros(shape), requires_grad=False)

    def _influence(self, parameters: Parameters, rows: Views) -> Tensor:
        state = rows.observations.flatten(1).argmax(-1)
        policy = renormalised(parameters["frequencies"][:, rows.seats, state], rows.allowed)  # [G, R, A]
        rewards = parameters["rewards"].movedim(2, -1)  # [G, seat, actions of co-players, co-player, own action]
        cell: tuple[Any, ...] = (slice(None), rows.seats, *rows.actions[:, 1:].unbind(-1))
        alternatives = rewards[cell]  # [G, R, N - 1, A]
        taken = rows.actions[:, :1].expand(alternatives.shape[:-1])
        return value_influence(alternatives, taken, policy.unsqueeze(-2).expand(alternatives.shape))

    @classmethod
    @torch.no_grad()
    def fit(
        cls, estimators: Sequence[Tabular], lessons: Lessons, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Statistics]]:
        """Counts; there are no gradient steps to take."""
        rows = lessons.views.rows()
        first, state = estimators[0], rows.observations.flatten(1).argmax(-1)
        there, everybody = rows.alive[:, 0], rows.alive.all(-1)
        counts, visits = torch.zeros_like(first.frequencies), torch.zeros_like(first.rewards[..., :1])
        counts.index_put_((rows.seats, state, rows.actions[:, 0]), there.to(counts), accumulate=True)
        cell = (rows.seats, *rows.actions.unbind(-1))
        visits.index_put_(cell, everybody.to(visits).unsqueeze(-1), accumulate=True)
        sums = torch.zeros_like(first.rewards)
        sums.index_put_(cell, lessons.rewards.flatten(0, 2) * everybody.unsqueeze(-1), accumulate=True)
        counts, visits, sums = average(counts), average(visits), average(sums)
        seen = counts.sum(-1, keepdim=True)
        for estimator in estimators:
            equal = torch.full_like(counts, 1 / counts.shape[-1])
            estimator.frequencies.copy_(torch.where(seen > 0, counts / seen, equal))
            estimator.rewards.copy_(torch.where(visits > 0, sums / visits, estimator.rewards))
        yield from ()


class _NetworkEstimator(Estimator):
    """An estimator that is fitted by gradient steps on shuffled rows."""

    @classmethod
    @abstractmethod
    def targets(cls, estimators: Sequence[Any], lessons: Lessons) -> dict[str, Tensor]:
        """What to fit to beside rewards, name -> `[G, T, B, N, N - 1]`; made anew for each pass."""

    @classmethod
    @abstractmethod
    def loss(
        cls, estimators: Sequence[Any], rows: Views, weights: Weights, targets: dict[str, Tensor], last: bool = False
    ) -> tuple[Tensor, Statistics]:
        """Loss `[G]` on some rows, with targets `[G, R, N - 1]`, and what to log; how good the fit is, with the last rows."""

    @classmethod
    def fit(
        cls, estimators: Sequence[Any], lessons: Lessons, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Statistics]]:
        rows, options = lessons.views.rows(), estimators[0].options
        weights = Weights.of(rows)
        for epoch in range(options.epochs):
            with torch.no_grad():
                targets = {"reward": lessons.rewards.unsqueeze(0), **cls.targets(estimators, lessons)}
            targets = {name: target.flatten(1, 3) for name, target in targets.items()}
            order = torch.randperm(len(rows.seats), generator=generator).to(rows.seats.device)
            minibatches = order.split(options.minibatch_size)
            for number, chosen in enumerate(minibatches, 1):
                some = rows.each(partial(torch.index_select, dim=0, index=chosen))
                counted = Weights(*(column.index_select(0, chosen) for column in weights))
                wanted = {name: target.index_select(1, chosen) for name, target in targets.items()}
                last = epoch + 1 == options.epochs and number == len(minibatches)
                yield cls.loss(estimators, some, counted, wanted, last)


class Counterfactual(_NetworkEstimator):
    """One network of rewards and futures, marginalised over clones of the players' policies.

        r_j(s, a)      fitted to rewards
        F_j(s, a)      fitted to V_j of the next state: what it holds of chance is one transition's
        V_j(s)         fitted to lambda-returns of its own
        pi_i(a | s)    fitted to what i did
        Q_j = r_j + gamma F_j

    They branch from one hidden layer over observation, seat and time. Joint actions enter the hidden layer of r and F as a sum of
    one column per player, so that replacing an action is a rank-one change. What is forbidden is no alternative: pi is 0 there.
    """

    def __init__(
        self, architecture: Architecture, players: int, actions: int, gamma: float, options: EstimatorOptions
    ) -> None:
        super().__init__(architecture, players, actions, gamma, options)
        hidden = options.hidden
        self.convolutions = nn.ModuleList(nn.Conv2d(c, f, 3) for c, f, _, _ in architecture.convolutions)
        self.trunk = nn.Linear(architecture.features + players + 1, hidden)
        self.outcome_hidden = nn.Linear(hidden + players * actions, hidden)
        self.outcome = nn.Linear(hidden, 2 * (players - 1))  # rewards of the co-players, then futures
        self.value_hidden = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, players - 1)
        self.policy_hidden = nn.Linear(hidden, hidden)
        self.policy = nn.Linear(hidden, actions)
        for name, parameter in self.named_parameters():
            last = name in ("outcome.weight", "value.weight", "policy.weight")
            if parameter.ndim > 1:
                nn.init.orthogonal_(parameter, 0.01 if last else 2**0.5)
            else:
                nn.init.zeros_(parameter)

    def _trunk(self, parameters: Parameters, rows: Views) -> Tensor:
        estimators, count = len(parameters["trunk.bias"]), len(rows.seats)
        prepared = prepare(self.architecture, parameters, count)
        features = encode(self.architecture, prepared, rows.observations.expand(estimators, *rows.observations.shape))
        beside = torch.cat([one_hot(rows.seats, self.players), rows.time.unsqueeze(-1)], -1)
        return torch.relu(_layer(parameters, "trunk", torch.cat([features, beside.expand(estimators, -1, -1)], -1)))

    def _joint(self, parameters: Parameters, x: Tensor, joint_actions: Tensor) -> Tensor:
        """The outcome's hidden layer before it is cut at 0, `[G, R, H]`, for joint actions `[R, N, A]`."""
        beside = joint_actions.flatten(1).to(x.dtype).expand(len(x), -1, -1)
        return _layer(parameters, "outcome_hidden", torch.cat([x, beside], -1))

    def _values(self, parameters: Parameters, x: Tensor) -> Tensor:
        return _layer(parameters, "value", torch.relu(_layer(parameters, "value_hidden", x)))

    def _log_policy(self, parameters: Parameters, x: Tensor, allowed: Tensor | None) -> Tensor:
        logits = _layer(parameters, "policy", torch.relu(_layer(parameters, "policy_hidden", x)))
        return log_policies(masked(logits, allowed))

    def _influence(self, parameters: Parameters, rows: Views) -> Tensor:
        x = self._trunk(parameters, rows)
        without = self._joint(parameters, x, one_hot_actions(rows.actions, self.actions, own=False))
        first = self.options.hidden
        columns = parameters["outcome_hidden.weight"][..., first : first + self.actions].transpose(1, 2).contiguous()
        rewards, futures = parameters["outcome.weight"].chunk(2, 1)
        to_values = rewards + self.gamma * futures  # [G, N - 1, H]; the bias is the same for all alternatives
        alternatives = (without.unsqueeze(1) + columns.unsqueeze(2)).clamp_(min=0).flatten(1, 2)  # [G, A * R, H]
        values = torch.bmm(alternatives, to_values.transpose(1, 2))
        values = values.view(len(x), self.actions, -1, self.players - 1).movedim(1, -1)  # [G, R, N - 1, A]
        policy = self._log_policy(parameters, x, rows.allowed).exp().unsqueeze(2).expand(values.shape)
        return value_influence(values, rows.actions[:, :1].expand(values.shape[:-1]), policy)

    @classmethod
    def targets(cls, estimators: Sequence[Counterfactual], lessons: Lessons) -> dict[str, Tensor]:
        first = estimators[0]
        parameters = stack_parameters(estimators)
        parts = lessons.views.rows().parts()
        values = torch.cat([first._values(parameters, first._trunk(parameters, part)) for part in parts], 1)
        values = values.view(-1, *lessons.rewards.shape).transpose(0, 1)  # [T, G, B, N, N - 1]
        goes_on, rewards = lessons.goes_on.unsqueeze(1), lessons.rewards.unsqueeze(1)
        after = torch.cat([values[1:], torch.zeros_like(values[:1])]) * goes_on
        returns = values + discounted(
            rewards + first.gamma * after - values, goes_on, first.gamma * first.options.lambda_
        )
        return {"value": returns.transpose(0, 1), "future": after.transpose(0, 1)}

    @classmethod
    def loss(
        cls,
        estimators: Sequence[Counterfactual],
        rows: Views,
        weights: Weights,
        targets: dict[str, Tensor],
        last: bool = False,
    ) -> tuple[Tensor, Statistics]:
        first = estimators[0]
        parameters = stack_parameters(estimators)
        x = first._trunk(parameters, rows)
        hidden = torch.relu(first._joint(parameters, x, one_hot_actions(rows.actions, first.actions)))
        rewards, futures = _layer(parameters, "outcome", hidden).chunk(2, -1)
        found = {"reward": rewards, "future": futures, "value": first._values(parameters, x)}
        log_policy = first._log_policy(parameters, x, rows.allowed)
        taken = rows.actions[:, :1].expand(len(x), -1, -1)
        cross_entropy = -(log_policy.gather(-1, taken).squeeze(-1) * weights.own).mean(1)
        error = _error(found, targets, weights)
        statistics = _quality(found, targets, weights) if last else {}
        return error + cross_entropy, {**statistics, "estimator/policy_cross_entropy": cross_entropy.detach()}


class Twins(_NetworkEstimator):
    """A network of rewards and discounted future returns on joint actions, and a twin that misses the own action.

        VI_i|j = r_j(s, a) - r_j(s, a_-i) + gamma (F_j(s, a) - F_j(s, a_-i))

    The twin averages over what i did in its place, which was allowed. F is the discounted return from the next step on, as it was
    observed, and is discounted once. The errors of a network and its twin do not cancel: see docs/reciprocators.md.
    """

    def __init__(
        self, architecture: Architecture, players: int, actions: int, gamma: float, options: EstimatorOptions
    ) -> None:
        super().__init__(architecture, players, actions, gamma, options)
        features = prod(architecture.observation_shape)
        sizes = (features + players + 1 + players * actions, options.hidden, options.hidden, 2 * (players - 1))
        for number, (inputs, outputs) in enumerate(pairwise(sizes)):
            weight = torch.empty(2, outputs, inputs)  # the network, its twin
            for network in weight:
                nn.init.orthogonal_(network, 2**0.5 if number < 2 else 0.01)
            self.register_parameter(f"weight_{number}", nn.Parameter(weight))
            self.register_parameter(f"bias_{number}", nn.Parameter(torch.zeros(2, outputs)))

    def _outcomes(self, parameters: Parameters, rows: Views) -> Tensor:
        """Rewards, then futures `[G, 2, R, 2 (N - 1)]` of the co-players: by the network and by its twin."""
        estimators, count = len(parameters["bias_0"]), len(rows.seats)
        seen = scaled(self.architecture.scale, rows.observations.flatten(1).to(rows.time.dtype))
        beside = [one_hot(rows.seats, self.players), rows.time.unsqueeze(-1)]
        joint_actions = [one_hot_actions(rows.actions, self.actions, own).flatten(1) for own in (True, False)]
        x = torch.stack([torch.cat([seen, *beside, actions], -1) for actions in joint_actions])
        x = x.repeat(estimators, 1, 1)  # [G * 2, R, inputs]
        for number in range(3):
            x = linear(x, *(parameters[f"{name}_{number}"].flatten(0, 1) for name in ("weight", "bias")))
            x = torch.relu(x) if number < 2 else x
        return x.view(estimators, 2, count, -1)

    def _influence(self, parameters: Parameters, rows: Views) -> Tensor:
        rewards, futures = self._outcomes(parameters, rows).chunk(2, -1)
        values = rewards + self.gamma * futures
        return values[:, 0] - values[:, 1]

    @classmethod
    def targets(cls, estimators: Sequence[Twins], lessons: Lessons) -> dict[str, Tensor]:
        returns = discounted(lessons.rewards, lessons.goes_on, estimators[0].gamma)
        after = torch.cat([returns[1:], torch.zeros_like(returns[:1])]) * lessons.goes_on
        return {"future": after.unsqueeze(0)}

    @classmethod
    def loss(
        cls, estimators: Sequence[Twins], rows: Views, weights: Weights, targets: dict[str, Tensor], last: bool = False
    ) -> tuple[Tensor, Statistics]:
        outcomes = estimators[0]._outcomes(stack_parameters(estimators), rows)
        network, twin = (dict(zip(("reward", "future"), part.chunk(2, -1), strict=True)) for part in outcomes.unbind(1))
        statistics = _quality(network, targets, weights) if last else {}
        return _error(network, targets, weights) + _error(twin, targets, weights), statistics


ESTIMATORS: dict[str, type[Estimator]] = {"tabular": Tabular, "counterfactual": Counterfactual, "twins": Twins}
"""All estimators by form."""


def _error(found: dict[str, Tensor], wanted: dict[str, Tensor], weights: Weights) -> Tensor:
    """The sum of mean squared errors, `[G]`."""
    errors = [((found[name] - wanted[name]) ** 2 * weights.pairs).mean((1, 2)) for name in found]
    return torch.stack(errors).sum(0)


def _quality(found: dict[str, Tensor], wanted: dict[str, Tensor], weights: Weights) -> Statistics:
    """How much of each target's variance is explained, `[G]` each."""
    counts = weights.pairs > 0
    return {
        f"estimator/{name}_explained_var": explained_variance(
            found[name].detach(), wanted[name].expand(found[name].shape), counts.expand(found[name].shape)
        )
        for name in found
    }


def _layer(parameters: Parameters, name: str, x: Tensor) -> Tensor:
    return linear(x, parameters[f"{name}.weight"], parameters[f"{name}.bias"])
