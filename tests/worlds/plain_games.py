"""The grid worlds once more, one game at a time in plain Python: slow, obvious, and drawing from the same random streams."""

from __future__ import annotations

from typing import Any

import numpy as np

Cell = tuple[int, int]
ALL_BITS = (1 << 64) - 1
GAMMA, MIX_1, MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
MOVES = {0: (-1, 0), 1: (1, 0), 2: (0, -1), 3: (0, 1)}
STAY = 4


def mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * MIX_1) & ALL_BITS
    z = ((z ^ (z >> 27)) * MIX_2) & ALL_BITS
    return z ^ (z >> 31)


class PlainStream:
    """SplitMix64, started for one game of a seed."""

    def __init__(self, seed: int, game: int) -> None:
        self.state = mix(mix((seed + GAMMA) & ALL_BITS) ^ mix((game * MIX_2 + GAMMA) & ALL_BITS))

    def uniform(self) -> float:
        self.state = (self.state + GAMMA) & ALL_BITS
        return (mix(self.state) >> 11) / 2**53

    def below(self, n: int) -> int:
        return int(self.uniform() * n)

    def order(self, n: int) -> list[int]:
        left, order = self.uniform(), [0]
        for position in range(1, n):
            left *= position + 1
            chosen, left = int(left), left - int(left)
            order.append(position)
            order[chosen], order[position] = position, order[chosen]
        return order


class PlainGame:
    """Agents and things on a map; a subclass has the rules."""

    event_names: tuple[str, ...]
    torus = False
    view = "centred"

    def __init__(self, rules: Any, seed: int, game: int) -> None:
        self.rules, self.stream = rules, PlainStream(seed, game)
        self.agents = range(rules.num_agents)
        self.map = [(row, column) for row in range(rules.height) for column in range(rules.width)]
        self.begin()

    def begin(self) -> None:
        self.clock = 0
        self.things: dict[str, set[Cell]] = {}
        self.where: list[Cell | None] = [None for _ in self.agents]
        self.start()

    def start(self) -> None:
        raise AssertionError("a subclass has the rules")

    def play(self, actions: list[int]) -> None:
        raise AssertionError("a subclass has the rules")

    def step(self, actions: list[int]) -> None:
        """Sets rewards, events, terminated, truncated, last (the observations before any restart)."""
        self.rewards = [0.0 for _ in self.agents]
        self.events = {name: [0 for _ in self.agents] for name in self.event_names}
        self.terminated = False
        self.play(actions)
        self.clock += 1
        self.truncated = self.clock >= self.rules.episode_length and not self.terminated
        self.last, self.alive = self.look(), [cell is not None for cell in self.where]
        if self.terminated or self.truncated:
            self.begin()

    def pick(self, cells: list[Cell]) -> Cell:
        return cells[self.stream.below(len(cells))]

    def scatter(self, name: str, count: int, cells: list[Cell], taken: tuple[str, ...] = ()) -> None:
        lying = self.things.setdefault(name, set())
        for _ in range(count):
            everything = lying.union(*(self.things[other] for other in taken))
            lying.add(self.pick([cell for cell in cells if cell not in everything]))

    def place_agents(self, cells: list[Cell]) -> None:
        for agent in self.agents:
            self.where[agent] = self.pick([c for c in cells if not (self.rules.blocking and c in self.where)])

    def move(self, agent: int, action: int) -> None:
        cell = self.where[agent]
        if cell is None or action not in MOVES:
            return
        row, column = cell[0] + MOVES[action][0], cell[1] + MOVES[action][1]
        if self.torus:
            row, column = row % self.rules.height, column % self.rules.width
        if (row, column) in self.map and not (self.rules.blocking and (row, column) in self.where):
            self.where[agent] = (row, column)

    def channels(self, agent: int) -> list[set[Cell]]:
        turned = [(agent + k) % len(self.agents) for k in self.agents]
        return [{cell} if (cell := self.where[other]) else set() for other in turned] + list(self.things.values())

    def look(self) -> np.ndarray:
        return np.stack([self.window(agent) for agent in self.agents])

    def window(self, agent: int) -> np.ndarray:
        height, width, radius = self.rules.height, self.rules.width, self.rules.window_radius
        row, column = self.where[agent] or (0, 0)
        if self.view == "absolute":
            seen = [[(r, c) for c in range(width)] for r in range(height)]
        elif self.torus:
            seen = [
                [((row + r - height // 2) % height, (column + c - width // 2) % width) for c in range(width)]
                for r in range(height)
            ]
        else:
            reach = range(-radius, radius + 1)
            seen = [[(row + r, column + c) for c in reach] for r in reach]
        layers = [[[cell in things for cell in line] for line in seen] for things in self.channels(agent)]
        if self.view == "centred" and not self.torus:
            layers.append([[cell not in self.map for cell in line] for line in seen])
        return np.array(layers, np.uint8) * (self.where[agent] is not None)


class PlainCleanup(PlainGame):
    event_names = ("waste_cleaned", "apples_eaten")

    def start(self) -> None:
        first_orchard_row = self.rules.height - self.rules.orchard_rows
        self.river = [cell for cell in self.map if cell[0] < self.rules.river_rows]
        self.orchard = [cell for cell in self.map if cell[0] >= first_orchard_row]
        self.scatter("waste", self.rules.initial_waste, self.river)
        self.things["apple"] = set()
        self.place_agents([cell for cell in self.map if cell not in self.river + self.orchard])

    def play(self, actions: list[int]) -> None:
        rules, waste, apples = self.rules, self.things["waste"], self.things["apple"]
        for agent in self.stream.order(rules.num_agents):
            cell = self.where[agent]
            if actions[agent] == 5 and cell in waste:
                waste.remove(cell)
                self.rewards[agent] -= rules.cleaning_cost
                self.events["waste_cleaned"][agent] += 1
            if actions[agent] == 6 and cell in apples:
                apples.remove(cell)
                self.rewards[agent] += rules.apple_reward
                self.events["apples_eaten"][agent] += 1
            self.move(agent, actions[agent])
        for _ in range(rules.spawns_per_step):
            if len(waste) < rules.max_waste and self.stream.uniform() < rules.waste_probability:
                self.scatter("waste", 1, self.river)
            probability = rules.apple_probability * (1 - len(waste) / rules.max_waste)
            if len(apples) < len(self.orchard) and self.stream.uniform() < probability:
                self.scatter("apple", 1, self.orchard)


class PlainSnowdrift(PlainGame):
    event_names = ("drifts_removed",)

    def start(self) -> None:
        self.scatter("drift", self.rules.drifts, self.map)
        self.place_agents(self.map)

    def play(self, actions: list[int]) -> None:
        drifts = self.things["drift"]
        for agent in self.stream.order(self.rules.num_agents):
            cell = self.where[agent]
            if actions[agent] == 5 and cell in drifts:
                drifts.remove(cell)
                self.events["drifts_removed"][agent] += 1
                self.rewards = [reward + self.rules.removal_reward for reward in self.rewards]
                self.rewards[agent] -= self.rules.removal_cost
                self.terminated = self.rules.ends_when_cleared and not drifts
            self.move(agent, actions[agent])


class PlainStagHunt(PlainGame):
    event_names = ("stags", "hares")

    def start(self) -> None:
        self.things = {"stag": set(), "hare": set()}
        self.scatter("stag", self.rules.stags, self.map)
        self.scatter("hare", self.rules.hares, self.map, taken=("stag",))
        self.place_agents(self.map)

    def play(self, actions: list[int]) -> None:
        rules, stags, hares = self.rules, self.things["stag"], self.things["hare"]
        hunting = {"hare": 5, "stag": 6} if rules.rule == "explicit" else {"hare": STAY, "stag": STAY}
        hunters: dict[tuple[str, Cell], list[int]] = {}
        for agent in self.agents:
            cell = self.where[agent]
            if cell in stags and actions[agent] == hunting["stag"]:
                hunters.setdefault(("stag", cell), []).append(agent)
            if cell in hares and actions[agent] == hunting["hare"]:
                hunters.setdefault(("hare", cell), []).append(agent)
        for agent in self.stream.order(rules.num_agents):
            self.move(agent, actions[agent])
        for (prey, cell), group in hunters.items():
            if prey == "stag" and len(group) < rules.hunters_needed:
                continue
            self.things[prey].remove(cell)
            for agent in group:
                self.rewards[agent] = (rules.stag_reward if prey == "stag" else rules.hare_reward) / len(group)
                self.events[prey + "s"][agent] = 1
                self.where[agent] = None
        nobody = all(cell is None for cell in self.where)
        self.terminated = bool(hunters) and (nobody or not (stags or hares))


class PlainCoinGame(PlainGame):
    event_names = ("own_coins", "other_coins")

    def start(self) -> None:
        self.torus, self.view = self.rules.torus, self.rules.view
        if self.rules.coins == "one":
            self.coins = {self.stream.below(len(self.agents)): self.pick(self.map)}
        else:
            self.coins = {owner: self.pick(self.map) for owner in self.agents}
        self.place_agents(self.map)

    def channels(self, agent: int) -> list[set[Cell]]:
        turned = [(agent + k) % len(self.agents) for k in self.agents]
        coins = [{self.coins[owner]} if owner in self.coins else set() for owner in turned]
        return super().channels(agent) + coins

    def play(self, actions: list[int]) -> None:
        rules, num_agents = self.rules, len(self.agents)
        penalty = rules.theft_penalty
        if penalty is None:
            penalty = rules.coin_reward * num_agents / (num_agents - 1)
        order = self.stream.order(num_agents)
        for agent in order:
            self.move(agent, actions[agent])
        for owner, cell in sorted(self.coins.items()):
            takers = [agent for agent in order if self.where[agent] == cell]
            if rules.contested == "one":
                takers = takers[:1]
            for agent in takers:
                self.rewards[agent] += rules.coin_reward
                self.events["own_coins" if agent == owner else "other_coins"][agent] += 1
                self.rewards[owner] -= penalty * (agent != owner)
            if takers and rules.coins == "one":
                self.coins = {self.stream.below(num_agents): self.pick(self.map)}
            elif takers:
                self.coins[owner] = self.pick(self.map)
