"""Lightning attention on a GPU: one pass over q, k, v with the state in registers, and its gradient by hand.

o = f(q, k, v) gives dq = f(do, v, k), and with time reversed dk = f(v, do, q), dv = f(k, q, do): four walks
of one kernel. Where whole sequences would leave the GPU idle, a walk of the
state alone first leaves it at segment boundaries (with the pass's own operations, so the bits are those of
one pass). Legend: T packed tokens, H heads, D head size, N sequences, S segments.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from forklight_kernels.gradient import Context, needs_gradient
from forklight_kernels.launch import prepare_launch
from forklight_kernels.lightning_attention.segments import Walks
from forklight_kernels.lightning_attention.triton_launch import (
    Chain,
    Parts,
    Pass,
    Tiles,
    loadable,
    run_chain,
    run_pass,
    states_between_segments,
    tiles_for,
    walks_for,
)
from forklight_kernels.lightning_attention.triton_silu import activate
from forklight_kernels.lightning_attention.types import LightningForm
from forklight_kernels.recompute import is_twice_run

NO_SILU = (False, False, False)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Plan:
    """Everything but the differentiable inputs."""

    slopes_H: Tensor
    walks: Walks
    tiles: Tiles
    applies_silu: bool
    keeps_open_chunk: bool

    @property
    def loads_with_silu(self) -> bool:
        return self.applies_silu and not self.tiles.activates_first


def lightning_attention(
    qkv: Parts,
    slopes_H: Tensor,
    offsets: tuple[int, ...],
    form: LightningForm,
    tiles: Tiles | None = None,
) -> tuple[Tensor, Tensor]:
    """Output [T, H, D] and states [N, H, D, D] of packed sequences with these offsets."""
    q_THD, k_THD, v_THD = qkv
    tiles = tiles or tiles_for(v_THD.dtype, v_THD.shape[2])
    plan = _Plan(
        slopes_H=slopes_H.to(torch.float32).contiguous(),
        walks=walks_for(offsets, v_THD, tiles),
        tiles=tiles,
        applies_silu=form.applies_silu,
        keeps_open_chunk=form.keeps_open_chunk,
    )
    if needs_gradient(q_THD, k_THD, v_THD, form.initial_state):
        o_THD, states_NHDD = _Lightning.apply(q_THD, k_THD, v_THD, form.initial_state, plan)
        return o_THD, states_NHDD
    return _forward(_operands(qkv, plan), form.initial_state, plan)


class _Context(Context):
    plan: _Plan
    saves_active: bool


class _Lightning(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context, q_THD: Tensor, k_THD: Tensor, v_THD: Tensor, initial_state: Tensor | None, plan: _Plan
    ) -> tuple[Tensor, Tensor]:
        active = _operands((q_THD, k_THD, v_THD), plan)
        o_THD, states_NHDD = _forward(active, initial_state, plan)
        # Where the block runs twice, the second run's silu serves the gradient too.
        ctx.saves_active = plan.applies_silu and is_twice_run()
        initial = [] if initial_state is None else [initial_state]
        ctx.save_for_backward(q_THD, k_THD, v_THD, *(active if ctx.saves_active else ()), *initial)
        ctx.plan = plan
        ctx.set_materialize_grads(False)
        if plan.keeps_open_chunk:
            ctx.mark_non_differentiable(states_NHDD)
        return o_THD, states_NHDD

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        q_THD, k_THD, v_THD, *initial = ctx.saved_tensors
        qkv = (q_THD, k_THD, v_THD)
        if ctx.saves_active:
            active_q_THD, active_k_THD, active_v_THD, *initial = initial
            active = (active_q_THD, active_k_THD, active_v_THD)
        else:
            active = _operands(qkv, ctx.plan)
        do_THD, dstates_NHDD = gradients
        if ctx.plan.keeps_open_chunk:
            dstates_NHDD = None
        if do_THD is None:
            do_THD = torch.zeros(v_THD.shape, dtype=v_THD.dtype, device=v_THD.device)
        pull = _Pull(
            do_THD=loadable(do_THD),
            dstates=None if dstates_NHDD is None else dstates_NHDD.contiguous(),
            initial=initial[0].contiguous() if initial else None,
        )
        dqkv, dinitial = _backward(qkv, active, pull, ctx.plan)
        return *dqkv, dinitial, None


def _forward(active: Parts, initial_state: Tensor | None, plan: _Plan) -> tuple[Tensor, Tensor]:
    q_THD, k_THD, v_THD = active
    prepare_launch(v_THD)
    initial = None if initial_state is None else initial_state.to(torch.float32).contiguous()
    states_NHDD = _new_states(v_THD, plan.walks.num_sequences)
    before = initial
    if plan.walks.is_cut:
        before = _new_states(v_THD, plan.walks.num_segments)
        chain = Chain(
            operands=(k_THD, v_THD),
            silu=plan.loads_with_silu,
            initial=initial,
            boundaries=before,
            segment_rows=plan.walks.segment_rows,
            after=states_NHDD,
            keeps_open_chunk=plan.keeps_open_chunk,
        )
        run_chain(chain, plan.walks.chain_N4, plan.slopes_H, plan.tiles)
    o_THD = torch.empty(v_THD.shape, dtype=v_THD.dtype, device=v_THD.device)
    walk = Pass(
        operands=(q_THD, k_THD, v_THD),
        silu=(plan.loads_with_silu,) * 3,
        out=o_THD,
        before=before,
        after=None if plan.walks.is_cut else states_NHDD,
        keeps_open_chunk=plan.keeps_open_chunk,
    )
    run_pass(walk, plan.walks.lines_S4, plan.slopes_H, plan.tiles)
    return o_THD, states_NHDD


def _operands(qkv: Parts, plan: _Plan) -> Parts:
    """q, k, v as the kernels load them: through silu already, if that is a pass of its own."""
    if not plan.applies_silu or plan.loads_with_silu:
        q_THD, k_THD, v_THD = (loadable(part) for part in qkv)
        return q_THD, k_THD, v_THD
    active = _new_parts(qkv, are_joined=True)
    activate(qkv, active)
    return active


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Pull:
    """What the backward walks start from."""

    do_THD: Tensor
    dstates: Tensor | None
    initial: Tensor | None


def _backward(qkv: Parts, active: Parts, pull: _Pull, plan: _Plan) -> tuple[Parts, Tensor | None]:
    prepare_launch(active[0])
    before_silu: Parts | None = None
    if plan.applies_silu:
        q_THD, k_THD, v_THD = (loadable(part) for part in qkv)
        before_silu = (q_THD, k_THD, v_THD)
    dqkv = _new_parts(qkv, are_joined=_are_joined(qkv))
    _query_gradient(active, pull, plan, dqkv[0], before_silu)
    dinitial = None if pull.initial is None else torch.empty_like(pull.initial)
    _key_value_gradients(active, pull, plan, dqkv, before_silu, dinitial)
    return dqkv, dinitial


def _query_gradient(
    active: Parts, pull: _Pull, plan: _Plan, dq_THD: Tensor, before_silu: Parts | None
) -> None:
    _, k_THD, v_THD = active
    silu, before = plan.loads_with_silu, pull.initial
    if plan.walks.is_cut:
        after = _new_states(v_THD, plan.walks.num_segments)
        chain = Chain(operands=(k_THD, v_THD), silu=silu, initial=pull.initial, after=after)
        before = states_between_segments(chain, plan.walks, plan.slopes_H, plan.tiles)
    walk = Pass(
        operands=(pull.do_THD, v_THD, k_THD),
        silu=(False, silu, silu),
        out=dq_THD,
        before_silu=before_silu[0] if before_silu else None,
        before=before,
        is_transposed=True,
    )
    run_pass(walk, plan.walks.lines_S4, plan.slopes_H, plan.tiles)


def _key_value_gradients(
    active: Parts,
    pull: _Pull,
    plan: _Plan,
    dqkv: Parts,
    before_silu: Parts | None,
    dinitial: Tensor | None,
) -> None:
    q_THD, k_THD, v_THD = active
    _, dk_THD, dv_THD = dqkv
    silu, before, lines = plan.loads_with_silu, pull.dstates, plan.walks.lines_S4
    if plan.walks.is_cut:
        after = _new_states(v_THD, plan.walks.num_segments)
        chain = Chain(
            operands=(q_THD, pull.do_THD), silu=silu, silu_of_values=False, is_reverse=True,
            initial=pull.dstates, after=after,
        )  # fmt: skip
        before = states_between_segments(chain, plan.walks, plan.slopes_H, plan.tiles)
    for call_of in (
        Pass(
            operands=(v_THD, pull.do_THD, q_THD), silu=(silu, False, silu), out=dk_THD, is_reverse=True,
            before_silu=before_silu[1] if before_silu else None, before=before, is_transposed=True,
        ),
        Pass(
            operands=(k_THD, q_THD, pull.do_THD), silu=(silu, silu, False), out=dv_THD, is_reverse=True,
            before_silu=before_silu[2] if before_silu else None, before=before, after=dinitial,
        ),
    ):  # fmt: skip
        run_pass(call_of, lines, plan.slopes_H, plan.tiles)


def _new_states(like_THD: Tensor, count: int) -> Tensor:
    _, num_heads, head_size = like_THD.shape
    shape = (count, num_heads, head_size, head_size)
    return torch.empty(shape, dtype=torch.float32, device=like_THD.device)


def _are_joined(qkv: Parts) -> bool:
    """Whether q, k and v are views of one tensor [T, H, 3 * D], side by side inside each head."""
    first = qkv[0]
    _, num_heads, size = first.shape
    strides = (num_heads * 3 * size, 3 * size, 1)
    step = size * first.element_size()
    return all(
        part.stride() == strides and part.data_ptr() == first.data_ptr() + number * step
        for number, part in enumerate(qkv)
    )


def _new_parts(like: Parts, *, are_joined: bool) -> Parts:
    """Uninitialised tensors of these shapes; as views of one joined tensor, or each on its own."""
    num_tokens, num_heads, size = like[0].shape
    if are_joined:
        a, b, c = like[0].new_empty(num_tokens, num_heads, 3 * size).chunk(3, dim=-1)
    else:
        a, b, c = like[0].new_empty(3, num_tokens, num_heads, size).unbind(0)
    return a, b, c
