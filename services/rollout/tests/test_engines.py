"""The engine that the run file names."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from forklight_core.errors import ConfigError
from forklight_core.runfile import RunFile
from forklight_rollout.adapters.native import NativeEngine
from forklight_rollout.engines import choose_engine
from forklight_rollout.settings import RolloutSettings
from forklight_rollout.weights.manifest import PublishedWeights


def settings(folder: Path) -> RolloutSettings:
    return RolloutSettings(
        run_file=folder / "run.toml",
        run_folder=folder,
        run_id="test-run",
        listen="127.0.0.1:1",
        redis_url="redis://127.0.0.1:1",
        blobs_url=f"file://{folder}/blobs",
        buffer_address="127.0.0.1:1",
        device="cpu",
        max_prompt_tokens=32,
    )


def run_file(engine: str, *, routing_replay: bool = False) -> RunFile:
    return RunFile.model_validate(
        {
            "sampling": {"max_new_tokens": 32},
            "rollout": {"engine": engine, "max_batch": 3, "threads": 1},
            "parity": {"routing_replay": routing_replay},
        }
    )


def test_the_native_engine_is_made_as_wished(tmp_path: Path, published: dict[int, PublishedWeights]) -> None:
    engine = choose_engine(settings(tmp_path), run_file("native"))(published[1])
    assert isinstance(engine, NativeEngine)
    assert (engine.version, engine.limits.num_sequences, engine.limits.max_tokens) == (1, 3, 64)
    engine.close()


def test_the_engine_is_planned_for_the_largest_window_of_the_run(
    tmp_path: Path, published: dict[int, PublishedWeights]
) -> None:
    moving = run_file("native").model_copy(
        update={"length": RunFile.model_validate({"length": {"windows": [48, 96]}}).length}
    )
    engine = choose_engine(settings(tmp_path), moving)(published[1])
    assert engine.limits.max_tokens == 32 + 96
    engine.close()


def test_routing_replay_is_refused_where_choices_are_not_recorded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='routing_replay = false or rollout.engine = "native"'):
        choose_engine(settings(tmp_path), run_file("vllm", routing_replay=True))


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
def test_a_missing_vllm_is_named_with_the_command_that_installs_it(
    tmp_path: Path, published: dict[int, PublishedWeights]
) -> None:
    with pytest.raises(ConfigError, match="pip install"):
        choose_engine(settings(tmp_path), run_file("vllm"))(published[0])
