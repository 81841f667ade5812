"""One episode of a run's last checkpoint as an animation: the world, and beside it who gives whom how much."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from env_registry.game import World
from env_registry.parameters import SettingError
from rllib_empathy.experiments.checkpoints import find_checkpoint, read_config, restore_weights
from rllib_empathy.joint import JointTrajectory
from rllib_empathy.learning.rewards import reshape
from rllib_empathy.report.svg import circle
from rllib_empathy.sampling.joint_env_runner import JointEnvRunner

GAMES = 9
"""Episodes that are played; the one with the median group return is shown."""

LONGEST = 200
"""Steps that are shown at most."""

SIDE, SCALE = 380, 2
"""Pixels of each half of a frame; drawn so many times larger and then scaled down, for smooth edges."""

FADES = 0.85
"""Share of a gift's arrow that is left after each step."""


@dataclass(frozen=True)
class Episode:
    """One episode of N agents."""

    frames: (
        NDArray[np.uint8] | None
    )  # [T, height, width, 3], what each step was taken in; None: the world draws nothing
    rewards: NDArray[np.float64]  # [T, N] extrinsic
    gifts: NDArray[np.float64]  # [T, N, N], what row gives to column in each step


def play_episode(run: str | Path, seed: int = 0) -> Episode:
    """Plays an episode that is neither good nor bad for this run: the median of a few, by group return.

    Raises:
        CheckpointError: there is no checkpoint, or it cannot be used.
        SettingError: its world does not play the same again from the same seed and actions.
    """
    path = find_checkpoint(run)
    config = read_config(path)
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=GAMES).debugging(seed=seed)
    runner = JointEnvRunner(config=config, worker_index=0)
    full = config.get_multi_rl_module_spec().build()  # with what only Learners need, to infer gifts
    for module in (runner.module, full):
        restore_weights(module, path)
    runner.policy.weights_changed()
    (joint,) = runner.sample(num_episodes=GAMES)
    runner.stop()
    returns = joint.rewards.sum(2).cumsum(0)[joint.origin["steps"] - 1, np.arange(GAMES)]
    game = int(np.argsort(returns, kind="stable")[GAMES // 2])
    steps = int(min(joint.origin["steps"][game], LONGEST))
    tensors = joint.games(game, game + 1).to_tensors()
    population = config.resolved_population()
    modules = {member.module_id: full[member.module_id] for member in population.members}
    shares = reshape(tensors, population.kinds(), modules).gifts
    gifts = np.zeros((steps, joint.shape[2], joint.shape[2]))
    if shares is not None:
        others = ~np.eye(joint.shape[2], dtype=np.bool_)
        gifts = (shares * tensors.rewards.unsqueeze(-1))[:steps, 0].numpy() * others
    frames = _drawn(config.make_world(1), joint, game, steps, seed)
    return Episode(frames, joint.rewards[:steps, game].astype(float), gifts)


def _drawn(world: World, joint: JointTrajectory, game: int, steps: int, seed: int) -> NDArray[np.uint8] | None:
    """Pictures of what each step of a game was taken in, by playing it again; None where the world draws nothing."""
    shown = world.reset(seed, first_game=game)
    frames: list[NDArray[np.uint8]] = []
    for step in range(steps):
        try:
            frames.append(world.render(0))  # type: ignore[attr-defined]
        except (AttributeError, SettingError):
            return None
        alive = joint.alive[step, game]
        as_seen = np.allclose(shown[0][alive], joint.observations[step, game][alive])
        again = world.step(joint.actions[step, game][None])
        if not (as_seen and np.allclose(again.rewards[0], joint.rewards[step, game])):
            raise SettingError(
                f"The world does not play the same again from seed {seed} and the same actions: in step {step} it shows or "
                "rewards something else, so its pictures would be of another episode. Leave the episode out: --no-replay."
            )
        shown = again.observations
    return np.stack(frames)


def animation(episode: Episode, names: Sequence[str], colours: Sequence[str], steps_per_second: float = 5) -> bytes:
    """The episode as an animated GIF.

    Each frame shows a position of the world and, beside it, the gifts of the steps just played, fading, with what each agent has
    earned and what it has after gifts.
    """
    largest = max(float(np.abs(episode.gifts).max(initial=0)), 1e-9)
    recent = np.zeros_like(episode.gifts[0])
    own = np.zeros(len(names))
    after = np.zeros(len(names))
    pictures = []
    for step, (rewards, gifts) in enumerate(zip(episode.rewards, episode.gifts, strict=True)):
        position = None if episode.frames is None else episode.frames[step]
        pictures.append(_frame(position, recent / largest, own, after, names, colours, step, bool(episode.gifts.any())))
        recent = np.where(gifts != 0, gifts, recent * FADES)
        own = own + rewards
        after = after + rewards + gifts.sum(0) - gifts.sum(1)
    pictures.append(
        _frame(position, recent / largest, own, after, names, colours, len(episode.rewards), bool(episode.gifts.any()))
    )
    # One palette for all frames: else each brings its own, and colours flicker.
    palette = pictures[len(pictures) // 2].quantize(192)
    indexed = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    times = [round(1000 / steps_per_second)] * (len(indexed) - 1) + [2500]
    file = io.BytesIO()
    indexed[0].save(file, "GIF", save_all=True, append_images=indexed[1:], duration=times, loop=0, optimize=False)
    return file.getvalue()


def _frame(
    position: NDArray[np.uint8] | None,
    recent: NDArray[np.float64],
    own: NDArray[np.float64],
    after: NDArray[np.float64],
    names: Sequence[str],
    colours: Sequence[str],
    step: int,
    gives: bool,
) -> Image.Image:
    side, offset = SIDE * SCALE, SIDE * SCALE if position is not None else 0
    image = Image.new("RGB", (offset + side, side), "white")
    draw = ImageDraw.Draw(image)
    if position is not None:
        board = Image.fromarray(position)
        factor = (side - 16 * SCALE) / max(board.size)
        board = board.resize((round(board.width * factor), round(board.height * factor)), Image.Resampling.NEAREST)
        image.paste(board, ((side - board.width) // 2, (side - board.height) // 2))
    places = circle(len(names), offset + side / 2, side / 2, side * 0.3)
    for i, j in np.argwhere(np.abs(recent) > 0.03):
        _arrow(draw, places[i], places[j], colours[i], abs(float(recent[i, j])))
    large, small = _font(17), _font(12)
    node = 22 * SCALE
    for (x, y), name, colour, mine, final in zip(places, names, colours, own, after, strict=True):
        draw.ellipse((x - node, y - node, x + node, y + node), fill=colour, outline="white", width=3 * SCALE)
        kind, _, agent = name.rpartition(" ")
        draw.text((x, y), agent, fill="white", font=large, anchor="mm")
        earned = f"{kind}  {mine:.1f}" + (f" → {final:.1f}" if gives else "")
        below = y >= side / 2 - 1
        draw.text((x, y + (node + 14 * SCALE) * (1 if below else -1)), earned, fill="#3e4c59", font=small, anchor="mm")
    caption = f"step {step}" + ("   earned → after gifts" if gives else "   earned")
    draw.text((offset + 10 * SCALE, side - 12 * SCALE), caption, fill="#7b8794", font=small, anchor="lm")
    return image.resize((image.width // SCALE, image.height // SCALE), Image.Resampling.LANCZOS)


def _arrow(
    draw: ImageDraw.ImageDraw, start: tuple[float, float], end: tuple[float, float], colour: str, strength: float
) -> None:
    """A straight arrow, beside the line between both, so that gifts both ways lie apart."""
    (x1, y1), (x2, y2) = start, end
    long = hypot(x2 - x1, y2 - y1)
    dx, dy = (x2 - x1) / long, (y2 - y1) / long
    aside, node = 9 * SCALE, 27 * SCALE
    x1, y1, x2, y2 = x1 - dy * aside, y1 + dx * aside, x2 - dy * aside, y2 + dx * aside
    wide = (1 + 9 * strength) * SCALE
    tip = (x2 - dx * node, y2 - dy * node)
    base = (tip[0] - dx * (8 * SCALE + wide), tip[1] - dy * (8 * SCALE + wide))
    pale = _paler(colour, 1 - strength)
    draw.line((x1 + dx * node, y1 + dy * node, *base), fill=pale, width=round(wide))
    half = wide / 2 + 5 * SCALE
    draw.polygon(
        [tip, (base[0] - dy * half, base[1] + dx * half), (base[0] + dy * half, base[1] - dx * half)], fill=pale
    )


def _paler(colour: str, share: float) -> tuple[int, ...]:
    channels = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return tuple(round(channel + (255 - channel) * 0.8 * share) for channel in channels)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * SCALE)
