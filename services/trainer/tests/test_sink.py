"""Tensors into files: bit for bit, from any rank and any number of lanes, whole or as changes."""

from __future__ import annotations

import errno
import os
import pickle
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from forklight_core.errors import BusyError, WeightsError
from forklight_core.weights.files import VersionFile
from forklight_core.weights.manifest import ITEM_BYTES, Encoding, TensorEntry
from forklight_core.weights.reading import PIECE_BYTES, Layer, VersionReader, verify_tensors
from forklight_trainer.publishing import pieces, work
from forklight_trainer.publishing.held import forget_held, held_tensors
from forklight_trainer.publishing.plan import SinkManner, SinkPlan
from services.trainer.tests.versions import as_bytes, publish_tensors

ODD_BITS = [0x7FC1, 0xFFA5, 0x7F80, 0xFF80, 0x8000, 0x0000, 0x0001]
"""NaNs with payloads, infinities, both zeros, the least number."""


def make_tensors(seed: int = 0) -> dict[str, Tensor]:
    """Of many types and shapes; one needs several pieces."""
    chance = torch.Generator().manual_seed(seed)
    odd = torch.tensor(ODD_BITS, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    return {
        "large": torch.randn(PIECE_BYTES // 2 + 3001, generator=chance).to(torch.bfloat16),
        "turned": torch.randn(33, 17, generator=chance).t(),
        "odd": odd,
        "empty": torch.zeros(0, 3, dtype=torch.bfloat16),
        "single": torch.tensor(1.5),
        "flags": torch.randn(9, generator=chance) > 0,
        "counts": torch.randint(-9, 9, (5,), generator=chance),
    }


def read(layers: tuple[Layer, ...]) -> dict[str, bytes]:
    """The bytes of every tensor."""
    reader, buffer = VersionReader(layers), np.empty(PIECE_BYTES, np.uint8)
    return {
        entry.name: b"".join(piece.tobytes() for _, piece in reader.open(entry.name).pieces(buffer))
        for entry in reader.entries
    }


def expect(tensors: Mapping[str, Tensor]) -> dict[str, bytes]:
    return {name: as_bytes(tensor) for name, tensor in tensors.items()}


@pytest.mark.parametrize("num_lanes", [1, 3])
def test_whole_tensors_are_a_safetensors_file_of_the_same_bits(tmp_path: Path, num_lanes: int) -> None:
    tensors = make_tensors()
    layers = publish_tensors(tmp_path, 0, tensors, SinkPlan(manner=SinkManner(num_lanes=num_lanes)))
    folder = layers[0].folder
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    assert {name: as_bytes(tensor) for name, tensor in found.items()} == expect(tensors) == read(layers)
    assert {name: tensor.dtype for name, tensor in found.items()} == {
        name: tensor.dtype for name, tensor in tensors.items()
    }
    assert {name: tensor.shape for name, tensor in found.items()} == {
        name: tensor.shape for name, tensor in tensors.items()
    }
    verify_tensors(layers)


def test_no_file_is_larger_than_asked_unless_a_tensor_is(tmp_path: Path) -> None:
    manner = SinkManner(num_lanes=1, largest_file_bytes=100_000)
    tensors = {f"t{number}": torch.zeros(10_000) for number in range(7)} | {"giant": torch.zeros(60_000)}
    layers = publish_tensors(tmp_path, 0, tensors, SinkPlan(manner=manner))
    for path in layers[0].folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            assert path.stat().st_size <= 100_000 + 64 * 1024 or list(file.keys()) == ["giant"]
    verify_tensors(layers)


def test_more_names_than_a_head_holds_go_to_the_next_file(tmp_path: Path) -> None:
    tensors = {f"model.layers.{number}.a_rather_long_name.weight": torch.zeros(1) for number in range(700)}
    layers = publish_tensors(tmp_path, 0, tensors, SinkPlan(manner=SinkManner(num_lanes=1)))
    assert len(layers[0].manifest.files) == 2
    assert read(layers) == expect(tensors)


def test_ranks_write_files_of_their_own(tmp_path: Path) -> None:
    tensors = make_tensors()
    plan = pickle.loads(pickle.dumps(SinkPlan(folder=tmp_path)))  # it crosses processes
    entries: list[TensorEntry] = []
    for rank in range(2):
        with plan.open(rank, 2) as sink:
            for name in list(tensors)[rank::2]:
                sink.put(name, tensors[name])
            entries += sink.close()
    files = {entry.name: entry.file for entry in entries if entry.length}
    assert {name.split("-")[1] for name in files.values()} == {"r0", "r1"}
    assert sorted(entry.name for entry in entries) == sorted(tensors)


def test_without_a_folder_tensors_are_only_hashed(tmp_path: Path) -> None:
    tensors = make_tensors()
    layers = publish_tensors(tmp_path, 0, tensors, SinkPlan())
    before = sorted(tmp_path.rglob("*"))
    with SinkPlan().open() as sink:
        for name, tensor in tensors.items():
            sink.put(name, tensor)
        found = {entry.name: (entry.hash, entry.shape, entry.dtype) for entry in sink.close()}
    promised = layers[0].manifest.tensors.items()
    assert found == {name: (entry.hash, entry.shape, entry.dtype) for name, entry in promised}
    assert sorted(tmp_path.rglob("*")) == before


def change(tensor: Tensor, density: float, kind: str, seed: int) -> Tensor:
    """Bit patterns a step away, anywhere, or of numbers that are none."""
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    chance = torch.Generator().manual_seed(seed)
    new = tensor.contiguous().clone().reshape(-1).view(bits)
    places = (torch.rand(new.shape, generator=chance) < density).nonzero()[:, 0]
    if kind == "step":
        new[places] += torch.randint(0, 2, places.shape, generator=chance).mul(2).sub(1).to(bits)
    elif kind == "odd" and bits is torch.int16:
        odd = torch.tensor(ODD_BITS, dtype=torch.int32).to(torch.int16)
        new[places] = odd[torch.randint(0, len(odd), places.shape, generator=chance)]
    else:
        new[places] = torch.randint(0, 100, places.shape, generator=chance).to(bits)
    return new.view(tensor.dtype).reshape(tensor.shape)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=4),
    dtype=st.sampled_from([torch.bfloat16, torch.float32, torch.float16, torch.uint8]),
    changed=st.tuples(st.sampled_from([0.0, 0.001, 0.05, 0.5, 1.0]), st.sampled_from(["step", "odd", "any"])),
    seed=st.integers(0, 1000),
)
def test_changes_on_a_base_are_the_new_tensors(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    dtype: torch.dtype,
    changed: tuple[float, str],
    seed: int,
) -> None:
    root = tmp_path_factory.mktemp("versions")
    store = str(root) if seed % 2 else ""  # held in memory, or read back
    chance = torch.Generator().manual_seed(seed)
    old = {f"t{place}": torch.randn(size, generator=chance).to(dtype) for place, size in enumerate(sizes)}
    base = publish_tensors(root, 0, old, SinkPlan(store=store, remembers=True))
    new = {name: change(tensor, *changed, seed) for name, tensor in old.items()}
    layers = publish_tensors(root, 1, new, SinkPlan(base=base, store=store))
    forget_held(store)
    verify_tensors(layers)
    assert read(layers) == expect(new)
    if changed[0] == 0.0:
        assert {entry.encoding for entry in layers[0].manifest.tensors.values()} == {Encoding.SAME}
        assert layers[0].manifest.files == ()


@pytest.mark.parametrize("is_held", [True, False])
def test_a_chain_is_read_at_every_link(tmp_path: Path, is_held: bool) -> None:
    store = str(tmp_path) if is_held else ""
    tensors = make_tensors()
    layers = publish_tensors(tmp_path, 0, tensors, SinkPlan(store=store, remembers=True))
    links = [(layers, expect(tensors))]
    for version in range(1, 5):
        tensors = {name: change(tensor, 0.02, "step", version) for name, tensor in tensors.items()}
        plan = SinkPlan(base=layers, store=store, remembers=True)
        layers = publish_tensors(tmp_path, version, tensors, plan)
        links.append((layers, expect(tensors)))
    assert len(layers) == 5
    for link, expected in links:
        verify_tensors(link)
        assert read(link) == expected
    if is_held:  # what is held is the newest, and nothing else
        held = held_tensors(store, 0)
        assert {name: each.data.tobytes() for name, each in held.items()} == expect(tensors)
    forget_held(store)


def test_values_of_an_attempt_that_failed_are_no_base(tmp_path: Path) -> None:
    """What is held then is neither the base's nor the new version's: the base is read from its files."""
    store, old = str(tmp_path), make_tensors()
    base = publish_tensors(tmp_path, 0, old, SinkPlan(store=store, remembers=True))
    new = {name: change(tensor, 0.1, "step", 1) for name, tensor in old.items()}
    plan = SinkPlan(folder=tmp_path / "lost", base=base, store=store, remembers=True)
    (tmp_path / "lost").mkdir()
    with pytest.raises(RuntimeError, match="in the middle"), plan.open() as sink:
        sink.put("large", new["large"])
        sink.put("turned", new["turned"])
        raise RuntimeError("in the middle")
    other = {name: change(tensor, 0.1, "any", 2) for name, tensor in old.items()}
    layers = publish_tensors(tmp_path, 1, other, SinkPlan(base=base, store=store, remembers=True))
    forget_held(store)
    assert read(layers) == expect(other)
    assert Encoding.RAW not in {entry.encoding for entry in layers[0].manifest.tensors.values()}


def test_a_base_that_is_torn_makes_tensors_whole(tmp_path: Path) -> None:
    old = {"a": torch.zeros(1000, dtype=torch.bfloat16), "b": torch.ones(1000, dtype=torch.bfloat16)}
    base = publish_tensors(tmp_path, 0, old, SinkPlan(manner=SinkManner(num_lanes=1)))
    path = base[0].folder / base[0].manifest.files[0].file
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    new = {name: change(tensor, 0.1, "step", 1) for name, tensor in old.items()}
    layers = publish_tensors(tmp_path, 1, new, SinkPlan(base=base))
    encodings = {name: entry.encoding for name, entry in layers[0].manifest.tensors.items()}
    assert encodings == {"a": Encoding.CHANGES, "b": Encoding.RAW}
    verify_tensors(layers)
    assert read(layers) == expect(new)


def test_a_tensor_of_another_shape_than_the_base_has_is_whole(tmp_path: Path) -> None:
    base = publish_tensors(tmp_path, 0, {"a": torch.zeros(4)}, SinkPlan())
    layers = publish_tensors(tmp_path, 1, {"a": torch.zeros(2, 2)}, SinkPlan(base=base))
    assert layers[0].manifest.tensors["a"].encoding is Encoding.RAW
    verify_tensors(layers)


def threads_that_write(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """Which kinds of threads wrote to each file, filled in as they do."""
    found: dict[str, set[str]] = {}
    write = VersionFile.write

    def watch(self: VersionFile, data: memoryview | bytes) -> None:
        found.setdefault(self.path.name, set()).add(threading.current_thread().name.partition("_")[0])
        write(self, data)

    monkeypatch.setattr(VersionFile, "write", watch)
    return found


@pytest.mark.parametrize("is_held", [True, False])
@pytest.mark.parametrize("num_lanes", [1, 3])
def test_a_large_tensor_that_other_threads_write_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_lanes: int, is_held: bool
) -> None:
    """Fewer buffers than it has pieces, and tensors before and after it in the same file."""
    monkeypatch.setattr(pieces, "NUM_BUFFERS", 2)
    chance = torch.Generator().manual_seed(0)
    large = torch.randn(5 * PIECE_BYTES // 4 + 77, generator=chance)
    tensors = {"before": torch.ones(1001), "large": large} | make_tensors() | {"twin": large + 1}
    written = threads_that_write(monkeypatch)
    made = []
    for kind, least in (("plain", 1 << 62), ("split", PIECE_BYTES)):
        monkeypatch.setattr(work, "LARGE_BYTES", least)
        written.clear()
        store = f"{tmp_path}/{kind}" if is_held else ""
        (tmp_path / kind).mkdir()
        plan = SinkPlan(store=store, remembers=True, manner=SinkManner(num_lanes=num_lanes))
        made.append(publish_tensors(tmp_path / kind, 0, tensors, plan))
        file = made[-1][0].manifest.tensors["large"].file
        assert ("write" in written[file]) == (kind == "split")
        if is_held:
            held = held_tensors(store, 0)
            assert {name: each.data.tobytes() for name, each in held.items()} == expect(tensors)
            forget_held(store)
    plain, split = (layers[0] for layers in made)
    assert split.manifest == plain.manifest and split.manifest_id == plain.manifest_id
    for entry in plain.manifest.files:
        assert (split.folder / entry.file).read_bytes() == (plain.folder / entry.file).read_bytes()
    verify_tensors(made[1])
    assert read(made[1]) == expect(tensors)


def fail_when_written(number: int, data: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("least_bytes", [0, 1 << 62])
def test_a_full_disk_is_said_to_be_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least_bytes: int
) -> None:
    """Whichever thread writes; nobody waits for room that never comes, and no thread stays."""
    monkeypatch.setattr(os, "write", fail_when_written)
    monkeypatch.setattr(work, "LARGE_BYTES", least_bytes)
    monkeypatch.setattr(pieces, "NUM_BUFFERS", 4)
    with pytest.raises(BusyError, match="no room"), SinkPlan(folder=tmp_path).open() as sink:
        sink.put("large", torch.zeros(6 * PIECE_BYTES // 4))
        for number in range(50):
            sink.put(f"t{number}", torch.zeros(100_000))
        sink.close()
    names = [thread.name.partition("_")[0] for thread in threading.enumerate()]
    assert not {"publish", "write"} & set(names)


def test_what_does_not_read_back_as_written_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = VersionFile.write

    def flip(self: VersionFile, data: memoryview | bytes) -> None:
        write(self, bytes(data[:-1]) + bytes([data[-1] ^ 1]))

    monkeypatch.setattr(VersionFile, "write", flip)
    plan = SinkPlan(folder=tmp_path, manner=SinkManner(reads_back=True))
    with pytest.raises(WeightsError, match="does not read back.*t hashes to"), plan.open() as sink:
        sink.put("t", torch.ones(100))
        sink.close()


def test_every_type_has_its_size() -> None:
    for name, num_bytes in ITEM_BYTES.items():
        assert torch.empty(1, dtype=getattr(torch, name)).element_size() == num_bytes
