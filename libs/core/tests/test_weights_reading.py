"""A version is read from its files and those it builds on: exact, or refused with the file that is wrong."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from forklight_core.errors import WeightsError
from forklight_core.weights import opened
from forklight_core.weights.changes import Elements
from forklight_core.weights.files import write_whole
from forklight_core.weights.manifest import (
    MANIFEST_FILE,
    Probe,
    encode_manifest,
    manifest_id,
    parse_manifest,
    without_probe,
)
from forklight_core.weights.reading import PIECE_BYTES, Layer, VersionReader, open_layers, verify_tensors
from libs.core.tests.weights_files import Tensors, make_manifest, read, write_version

PROBE = Probe(
    ids=(1, 2), logprobs=(-0.5,), is_parity=True, contract="k0", device="cpu", torch="2", triton="3"
)


def make_tensors(seed: int) -> dict[str, tuple[str, Elements]]:
    """Of three sizes of elements; one spans several pieces, one is empty, one has no dimension."""
    chance = np.random.default_rng(seed)
    return {
        "large": ("float16", chance.integers(0, 2**16, PIECE_BYTES // 2 + 5_003, dtype=np.uint16)),
        "matrix": ("float32", chance.integers(0, 2**32, (3, 5), dtype=np.uint32)),
        "bytes": ("uint8", chance.integers(0, 2**8, 7, dtype=np.uint8)),
        "empty": ("float16", np.zeros((0, 4), np.uint16)),
        "single": ("float32", np.array(7, np.uint32)),
    }


def next_tensors(tensors: Tensors, seed: int) -> dict[str, tuple[str, Elements]]:
    """One element in twenty a little different."""
    chance = np.random.default_rng(seed)
    found = {}
    for name, (dtype, values) in tensors.items():
        steps = chance.choice([0, 1, 5], values.shape, p=[0.95, 0.04, 0.01]).astype(values.dtype)
        found[name] = (dtype, np.asarray(values + steps))
    return found


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple[str, Elements]]]:
    """A full version and three deltas, each against the one before; and what the newest holds."""
    root, tensors = tmp_path_factory.mktemp("chain"), make_tensors(0)
    layers = write_version(root, 0, tensors)
    for version in (1, 2, 3):
        tensors = next_tensors(tensors, version)
        layers = write_version(root, version, tensors, layers)
    return root, tensors


@pytest.fixture
def chain(written: tuple[Path, dict[str, tuple[str, Elements]]], tmp_path: Path) -> Chain:
    """The same, for a test to damage."""
    shutil.copytree(written[0], tmp_path, dirs_exist_ok=True)
    return open_layers(tmp_path / "v00000003" / MANIFEST_FILE), written[1]


Chain = tuple[tuple[Layer, ...], dict[str, tuple[str, Elements]]]


def test_a_chain_of_deltas_is_the_newest_version(chain: Chain) -> None:
    layers, tensors = chain
    assert [layer.manifest.version for layer in layers] == [3, 2, 1, 0]
    verify_tensors(layers)
    found = read(layers)
    assert all(np.array_equal(found[name], values) for name, (_, values) in tensors.items())
    assert layers[0].manifest.num_bytes == sum(values.nbytes for _, values in tensors.values())
    assert layers[0].manifest.num_stored_bytes < 0.2 * layers[0].manifest.num_bytes


def test_a_part_of_a_tensor_is_read_without_the_rest(chain: Chain) -> None:
    layers, tensors = chain
    stored = VersionReader(layers).open("large")
    span = range(PIECE_BYTES + 100, PIECE_BYTES + 1000)
    ((start, piece),) = list(stored.pieces(np.empty(PIECE_BYTES, np.uint8), span))
    assert start == PIECE_BYTES
    assert piece.tobytes() == tensors["large"][1].tobytes()[PIECE_BYTES:]


def test_a_version_put_together_is_read_by_others(chain: Chain, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    layers, tensors = chain
    folder = tmp_path / "whole"
    folder.mkdir()
    places = write_whole(layers, folder)
    found = load_file(next(iter(set(places.values()))))
    assert places.keys() == found.keys() == tensors.keys()
    for name, (_, values) in tensors.items():
        assert found[name].tobytes() == values.tobytes() and found[name].shape == values.shape


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda root: flip(root / "v00000000" / "model-r0-1.safetensors", -9), "is torn"),
        (lambda root: flip(root / "v00000002" / "changes-r0-1.bin", 40), "changes of large hash to"),
        (lambda root: (root / "v00000001" / "changes-r0-1.bin").write_bytes(b""), "has 0 bytes"),
        (
            lambda root: (root / "v00000000" / "model-r0-1.safetensors").unlink(),
            "cannot be applied.*version 0",
        ),
        (lambda root: (root / "v00000001" / MANIFEST_FILE).unlink(), "cannot be applied.*next full version"),
        (lambda root: flip(root / "v00000001" / MANIFEST_FILE, 40), "cannot be applied.*hashes to"),
    ],
)
def test_a_chain_with_a_torn_link_is_refused(
    chain: Chain, tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    damage(tmp_path)
    with pytest.raises(WeightsError, match=reason):
        verify_tensors(open_layers(tmp_path / "v00000003" / MANIFEST_FILE))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("version", [0, 2])
def test_a_file_that_is_cut_while_it_is_read_is_refused(chain: Chain, version: int) -> None:
    """Its length was right when the version was opened, and its first piece is there."""
    layers = chain[0]
    layer = layers[3 - version]
    path = layer.folder / layer.manifest.files[0].file
    with VersionReader(layers) as reader:
        reader.open("large").read_into(np.empty(PIECE_BYTES, np.uint8), 0)
        os.truncate(path, layer.manifest.tensors["large"].offset + 100)
        with pytest.raises(WeightsError, match=f"{path.name} is torn: it ends before byte"):
            for _ in reader.open("large").pieces(np.empty(PIECE_BYTES, np.uint8)):
                pass
    with pytest.raises(WeightsError, match="it ends before byte"):
        verify_tensors(layers)


@pytest.mark.parametrize("version", [0, 2])
def test_a_file_that_is_gone_when_it_is_read_is_refused(chain: Chain, version: int) -> None:
    layer = chain[0][3 - version]
    (layer.folder / layer.manifest.files[0].file).unlink()
    with pytest.raises(WeightsError, match=f"{layer.manifest.files[0].file} cannot be read: .*No such file"):
        verify_tensors(chain[0])


def open_files() -> list[str]:
    """Of this process, those of versions."""
    names = [link.readlink().name for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sorted(name for name in names if name.startswith(("model-r", "changes-r")))


@pytest.mark.parametrize("most_open", [256, 2, 0])
def test_files_are_opened_once_and_let_go_of(
    chain: Chain, most_open: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers, tensors = chain
    monkeypatch.setattr(opened, "MOST_OPEN", most_open)
    with VersionReader(layers) as reader:
        for _ in range(2):
            for name in ("large", "matrix"):
                buffer = np.empty(PIECE_BYTES, np.uint8)
                found = b"".join(piece.tobytes() for _, piece in reader.open(name).pieces(buffer))
                assert found == tensors[name][1].tobytes()
            assert len(open_files()) == min(4, most_open)
    assert open_files() == []
    reader = VersionReader(layers)
    reader.open("matrix").read_into(np.empty(60, np.uint8), 0)
    del reader
    assert open_files() == []


def test_another_base_of_the_same_number_is_refused(chain: Chain, tmp_path: Path) -> None:
    """After a restore a number may be published again, and what was built on the first is lost."""
    for path in (tmp_path / "v00000000").iterdir():
        path.unlink()
    (tmp_path / "v00000000").rmdir()
    write_version(tmp_path, 0, make_tensors(9))
    with pytest.raises(WeightsError, match="its base, version 0, is not at hand"):
        open_layers(tmp_path / "v00000001" / MANIFEST_FILE)


def test_a_base_of_another_shape_is_refused(chain: Chain, tmp_path: Path) -> None:
    layers, _ = chain
    entry = replace(layers[0].manifest.tensors["matrix"], shape=(5, 3))
    manifest = replace(layers[0].manifest, tensors={**layers[0].manifest.tensors, "matrix": entry})
    (layers[0].folder / MANIFEST_FILE).write_bytes(encode_manifest(manifest))
    with pytest.raises(WeightsError, match="changes matrix, which its base has otherwise"):
        open_layers(layers[0].folder / MANIFEST_FILE)


def test_a_manifest_survives_its_bytes(chain: Chain) -> None:
    for layer in chain[0]:
        manifest = replace(layer.manifest, probe=PROBE, mirror="s3://bucket/v3", created_at=1.5)
        data = encode_manifest(manifest)
        assert parse_manifest(data, "test") == manifest
        assert encode_manifest(parse_manifest(data, "test")) == data
        assert manifest_id(data).startswith("b3:")
        assert parse_manifest(encode_manifest(without_probe(manifest)), "test").probe is None


@pytest.mark.parametrize("key", ["run_id", "version", "config", "files", "tensors", "kind", "schema_version"])
def test_a_manifest_without_a_field_is_refused(key: str) -> None:
    fields = json.loads(encode_manifest(make_manifest()))
    del fields[key]
    with pytest.raises(WeightsError, match=f"somewhere.*{key}"):
        parse_manifest(json.dumps(fields).encode(), "somewhere")
