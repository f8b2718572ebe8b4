"""New weights from verified shards on disk, behind vLLM's own calls for weight updates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from safetensors import safe_open
from torch import Tensor
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload


@dataclass
class NothingToAgree(WeightTransferInitInfo):  # type: ignore[misc]
    """Files need no handshake."""


@dataclass
class ShardPaths(WeightTransferUpdateInfo):  # type: ignore[misc]
    """All files of one version."""

    paths: list[str]


class ShardsWeightEngine(WeightTransferEngine[NothingToAgree, ShardPaths]):  # type: ignore[misc]
    """Reads one tensor at a time, so an update needs no second copy of the model."""

    init_info_cls = NothingToAgree
    update_info_cls = ShardPaths

    def init_transfer_engine(self, init_info: NothingToAgree) -> None:
        """Nothing to open."""

    def start_weight_update(self) -> None:
        """vLLM's own models repack weights after loading, so they are loaded layer by layer anew."""
        if not self._loads_in_place:
            initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: ShardPaths) -> None:
        """Load a whole version."""
        self.model.load_weights(_read(update_info.paths))

    def finish_weight_update(self) -> None:
        """Put the layers back into use."""
        if not self._loads_in_place:
            finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Nothing to close."""

    @staticmethod
    def trainer_send_weights(iterator: Iterator[tuple[str, Tensor]], trainer_args: object) -> None:
        """The trainer publishes on its own; it knows nothing of vLLM."""
        raise NotImplementedError("weights are published by forklight-trainer, not sent through vLLM")

    @property
    def _loads_in_place(self) -> bool:
        return bool(getattr(self.model, "loads_in_place", False))


def _read(paths: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    for path in paths:
        with safe_open(path, framework="pt") as shard:
            for name in shard.keys():  # noqa: SIM118  # not a mapping
                yield name, shard.get_tensor(name)
