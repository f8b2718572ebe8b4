"""Names of attributes: our own `rl.*`, and those of OpenTelemetry's semantic conventions that fit.

Our own constants: the published packages of the conventions rename theirs, and know no Redis as a queue.
Nothing here may hold a prompt, a response or tokens; the blob has them, an attribute has ids and numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Final


class Resource:
    """Of a process; on every span, and on every series of Prometheus as a label."""

    SERVICE: Final = "service.name"
    POD: Final = "service.instance.id"
    RUN: Final = "rl.run.id"


IDENTITY: Final = frozenset({Resource.SERVICE, Resource.POD, Resource.RUN})


class GenAi:
    """A generation."""

    OPERATION: Final = "gen_ai.operation.name"
    MODEL: Final = "gen_ai.request.model"
    TEMPERATURE: Final = "gen_ai.request.temperature"
    TOP_P: Final = "gen_ai.request.top_p"
    TOP_K: Final = "gen_ai.request.top_k"
    MAX_TOKENS: Final = "gen_ai.request.max_tokens"
    CHOICES: Final = "gen_ai.request.choice.count"
    RESPONSE_ID: Final = "gen_ai.response.id"
    FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
    INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
    OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"

    TEXT_COMPLETION: Final = "text_completion"
    """Value of the operation."""


class Messaging:
    """An entry of a queue."""

    SYSTEM: Final = "messaging.system"
    OPERATION: Final = "messaging.operation.type"
    DESTINATION: Final = "messaging.destination.name"
    MESSAGE: Final = "messaging.message.id"

    REDIS: Final = "redis"
    PROCESS: Final = "process"
    SETTLE: Final = "settle"
    """Values of system and operation."""


class Rpc:
    """A call."""

    SYSTEM: Final = "rpc.system"
    SERVICE: Final = "rpc.service"
    METHOD: Final = "rpc.method"

    GRPC: Final = "grpc"
    """Value of the system."""


class Rl:
    """What only this system has."""

    SAMPLE: Final = "rl.sample.id"
    GROUP: Final = "rl.group.id"
    STATE: Final = "rl.state"
    STEP: Final = "rl.step"


@cache
def rpc_attributes(method: str) -> Mapping[str, str]:
    """Of a call, by its path `/package.Service/Method`."""
    service, _, name = method.lstrip("/").rpartition("/")
    return {Rpc.SYSTEM: Rpc.GRPC, Rpc.SERVICE: service, Rpc.METHOD: name}


def queue_attributes(destination: str, message: str, operation: str) -> dict[str, str]:
    """Of work on an entry of a queue."""
    return {
        Messaging.SYSTEM: Messaging.REDIS,
        Messaging.DESTINATION: destination,
        Messaging.MESSAGE: message,
        Messaging.OPERATION: operation,
    }
