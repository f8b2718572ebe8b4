"""Five grades, comparisons and tournaments over a judge with a script."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from forklight_core.errors import InvalidInputError, UnavailableError
from forklight_reward.judge.chat import Message, seed_of
from forklight_reward.judge.contract import Judgement
from forklight_reward.judge.five_grades import FiveGrades, GradeOptions
from forklight_reward.judge.pairwise import NUM_PAIRS, PairStatistics, Pairwise
from forklight_reward.judge.prompt import Question
from forklight_reward.judge.scripted import Bias, ScriptedChat
from forklight_reward.judge.swiss import MOST_PLAYERS, rank_candidates


class Votes:
    """Gives grades or winners in the order they are listed; anything else is said as it is."""

    version = "votes"

    def __init__(self, *votes: int | str) -> None:
        self.votes = list(votes)

    async def complete(self, messages: Sequence[Message], *, seed: int, timeout_s: float) -> str:
        vote = self.votes.pop(0)
        if isinstance(vote, int):
            return f'{{"analysis": "", "grade": {vote}}}'
        return f'{{"analysis": "", "winner": "{vote}"}}' if vote in ("A", "B", "tie") else vote


async def judge_by(*votes: int | str, **options: bool | int) -> Judgement:
    chat = Votes(*votes)
    engine = FiveGrades(chat, GradeOptions(**options))  # type: ignore[arg-type]
    judgement = await engine.judge(prompt="p", reference="r", answer="a", timeout_s=5)
    assert not chat.votes
    return judgement


@pytest.mark.parametrize(
    ("votes", "score"),
    [
        ((5, 5), 1.0),
        ((4, 5), 0.875),
        ((1, 1), 0.0),
        ((1, 2), 0.125),
        ((1, 3, 3), 0.5),
        ((1, 4, 2), 0.25),
        ((1, 5, 5), 1.0),
        ((5, 2, 3), 0.5),
    ],
)
async def test_votes_become_a_score(votes: tuple[int, ...], score: float) -> None:
    assert (await judge_by(*votes)).score == score


@pytest.mark.parametrize("votes", [(1, 5, 3), (5, 1, 3), (1, 3, 5)])
async def test_votes_that_stay_apart_are_an_abstention(votes: tuple[int, ...]) -> None:
    judgement = await judge_by(*votes)
    assert judgement.score is None
    assert "apart" in judgement.evidence


async def test_unreadable_replies_are_an_abstention_and_no_grade() -> None:
    assert (await judge_by(5, "x", "x", "x")).score is None
    assert (await judge_by(1, 5, "x", "x", "x")).score is None


async def test_floor_pays_nothing_for_what_is_not_right() -> None:
    scores = [(await judge_by(*votes, binary_floor=True)).score for votes in ((2, 2), (2, 1), (2, 3), (4, 4))]
    assert scores == [0.0, 0.0, 0.375, 0.75]


async def test_more_votes_are_held_when_asked_for() -> None:
    assert (await judge_by(4, 4, 4, 5, num_votes=4)).score == pytest.approx(13 / 16)
    assert (await judge_by(3, num_votes=1)).score == 0.5


async def test_without_a_reference_nobody_is_asked() -> None:
    engine = FiveGrades(Votes())
    assert (await engine.judge(prompt="p", reference=" ", answer="a", timeout_s=5)).score is None


async def test_failure_on_the_way_is_an_error_of_the_tree() -> None:
    class Away:
        version = "away"

        async def complete(self, messages: Sequence[Message], *, seed: int, timeout_s: float) -> str:
            raise UnavailableError("away")

    for engine in (FiveGrades(Away()), Pairwise(Away())):
        with pytest.raises(UnavailableError):
            await engine.judge(prompt="p", reference="r", answer="a", timeout_s=5)


async def test_same_answer_is_judged_alike_and_order_switches() -> None:
    chat = ScriptedChat(Bias(noise=0.3, position=0.2))
    engine = FiveGrades(chat)
    judged = [
        await engine.judge(prompt="p", reference="a b c d", answer="a b", timeout_s=5) for _ in range(3)
    ]
    assert judged[0] == judged[1] == judged[2]
    assert seed_of("a", "bc") != seed_of("ab", "c")


async def test_position_bias_of_a_grader_is_halved_by_switching() -> None:
    honest, biased = FiveGrades(ScriptedChat(quality=lambda *_: 0.5)), None
    biased = FiveGrades(ScriptedChat(Bias(position=0.25), quality=lambda *_: 0.5))
    scores = [
        (await engine.judge(prompt="p", reference="r", answer="x" * 64, timeout_s=5)).score
        for engine in (honest, biased)
    ]
    assert scores == [0.5, 0.625]


@pytest.mark.parametrize(
    ("winners", "result"),
    [
        (("A", "B"), 1),
        (("B", "A"), -1),
        (("tie", "tie"), 0),
        (("A", "A"), 0),
        (("B", "B"), 0),
        (("A", "tie"), 0),
    ],
)
async def test_a_comparison_counts_only_when_both_orders_agree(winners: tuple[str, str], result: int) -> None:
    engine = Pairwise(Votes(*winners))
    assert await engine.compare(Question(task="t", reference="r", candidate="c"), 5) == result


async def test_a_comparison_becomes_grades_one_three_and_five() -> None:
    engine = Pairwise(Votes("B", "A", "tie", "tie", "A", "B", "A", "x", "x", "x"))
    judged = [await engine.judge(prompt="p", reference="r", answer="a", timeout_s=5) for _ in range(4)]
    assert [each.grade for each in judged] == [1, 3, 5, None]
    assert [each.score for each in judged] == [0.0, 0.5, 1.0, None]


async def pairs_of(bias: Bias) -> PairStatistics:
    chance = random.Random(5)
    engine = Pairwise(ScriptedChat(bias, quality=lambda candidate, _: float(candidate.split()[0])))
    for number in range(NUM_PAIRS):
        texts = [f"{chance.random():.3f} {number} {'x' * 50}" for _ in range(2)]
        await engine.compare(Question(task="t", reference=texts[0], candidate=texts[1]), 5)
    return engine.statistics


async def test_position_bias_and_inconsistency_ring_only_where_they_are() -> None:
    honest = (await pairs_of(Bias(noise=0.02))).report()
    leaning = (await pairs_of(Bias(position=0.3))).report()
    avoiding = (await pairs_of(Bias(position=-0.3))).report()
    random_one = (await pairs_of(Bias(noise=1.0))).report()
    assert (honest.is_alarm, leaning.is_alarm, avoiding.is_alarm, random_one.is_alarm) == (
        False,
        True,
        True,
        True,
    )
    assert abs(honest.position_bias) < 0.05 < 0.1 < leaning.position_bias
    assert avoiding.position_bias < -0.1
    assert random_one.inconsistency > 0.25
    assert abs(random_one.position_bias) < 0.1


def test_statistics_do_not_ring_before_there_are_enough_pairs() -> None:
    statistics = PairStatistics()
    assert statistics.report().inconsistency == 0.0
    for _ in range(NUM_PAIRS - 1):
        statistics.add(1, -1)
    assert not statistics.report().is_alarm
    statistics.add(1, -1)
    assert statistics.report().is_alarm
    assert statistics.report().position_bias == 1.0


@pytest.mark.parametrize("num", [1, 2, 3, 4, 5, 7, 8, 9, 16, 21, 64])
async def test_the_best_answer_wins_the_tournament(num: int) -> None:
    strengths = random.Random(num).sample(range(1000), num)
    played: list[tuple[int, int]] = []

    async def compare(first: int, second: int) -> int:
        played.append((min(first, second), max(first, second)))
        return (strengths[first] > strengths[second]) - (strengths[first] < strengths[second])

    standings = await rank_candidates(num, compare)
    assert strengths[standings[0].index] == max(strengths)
    assert len(set(played)) == len(played)  # nobody meets twice
    num_rounds = (num - 1).bit_length() + 1
    assert len(played) <= num_rounds * (num // 2)
    assert sorted(each.index for each in standings) == list(range(num))


async def test_buchholz_breaks_ties_and_doubt_is_a_draw() -> None:
    async def undecided(first: int, second: int) -> None:
        return None

    assert {each.points for each in await rank_candidates(4, undecided)} == {1.5}

    async def by_index(first: int, second: int) -> int:
        return 1 if first < second else -1

    standings = await rank_candidates(13, by_index)
    order = [(each.points, each.buchholz) for each in standings]
    assert order == sorted(order, reverse=True)
    assert len({points for points, _ in order}) < len(set(order))  # some equal points were told apart


async def test_tournaments_are_bounded() -> None:
    async def compare(first: int, second: int) -> int:
        return 0

    for num in (0, MOST_PLAYERS + 1):
        with pytest.raises(InvalidInputError):
            await rank_candidates(num, compare)
