"""Calls that travel together: nothing waits for company, everybody gets its own answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from forklight_core.errors import FencedError, UnavailableError
from forklight_core.rpc import Coalescer


class Carrier:
    """Answers with the double, refuses odd numbers, and keeps what it was given; held up until `go`."""

    def __init__(self) -> None:
        self.carried: list[list[int]] = []
        self.go, self.started = asyncio.Event(), asyncio.Event()
        self.go.set()

    async def send(self, numbers: Sequence[int]) -> list[int | Exception]:
        self.carried.append(list(numbers))
        self.started.set()
        await self.go.wait()
        return [FencedError(f"{number} is odd") if number % 2 else 2 * number for number in numbers]


async def test_what_comes_while_a_call_is_under_way_goes_with_the_next() -> None:
    carrier = Carrier()
    coalescer: Coalescer[int, int] = Coalescer(carrier.send, most=3)
    carrier.go.clear()
    calls = [asyncio.create_task(coalescer.submit(number)) for number in (0, 2)]
    await carrier.started.wait()
    calls += [asyncio.create_task(coalescer.submit(number)) for number in (4, 6, 8, 10)]
    await asyncio.sleep(0)
    carrier.go.set()
    assert await asyncio.gather(*calls) == [0, 4, 8, 12, 16, 20]
    assert carrier.carried == [[0, 2], [4, 6, 8], [10]]


async def test_whoever_is_alone_is_sent_at_once_again_and_again() -> None:
    carrier = Carrier()
    coalescer: Coalescer[int, int] = Coalescer(carrier.send, most=3)
    assert [await coalescer.submit(number) for number in (0, 2, 4)] == [0, 4, 8]
    assert carrier.carried == [[0], [2], [4]]


async def test_one_that_is_refused_leaves_the_others_as_they_are() -> None:
    coalescer: Coalescer[int, int] = Coalescer(Carrier().send, most=8)
    found = await asyncio.gather(*map(coalescer.submit, (0, 1, 2)), return_exceptions=True)
    assert (found[0], found[2]) == (0, 4)
    assert isinstance(found[1], FencedError)


async def test_a_call_that_fails_fails_for_all_it_carried_and_no_others() -> None:
    failures = [UnavailableError("away")]

    async def send(numbers: Sequence[int]) -> list[int | Exception]:
        if failures:
            raise failures.pop()
        return list(numbers)

    coalescer: Coalescer[int, int] = Coalescer(send, most=2)
    found = await asyncio.gather(*map(coalescer.submit, (1, 2, 3)), return_exceptions=True)
    assert [type(each) for each in found[:2]] == [UnavailableError, UnavailableError]
    assert found[2] == 3


async def test_a_reply_of_another_length_is_nobodys_answer() -> None:
    async def send(numbers: Sequence[int]) -> list[int | Exception]:
        return list(numbers[1:])

    coalescer: Coalescer[int, int] = Coalescer(send, most=2)
    found = await asyncio.gather(*map(coalescer.submit, (1, 2)), return_exceptions=True)
    assert [str(each) for each in found] == ["2 items were sent and 1 answers came back"] * 2


async def test_who_stopped_waiting_is_not_sent() -> None:
    carrier = Carrier()
    coalescer: Coalescer[int, int] = Coalescer(carrier.send, most=8)
    carrier.go.clear()
    first = asyncio.create_task(coalescer.submit(0))
    await carrier.started.wait()
    late, kept = asyncio.create_task(coalescer.submit(2)), asyncio.create_task(coalescer.submit(4))
    await asyncio.sleep(0)
    late.cancel()
    await asyncio.sleep(0)
    carrier.go.set()
    assert (await first, await kept) == (0, 8)
    assert carrier.carried == [[0], [4]]


async def test_a_bug_in_the_carrier_reaches_everybody_who_waits() -> None:
    async def send(numbers: Sequence[int]) -> list[int | Exception]:
        raise ZeroDivisionError(str(numbers))

    coalescer: Coalescer[int, int] = Coalescer(send, most=1)
    found = await asyncio.gather(*map(coalescer.submit, (1, 2)), return_exceptions=True)
    assert [type(each) for each in found] == [ZeroDivisionError, ZeroDivisionError]
