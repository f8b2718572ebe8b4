"""gRPC with one way to serve and one way to call; errors cross it as the tree they are."""

from forklight_core.rpc.client import DEFAULT_DEADLINE_S, open_channel, open_sync_channel
from forklight_core.rpc.coalescer import Coalescer
from forklight_core.rpc.server import READY, Registration, RpcServer, serve
from forklight_core.rpc.status import error_named

__all__ = [
    "DEFAULT_DEADLINE_S",
    "READY",
    "Registration",
    "RpcServer",
    "Coalescer",
    "error_named",
    "open_channel",
    "open_sync_channel",
    "serve",
]
