"""Logic tasks about time: dates in calendars with rules of their own, meetings to be fitted in."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from forklight_reward.logic.fields import text, text_rows, whole_rows, wholes
from forklight_reward.logic.task import LogicTask, Puzzle, Spec
from forklight_reward.logic.vocabulary import PEOPLE, split_commas

Date = tuple[int, int, int]
"""Day, month, year: all count from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calendar:
    """Months, their lengths in common years, weekdays, and when the leap month has one day more."""

    lengths: Sequence[int]
    weekdays: Sequence[str]
    leap_month: int
    every: tuple[int, int, int]
    """Leap years are divisible by the first; those divisible by the second only if by the third too."""

    def month_length(self, month: int, year: int) -> int:
        """Days of a month."""
        often, seldom, again = self.every
        is_leap = year % often == 0 and (year % seldom != 0 or year % again == 0)
        return self.lengths[month - 1] + int(is_leap and month == self.leap_month)

    def add(self, date: Date, num_days: int) -> Date:
        """A date so many days later, or earlier when they are negative."""
        day, month, year = date
        day += num_days
        while day < 1:
            month, year = (month - 1, year) if month > 1 else (len(self.lengths), year - 1)
            day += self.month_length(month, year)
        while day > (length := self.month_length(month, year)):
            day -= length
            month, year = (month + 1, year) if month < len(self.lengths) else (1, year + 1)
        return day, month, year


GREGORIAN = Calendar(
    lengths=(31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31),
    weekdays=("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    leap_month=2,
    every=(4, 100, 400),
)
WEEKDAYS = ("Arday", "Benday", "Corday", "Dunday", "Elday", "Fenday", "Garday", "Holday", "Inday")


def draw_calendar(chance: random.Random) -> Calendar:
    """Rules nobody has seen."""
    num_months, often = chance.randrange(5, 14), chance.randrange(3, 7)
    return Calendar(
        lengths=[chance.randrange(17, 40) for _ in range(num_months)],
        weekdays=WEEKDAYS[: chance.randrange(5, 10)],
        leap_month=chance.randrange(1, num_months + 1),
        every=(often, often * 10, often * 40),
    )


def tell_calendar(calendar: Calendar) -> str:
    """All rules of a calendar."""
    lengths = ", ".join(str(length) for length in calendar.lengths)
    often, seldom, again = calendar.every
    return (
        f"A country has a calendar of its own: a year has {len(calendar.lengths)} months of {lengths} "
        "days, in this "
        f"order. Month {calendar.leap_month} has one day more in leap years: those whose number is "
        "divisible by "
        f"{often}, except that years divisible by {seldom} are leap years only if divisible by {again}. A "
        "week has "
        f"{len(calendar.weekdays)} days: {', '.join(calendar.weekdays)}."
    )


class CalendarArithmetic:
    """A date and its weekday some days away; from level 3 in an invented calendar."""

    name = "calendar_arithmetic"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """Tens of days at level 1, tens of thousands at level 5."""
        calendar = GREGORIAN if level < 3 else draw_calendar(chance)
        month, year = chance.randrange(1, len(calendar.lengths) + 1), chance.randrange(1590, 2390)
        date = chance.randrange(1, calendar.month_length(month, year) + 1), month, year
        most = (90, 1000, 300, 3000, 30000)[level - 1]
        distance = chance.randrange(most // 3, most)
        later = level == 1 or chance.random() < 0.5
        weekday, count = chance.randrange(len(calendar.weekdays)), len(calendar.weekdays)
        moved = distance if later else -distance
        day, month, year = calendar.add(date, moved)
        rules = "Use the Gregorian calendar." if level < 3 else tell_calendar(calendar)
        prompt = (
            f"{rules} Suppose that {date[0]}/{date[1]}/{date[2]} (day/month/year) is a "
            f"{calendar.weekdays[weekday]}, "
            f"whatever you may know otherwise. Which date is {distance} days "
            f"{'after' if later else 'before'} it, and "
            "which weekday is that? Write the date as day/month/year without leading zeros, a comma and "
            "the weekday "
            f"inside \\boxed{{}}, like \\boxed{{1/2/2000, {calendar.weekdays[0]}}}."
        )
        answer = f"{day}/{month}/{year}, {calendar.weekdays[(weekday + moved) % count]}"
        return Puzzle(prompt=prompt, spec={"answer": answer})

    def solve(self, spec: Spec) -> str:
        """Date and weekday."""
        return text(spec, "answer")

    def verify(self, spec: Spec, answer: str) -> bool:
        """Both."""
        return split_commas(answer) == split_commas(text(spec, "answer"))


QUARTERS = range(9 * 4, 17 * 4)
"""Of an hour since midnight, in which meetings may lie."""
SLOT = re.compile(r"([A-Z]) +([0-9]{1,2}):(00|15|30|45)")
Starts = Mapping[str, int]


def clock(quarter: int) -> str:
    """A time of day."""
    return f"{quarter // 4}:{quarter % 4 * 15:02d}"


def overlap(start: int, end: int, other_start: int, other_end: int) -> bool:
    """Whether two times of one person collide."""
    return start < other_end and other_start < end


def read_slots(answer: str) -> Starts | None:
    """When every meeting starts; None when that cannot be read or a meeting is named twice."""
    found: dict[str, int] = {}
    for part in split_commas(answer):
        slot = SLOT.fullmatch(part)
        if slot is None or slot[1] in found:
            return None
        found[slot[1]] = int(slot[2]) * 4 + int(slot[3]) // 15
    return found


class TimeScheduling:
    """Meetings for people who are busy now and then; any time table that keeps all rules is right."""

    name = "time_scheduling"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """3 to 11 meetings around a secret time table."""
        meetings = "ABCDEFGHIJK"[: 1 + 2 * level]
        people = chance.sample(PEOPLE, 2 + level)
        lengths = [chance.randrange(2, 7) for _ in meetings]
        while len((table := self._draw_table(chance, people, lengths))[1]) < len(meetings):
            pass
        guests, starts = table
        busy = self._draw_busy(chance, people, (lengths, guests, starts), level)
        order = [[one, two] for one, two in combinations(range(len(meetings)), 2)]
        order = [[one, two] if starts[one] < starts[two] else [two, one] for one, two in order]
        order = [[one, two] for one, two in order if starts[one] + lengths[one] <= starts[two]]
        order = sorted(chance.sample(order, min(len(order), level)))
        spec: Spec = {"lengths": lengths, "guests": guests, "busy": busy, "order": order, "starts": starts}
        return Puzzle(prompt=self._tell(meetings, people, spec), spec=spec)

    def _draw_table(
        self, chance: random.Random, people: Sequence[str], lengths: Sequence[int]
    ) -> tuple[list[list[str]], list[int]]:
        """Guests and starts without collisions; too few of them when there was no room."""
        guests: list[list[str]] = []
        starts: list[int] = []
        for length in lengths:
            for _ in range(100):
                wanted = sorted(chance.sample(people, 2))
                start = chance.randrange(QUARTERS.start, QUARTERS.stop - length + 1)
                if all(
                    not (set(wanted) & set(guests[place]))
                    or not overlap(start, start + length, starts[place], starts[place] + lengths[place])
                    for place in range(len(starts))
                ):
                    guests.append(wanted)
                    starts.append(start)
                    break
            else:
                break
        return guests, starts

    def _draw_busy(
        self,
        chance: random.Random,
        people: Sequence[str],
        table: tuple[Sequence[int], Sequence[Sequence[str]], Sequence[int]],
        level: int,
    ) -> list[list[str]]:
        """Times that leave the secret table possible: person, start and end in quarters."""
        lengths, guests, starts = table
        busy: list[list[str]] = []
        for person in people:
            taken = [
                (start, start + length)
                for length, names, start in zip(lengths, guests, starts, strict=True)
                if person in names
            ]
            for _ in range(12 + 2 * level):
                start, length = chance.choice(QUARTERS), chance.randrange(2, 9)
                end = min(start + length, QUARTERS.stop)
                if not any(overlap(start, end, *times) for times in taken):
                    busy.append([person, str(start), str(end)])
                    taken.append((start, end))
        return sorted(busy, key=lambda row: (row[0], int(row[1])))

    def _tell(self, meetings: str, people: Sequence[str], spec: Spec) -> str:
        lengths, guests, order = wholes(spec, "lengths"), text_rows(spec, "guests"), whole_rows(spec, "order")
        wanted = "\n".join(
            f"- {name}: {15 * length} minutes, with {' and '.join(names)}"
            for name, length, names in zip(meetings, lengths, guests, strict=True)
        )
        busy = text_rows(spec, "busy")
        times = "\n".join(
            f"- {person}: {', '.join(spans)}"
            for person in sorted(people)
            if (
                spans := [
                    f"{clock(int(start))} to {clock(int(end))}" for name, start, end in busy if name == person
                ]
            )
        )
        ordered = "".join(
            f"- {meetings[one]} must be over when {meetings[two]} starts.\n" for one, two in order
        )
        return (
            f"Find a start for each of these meetings:\n{wanted}\n\nBusy times, in which a person cannot "
            f"meet:\n{times}"
            f"\n\nMore rules:\n{ordered}- Meetings start at full hours or 15, 30 or 45 minutes past, not "
            "before 9:00, "
            "and end by 17:00.\n- Nobody is in two meetings at once; one may start when another one "
            "ends.\n\nAny "
            "time table that keeps all rules is right. Write every meeting and its start, separated by "
            "commas, inside "
            "\\boxed{}, like \\boxed{A 9:00, B 13:30}."
        )

    def solve(self, spec: Spec) -> str:
        """The table the rules came from."""
        starts = wholes(spec, "starts")
        return ", ".join(f"{name} {clock(start)}" for name, start in zip("ABCDEFGHIJK", starts, strict=False))

    def verify(self, spec: Spec, answer: str) -> bool:
        """Every meeting once, and every rule."""
        lengths, guests = wholes(spec, "lengths"), text_rows(spec, "guests")
        busy = [(name, int(start), int(end)) for name, start, end in text_rows(spec, "busy")]
        order = whole_rows(spec, "order")
        found = read_slots(answer)
        names = "ABCDEFGHIJK"[: len(lengths)]
        if found is None or set(found) != set(names):
            return False
        spans = [(found[name], found[name] + length) for name, length in zip(names, lengths, strict=True)]
        return (
            all(QUARTERS.start <= start and end <= QUARTERS.stop for start, end in spans)
            and not any(
                overlap(*spans[one], *spans[two]) and set(guests[one]) & set(guests[two])
                for one, two in combinations(range(len(spans)), 2)
            )
            and not any(
                overlap(*span, start, end) and person in people
                for span, people in zip(spans, guests, strict=True)
                for person, start, end in busy
            )
            and all(spans[one][1] <= spans[two][0] for one, two in order)
        )


TIME_TASKS: tuple[LogicTask, ...] = (CalendarArithmetic(), TimeScheduling())
