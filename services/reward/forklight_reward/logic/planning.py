"""Logic tasks about moves: towers, blocks, things that people hand over."""

from __future__ import annotations

import random
from collections.abc import Sequence

from forklight_reward.logic.fields import texts, whole, wholes
from forklight_reward.logic.reading import read_moves
from forklight_reward.logic.task import LogicTask, Puzzle, Spec
from forklight_reward.logic.vocabulary import PEOPLE, split_commas

PEGS = "ABC"
Move = tuple[str, str]


def plan_tower(pegs: Sequence[int], goal: int) -> list[tuple[int, int]]:
    """The shortest way to bring all discs to one peg; `pegs` says where each disc is, the smallest first."""
    if not pegs:
        return []
    *smaller, largest = pegs
    if largest == goal:
        return plan_tower(smaller, goal)
    aside = 3 - largest - goal
    return [*plan_tower(smaller, aside), (largest, goal), *plan_tower([aside] * len(smaller), goal)]


def move_disc(pegs: list[int], start: int, end: int) -> bool:
    """Move the top disc of a peg; False when there is none, or a smaller one lies where it should go."""
    for disc, peg in enumerate(pegs):
        if peg == end:
            return False
        if peg == start:
            pegs[disc] = end
            return True
    return False


class TowersOfHanoi:
    """Discs to be brought to one peg from any legal position, within a stated number of moves."""

    name = "towers_of_hanoi"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """4 to 8 discs; the room for detours shrinks."""
        num_discs = 3 + level
        while True:
            pegs, goal = [chance.randrange(3) for _ in range(num_discs)], chance.randrange(3)
            num_needed = len(plan_tower(pegs, goal))
            if num_needed >= 2 ** (num_discs - 1):
                break
        most = num_needed + chance.randrange(1, 7 - level)
        stacks = []
        for peg, name in enumerate(PEGS):
            discs = [str(disc + 1) for disc in reversed(range(num_discs)) if pegs[disc] == peg]
            stacks.append(f"- {name}: {', '.join(discs) or 'empty'}")
        position = "\n".join(stacks)
        prompt = (
            f"There are three pegs A, B and C and {num_discs} discs, numbered by size (1 is the "
            "smallest). A move takes "
            "the top disc of one peg to the top of another one; a disc never lies on a smaller one. The "
            "position, "
            f"from bottom to top:\n{position}\n\nBring all discs to peg {PEGS[goal]} in at most {most} "
            "moves. Write "
            "the moves in order as from->to, separated by commas, inside \\boxed{}, like \\boxed{A->B, C->B}."
        )
        return Puzzle(prompt=prompt, spec={"pegs": pegs, "goal": goal, "most": most})

    def solve(self, spec: Spec) -> str:
        """The shortest sequence."""
        moves = plan_tower(wholes(spec, "pegs"), whole(spec, "goal"))
        return ", ".join(f"{PEGS[start]}->{PEGS[end]}" for start, end in moves)

    def verify(self, spec: Spec, answer: str) -> bool:
        """Legal moves, not too many, that end at the goal."""
        pegs, goal, most = wholes(spec, "pegs"), whole(spec, "goal"), whole(spec, "most")
        moves = read_moves(answer)
        if moves is None or len(moves) > most:
            return False
        for start, end in moves:
            if start not in (*PEGS,) or end not in (*PEGS,) or start == end:
                return False
            if not move_disc(pegs, PEGS.index(start), PEGS.index(end)):
                return False
        return all(peg == goal for peg in pegs)


TABLE = "table"
Below = dict[str, str]
"""What every block stands on."""


def draw_stacks(chance: random.Random, blocks: Sequence[str]) -> list[str]:
    """Blocks in random stacks, each from bottom to top."""
    stacks: list[str] = []
    for block in chance.sample(blocks, len(blocks)):
        if stacks and chance.random() < 0.7:
            place = chance.randrange(len(stacks))
            stacks[place] += block
        else:
            stacks.append(block)
    return sorted(stacks)


def below_of(stacks: Sequence[str]) -> Below:
    """What every block stands on."""
    return {
        block: stack[place - 1] if place else TABLE for stack in stacks for place, block in enumerate(stack)
    }


def is_settled(block: str, now: Below, goal: Below) -> bool:
    """Whether a block and everything under it stand where they will stay."""
    while block != TABLE:
        if now[block] != goal[block]:
            return False
        block = now[block]
    return True


def plan_blocks(start: Sequence[str], end: Sequence[str]) -> list[Move]:
    """To its last place whatever can go there, else a block that is in the way to the table."""
    now, goal = below_of(start), below_of(end)
    moves: list[Move] = []
    while now != goal:
        clear = [block for block in sorted(now) if block not in now.values()]
        wrong = [block for block in clear if not is_settled(block, now, goal)]
        ready = [
            block
            for block in wrong
            if goal[block] == TABLE or (goal[block] in clear and is_settled(goal[block], now, goal))
        ]
        block = ready[0] if ready else next(each for each in wrong if now[each] != TABLE)
        now[block] = goal[block] if ready else TABLE
        moves.append((block, now[block]))
    return moves


class BlockStacking:
    """Blocks to be moved one at a time into stated stacks, within a stated number of moves."""

    name = "block_stacking"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """4 to 12 blocks."""
        blocks = "ABCDEFGHIJKL"[: 2 + 2 * level]
        while True:
            start, end = draw_stacks(chance, blocks), draw_stacks(chance, blocks)
            num_needed = len(plan_blocks(start, end))
            if num_needed > level + 1:
                break
        most = num_needed + (2 if level < 3 else 0)
        prompt = (
            f"Blocks stand on a table in stacks, written from bottom to top: {', '.join(start)}. A move "
            "takes one block "
            "that has nothing on it and puts it on another block that has nothing on it, or on the "
            "table, where "
            f"there is always room. Reach these stacks (their order does not matter): {', '.join(end)}. "
            "Use at "
            f"most {most} moves.\n\nWrite the moves in order, each as block->where, separated by commas, "
            "inside "
            "\\boxed{}, like \\boxed{B->table, A->C}."
        )
        return Puzzle(prompt=prompt, spec={"start": start, "end": end, "most": most})

    def solve(self, spec: Spec) -> str:
        """A sequence that is short enough."""
        moves = plan_blocks(texts(spec, "start"), texts(spec, "end"))
        return ", ".join(f"{block}->{where}" for block, where in moves)

    def verify(self, spec: Spec, answer: str) -> bool:
        """Legal moves, not too many, that end in the stated stacks."""
        now, goal, most = below_of(texts(spec, "start")), below_of(texts(spec, "end")), whole(spec, "most")
        moves = read_moves(answer)
        if moves is None or len(moves) > most:
            return False
        for block, where in moves:
            covered = set(now.values())
            if block not in now or block in covered or block == where or now[block] == where:
                return False
            if where != TABLE and (where not in now or where in covered):
                return False
            now[block] = where
        return now == goal


THINGS = ("ball", "book", "bell", "coin", "cup", "drum", "key", "lamp", "map", "ring")


class ObjectTracking:
    """Who has what after many exchanges: everybody is asked for."""

    name = "object_tracking"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """4 to 8 people; from level 3 in rounds of three, from level 4 whoever has something."""
        people = chance.sample(PEOPLE, 3 + level)
        things = chance.sample(THINGS, len(people))
        has = dict(zip(people, things, strict=True))
        told = []
        for _ in range(2 + 4 * level):
            if level >= 4 and chance.random() < 0.4:
                thing, name = chance.choice(things), chance.choice(people)
                owner = next(each for each in people if has[each] == thing)
                told.append(f"Whoever has the {thing} swaps with {name} (nothing happens if that is {name}).")
                has[owner], has[name] = has[name], has[owner]
            elif level >= 3 and chance.random() < 0.4:
                one, two, three = chance.sample(people, 3)
                told.append(f"At the same time {one} gives to {two}, {two} to {three}, and {three} to {one}.")
                has[two], has[three], has[one] = has[one], has[two], has[three]
            else:
                one, two = chance.sample(people, 2)
                told.append(f"{one} and {two} swap.")
                has[one], has[two] = has[two], has[one]
        start = ", ".join(f"{name} the {thing}" for name, thing in zip(people, things, strict=True))
        events = "\n".join(f"{place}. {event}" for place, event in enumerate(told, start=1))
        prompt = (
            f"At first everybody has one thing: {start}. Then they hand over what they have at that "
            f"moment:\n{events}"
            f"\n\nWho has what in the end? Write one word, the thing, for each of {', '.join(people)}, in "
            "this order, "
            "separated by commas, inside \\boxed{}, like \\boxed{ball, key, ...}."
        )
        return Puzzle(prompt=prompt, spec={"things": [has[name] for name in people]})

    def solve(self, spec: Spec) -> str:
        """Everybody's thing."""
        return ", ".join(texts(spec, "things"))

    def verify(self, spec: Spec, answer: str) -> bool:
        """All of them."""
        return split_commas(answer) == texts(spec, "things")


PLANNING_TASKS: tuple[LogicTask, ...] = (TowersOfHanoi(), BlockStacking(), ObjectTracking())
