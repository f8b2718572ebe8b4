"""The tools of a pod, wired."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from forklight_core.blobs import open_blob_store
from forklight_core.errors import ConfigError
from forklight_core.rpc import open_channel
from forklight_core.runfile.schema import ToolsSection
from forklight_rollout.adapters.sandbox_rpc import RpcSandbox
from forklight_rollout.generation.engine_thread import EngineThread
from forklight_rollout.problems import Problems
from forklight_rollout.settings import RolloutSettings
from forklight_rollout.tools import python, shell
from forklight_rollout.tools.desk import Toolbox, ToolDesk
from forklight_rollout.tools.encoding import ToolTokenizer, make_encoder
from forklight_rollout.tools.ports import Tool


@dataclass(frozen=True, slots=True, kw_only=True)
class PodTools:
    """The tools a pod has, and how patient it is with them."""

    tools: Mapping[str, Tool] = field(default_factory=dict)
    num_calls: int = 16
    deadline_s: float = 300.0


def check_tools(settings: RolloutSettings, section: ToolsSection) -> None:
    """ConfigError when the run needs a sandbox and nobody says where it is."""
    if section.names and not settings.sandbox_address:
        raise ConfigError(
            f"tools.names = {list(section.names)} needs a sandbox: set FORKLIGHT_SANDBOX_ADDRESS to its "
            "host:port, or tools.names = []"
        )


@asynccontextmanager
async def open_tools(settings: RolloutSettings, section: ToolsSection) -> AsyncIterator[PodTools]:
    """The run's tools; without any, nothing is connected."""
    if not section.names:
        yield PodTools()
        return
    async with open_channel(settings.sandbox_address) as channel:
        sandbox = RpcSandbox(channel, settings.run_id, open_blob_store(settings.blobs_url))
        tools: dict[str, Tool] = {
            python.NAME: python.PythonTool(runner=sandbox),
            shell.NAME: shell.ShellTool(runner=sandbox),
        }
        yield PodTools(
            tools={name: tools[name] for name in section.names},
            num_calls=settings.tool_calls,
            deadline_s=settings.tool_deadline_s,
        )


def open_desk(
    pod_tools: PodTools, tokenizer: ToolTokenizer, engine: EngineThread, problems: Problems
) -> ToolDesk | None:
    """Who answers calls; None without tools."""
    if not pod_tools.tools:
        return None
    toolbox = Toolbox(
        tools=pod_tools.tools,
        encoder=make_encoder(tokenizer, engine.limits.vocabulary_size),
        deadline_s=pod_tools.deadline_s,
        num_calls=pod_tools.num_calls,
    )
    return ToolDesk(toolbox, engine=engine, problems=problems)
