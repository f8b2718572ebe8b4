"""Segments: cut and joined exactly; the next pod gets what was saved, or less, never something else."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forklight.v1 import buffer_pb2, buffer_pb2_grpc, types_pb2
from forklight_core import ids
from forklight_core.blobs import BlobRef, MemoryBlobStore
from forklight_core.errors import BusyError, DataLossError, FencedError, InvalidInputError, UnavailableError
from forklight_core.ports import free_ports
from forklight_core.queues import Lease
from forklight_core.rpc import Registration, open_channel, serve
from forklight_core.wire import RoutingArrays, Span, TrajectoryArrays, pack_payload, unpack_payload
from forklight_rollout.adapters.buffer_rpc import RpcBuffer
from forklight_rollout.adapters.memory_buffer import MemoryBuffer
from forklight_rollout.generation.draft import Draft
from forklight_rollout.generation.groups import OpenSample
from forklight_rollout.leases.blob_calls import BlobCalls
from forklight_rollout.leases.buffer_calls import BufferCalls
from forklight_rollout.leases.held_groups import HeldGroup
from forklight_rollout.leases.segments import SegmentStore, arrays_of, cut, join, stretch_of
from forklight_rollout.ports import PendingSample, Saved, SegmentRef, SubmitOutcome
from forklight_rollout.problems import Problems

GROUP = "run-1/g00000001"
SAMPLE = f"{GROUP}/s000"
PROMPT = (5, 6, 7)
LAYERS, TOP_K = 2, 3


def fed_routing(num_tokens: int, seed: int = 0) -> RoutingArrays:
    random = np.random.default_rng(seed)
    shape = (num_tokens, LAYERS, TOP_K)
    return RoutingArrays(
        experts=random.integers(0, 256, shape, dtype=np.uint8),
        weights=random.standard_normal(shape).astype(np.float32),
    )


def whole(num_tokens: int, *, routed: bool = True, put_in: bool = True) -> TrajectoryArrays:
    """A response with a version for every seven tokens and some tokens nobody drew."""
    random = np.random.default_rng(num_tokens)
    drawn = (np.arange(num_tokens) % 5 != 3).astype(np.uint8)
    return TrajectoryArrays(
        sample_id=SAMPLE,
        prompt_ids=np.array(PROMPT, dtype=np.int32),
        response_ids=random.integers(0, 1000, num_tokens, dtype=np.int32),
        logprobs=random.standard_normal(num_tokens).astype(np.float32),
        raw_logprobs=random.standard_normal(num_tokens).astype(np.float32),
        text="",
        contract="c",
        routing=fed_routing(len(PROMPT) + num_tokens - 1) if routed else None,
        drawn=drawn if put_in else None,
        spans=tuple(Span(start=start, version=start // 7) for start in range(0, num_tokens, 7)),
    )


def same(one: TrajectoryArrays, other: TrajectoryArrays) -> bool:
    return pack_payload(one) == pack_payload(other)


@given(st.integers(1, 60), st.sets(st.integers(1, 59)), st.booleans(), st.booleans())
def test_joining_undoes_cutting_wherever_it_was_cut(
    num_tokens: int, places: set[int], routed: bool, put_in: bool
) -> None:
    arrays = whole(num_tokens, routed=routed, put_in=put_in)
    starts = [0, *sorted(place for place in places if place < num_tokens)]
    ends = [*starts[1:], num_tokens]
    parts = [
        unpack_payload(pack_payload(cut(arrays, start, end))) for start, end in zip(starts, ends, strict=True)
    ]
    assert [len(part.routing.experts) for part in parts if part.routing is not None] == (
        [part.num_fed for part in parts] if routed else []
    )
    assert same(join(parts), arrays)
    assert same(cut(arrays, starts[-1]), parts[-1])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"start": 4}, "begin where the one before ends"),
        ({"sample_id": "run-1/g00000001/s001"}, "another sample"),
        ({"prompt_ids": np.array([5, 6, 8], dtype=np.int32)}, "another prompt"),
        ({"contract": "d"}, "numeric contract 'd'"),
        ({"routing": None}, "routing of shape None"),
    ],
)
def test_segments_that_do_not_belong_together_are_not_joined(change: dict[str, Any], problem: str) -> None:
    arrays = whole(9)
    with pytest.raises(DataLossError, match=problem):
        join([cut(arrays, 0, 3), replace(cut(arrays, 3), **change)])


def test_what_is_no_part_of_a_whole_cannot_be_cut() -> None:
    arrays = whole(9)
    for start, end in ((3, 3), (5, 4), (0, 10), (-1, 2)):
        with pytest.raises(InvalidInputError, match="no segment"):
            cut(arrays, start, end)
    with pytest.raises(InvalidInputError, match="no segment"):
        cut(cut(arrays, 3), 4)
    with pytest.raises(DataLossError, match="does not begin at token 0"):
        join([cut(arrays, 3)])


def grow(draft: Draft, num_tokens: int, *, version: int) -> None:
    """Drawn tokens, but for the last but one, which is put in."""
    for _ in range(num_tokens - 2):
        draw(draft, version)
    draft.put_in([999], version)
    draw(draft, version)


def draw(draft: Draft, version: int) -> None:
    """A token, and the routing of all that was fed for it."""
    draft.add(10 + len(draft), -0.5 - len(draft), -0.25 - len(draft), version)
    known = 0 if draft.routing is None else draft.routing.num_tokens
    new, fed = slice(known, len(PROMPT) + len(draft) - 1), fed_routing(200)
    draft.note_routing(len(PROMPT), RoutingArrays(experts=fed.experts[new], weights=fed.weights[new]))


def open_sample(draft: Draft, start: int) -> OpenSample:
    response = draft.stretch(start, num_prompt=len(PROMPT))
    return OpenSample(sample_id=SAMPLE, group_id=GROUP, prompt_ids=PROMPT, response=response)


@dataclass(slots=True)
class Place:
    """A pod's way to the buffer."""

    buffer: MemoryBuffer = field(default_factory=lambda: MemoryBuffer(num_samples=2))
    blobs: MemoryBlobStore = field(default_factory=MemoryBlobStore)
    purpose: types_pb2.Purpose = types_pb2.PURPOSE_TRAIN

    def store(self, contract: str = "c") -> SegmentStore:
        calls = BufferCalls(door=self.buffer, problems=Problems(), deadline_s=0.2)
        return SegmentStore(
            blobs=BlobCalls(store=self.blobs, problems=calls.problems), buffer=calls, contract=contract
        )

    def group(self, fence: int) -> HeldGroup:
        lease = Lease(entry_id="1-0", consumer=f"pod-{fence}", fence=fence)
        envelope = types_pb2.Envelope(group_id=GROUP)
        return HeldGroup(lease=lease, task=types_pb2.GenerationTask(envelope=envelope, purpose=self.purpose))

    async def load(
        self, fence: int, *, contract: str = "c", prompt: tuple[int, ...] = PROMPT
    ) -> Draft | None:
        """What a pod that takes the group over goes on from."""
        group = self.group(fence)
        store = self.store(contract)
        pending = (await store.buffer.pending_responses(group))[0]
        return await store.load(pending, prompt, group)


async def test_the_next_pod_has_the_draft_of_the_one_that_died() -> None:
    place, draft = Place(), Draft()
    first = place.group(1)
    for num_tokens, version in ((5, 3), (2, 3), (3, 4)):
        start = len(draft)
        grow(draft, num_tokens, version=version)
        now = await place.store().save(open_sample(draft, start), first)
        assert now == Saved(outcome=SubmitOutcome.ACCEPTED, num_saved_tokens=len(draft))
    assert [segment.min_version for segment in place.buffer.segments[SAMPLE]] == [3, 3, 4]
    back = await place.load(2)
    assert back is not None and back.num_saved == len(draft) == 10
    for name in ("ids", "logprobs", "raw_logprobs", "drawn", "spans"):
        assert getattr(back, name) == getattr(draft, name), name
    with pytest.raises(FencedError):
        await place.store().save(open_sample(draft, 9), first)


async def test_a_response_goes_on_over_three_pods_as_if_it_were_one() -> None:
    place, expected, draft = Place(), Draft(), Draft()
    for fence, version in ((1, 3), (2, 3), (3, 5)):
        loaded = await place.load(fence)
        assert (loaded is None) == (fence == 1)
        draft = loaded or draft
        start = len(draft)
        grow(draft, 4, version=version)
        grow(expected, 4, version=version)
        await place.store().save(open_sample(draft, start), place.group(fence))
    loaded = await place.load(4)
    assert loaded is not None and loaded.routing is not None
    whole_sample = open_sample(expected, 0)
    assert loaded.ids == expected.ids and loaded.spans == expected.spans
    parts = [unpack_payload(place.blobs.get(item.payload.id)) for item in place.buffer.segments[SAMPLE]]
    assert same(join(parts), join([arrays_of(whole_sample, "c")]))


async def test_a_segment_that_is_lost_or_torn_costs_only_what_is_behind_it() -> None:
    for spoil in (MemoryBlobStore.delete, lambda blobs, name: blobs._blobs.update({name: b"torn"})):
        place, draft = Place(), Draft()
        for start in (0, 3, 6):
            grow(draft, 3, version=1)
            await place.store().save(open_sample(draft, start), place.group(1))
        spoil(place.blobs, place.buffer.segments[SAMPLE][1].payload.id)
        loaded = await place.load(2)
        assert loaded is not None and loaded.ids == draft.ids[:3]
        assert place.buffer.num_saved(SAMPLE) == 3
        grow(loaded, 3, version=1)
        now = await place.store().save(open_sample(loaded, 3), place.group(2))
        assert now.num_saved_tokens == 6


@pytest.mark.parametrize("change", [{"contract": "another release"}, {"prompt": (5, 6)}])
async def test_what_another_release_made_is_generated_again(change: dict[str, Any]) -> None:
    place, draft = Place(), Draft()
    grow(draft, 3, version=1)
    await place.store().save(open_sample(draft, 0), place.group(1))
    assert await place.load(2, **change) is None
    assert place.buffer.num_saved(SAMPLE) == 0


async def test_a_blob_of_another_place_is_not_taken_for_the_segment() -> None:
    place, draft = Place(), Draft()
    grow(draft, 6, version=1)
    store, group = place.store(), place.group(1)
    await store.save(open_sample(draft, 0), group)
    stranger = place.blobs.put(pack_payload(cut(arrays_of(open_sample(draft, 0), "c"), 3)))
    wrong = SegmentRef(start=6, num_tokens=3, payload=stranger, min_version=1)
    await place.buffer.save_segment(SAMPLE, wrong, group.lease)
    loaded = await place.load(2)
    assert loaded is not None and len(loaded) == place.buffer.num_saved(SAMPLE) == 6


async def test_a_shorter_segment_whose_reply_was_lost_is_found_again() -> None:
    place, draft = Place(), Draft()
    store, group = place.store(), place.group(1)
    grow(draft, 3, version=1)
    await store.save(open_sample(draft, 0), group)  # nobody hears of it
    grow(draft, 3, version=1)
    now = await store.save(open_sample(draft, 0), group)
    assert now == Saved(outcome=SubmitOutcome.DUPLICATE, num_saved_tokens=3)
    now = await store.save(open_sample(draft, now.num_saved_tokens), group)
    assert now == Saved(outcome=SubmitOutcome.ACCEPTED, num_saved_tokens=6)
    grow(draft, 3, version=1)
    with pytest.raises(InvalidInputError, match="6 tokens are saved"):
        await store.save(open_sample(draft, 7), group)
    place.buffer.terminal.add(SAMPLE)
    now = await store.save(open_sample(draft, 6), group)
    assert now == Saved(outcome=SubmitOutcome.DROPPED, num_saved_tokens=0)


@dataclass
class MoodyBlobStore(MemoryBlobStore):
    """Fails some times, by any method."""

    failures: list[Exception]
    at_failure: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        MemoryBlobStore.__init__(self)

    def put(self, data: bytes) -> BlobRef:
        self._fail()
        return super().put(data)

    def get(self, blob_id: str) -> bytes:
        self._fail()
        return super().get(blob_id)

    def _fail(self) -> None:
        if self.failures:
            self.at_failure()
            raise self.failures.pop()


async def test_a_store_that_is_full_or_away_is_waited_for_while_the_group_is_ours() -> None:
    blobs = MoodyBlobStore([UnavailableError("away"), BusyError("full")])
    place, draft = Place(blobs=blobs), Draft()
    grow(draft, 3, version=1)
    assert (await place.store().save(open_sample(draft, 0), place.group(1))).num_saved_tokens == 3
    blobs.failures = [UnavailableError("away")]
    loaded = await place.load(2)
    assert loaded is not None and len(loaded) == 3
    group = place.group(2)
    blobs.failures = [UnavailableError("away")] * 3
    blobs.at_failure = lambda: setattr(group, "is_dropped", True)
    with pytest.raises(FencedError, match="gave it up"):
        await place.store().save(open_sample(draft, 0), group)
    assert len(blobs.failures) == 2


async def test_what_a_tool_said_is_saved_once_the_model_has_read_it() -> None:
    place, draft = Place(), Draft()
    store, group = place.store(), place.group(1)
    grow(draft, 3, version=1)
    draft.put_in([42, 43], 1)
    assert (await store.save(open_sample(draft, 0), group)).num_saved_tokens == 3
    assert (await store.save(open_sample(draft, 3), group)).num_saved_tokens == 3
    assert len(place.buffer.segments[SAMPLE]) == 1
    draw(draft, 2)
    assert (await store.save(open_sample(draft, 3), group)).num_saved_tokens == 6
    loaded = await place.load(2)
    assert loaded is not None and loaded.ids == draft.ids and loaded.drawn == draft.drawn


async def test_an_evaluation_saves_no_routing() -> None:
    place, draft = Place(purpose=types_pb2.PURPOSE_EVALUATE), Draft()
    grow(draft, 3, version=1)
    await place.store().save(open_sample(draft, 0), place.group(1))
    assert unpack_payload(place.blobs.get(place.buffer.segments[SAMPLE][0].payload.id)).routing is None
    loaded = await place.load(2)
    assert loaded is not None and loaded.routing is None and loaded.ids == draft.ids


def test_a_stretch_comes_back_from_its_arrays() -> None:
    draft = Draft()
    grow(draft, 6, version=2)
    stretch = draft.stretch(2, num_prompt=len(PROMPT))
    back = stretch_of(arrays_of(open_sample(draft, 2), "c"))
    assert (back.start, back.ids, back.logprobs, back.drawn, back.spans) == (
        2,
        array("i", stretch.ids),
        stretch.logprobs,
        stretch.drawn,
        stretch.spans,
    )


class Recorder(buffer_pb2_grpc.BufferServicer):
    """Answers like a buffer that has one segment of sample 1, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def GetPendingSamples(self, request: Any, context: Any) -> buffer_pb2.GetPendingSamplesReply:
        segment = types_pb2.Segment(start=0, num_tokens=3, payload=types_pb2.BlobRef(id="b"), min_version=7)
        saved = [buffer_pb2.SavedSample(index=1, segments=[segment])]
        return buffer_pb2.GetPendingSamplesReply(indices=[0, 1], saved=saved)

    async def SaveSegment(self, request: Any, context: Any) -> buffer_pb2.SaveSegmentReply:
        self.asked.append(request)
        return buffer_pb2.SaveSegmentReply(
            outcome=buffer_pb2.SUBMIT_OUTCOME_ACCEPTED, num_saved_tokens=request.segment.start + 1
        )

    async def DropSegments(self, request: Any, context: Any) -> buffer_pb2.SaveSegmentReply:
        self.asked.append(request)
        return buffer_pb2.SaveSegmentReply(outcome=buffer_pb2.SUBMIT_OUTCOME_DROPPED)


async def test_the_door_says_over_grpc_what_its_port_says() -> None:
    address, recorder = f"127.0.0.1:{free_ports(1)[0]}", Recorder()
    registration = Registration(buffer_pb2_grpc.add_BufferServicer_to_server, recorder, "forklight.v1.Buffer")
    segment = SegmentRef(start=0, num_tokens=3, payload=BlobRef(id="b", size_bytes=0), min_version=7)
    lease = Lease(entry_id="1-0", consumer="pod", fence=4)
    async with serve(address, [registration]), open_channel(address) as channel:
        door = RpcBuffer(channel, "run-1")
        async with asyncio.timeout(20):
            pending = await door.pending_samples(GROUP, lease)
            assert pending == [PendingSample(index=0), PendingSample(index=1, segments=(segment,))]
            assert pending[1].name(GROUP) == ids.sample_id(GROUP, 1)
            assert await door.save_segment(SAMPLE, replace(segment, start=3), lease) == Saved(
                outcome=SubmitOutcome.ACCEPTED, num_saved_tokens=4
            )
            assert (await door.drop_segments(SAMPLE, 3, lease)).outcome is SubmitOutcome.DROPPED
    save, drop = recorder.asked
    assert (save.run_id, save.group_id, save.sample_id, save.lease.fence) == ("run-1", GROUP, SAMPLE, 4)
    assert (save.segment.start, save.segment.num_tokens, save.segment.min_version) == (3, 3, 7)
    assert (drop.group_id, drop.sample_id, drop.from_start, drop.lease.consumer) == (GROUP, SAMPLE, 3, "pod")
