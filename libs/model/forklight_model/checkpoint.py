"""Model folders in the published layout: config.json and safetensors shards with an index.

Owns reading, writing and naming. A folder appears whole or not at all; a name, shape or byte that is wrong
is an error that names it. A model that is one part of several takes its part of each tensor: of a file it
reads those bytes alone. A trainer's checkpoint is read too: config.json and the state that its ranks wrote.
"""

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from forklight_core.errors import CheckpointError, InvalidInputError
from forklight_model.config import CONFIG_FILE, ModelConfig, load_config
from forklight_model.model import HybridModel
from forklight_model.moe import parameter_of
from forklight_model.parallel import Gather
from forklight_model.parts import PartsReader, StateKey, has_parts
from forklight_model.policy import Policy
from forklight_model.shard import WHOLE, Shard, cut_dim
from forklight_model.spread.experts import LOCAL_EXPERTS, ExpertPlaces

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
DEFAULT_SHARD_BYTES = 5 * 1024**3


def published_tensors(model: Policy) -> Iterator[tuple[str, Tensor]]:
    """Every tensor under its published name, contiguous; not to be written to (some are copies)."""
    return model.published_tensors()


def load_published_tensors(model: HybridModel, mapping: Mapping[str, Tensor]) -> None:
    """Copy whole tensors into the model in place, a part of each into a model that is one part of several.

    All names and shapes are checked before the first byte moves.
    """
    targets, shard = model.state_dict(), model.shard
    problems = _name_problems(set(targets), set(mapping) - model.names_elsewhere)
    for name in sorted(targets.keys() & mapping.keys()):
        expected = shard.whole_shape(name, targets[name].shape)
        if mapping[name].shape != expected:
            problems.append(f"{name} is {tuple(mapping[name].shape)}, expected {expected}")
    if problems:
        raise CheckpointError("the tensors do not fit the model: " + "; ".join(problems))
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(mapping[name][shard.index(name, mapping[name].shape)])


def load_published_files(model: HybridModel, paths: Sequence[Path]) -> None:
    """As `load_published_tensors`, from safetensors files that together hold every tensor once."""
    files: dict[Path, list[str]] = {}
    for path in paths:
        with _opened(path) as opened:
            files[path] = list(opened.keys())  # type: ignore[no-untyped-call]
    _load_files(model, files, f"{len(paths)} weight files")


def load_model(
    directory: str | Path,
    dtype: torch.dtype = torch.float32,
    *,
    device: torch.device | str = "cpu",
    shard: Shard = WHOLE,
    gather: Gather | None = None,
    experts: ExpertPlaces = LOCAL_EXPERTS,
) -> HybridModel:
    """Read a model folder (sharded, a single file, a checkpoint) into a new model, or one part of it."""
    directory = Path(directory)
    config = load_config(directory)
    with torch.device(device):
        model = _unset_model(config, dtype, shard, gather, experts)
    if has_parts(directory):
        _load_parts(model, directory)
    else:
        _load_files(model, find_shards(directory), str(directory))
    return model


def weightless_model(config: ModelConfig, experts: ExpertPlaces = LOCAL_EXPERTS) -> HybridModel:
    """Names and shapes alone: its parameters are on the meta device."""
    with torch.device("meta"):
        return HybridModel(config, is_initialized=False, experts=experts)


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Of every parameter of a whole model, by its name in the module."""
    return {name: tuple(weight.shape) for name, weight in weightless_model(config).named_parameters()}


def save_model(model: Policy, directory: str | Path, max_shard_bytes: int = DEFAULT_SHARD_BYTES) -> None:
    """Write a model folder. Files of an existing folder that are not weights (a tokenizer) are kept."""
    if model.shard.is_whole and not model.is_whole:
        raise InvalidInputError("this model has some of its experts only; a folder holds a whole one")
    if not model.shard.is_whole:
        raise InvalidInputError(
            f"this is part {model.shard.rank} of {model.shard.size} of a model; a folder holds a whole one"
        )
    directory = Path(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        _write_shards(model, staging, max_shard_bytes)
        _write_json(staging / CONFIG_FILE, model.config.to_published())
        _keep_other_files(directory, staging)
        _swap_in(staging, directory)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _unset_model(
    config: ModelConfig, dtype: torch.dtype, shard: Shard, gather: Gather | None, experts: ExpertPlaces
) -> HybridModel:
    """A model with unset weights, built in its final dtype; the caller fills every one of them."""
    default_dtype = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return HybridModel(config, is_initialized=False, shard=shard, gather=gather, experts=experts)
    finally:
        torch.set_default_dtype(default_dtype)


def _load_parts(model: HybridModel, directory: Path) -> None:
    """A published tensor is a view of a parameter; of the state on disk its elements alone are read."""
    views = weightless_model(model.config).state_dict()
    with PartsReader(directory) as reader:
        check_shapes(reader, parameter_shapes(model.config))
        for name, target in model.state_dict().items():
            view = views[name]
            flat = reader.read(parameter_of(name), StateKey.WEIGHT, view.storage_offset(), view.numel())
            tensor = flat.as_strided(view.shape, view.stride())
            target.copy_(tensor[model.shard.index(name, tensor.shape)])


def check_shapes(reader: PartsReader, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """CheckpointError unless the state on disk is of a model with these parameters."""
    problems = _name_problems(set(wanted), set(reader.shapes))
    for name in sorted(wanted.keys() & reader.shapes.keys()):
        if reader.shapes[name] != wanted[name]:
            problems.append(f"{name} is {reader.shapes[name]}, the config needs {wanted[name]}")
    if problems:
        raise CheckpointError(
            f"{reader.folder}: the parameters do not fit the config: " + "; ".join(problems[:4])
        )


def _name_problems(expected: set[str], given: set[str]) -> list[str]:
    problems = []
    if missing := sorted(expected - given):
        problems.append(f"missing {_listed(missing)}")
    if unknown := sorted(given - expected):
        problems.append(f"unknown {_listed(unknown)}")
    return problems


def _listed(names: list[str]) -> str:
    rest = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + rest


def find_shards(directory: Path) -> dict[Path, list[str]]:
    """Each weight file with the names to read from it."""
    index_path, single_path = directory / INDEX_FILE, directory / SINGLE_FILE
    if index_path.exists():
        shards: dict[Path, list[str]] = {}
        for name, file_name in _weight_map(index_path).items():
            shards.setdefault(directory / file_name, []).append(name)
        return shards
    if single_path.exists():
        with _opened(single_path) as shard:
            return {single_path: list(shard.keys())}  # type: ignore[no-untyped-call]
    raise CheckpointError(
        f"{directory} holds neither {INDEX_FILE} nor {SINGLE_FILE}; the weights are missing"
    )


def _weight_map(index_path: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(index_path.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{index_path} is not a readable index with a weight_map: {error!r}") from error
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise CheckpointError(f"{index_path}: weight_map must map tensor names to file names")
    return weight_map


@contextmanager
def _opened(path: Path) -> Iterator[safe_open]:
    """The shard, with everything the reader can raise turned into an error that names the file."""
    try:
        with safe_open(path, framework="pt") as shard:
            yield shard
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is named by the index but does not exist") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or corrupt ({error}); fetch or write it again") from error


def _load_files(model: HybridModel, files: Mapping[Path, Sequence[str]], where: str) -> None:
    targets, elsewhere = model.state_dict(), model.names_elsewhere
    own = {path: [name for name in names if name not in elsewhere] for path, names in files.items()}
    files = {path: names for path, names in own.items() if names}
    shapes = {name: model.shard.whole_shape(name, target.shape) for name, target in targets.items()}
    check_published(files, shapes, where)
    for path, names in files.items():
        _copy_file(path, {name: targets[name] for name in names}, model.shard)


def check_published(
    files: Mapping[Path, Sequence[str]], wanted: Mapping[str, tuple[int, ...]], where: str
) -> None:
    """CheckpointError unless the files hold each of these tensors once. Reads their headers only."""
    problems = _name_problems(set(wanted), {name for names in files.values() for name in names})
    counts = Counter(name for names in files.values() for name in names)
    if repeated := [name for name, count in counts.items() if count > 1]:
        problems.append(f"in two files {_listed(repeated)}")
    if problems:
        raise CheckpointError(f"{where}: the tensors do not fit the config: " + "; ".join(problems))
    for path, names in files.items():
        _check_shapes(path, {name: wanted[name] for name in names})


def _check_shapes(path: Path, expected: Mapping[str, tuple[int, ...]]) -> None:
    with _opened(path) as opened:
        for name, shape in expected.items():
            given = tuple(opened.get_slice(name).get_shape())  # type: ignore[no-untyped-call]
            if given != shape:
                raise CheckpointError(f"{path}: {name} is {given}, the config needs {shape}")


def _copy_file(path: Path, targets: Mapping[str, Tensor], shard: Shard) -> None:
    with _opened(path) as opened:
        for name, target in targets.items():
            tensor: Tensor
            if shard.is_whole or cut_dim(name) is None:
                tensor = opened.get_tensor(name)  # type: ignore[no-untyped-call]
            else:
                index = shard.index(name, shard.whole_shape(name, target.shape))
                tensor = opened.get_slice(name)[index]  # type: ignore[no-untyped-call]
            target.copy_(tensor)


def _write_shards(model: Policy, directory: Path, max_shard_bytes: int) -> None:
    shards = _split_by_bytes(dict(model.published_tensors()), max_shard_bytes)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file_name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        # Expert matrices are views into stacks, and a file needs each on its own.
        owned = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in shard.items()}
        save_file(owned, directory / file_name, metadata={"format": "pt"})
        _flush_to_disk(directory / file_name)
        weight_map |= dict.fromkeys(shard, file_name)
    total_bytes = sum(tensor.nbytes for shard in shards for tensor in shard.values())
    _write_json(directory / INDEX_FILE, {"metadata": {"total_size": total_bytes}, "weight_map": weight_map})


def _split_by_bytes(tensors: Mapping[str, Tensor], max_bytes: int) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    filled_bytes = 0
    for name, tensor in tensors.items():
        if shards[-1] and filled_bytes + tensor.nbytes > max_bytes:
            shards.append({})
            filled_bytes = 0
        shards[-1][name] = tensor
        filled_bytes += tensor.nbytes
    return shards


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    _flush_to_disk(path)


def _flush_to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _keep_other_files(directory: Path, staging: Path) -> None:
    if not directory.is_dir():
        return
    for path in directory.iterdir():
        if path.is_file() and path.suffix != ".safetensors" and path.name not in (CONFIG_FILE, INDEX_FILE):
            shutil.copy2(path, staging / path.name)


def _swap_in(staging: Path, directory: Path) -> None:
    """Rename the new folder into place; an older one of that name steps aside first and is then removed."""
    staging.chmod(0o755)
    if not directory.exists():
        staging.rename(directory)
        return
    retired = Path(tempfile.mkdtemp(prefix=f".{directory.name}.old.", dir=directory.parent))
    directory.rename(retired / directory.name)
    staging.rename(directory)
    shutil.rmtree(retired)
