"""The planner's counts, memory, traffic and lengths against the model and worked-out figures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from forklight_core.errors import ConfigError
from forklight_model.planning.assumptions import Rates, Workload, list_assumptions, replace_assumptions
from forklight_model.planning.counts import attention_flops, count_parameters, forward_flops
from forklight_model.planning.hardware import GPUS, find_gpu
from forklight_model.planning.layout import Recompute, TrainLayout
from forklight_model.planning.lengths import fixed_length, spread_lengths
from forklight_model.planning.rollout import decode_bytes, sequence_bytes
from forklight_model.planning.training_memory import plan_train_memory, state_bytes
from forklight_model.planning.training_time import Pack, plan_train_time
from forklight_model.sizes import SIZES, num_active_parameters, num_parameters

M1, SMALL = SIZES["minimax-m1"], SIZES["small"]
NODE = {"expert_parallel": 8, "sequence_parallel": 8}


@pytest.mark.parametrize("size", list(SIZES))
def test_parts_add_up_to_the_models_parameters(size: str) -> None:
    config = SIZES[size]
    counts = count_parameters(config)
    assert counts.dense + counts.experts == counts.total == num_parameters(config)
    active = counts.active_dense + counts.active_experts + counts.head + 2 * config.hidden_size
    assert active == num_active_parameters(config)


def test_parts_are_the_published_models() -> None:
    counts = count_parameters(M1)
    assert counts.experts == pytest.approx(434.9e9, rel=1e-3)
    assert counts.dense == pytest.approx(21.22e9, rel=1e-3)
    assert counts.active_dense + counts.active_experts == pytest.approx(45.94e9, rel=1e-3)


def test_arithmetic_a_token_is_the_published_models_at_80k() -> None:
    context = fixed_length(81_920).train_context
    assert attention_flops(M1, context) == pytest.approx(13.4e9, rel=0.01)
    assert forward_flops(M1, context) - attention_flops(M1, context) == pytest.approx(94.3e9, rel=0.01)


@pytest.mark.parametrize(
    ("gpus", "zero", "expert", "gigabytes"),
    [
        (512, 1, 8, 464),
        (512, 1, 32, 220),
        (512, 2, 8, 165),
        (512, 2, 32, 84),
        (512, 3, 8, 16.0),
        (512, 3, 32, 16.0),
        (256, 1, 32, 230),
        (256, 2, 32, 98),
        (256, 3, 32, 32.1),
        (128, 2, 32, 127),
        (128, 3, 32, 64.1),
    ],
)
def test_state_is_the_worked_out_table(gpus: int, zero: int, expert: int, gigabytes: float) -> None:
    layout = TrainLayout(gpus=gpus, zero=zero, expert_parallel=expert)
    assert state_bytes(M1, layout) / 1e9 == pytest.approx(gigabytes, rel=0.005)


@pytest.mark.parametrize(("hot", "gigabytes"), [(1.0, 47.4), (3.0, 53.0)])
def test_memory_of_a_gpu_is_the_worked_out_sum(hot: float, gigabytes: float) -> None:
    """Which has softmax attention computed again; here its output is kept."""
    rates = Rates(hot_expert_memory=hot)
    memory = plan_train_memory(M1, TrainLayout(gpus=512, **NODE), 81_920, rates)
    kept = 81_920 / 8 * 10 * 8192 * 2
    assert (memory.total - kept) / 1e9 == pytest.approx(gigabytes, rel=0.01)
    assert memory.total == pytest.approx(sum(memory.parts().values()))


def test_memory_of_training_small_is_near_the_measured_peak() -> None:
    """The benchmark has no optimizer; at its peak no gradient of a block exists yet."""
    layout = TrainLayout(gpus=1, recompute=Recompute(keeps_experts=True, num_whole_layers=4))
    memory = plan_train_memory(SMALL, layout, 32_768, Rates())
    weights = 2 * num_parameters(SMALL)
    assert (weights + memory.checkpoints) / 2**30 == pytest.approx(16.4, rel=0.2)


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_more_gpus_never_need_more_memory_each(zero: int) -> None:
    sizes = []
    for gpus in (8, 16, 24, 64, 256, 512, 1024, 4096):
        layout = TrainLayout(gpus=gpus, zero=zero, **NODE)
        sizes.append(plan_train_memory(M1, layout, 81_920, Rates()).total)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]


@pytest.mark.parametrize("config", [M1, SMALL])
def test_longer_windows_never_need_less_memory(config: object) -> None:
    model = M1 if config is M1 else SMALL
    layout = TrainLayout(gpus=64)
    tokens = (1024, 4096, 32_768, 81_920, 1_000_000)
    trained = [plan_train_memory(model, layout, each, Rates()).total for each in tokens]
    cached = [sequence_bytes(model, each, 4) for each in tokens]
    assert trained == sorted(set(trained)) and cached == sorted(set(cached))


def test_later_zero_stages_and_wider_groups_never_hold_more() -> None:
    held = [state_bytes(M1, TrainLayout(gpus=512, zero=zero, expert_parallel=8)) for zero in (1, 2, 3)]
    assert held == sorted(held, reverse=True)
    for zero in (1, 2, 3):
        wider = [
            plan_train_memory(M1, TrainLayout(gpus=512, zero=zero, expert_parallel=each), 81_920, Rates())
            for each in (2, 4, 8, 16, 32)
        ]
        totals = [memory.total for memory in wider]
        assert totals == sorted(totals, reverse=True)


def test_traffic_is_the_worked_out_table() -> None:
    rates, pack = Rates(hot_expert_time=1.0), Pack(tokens=81_920, context=40_960)
    rows = {(8, 8): (127, 321, 106, 133), (8, 16): (127, 158, 113, 133), (8, 32): (127, 76, 117, 133)}
    rows[4, 8] = (127, 321, 211, 228)
    for (sequence, expert), expected in rows.items():
        layout = TrainLayout(gpus=512, expert_parallel=expert, sequence_parallel=sequence)
        traffic = plan_train_time(M1, GPUS["h800"], layout, pack, rates).traffic
        found = (traffic.dense_bytes, traffic.expert_bytes, traffic.tokens_bytes, traffic.heads_bytes)
        assert [each / 1e9 for each in found] == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    ("expert", "seconds", "utilisation"), [(8, 11.0, 0.31), (16, 11.5, 0.29), (32, 11.8, 0.29)]
)
def test_balanced_packs_take_the_worked_out_time(expert: int, seconds: float, utilisation: float) -> None:
    layout = TrainLayout(gpus=512, expert_parallel=expert, sequence_parallel=8)
    pack = Pack(tokens=81_920, context=40_960)
    time = plan_train_time(M1, GPUS["h800"], layout, pack, Rates(hot_expert_time=1.0))
    assert time.total_s == pytest.approx(seconds, rel=0.05)
    assert time.utilisation == pytest.approx(utilisation, abs=0.02)


def test_lone_gpus_have_no_traffic() -> None:
    time = plan_train_time(SMALL, GPUS["h200"], TrainLayout(gpus=1), Pack(tokens=1024, context=512), Rates())
    traffic = time.traffic
    assert traffic.dense_bytes + traffic.expert_bytes + traffic.tokens_bytes + traffic.heads_bytes == 0
    assert time.exposed_s == 0


def test_lengths_have_the_mean_of_a_measured_batch() -> None:
    """256 samples with p50 3.7K and p99 63K had 7.7K tokens on average (services/rollout/bench/README.md)."""
    window = 81_920
    lengths = spread_lengths(Workload(window=window, p50_share=3700 / window, p99_share=63_000 / window))
    assert lengths.mean == pytest.approx(7700, rel=0.05)
    assert lengths.p50 < lengths.mean < lengths.decode_context < lengths.p99


def test_equal_lengths_are_half_read_on_average() -> None:
    lengths = spread_lengths(Workload(window=1000, p50_share=1.0, p99_share=1.0, prompt_tokens=0))
    assert (lengths.mean, lengths.train_context, lengths.decode_context) == pytest.approx((1000, 500, 500))


def test_decode_reads_no_more_weights_than_there_are() -> None:
    all_weights = 2 * (num_parameters(SMALL) - SMALL.vocab_size * SMALL.hidden_size)
    alone = decode_bytes(SMALL, 1, 0, 1)
    assert 2 * num_active_parameters(SMALL) < alone < all_weights
    per_row = decode_bytes(SMALL, 2001, 0, 1) - decode_bytes(SMALL, 2000, 0, 1)
    assert decode_bytes(SMALL, 2000, 0, 1) - 2000 * per_row == pytest.approx(all_weights, rel=1e-3)


def test_assumptions_all_say_where_they_come_from() -> None:
    listed = list_assumptions(Rates(), Workload(), {"groups": "here"})
    assert len(listed) == len({each.name for each in listed}) > 20
    assert all(each.source and each.unit and each.name in each.option for each in listed)
    assert [each.source for each in listed if each.name == "groups"] == ["here"]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"matmul_shar": 0.5}, "did you mean matmul_share"),
        ({"matmul_share": 1.5}, "at most 1"),
        ({"batches": 0.0}, "above 0"),
        ({"groups": float("nan")}, "above 0"),
        ({"hot_expert_time": 0.5}, "at least 1"),
        ({"p50_share": 0.95}, "median"),
    ],
)
def test_assumptions_that_cannot_be_are_refused(values: dict[str, float], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        replace_assumptions(Rates(), Workload(), values)


def test_assumptions_are_replaced_by_name() -> None:
    rates, workload = replace_assumptions(Rates(), Workload(), {"copy_share": 0.5, "window": 4096})
    assert (rates, workload) == (replace(Rates(), copy_share=0.5), replace(Workload(), window=4096))


def test_gpus_nobody_knows_are_refused_with_what_exists() -> None:
    with pytest.raises(ConfigError, match="did you mean h200.*a100, h100, h200, h800"):
        find_gpu("h201")
