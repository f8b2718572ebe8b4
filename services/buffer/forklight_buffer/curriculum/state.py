"""Where a curriculum stands: what is known of every prompt, every task's level, and what is open.

Pages of evidence move it, in the order groups finished. It never looks at a clock, at Redis or at anything
else that a restart could change.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping

from forklight_buffer.curriculum.chance import Chance, chance_of
from forklight_buffer.curriculum.difficulty import Difficulty
from forklight_buffer.curriculum.judged import judged_shares
from forklight_buffer.curriculum.levels import Ladder, LevelChange
from forklight_buffer.curriculum.pool import Pool
from forklight_buffer.curriculum.schedule import Moment, Stock, domain_weight, split_shares, synthetic_factor
from forklight_buffer.ledger import EvidencePage
from forklight_buffer.prompts import PromptBook
from forklight_buffer.records import Evidence
from forklight_core.errors import ConfigError
from forklight_core.runfile import RunFile

CHANGES_KEPT = 256


class CurriculumState:
    """Made of the prompts and the run file; moved by evidence and openings alone."""

    def __init__(self, book: PromptBook, run_file: RunFile) -> None:
        self._book = book
        self._run_file = run_file
        section = run_file.curriculum
        self.difficulty = Difficulty(len(book), section.difficulty)
        self.pool = Pool(book.prompts, section.synthetic.sources, self.difficulty.weight(0))
        self.ladders = {
            task: Ladder(task, levels, section.levels) for task, levels in self.pool.levels().items()
        }
        self.changes: deque[LevelChange] = deque(maxlen=CHANGES_KEPT)
        self.last_number = 0
        self.lineage, self.step = "", 0
        self._open = Counter[int]()
        self._counts = self.pool.domains
        self._judged = judged_shares(book.prompts)
        self._weights: tuple[Moment, dict[str, float]] | None = None
        check_domains(self._counts, run_file)
        self.pool.draw_from(self.ladders)

    def follows(self, page: EvidencePage) -> bool:
        """Whether a page goes on where this stands: not when the run went back, or onto another line."""
        is_new = not self.last_number and not self.step
        return is_new or (page.lineage == self.lineage and page.step >= self.step)

    def learn(self, page: EvidencePage) -> None:
        """A page of evidence; the last one says what is open."""
        self.lineage, self.step, self.last_number = page.lineage, page.step, page.last_number
        touched = set()
        for row in page.rows:
            place = self._book.place_of(row.prompt_id)
            if place is None:
                continue  # the prompt is no longer in its file
            touched.add(place)
            self._shut(place)
            if row.num_scored:
                self._learn_one(place, row)
        for place in touched:
            self._weigh(place)

    def _learn_one(self, place: int, row: Evidence) -> None:
        self.difficulty.learn(place, row.num_scored, row.passed)
        key = self.pool.key_of(place)
        if key.level is None:
            return
        rate = row.passed / row.num_scored
        change = self.ladders[key.task].see(key.level, rate, number=row.number, step=row.step)
        if change is not None:
            self.changes.append(change)
            self.pool.draw_from(self.ladders)

    def set_open(self, open_prompts: Mapping[str, int]) -> None:
        """What is open is exactly this."""
        found = {self._book.place_of(name): count for name, count in open_prompts.items()}
        now = Counter({place: count for place, count in found.items() if place is not None})
        moved = [place for place in {*now, *self._open} if now[place] != self._open[place]]
        self._open = now
        for place in moved:
            self._weigh(place)

    def open_prompt(self, place: int) -> None:
        """A group of the prompt was opened: it is not drawn again while others can be."""
        self._open[place] += 1
        self._weigh(place)

    def _shut(self, place: int) -> None:
        if self._open[place] <= 1:
            del self._open[place]
        else:
            self._open[place] -= 1

    def _weigh(self, place: int) -> None:
        self.pool.change(place, 0 if self._open.get(place) else self.difficulty.weight(place))

    def draw(self, position: int, moment: Moment) -> int:
        """The prompt of a position, and it is open from now on."""
        chance = chance_of(self._run_file.run.seed, position)
        shares = self.shares(moment)
        if shares:
            place = self.pool.parts[_pick(shares, chance)].draw(chance.whole)
        else:
            place = self.pool.parts[_pick(self._shares_of_all(moment), chance)].draw_evenly(chance.whole)
        self.open_prompt(place)
        return place

    def shares(self, moment: Moment) -> dict[tuple[str, bool], float]:
        """Of every domain, plain and synthetic; empty when every prompt that may be drawn is open."""
        return self._split(moment, self.pool.stocks())

    def _shares_of_all(self, moment: Moment) -> dict[tuple[str, bool], float]:
        """As if nothing was open; and should every weight be 0 at the moment, by numbers of prompts."""
        sizes = self.pool.sizes()
        return self._split(moment, sizes) or split_shares(self._drawn_at_all(), sizes, 1.0)

    def _split(self, moment: Moment, stocks: Mapping[str, Stock]) -> dict[tuple[str, bool], float]:
        return split_shares(self.weights(moment), stocks, synthetic_factor(self._run_file, moment.window))

    def weights(self, moment: Moment) -> dict[str, float]:
        """By domain, as the run file says (without a word of it by numbers of prompts), and the judge."""
        if self._weights is None or self._weights[0] != moment:
            named = self._run_file.curriculum.domains
            found = {
                name: (domain_weight(named[name], moment) if named else float(count))
                * (1.0 - (1.0 - moment.judged) * self._judged[name])
                for name, count in self._counts.items()
            }
            self._weights = moment, found
        return self._weights[1]

    def _drawn_at_all(self) -> dict[str, int]:
        """Numbers of prompts of the domains that are not left out."""
        named = self._run_file.curriculum.domains
        return {name: count for name, count in self._counts.items() if not named or named[name].weight}

    def wanting(self, moment: Moment) -> dict[str, str]:
        """Domains that have a weight and nothing to draw, and why: their share goes to the others."""
        stocks = self.pool.stocks()
        named = self._run_file.curriculum.domains
        found = {
            name: "prompts.train has no prompt of it"
            for name, each in named.items()
            if name not in self._counts and each.weight
        }
        for name, weight in self.weights(moment).items():
            if weight and not (name in stocks and stocks[name].total):
                found[name] = (
                    f"each of its {self._counts[name]} prompts has an open group, or is above its level"
                )
        return found


def check_domains(counts: Mapping[str, int], run_file: RunFile) -> None:
    """ConfigError for prompts nobody gave a weight."""
    named = run_file.curriculum.domains
    strange = [name for name in counts if name not in named] if named else []
    if strange:
        raise ConfigError(
            f"{run_file.prompts.train} has {counts[strange[0]]} prompts of domain {strange[0]!r}, which "
            f"curriculum.domains does not name (it has {', '.join(sorted(named))}): give it a weight, "
            "0 leaves it out"
        )
    if named and not any(named[name].weight for name in counts):
        raise ConfigError(
            f"every prompt of {run_file.prompts.train} is of a domain whose weight in curriculum.domains "
            "is 0: nothing could be drawn"
        )


def _pick(shares: Mapping[tuple[str, bool], float], chance: Chance) -> tuple[str, bool]:
    target, last = chance.share * sum(shares.values()), None
    for part, share in shares.items():
        last = part
        if target < share:
            return part
        target -= share
    if last is None:
        raise AssertionError("there is always a prompt to draw")
    return last
