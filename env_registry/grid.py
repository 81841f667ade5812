"""What grid worlds share: the board, moves, collisions, windows and pictures. A world adds its rules.

The board of a game is one row of integers, one per cell, whose bits say what is in the cell: bit i for agent i, then one bit per
kind of thing (waste, apple ...). Cells are numbered row by row from the top left. Two more cells lie beyond the map:

- off the map (number `cells`) holds only the bit "off the map"; windows that reach over the edge look at it;
- nowhere (number `cells + 1`) holds nothing; there stand agents that have left the game, who see nothing and are not seen.

Where moves lead and what windows show are tables over cells, so that bounded maps, tori and both views run through the same code.

Observation of agent i, `[channels, rows, columns]` of 0 and 1: the agent itself, its co-players (channel k shows agent
(i + k) mod N, so that channel 0 is oneself for everybody), the things, and on bounded maps the cells that are off the map.
Actions: 0 up, 1 down, 2 left, 3 right, further ones by the world. A move over the edge of a bounded map leads nowhere else: the
agent stays.

Collisions: agents act one after another, in an order drawn afresh for each step of each game. Of several who contend for one
apple or one cell, each is therefore equally likely to be first. Where agents block each other, a move into a cell that is
occupied at that moment does nothing: one can follow an agent that moved on earlier in the order, two cannot swap places.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from gymnasium.spaces import Box
from numba import njit
from numpy.typing import NDArray
from pydantic import Field

from env_registry.game import Array, Game, GameParameters
from env_registry.random_streams import below
from env_registry.unpacking import unpack

MOVES = ("up", "down", "left", "right")
STEPS = ((-1, 0), (1, 0), (0, -1), (0, 1))
"""Change of (row, column) by each move."""

CELL_SIZE = 24
"""Pixels of a cell in a picture."""

View = Literal["centred", "absolute"]


class GridParameters(GameParameters):
    """Parameters that every grid world has."""

    num_agents: int = Field(4, ge=1, le=15, description="agents in a game")
    height: int = Field(8, ge=1, le=64, description="rows of the map")
    width: int = Field(8, ge=1, le=64, description="columns of the map")
    window_radius: int = Field(2, ge=0, le=16, description="cells that an agent sees in each direction")
    blocking: bool = Field(False, description="whether a cell holds one agent only")

    def require(self, holds: bool, problem: str, remedy: str) -> None:
        """Refuses parameters that do not go together."""
        if not holds:
            raise ValueError(f"{problem}; {remedy}")

    def require_room(self, cells: int, where: str) -> None:
        """Agents that block each other start on different cells: there must be enough of them."""
        self.require(
            not self.blocking or self.num_agents <= cells,
            f"num_agents = {self.num_agents} agents that block each other do not fit on the {cells} cells of {where}",
            "allow fewer agents, a larger map, or blocking = False",
        )


def destinations(height: int, width: int, num_actions: int, torus: bool) -> NDArray[np.uint16]:
    """Where each action leads from each cell, `[cells + 2, actions]`; actions that are no moves lead nowhere else."""
    cells = height * width
    table = np.repeat(np.arange(cells + 2, dtype=np.uint16)[:, None], num_actions, axis=1)
    rows, columns = np.divmod(np.arange(cells), width)
    for action, (down, right) in enumerate(STEPS):
        if torus:
            new_rows, new_columns = (rows + down) % height, (columns + right) % width
        else:
            new_rows, new_columns = np.clip(rows + down, 0, height - 1), np.clip(columns + right, 0, width - 1)
        table[:cells, action] = new_rows * width + new_columns
    return table


def windows(height: int, width: int, radius: int, torus: bool, view: View) -> NDArray[np.uint16]:
    """The cells that an agent sees from each cell, `[cells + 2, window rows, window columns]`.

    Centred on a bounded map: 2 radius + 1 cells in both directions. Centred on a torus: every cell once, the agent's own at
    row height // 2 and column width // 2. Absolute: the map as it is, wherever the agent stands.
    """
    cells = height * width
    rows, columns = (numbers[:, None, None] for numbers in np.divmod(np.arange(cells), width))
    if view == "absolute":
        seen = np.broadcast_to(np.arange(cells).reshape(height, width), (cells, height, width))
    elif torus:
        seen_rows = (rows + np.arange(height)[:, None] - height // 2) % height
        seen_columns = (columns + np.arange(width) - width // 2) % width
        seen = seen_rows * width + seen_columns
    else:
        offsets = np.arange(-radius, radius + 1)
        seen_rows, seen_columns = np.broadcast_arrays(rows + offsets[:, None], columns + offsets)
        inside = (seen_rows >= 0) & (seen_rows < height) & (seen_columns >= 0) & (seen_columns < width)
        seen = np.where(inside, seen_rows * width + seen_columns, cells)
    beyond = np.full((2, *seen.shape[1:]), cells + 1)
    return np.concatenate([seen, beyond]).astype(np.uint16)


@njit(cache=True, inline="always")
def clear(board: Any, game: int) -> None:
    """Empties all cells of the map."""
    for cell in range(board.shape[1] - 2):
        board[game, cell] = 0


@njit(cache=True, inline="always")
def random_free_cell(board: Any, game: int, first: int, last: int, taken: int, num_free: int, streams: Any) -> int:
    """One of the `num_free` cells from `first` to before `last` that hold none of the bits `taken`, each equally likely."""
    left = below(streams, game, num_free)
    cell = first
    while cell < last - 1:
        if board[game, cell] & taken == 0:
            if left == 0:
                break
            left -= 1
        cell += 1
    return cell


@njit(cache=True, inline="always")
def place_agents(board: Any, cells: Any, game: int, first: int, last: int, blocking: bool, streams: Any) -> None:
    """Puts all agents on uniformly random cells from `first` to before `last`, on different ones if they block each other."""
    num_agents = cells.shape[1]
    for agent in range(num_agents):
        if blocking:
            anybody = (1 << num_agents) - 1
            cell = random_free_cell(board, game, first, last, anybody, last - first - agent, streams)
        else:
            cell = first + below(streams, game, last - first)
        cells[game, agent] = cell
        board[game, cell] |= 1 << agent


@njit(cache=True, inline="always")
def move(board: Any, cells: Any, game: int, agent: int, target: int, blocking: bool) -> None:
    """Moves one agent, unless agents block each other and the target is occupied (by itself, too, if it stays)."""
    cell = cells[game, agent]
    anybody = (1 << cells.shape[1]) - 1
    if blocking and board[game, target] & anybody:
        target = cell
    board[game, cell] ^= 1 << agent
    board[game, target] ^= 1 << agent  # restores the bit where the agent stays
    cells[game, agent] = target


@njit(cache=True, nogil=True)
def observe_windows(board: Any, cells: Any, games: Any, out: Any, window: Any, channel_bits: Any) -> None:
    """Writes the windows `out[game, agent, channel, k]` of the masked games.

    Each is bit `channel_bits[agent, channel]` of the k-th cell that the agent sees.
    """
    num_games, num_agents, num_channels, size = out.shape
    flat = out.reshape(-1)
    seen = np.empty(size, board.dtype)
    for game in range(num_games):
        if games[game]:
            for agent in range(num_agents):
                cell = cells[game, agent]
                for k in range(size):
                    seen[k] = board[game, window[cell, k]]
                for channel in range(num_channels):
                    to = ((game * num_agents + agent) * num_channels + channel) * size
                    unpack(seen, channel_bits[agent, channel], flat, to)


def agent_colours(num_agents: int) -> NDArray[np.uint8]:
    """Colours `[N, 3]` that are as far apart as N hues can be."""
    colours = [colorsys.hsv_to_rgb(agent / num_agents, 0.85, 0.9) for agent in range(num_agents)]
    return (255 * np.array(colours)).astype(np.uint8)


def draw(
    board: NDArray[Any], ground: NDArray[np.uint8], agents: NDArray[Any], things: Sequence[Sequence[int]]
) -> NDArray[np.uint8]:
    """A picture of one board.

    Args:
        board: what is in each cell, as bits `[height, width]`.
        ground: colours of the empty cells `[height, width, 3]`.
        agents: colours of the agents `[N, 3]`.
        things: colours of the kinds of things, in the order of their bits.

    Returns:
        `[height * CELL_SIZE, width * CELL_SIZE, 3]`: things fill a cell, agents are squares in it; where there are several,
        they share the room.
    """
    picture = np.kron(ground, np.ones((CELL_SIZE, CELL_SIZE, 1), np.uint8))
    picture[::CELL_SIZE] = picture[:, ::CELL_SIZE] = 90
    for row, column in np.argwhere(board != 0):
        cell = picture[row * CELL_SIZE + 1 : (row + 1) * CELL_SIZE, column * CELL_SIZE + 1 : (column + 1) * CELL_SIZE]
        present = [colour for kind, colour in enumerate(things) if board[row, column] >> (len(agents) + kind) & 1]
        for band, colour in enumerate(present):
            np.array_split(cell, len(present), axis=1)[band][:] = colour
        players = [colour for agent, colour in enumerate(agents) if board[row, column] >> agent & 1]
        places = math.ceil(math.sqrt(len(players)))
        for number, colour in enumerate(players):
            side = (CELL_SIZE - 7) // places
            top, left = (4 + side * place for place in divmod(number, places))
            cell[top : top + side - 1, left : left + side - 1] = 20
            cell[top + 1 : top + side - 2, left + 1 : left + side - 2] = colour
    return picture


class GridWorld(Game):
    """Base of grid worlds: owns the board, where the agents are, what they see, and the picture.

    A subclass calls `lay_out` in `setup` and implements `start` and `advance` on `board` and `cells`.
    """

    Parameters: ClassVar[type[GridParameters]] = GridParameters
    parameters: GridParameters
    channel_names: tuple[str, ...]

    def lay_out(
        self,
        things: dict[str, Sequence[int]],
        other_actions: tuple[str, ...],
        torus: bool = False,
        view: View = "centred",
        owned: bool = False,
    ) -> None:
        """Allocates the board and builds the tables.

        Args:
            things: the kinds of things with their colours; they get the bits after the agents'.
            other_actions: names of the actions after the four moves.
            torus: whether the map's edges are joined.
            view: what windows show.
            owned: whether there is one kind of things per agent; an agent then sees its own kind first, as it sees itself.
        """
        rules = self.parameters
        height, width, num_agents = rules.height, rules.width, rules.num_agents
        self.action_names = MOVES + other_actions
        self.num_cells = height * width
        self.nowhere = self.num_cells + 1
        self._thing_colours = list(things.values())

        seen = windows(height, width, rules.window_radius, torus, view)
        edge = view == "centred" and not torus
        self.fully_observed = not edge
        off_map = num_agents + len(things)
        others = [f"co-player {k}" for k in range(1, num_agents)]
        self.channel_names = ("self", *others, *things, *(["off the map"] if edge else []))
        self.observation_space = Box(0, 1, (len(self.channel_names), *seen.shape[1:]), np.uint8)
        self._window = np.ascontiguousarray(seen.reshape(len(seen), -1))
        self.destination = destinations(height, width, len(self.action_names), torus)

        turned = (np.arange(num_agents)[:, None] + np.arange(num_agents)) % num_agents
        fixed = np.tile(np.arange(num_agents, off_map + edge), (num_agents, 1))
        if owned:
            fixed[:, :num_agents] = num_agents + turned
        self._channel_bits = np.concatenate([turned, fixed], axis=1)

        self.board = self.array("board", (self.num_cells + 2,), np.uint16 if off_map < 16 else np.uint32)
        self.board[:, self.num_cells] = edge << off_map
        self.cells = self.array("cells", (num_agents,), np.uint16)

    def observe(self, out: Array, games: NDArray[np.bool_]) -> None:
        windows_out = out.reshape(*out.shape[:3], -1)
        self.run(observe_windows, (self.board, self.cells, games, windows_out), self._window, self._channel_bits)

    def ground(self) -> NDArray[np.uint8]:
        """Colours of the empty map, `[height, width, 3]`."""
        return np.full((self.parameters.height, self.parameters.width, 3), 235, np.uint8)

    def render(self, game: int = 0) -> NDArray[np.uint8]:
        ground = self.ground()
        board = self.board[game, : self.num_cells].reshape(ground.shape[:2])
        return draw(board, ground, agent_colours(self.num_agents), self._thing_colours)
