"""LASE in iterated 2x2 games: what two gifting agents converge to, as an iteration and in closed form.

LASE (Kong et al., NeurIPS 2024), theoretical analysis. Two agents play a symmetric game with the payoffs R = 1 (both cooperate),
P = 0 (both defect), T (temptation, in [0, 2]) and S (sucker's payoff, in [-1, 1]). Agent i cooperates with probability theta_i
and predicts that its co-player does so with probability thetahat_j. With the payoffs in place of Q, an agent gives away

    w(CC) = w(DC) = 1 - thetahat_j,    w(CD) = w(DD) = 0

of its reward (own action first): it thanks for cooperation as far as it did not expect it. So too, by continuity, on the borders
T = 0 and S = 1, where the range of payoffs is zero and the inference itself would give nothing.

Arrays of games and of starts are broadcast against each other; `theta` is `[2, ...]`, the two agents first.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Values = float | Array

REGIONS = ("Prisoner's Dilemma", "Stag Hunt", "Snowdrift", "Harmony")
ENDS = ("mutual cooperation", "mutual defection", "asymmetric", "interior")

STEP = 0.1
"""alpha / (1 - gamma). Below 0.5 it does not matter for what the fixed points are and which of them are stable (no eigenvalue of
the Jacobian at a stable one is below -4), and hardly for which starts go where."""

IPD = (1.2, -0.2)
"""T and S of the iterated prisoner's dilemma that LASE was trained in."""


def plane(resolution: int) -> tuple[Array, Array]:
    """T and S, each `[resolution, resolution]`, S along the first axis: centres of equal squares that tile [0, 2] x [-1, 1]."""
    centres = 2 * (np.arange(resolution) + 0.5) / resolution
    temptation, sucker = np.meshgrid(centres, centres - 1)
    return temptation, sucker


def region(temptation: Values, sucker: Values) -> NDArray[np.int64]:
    """Index in REGIONS of each game; equality counts as no temptation (T = 1) and no fear (S = 0).

    Prisoner's Dilemma: T > 1, S < 0. Stag Hunt: T <= 1, S < 0. Snowdrift: T > 1, S >= 0. Harmony: T <= 1, S >= 0.
    """
    return np.asarray(2 * (np.asarray(sucker) >= 0) + (np.asarray(temptation) <= 1), np.int64)


def reshaped_rewards(
    own_prediction: Values, other_prediction: Values, temptation: Values, sucker: Values
) -> tuple[Values, Values, Values, Values]:
    """An agent's reward after gifts in each of the outcomes CC, CD, DC, DD, the own action first.

    [thetahat_2 R + (1 - thetahat_1) R,  S + (1 - thetahat_1) T,  thetahat_2 T,  P]: what it keeps plus what it is given.

    Args:
        own_prediction: thetahat_1, how probably the co-player thinks that this agent cooperates, in [0, 1].
        other_prediction: thetahat_2, how probably this agent thinks that the co-player cooperates, in [0, 1].
        temptation: T.
        sucker: S.
    """
    received, kept = 1 - own_prediction, other_prediction
    return kept + received, sucker + received * temptation, kept * temptation, 0.0


def gradient(own: Values, other: Values, temptation: Values, sucker: Values) -> Values:
    """Derivative of an agent's expected reshaped reward by its own P(C), predictions held constant, then thetahat = theta.

    [thetahat_2 R + (1 - thetahat_1) R - thetahat_2 T] theta_2 + [S + (1 - thetahat_1) T - P] (1 - theta_2)

    Args:
        own: theta_1, in [0, 1].
        other: theta_2, in [0, 1].
        temptation: T.
        sucker: S.
    """
    both, exploited, exploiting, neither = reshaped_rewards(own, other, temptation, sucker)
    return (both - exploiting) * other + (exploited - neither) * (1 - other)


def update(theta: Array, temptation: Values, sucker: Values, step: float = STEP) -> Array:
    """One gradient step of both agents at once: theta_i + step * gradient_i, clipped to [0, 1].

    Args:
        theta: `[2, ...]`.
        temptation: T.
        sucker: S.
        step: alpha / (1 - gamma).
    """
    return np.clip(theta + step * gradient(theta, theta[::-1], temptation, sucker), 0, 1)


def converge(
    theta: Array,
    temptation: Values,
    sucker: Values,
    step: float = STEP,
    tolerance: float = 1e-8,
    max_updates: int = 2000,
) -> tuple[Array, NDArray[np.bool_]]:
    """Updates until no update changes a probability by more than `tolerance`.

    Args:
        theta: the starts, `[2, ...]`.
        temptation: T, broadcast against `[...]`.
        sucker: S, broadcast against `[...]`.
        step: alpha / (1 - gamma).
        tolerance: largest change of a pair that has converged.
        max_updates: pairs that still change after so many are left where they are. Convergence is slow where a fixed point is
            about to lose its stability.

    Returns:
        The ends `[2, ...]`, and which of them have converged `[...]`.
    """
    shape = np.broadcast_shapes(np.shape(theta)[1:], np.shape(temptation), np.shape(sucker))
    ends = np.array(np.broadcast_to(theta, (2, *shape)), np.float64).reshape(2, -1)
    temptation, sucker = np.broadcast_to(temptation, shape).ravel(), np.broadcast_to(sucker, shape).ravel()
    moving = np.arange(ends.shape[1])
    for _ in range(max_updates):
        before = ends[:, moving]
        after = update(before, temptation[moving], sucker[moving], step)
        ends[:, moving] = after
        moving = moving[(np.abs(after - before) > tolerance).any(0)]
        if not len(moving):
            break
    converged = np.ones(ends.shape[1], bool)
    converged[moving] = False
    return ends.reshape(2, *shape), converged.reshape(shape)


def ends_by_kind(theta: Array, tolerance: float = 1e-3) -> NDArray[np.int64]:
    """Index in ENDS of each pair; interior: the same probability for both, and neither 0 nor 1.

    Args:
        theta: `[2, ...]`.
        tolerance: probabilities that differ by less count as equal.
    """
    asymmetric = np.abs(theta[0] - theta[1]) > tolerance
    cooperate, defect = (theta > 1 - tolerance).all(0), (theta < tolerance).all(0)
    return np.select([cooperate, defect, asymmetric], [0, 1, 2], 3)


class SymmetricPoint(NamedTuple):
    """The symmetric fixed point of each game, NaN where there is none, and how deviations from it grow (unit: 1 / step).

    Attributes:
        theta: x*, the P(C) of both.
        together: eigenvalue of the Jacobian for deviations (1, 1); stable against them where negative.
        apart: eigenvalue for deviations (1, -1); stable against them where negative.
    """

    theta: Array
    together: Array
    apart: Array


def symmetric_fixed_point(temptation: Values, sucker: Values) -> SymmetricPoint:
    """Where the gradient of two equal agents is zero, in closed form.

    With theta_1 = theta_2 = x the gradient is (1 - xT) x + S (1 - x) + T (1 - x)^2. Its quadratic terms cancel:

        g(x) = S + T + (1 - S - 2T) x,    x* = (S + T) / (S + 2T - 1)

    It goes from g(0) = S + T to g(1) = 1 - T, so that its only root lies in [0, 1] where these differ in sign: stable where
    T > 1, a watershed between both corners where S + T < 0. With a = d gradient_1 / d theta_1 = -T + (T - 1) x and
    b = d gradient_1 / d theta_2 = 1 - S - T + (1 - T) x, the Jacobian [[a, b], [b, a]] has the eigenvalues

        a + b = 1 - S - 2T    for (1, 1),        a - b = S - 1 + 2 (T - 1) x*    for (1, -1)

    The game T = 1, S = -1, in which every x is a root, counts as having none.

    Args:
        temptation: T in [0, 2].
        sucker: S in [-1, 1].
    """
    temptation, sucker = np.asarray(temptation, np.float64), np.asarray(sucker, np.float64)
    at_zero, at_one = sucker + temptation, 1 - temptation
    with np.errstate(divide="ignore", invalid="ignore"):
        root = at_zero / (at_zero - at_one)
    exists = (at_zero != at_one) & (at_zero * at_one <= 0)
    theta = np.where(exists, root, np.nan)
    together = np.where(exists, at_one - at_zero, np.nan)
    return SymmetricPoint(theta, together, sucker - 1 + 2 * (temptation - 1) * theta)


def asymmetric_fixed_point(temptation: Values, sucker: Values) -> Array:
    """The stable fixed point at which one agent cooperates more than the other, the more cooperative first.

    Where T > 1 and S >= (2 - T)^2 it is (1, 2 - T), on the edge. Else it is the pair whose gradients are both zero:
    their difference is (theta_2 - theta_1) [(1 - T) (theta_1 + theta_2) + 1 - S], their sum then gives the product:

        theta_1 + theta_2 = s = (1 - S) / (T - 1),    theta_1 theta_2 = (T s - S - T) / (2 (T - 1))

    It parts from the symmetric fixed point where that becomes unstable against (1, -1), s = 2 x*.

    Args:
        temptation: T in [0, 2].
        sucker: S in [-1, 1].

    Returns:
        `[2, ...]`, NaN where there is none.
    """
    temptation, sucker = np.broadcast_arrays(np.asarray(temptation, np.float64), np.asarray(sucker, np.float64))
    tempted = np.where(temptation > 1, temptation, np.nan)
    total = (1 - sucker) / (tempted - 1)
    product = (tempted * total - sucker - tempted) / (2 * (tempted - 1))
    with np.errstate(invalid="ignore"):
        apart = np.sqrt(total**2 - 4 * product)
        on_edge = sucker >= (2 - tempted) ** 2
    high = np.where(on_edge, 1.0, (total + apart) / 2)
    low = np.where(on_edge, 2 - tempted, (total - apart) / 2)
    return np.stack([high, low])


def predicted_end(temptation: Values, sucker: Values) -> Array:
    """Where almost every start ends, in closed form, the more cooperative agent first.

    (1, 1) where T <= 1 and S + T >= 0; where T > 1 the symmetric fixed point as long as it is stable, else the asymmetric one.
    In the one game T = 1, S = -1 symmetric starts stay where they are. NaN where S + T < 0: both corners are stable, and the end
    depends on the start.

    Args:
        temptation: T in [0, 2].
        sucker: S in [-1, 1].

    Returns:
        `[2, ...]`.
    """
    temptation, sucker = np.asarray(temptation), np.asarray(sucker)
    symmetric = symmetric_fixed_point(temptation, sucker)
    tempted = np.where(symmetric.apart < 0, symmetric.theta, asymmetric_fixed_point(temptation, sucker))
    return np.where(sucker + temptation < 0, np.nan, np.where(temptation <= 1, 1.0, tempted))
