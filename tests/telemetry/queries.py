"""Every query of every panel, and the metrics that a short run on CPU may leave without a point."""

from __future__ import annotations

from infra.grafana.build import DASHBOARDS

QUERIES = [
    (board.name, panel, query) for board in DASHBOARDS for panel in board.panels for query in panel.queries
]
NO_EVALUATION = "the short run has no held-out rounds"
NO_CURRICULUM = "the short run's prompts have no domains"
NO_TOOLS = "the short run's responses call no tools"
NO_HTTP = "nobody asks the pods' HTTP door"
NO_JUDGE = "the short run's samples are judged by rules"
WITHOUT_DATA = {
    "forklight.buffer.evaluation.reward": NO_EVALUATION,
    "forklight.buffer.evaluation.pass": NO_EVALUATION,
    "forklight.buffer.curriculum.share": NO_CURRICULUM,
    "forklight.buffer.curriculum.level": NO_CURRICULUM,
    "forklight.rollout.tool_call_duration": NO_TOOLS,
    "forklight.rollout.http_in_flight": NO_HTTP,
    "forklight.rollout.http_first_token": NO_HTTP,
    "forklight.rollout.http_duration": NO_HTTP,
    "forklight.reward.judge.alarm": NO_JUDGE,
    "forklight.reward.judge.abstain_share": NO_JUDGE,
    "forklight.reward.judge.length_slope": NO_JUDGE,
    "forklight.reward.judge.length_residual": NO_JUDGE,
    "forklight.reward.judge.length_cusum": NO_JUDGE,
    "forklight.reward.judge.padding_gain": NO_JUDGE,
    "forklight.reward.judge.inconsistency": NO_JUDGE,
    "forklight.reward.judge.position_bias": NO_JUDGE,
    "forklight.trainer.router_auxiliary_loss": "the tiny model has no experts",
    "forklight.trainer.response_length_by_advantage": "a random model earns no reward, so no advantage",
    "forklight.trainer.response_length_p99_by_advantage": "a random model earns no reward, so no advantage",
    "forklight.console.request_duration": "the console is asked once, whether it is healthy",
    "forklight.trainer.checkpoint.wait": "the trainer may never have to wait for a checkpoint",
}
"""Metrics that a short run on CPU may leave without a point, and why."""
