"""The run file: everything that defines an experiment, bounded and explained. Written by people, in TOML.

Deployment (addresses, ports, folders of a machine) is not here: see `forklight_core.settings`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from forklight_core.runfile.units import Bytes, Count, Seconds


class Section(BaseModel):
    """Unknown keys are errors; values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class RunSection(Section):
    """Name and place of the run."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")] = "run"
    """Short name; the run id and the run folder start with it."""
    folder: str = "runs"
    """Folder that holds run folders, relative to where the command is called."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of prompt order, sampling and initial weights."""


class ModelSection(Section):
    """The policy."""

    size: Literal["nano", "mini", "small", "minimax-m1"] = "nano"
    """Architecture to start from when `path` is empty."""
    path: str = ""
    """Folder of a checkpoint in the published layout to start from."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of weights and activations; the LM head is fp32 on both sides in any case."""


class PromptsSection(Section):
    """Where prompts come from: JSON lines of {id, prompt, kind, gold, spec, tools}."""

    train: str = ""
    """File of training prompts."""
    holdout: str = ""
    """File of held-out prompts for evaluation; empty: no evaluation."""
    shuffle: bool = True
    """Shuffle the prompts anew in every epoch, by the run's seed."""


class SamplingSection(Section):
    """How responses are sampled."""

    group_size: Annotated[int, Field(ge=1, le=256)] = 16
    """G: samples a prompt."""
    max_new_tokens: Count = 40960
    """Length window of a response, in tokens."""
    temperature: Annotated[float, Field(gt=0.0, le=10.0)] = 1.0
    """Sampling temperature of training groups."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Nucleus; 1 keeps every token."""
    repetition_probability: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.99
    """A token with a probability above this counts as near-certain."""
    repetition_tokens: Annotated[int, Field(ge=0)] = 3000
    """Stop after so many near-certain tokens in a row; 0 never stops."""


class RecipeSection(Section):
    """The loss. Defaults are MiniMax-M1's; a contradiction of the paper needs allow_deviation."""

    algorithm: Literal["cispo", "grpo", "dapo"] = "cispo"
    """cispo clips the weight and keeps every token; grpo and dapo drop tokens by the unified mask."""
    eps_low: Annotated[float, Field(ge=0.0)] = 1.0
    """Lower bound of the ratio is 1 - eps_low; at 1 or above there is no lower bound."""
    eps_high: Annotated[float, Field(gt=0.0)] = 4.0
    """Upper bound of the ratio is 1 + eps_high; 4 makes the ceiling 5."""
    mask_eps_low: Annotated[float, Field(gt=0.0)] | None = None
    """Unified mask: drop tokens with A < 0 and ratio below 1 - this. For grpo and dapo; none for cispo."""
    mask_eps_high: Annotated[float, Field(gt=0.0)] | None = None
    """Unified mask: drop tokens with A > 0 and ratio above 1 + this. For grpo and dapo; none for cispo."""
    kl_coefficient: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of a KL penalty to the behaviour policy. The paper has none."""
    overlong_penalty: bool = True
    """DAPO's soft penalty: from 0 to -1 over the last overlong_tokens of the window."""
    overlong_tokens: Count = 4096
    """Length of the soft zone at the end of the window, in tokens."""
    allow_deviation: bool = False
    """Accept settings that contradict the paper."""


class TrainerSection(Section):
    """The optimizer and its steps."""

    steps: Positive = 1000
    """Optimizer steps of the run."""
    groups_per_step: Positive = 32
    """Groups an optimizer step learns from."""
    updates_per_version: Annotated[int, Field(ge=1, le=64)] = 16
    """Optimizer steps between two published versions: off-policy updates a generation batch."""
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-6
    """Peak learning rate."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps of linear warm-up."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """AdamW weight decay."""
    adam_beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """AdamW beta1."""
    adam_beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.95
    """AdamW beta2."""
    adam_eps: Annotated[float, Field(gt=0.0)] = 1e-15
    """AdamW epsilon. Gradients span 1e-18 to 1e-5, so 1e-8 would freeze most weights."""
    grad_clip: Annotated[float, Field(gt=0.0)] = 1.0
    """Largest global gradient norm."""
    pack_tokens: Count = 65536
    """Tokens of one packed micro-batch; the longest sample must fit."""
    router_auxiliary_loss: bool = False
    """Add the published router balancing loss with the checkpoint's own coefficient."""
    checkpoint_every_steps: Positive = 1
    """Optimizer steps between checkpoints: what a crash may cost at most."""
    keep_checkpoints: Positive = 3
    """Checkpoints kept on disk."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads; 0 lets torch choose."""


class BufferSection(Section):
    """Groups, credit, staleness."""

    max_staleness: Annotated[int, Field(ge=0)] = 2
    """Policy versions a sample may be behind when it is trained on."""
    max_open_groups: Positive = 512
    """Groups that may be open at once."""
    max_open_tokens: Count = 1_000_000_000
    """Credit: tokens that open groups may still produce or hold."""
    max_open_bytes: Bytes = 100 * 2**30
    """Credit: blob bytes that open groups may still produce or hold."""
    lease_s: Seconds = 30.0
    """A lease not renewed for so long goes to another worker."""
    max_deliveries: Annotated[int, Field(ge=1, le=100)] = 5
    """Deliveries of one queue entry before it becomes a dead letter."""
    dynamic_sampling: bool = True
    """Filter groups whose rewards are all equal, and open others instead."""
    min_scored_samples: Annotated[int, Field(ge=1)] = 2
    """A group with fewer scored samples is not trained on."""
    watchdog_s: Seconds = 300.0
    """A sample open for longer is reported as stuck, with where and since when."""


class RolloutSection(Section):
    """Generation."""

    pods: Annotated[int, Field(ge=1, le=64)] = 2
    """Rollout pods that `forklight up` starts on this machine."""
    engine: Literal["native", "vllm"] = "native"
    """What generates: this project's own engine, or vLLM (the extra `vllm`; tolerance mode only)."""
    max_batch: Annotated[int, Field(ge=1, le=4096)] = 64
    """Sequences decoded together in a pod."""
    tensor_parallel: Annotated[int, Field(ge=1, le=64)] = 1
    """GPUs of a pod that hold the model together, each a part of every layer (on a CPU: processes)."""
    drain_s: Seconds = 20.0
    """Time a pod may take to finish what runs when it is told to stop; a quarter of it saves the rest."""
    segment_tokens: Annotated[int, Field(ge=0)] = 4096
    """A response is saved when it has so many tokens more: what a dying pod costs. 0: only when it leaves."""
    swap_policy: Literal["keep", "restart", "finish"] = "keep"
    """Samples that run when a version comes: go on, begin anew, or end first while nothing new begins."""
    swap_cache: Literal["keep", "recompute"] = "keep"
    """Samples that go on: with the caches of the old weights, or with caches computed anew."""
    swap_finish_s: Seconds = 600.0
    """With `finish`: how long running samples may hold up a version; after that it is as with `keep`."""
    probe_tolerance: Annotated[float, Field(gt=0.0)] | None = None
    """Largest difference of a log-prob of the probe where equal bits cannot be had. None: by dtype."""
    collapse_share: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.2
    """A pod whose sequences get less than this share of their usual tokens/s takes itself out; 0: never."""
    collapse_s: Seconds = 120.0
    """For so long, without a break."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads; 0 lets torch choose."""


class RewardSection(Section):
    """Scoring."""

    correct_weight: Annotated[float, Field(ge=0.0)] = 1.0
    """Weight of the part `correct`."""
    format_weight: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of the part `format`; it counts only when the answer is correct."""
    max_attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Tries before a sample ends as reward_failed."""
    timeout_s: Seconds = 30.0
    """Deadline of one try."""
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 16
    """Samples scored at once by one front door."""
    verifier_processes: Annotated[int, Field(ge=1, le=64)] = 1
    """Killable worker processes of one verifier."""


ToolName = Literal["python"]


class ToolsSection(Section):
    """What a generation may call out to. Its output is put into the response and never learned from."""

    names: tuple[ToolName, ...] = ()
    """Tools of every prompt that does not name fewer; none: no generation calls out."""
    max_calls: Annotated[int, Field(ge=1, le=1000)] = 8
    """Answered calls of one response; a further one is told that there are no more."""
    max_output_tokens: Annotated[Count, Field(ge=64, le=16384)] = 1024
    """Most tokens that one call puts into a response, markup included; they count as its length."""
    timeout_s: Annotated[Seconds, Field(le=300.0)] = 10.0
    """Time that one call may compute; running out of it is an answer, too."""


class EvaluationSection(Section):
    """Held-out evaluation, served by the rollout pods while training goes on."""

    every_versions: Annotated[int, Field(ge=0)] = 5
    """Open a round at every so many policy versions; 0 never."""
    num_prompts: Positive = 64
    """Held-out prompts a round."""
    temperature: Annotated[float, Field(ge=0.0, le=10.0)] = 1.0
    """Sampling temperature of evaluation; 0 is greedy."""
    goal_reward: Annotated[float, Field(ge=0.0)] | None = None
    """Finish the run when a complete round reaches this mean reward."""


class ParitySection(Section):
    """The gate on train/rollout mismatch."""

    min_correlation: Fraction = 0.99
    """Pause the run when the correlation of the two probabilities falls under this."""
    max_mean_kl: Annotated[float, Field(gt=0.0)] = 0.05
    """Pause the run when the mean KL of rollout to trainer rises above this."""
    require_equal: bool = False
    """In parity mode, pause the run when a single log-prob of rollout and trainer differs in bits."""
    routing_replay: bool = False
    """Score with the experts that rollout chose. Adds 5 bytes a token, layer and expert to payloads."""


class SftSection(Section):
    """Cold start: supervised training from random weights or `model.path`."""

    demonstrations: str = ""
    """JSON lines of {prompt, response}; empty: no cold start."""
    steps: Positive = 500
    """Optimizer steps."""
    batch_size: Positive = 64
    """Demonstrations a step."""
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-3
    """Peak learning rate; cosine to a tenth."""


class TelemetrySection(Section):
    """Where traces and metrics go."""

    otlp_endpoint: str = ""
    """OTLP/gRPC endpoint such as http://127.0.0.1:4317; empty: nothing is exported."""


class RunFile(Section):
    """One experiment."""

    run: RunSection = RunSection()
    model: ModelSection = ModelSection()
    prompts: PromptsSection = PromptsSection()
    sampling: SamplingSection = SamplingSection()
    recipe: RecipeSection = RecipeSection()
    trainer: TrainerSection = TrainerSection()
    buffer: BufferSection = BufferSection()
    rollout: RolloutSection = RolloutSection()
    reward: RewardSection = RewardSection()
    tools: ToolsSection = ToolsSection()
    evaluation: EvaluationSection = EvaluationSection()
    parity: ParitySection = ParitySection()
    sft: SftSection = SftSection()
    telemetry: TelemetrySection = TelemetrySection()
