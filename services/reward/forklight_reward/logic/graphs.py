"""Logic tasks over graphs: colours that differ along edges, shortest ways."""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from itertools import pairwise

from forklight_reward.logic.fields import texts, whole, whole_rows
from forklight_reward.logic.reading import plain, read_path
from forklight_reward.logic.task import LogicTask, Puzzle, Spec
from forklight_reward.logic.vocabulary import split_commas

COLOURS = ("red", "green", "blue")
LARGEST_WEIGHT = 30
Edge = tuple[int, int, int]


class GraphColoring:
    """Three colours for the points of a graph; any proper colouring is right."""

    name = "graph_coloring"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """8 to 24 points, about 2.2 edges for each of them, drawn around a secret colouring."""
        num_points = 4 + 4 * level
        colours = [COLOURS[point % 3] for point in range(num_points)]
        chance.shuffle(colours)
        able = [
            [one + 1, two + 1]
            for one in range(num_points)
            for two in range(one + 1, num_points)
            if colours[one] != colours[two]
        ]
        edges = sorted(chance.sample(able, min(len(able), (11 * num_points) // 5)))
        listed = ", ".join(f"{one}-{two}" for one, two in edges)
        prompt = (
            f"A graph has the points 1 to {num_points} and these edges: {listed}.\n\nGive every point one "
            "of the "
            "colours red, green and blue so that the two points of every edge have different colours. "
            "Any such "
            f"colouring is right. Write the colours of the points 1 to {num_points}, in order, separated "
            "by commas, "
            "inside \\boxed{}, like \\boxed{red, blue, ...}."
        )
        return Puzzle(prompt=prompt, spec={"edges": edges, "colours": colours})

    def solve(self, spec: Spec) -> str:
        """The colouring the edges were drawn around."""
        return ", ".join(texts(spec, "colours"))

    def verify(self, spec: Spec, answer: str) -> bool:
        """A known colour a point, different ones along every edge."""
        edges, num_points = whole_rows(spec, "edges"), len(texts(spec, "colours"))
        given = split_commas(answer)
        if len(given) != num_points or not set(given) <= set(COLOURS):
            return False
        return all(given[one - 1] != given[two - 1] for one, two in edges)


def shortest_way(edges: Sequence[Sequence[int]], start: int, goal: int) -> tuple[int, list[int]] | None:
    """The least sum of weights and a way of that length; None when the goal cannot be reached."""
    onward: dict[int, list[tuple[int, int]]] = {}
    for one, two, weight in edges:
        onward.setdefault(one, []).append((two, weight))
    waiting: list[tuple[int, list[int]]] = [(0, [start])]
    done: set[int] = set()
    while waiting:
        length, way = heapq.heappop(waiting)
        here = way[-1]
        if here == goal:
            return length, way
        if here not in done:
            done.add(here)
            for there, weight in onward.get(here, []):
                heapq.heappush(waiting, (length + weight, [*way, there]))
    return None


class ShortestWeightedPath:
    """A way of least total weight; any of them is right. From level 3 edges have a direction."""

    name = "shortest_weighted_path"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """6 to 22 points; the way has at least three edges, from level 4 four."""
        num_points, is_directed = 2 + 4 * level, level >= 3
        fewest = 3 if level < 4 else 4
        while True:
            edges = self._draw_edges(chance, num_points, is_directed)
            start, goal = chance.sample(range(1, num_points + 1), 2)
            both = edges if is_directed else [*edges, *((two, one, weight) for one, two, weight in edges)]
            found = shortest_way(both, start, goal)
            if found is not None and len(found[1]) > fewest:
                break
        sign = "->" if is_directed else "-"
        listed = ", ".join(f"{one}{sign}{two}: {weight}" for one, two, weight in edges)
        how = (
            "can be used only from its first point to its second"
            if is_directed
            else "can be used in both directions"
        )
        prompt = (
            f"A graph has the points 1 to {num_points} and these edges, each with its length: {listed}. "
            f"An edge {how}."
            f"\n\nFind a way from {start} to {goal} with the least total length; if there are several, "
            "any of them is "
            "right. Write the points of the way, from start to end, joined by ->, inside \\boxed{}, like "
            "\\boxed{1->2->3}."
        )
        spec: Spec = {"edges": [list(edge) for edge in both], "start": start, "goal": goal, "least": found[0]}
        return Puzzle(prompt=prompt, spec=spec)

    def _draw_edges(self, chance: random.Random, num_points: int, is_directed: bool) -> list[Edge]:
        """Points along a line know those near to them, so that good ways have several edges."""
        line = chance.sample(range(1, num_points + 1), num_points)
        edges: list[Edge] = []
        for place, one in enumerate(line):
            for step in (1, 2, 3):
                if place + step < num_points and chance.random() < 0.75:
                    ends = (one, line[place + step])
                    two = ends if chance.random() < (0.65 if is_directed else 0.5) else ends[::-1]
                    weight = chance.randrange(step, 6 + step * LARGEST_WEIGHT // 4)
                    edges.append((two[0], two[1], weight))
        chance.shuffle(edges)
        return edges

    def solve(self, spec: Spec) -> str:
        """A shortest way."""
        found = shortest_way(whole_rows(spec, "edges"), whole(spec, "start"), whole(spec, "goal"))
        return "->".join(str(point) for point in (found[1] if found else []))

    def verify(self, spec: Spec, answer: str) -> bool:
        """A way along edges, of least length."""
        lengths = {(str(one), str(two)): weight for one, two, weight in whole_rows(spec, "edges")}
        ends, least = (str(whole(spec, "start")), str(whole(spec, "goal"))), whole(spec, "least")
        way = read_path(plain(answer) or "")
        if way is None or (way[0], way[-1]) != ends:
            return False
        steps = [lengths.get(step) for step in pairwise(way)]
        known = [step for step in steps if step is not None]
        return len(known) == len(steps) and sum(known) == least


GRAPH_TASKS: tuple[LogicTask, ...] = (GraphColoring(), ShortestWeightedPath())
