"""The run file: everything that defines an experiment, bounded and explained. Written by people, in TOML.

Deployment (addresses, ports, folders of a machine) is not here: see `forklight_core.settings`.
"""

from __future__ import annotations

from forklight_core.runfile.sections.buffer import BufferSection
from forklight_core.runfile.sections.checkpoints import CheckpointsSection
from forklight_core.runfile.sections.curriculum import CurriculumSection, DomainSection
from forklight_core.runfile.sections.evaluation import EvaluationSection
from forklight_core.runfile.sections.parity import ParitySection
from forklight_core.runfile.sections.publication import PublicationSection
from forklight_core.runfile.sections.recipe import RecipeSection
from forklight_core.runfile.sections.reward import JudgeSection, RewardSection, SandboxSection
from forklight_core.runfile.sections.rollout import RolloutSection, ToolName, ToolsSection
from forklight_core.runfile.sections.run import ModelSection, PromptsSection, RunSection, SamplingSection
from forklight_core.runfile.sections.section import Fraction, Positive, Section
from forklight_core.runfile.sections.sft import SftSection
from forklight_core.runfile.sections.steering import CollapseSection, LengthSection
from forklight_core.runfile.sections.telemetry import TelemetrySection
from forklight_core.runfile.sections.trainer import TrainerSection


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
    curriculum: CurriculumSection = CurriculumSection()
    evaluation: EvaluationSection = EvaluationSection()
    length: LengthSection = LengthSection()
    collapse: CollapseSection = CollapseSection()
    checkpoints: CheckpointsSection = CheckpointsSection()
    publication: PublicationSection = PublicationSection()
    parity: ParitySection = ParitySection()
    sft: SftSection = SftSection()
    telemetry: TelemetrySection = TelemetrySection()


__all__ = [
    "BufferSection",
    "CurriculumSection",
    "DomainSection",
    "EvaluationSection",
    "Fraction",
    "JudgeSection",
    "ModelSection",
    "ParitySection",
    "Positive",
    "PromptsSection",
    "RecipeSection",
    "RewardSection",
    "RolloutSection",
    "RunFile",
    "RunSection",
    "SamplingSection",
    "SandboxSection",
    "Section",
    "SftSection",
    "TelemetrySection",
    "ToolName",
    "ToolsSection",
    "TrainerSection",
]
