"""A tiny model, samples it really generated the numbers of, and runs put together in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from forklight.v1 import types_pb2
from forklight_core import ids
from forklight_core.blobs import MemoryBlobStore
from forklight_core.runfile import RunFile, dump_run_file
from forklight_core.wire import SCHEMA_VERSION, TrajectoryArrays, pack_payload
from forklight_model.checkpoint import save_model
from forklight_model.config import ModelConfig
from forklight_model.logprobs import token_logprobs
from forklight_model.model import HybridModel
from forklight_model.tokenizer import build_character_tokenizer
from forklight_trainer.publishing.contract import contract_hash

RUN_ID = "test-run"
TINY = ModelConfig(
    vocab_size=103,
    hidden_size=32,
    intermediate_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    rotary_dim=8,
    num_local_experts=2,
    num_experts_per_tok=1,
    attn_type_list=(0, 1),
    max_position_embeddings=512,
    initializer_range=0.1,
)
CONTRACT = contract_hash(TINY, "float32")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_model(seed: int = 0) -> HybridModel:
    model = HybridModel(TINY, is_initialized=False)
    model.initialize(torch.Generator().manual_seed(seed))
    return model


@dataclass(kw_only=True)
class SampleMaker:
    """Makes batches whose recorded log-probs are what the tiny model (version 0) really says."""

    blobs: MemoryBlobStore = field(default_factory=MemoryBlobStore)
    model: HybridModel = field(default_factory=tiny_model)
    num_groups: int = 3
    group_size: int = 4
    version: int = 0
    temperature: float = 1.0

    def batch(self, step: int) -> types_pb2.Batch:
        """The batch of a step; the same step always gives the same batch."""
        chance = np.random.default_rng(step)
        first = (step - 1) * self.num_groups
        groups = [self._group(first + place, chance) for place in range(self.num_groups)]
        return types_pb2.Batch(
            batch_id=ids.batch_id(RUN_ID, step), step=step, groups=groups, policy_version=0
        )

    def arrays(self, sample_id: str, chance: np.random.Generator) -> TrajectoryArrays:
        prompt = chance.integers(7, 103, size=int(chance.integers(3, 9)), dtype=np.int32)
        response = chance.integers(7, 103, size=int(chance.integers(5, 24)), dtype=np.int32)
        input_ids = torch.from_numpy(np.concatenate([prompt, response]).astype(np.int64))
        with torch.no_grad():
            ends = torch.tensor([0, len(input_ids)], dtype=torch.int32)
            scored = token_logprobs(self.model, input_ids, ends, self.temperature).logprobs_T[len(prompt) :]
        return TrajectoryArrays(
            sample_id=sample_id,
            prompt_ids=prompt,
            response_ids=response,
            logprobs=scored.numpy(),
            raw_logprobs=scored.numpy(),
            text="",
            contract=CONTRACT,
        )

    def _group(self, index: int, chance: np.random.Generator) -> types_pb2.BatchGroup:
        group_id = ids.training_group_id(RUN_ID, index)
        samples = [self._sample(group_id, place, chance) for place in range(self.group_size)]
        return types_pb2.BatchGroup(group_id=group_id, prompt_id=f"p{index}", samples=samples)

    def _sample(self, group_id: str, place: int, chance: np.random.Generator) -> types_pb2.BatchSample:
        sample_id = ids.sample_id(group_id, place)
        arrays = self.arrays(sample_id, chance)
        reference = self.blobs.put(pack_payload(arrays))
        envelope = types_pb2.Envelope(
            schema_version=SCHEMA_VERSION, run_id=RUN_ID, group_id=group_id, sample_id=sample_id, attempt=1
        )
        trajectory = types_pb2.Trajectory(
            envelope=envelope,
            payload=types_pb2.BlobRef(id=reference.id, size_bytes=reference.size_bytes),
            num_prompt_tokens=len(arrays.prompt_ids),
            num_response_tokens=len(arrays.response_ids),
            version_spans=[types_pb2.VersionSpan(start=0, version=self.version)],
        )
        return types_pb2.BatchSample(trajectory=trajectory, reward=float(place % 2))


def tiny_run_file(
    folder: Path, *, checkpoints: Mapping[str, object] | None = None, **trainer: object
) -> Path:
    """A model folder and a run file that starts from it."""
    build_character_tokenizer().save(folder / "start")
    save_model(tiny_model(), folder / "start")
    run_file = RunFile.model_validate(
        {
            "model": {"path": str(folder / "start")},
            "sampling": {"max_new_tokens": 64, "group_size": 4},
            "recipe": {"overlong_tokens": 16},
            "checkpoints": checkpoints or {},
            "trainer": {
                "steps": 6,
                "groups_per_step": 3,
                "updates_per_version": 2,
                "learning_rate": 1e-3,
                "pack_tokens": 96,
                "threads": 1,
            }
            | trainer,
        }
    )
    path = folder / "run.toml"
    path.write_text(dump_run_file(run_file))
    return path


@pytest.fixture
def make_model() -> Callable[[int], HybridModel]:
    return tiny_model


@pytest.fixture
def maker() -> SampleMaker:
    return SampleMaker()


@pytest.fixture
def write_run_file() -> Callable[..., Path]:
    return tiny_run_file
