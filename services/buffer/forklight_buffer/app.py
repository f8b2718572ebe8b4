"""The buffer, wired. Loops and doors of one process:

    gRPC door --- submit_trajectory, submit_verdict: one script each, no lock
        |    \\-- restore, lease, commit, announce, phase: one at a time, under `turn`
        v
    Redis (open)  --ended-->  journal loop  -->  ledger.sqlite (final)  -->  Redis forgets
        ^                                            |
        |-- opener loop   <--credit--  ledger rows   |-- evaluation: complete rounds, the goal
        |-- reaper loop   (dead letters)             |-- retention loop (blobs)
        |-- watchdog loop (what is stuck)
        '-- recovery loop: Redis restarted -> gate shut -> reconcile with the ledger -> gate open
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from redis.asyncio import Redis

from forklight.v1 import buffer_pb2_grpc
from forklight_core.blobs import open_blob_store
from forklight_core.errors import BusyError, ConfigError, ForklightError, UnavailableError
from forklight_core.lifecycle import sleep_or_stop
from forklight_core.queues import RunKeys, connect_redis
from forklight_core.retry import backoff_delays
from forklight_core.rpc import Registration, RpcServer, serve
from forklight_core.runfile import RunFile, load_run_file
from forklight_core.telemetry import counter

from forklight_buffer import metrics
from forklight_buffer.adapters.entries import RedisEntries
from forklight_buffer.adapters.redis import RedisLiveState
from forklight_buffer.adapters.scripts import Gate, ScriptRunner
from forklight_buffer.adapters.sqlite import SqliteLedger
from forklight_buffer.batches import Batches
from forklight_buffer.context import Context
from forklight_buffer.dead_letters import DeadLetters
from forklight_buffer.evaluation import Evaluator
from forklight_buffer.inspection import Inspection
from forklight_buffer.intake import Intake
from forklight_buffer.journal import Journal
from forklight_buffer.opener import Opener
from forklight_buffer.phases import PhaseControl
from forklight_buffer.ports import Clock
from forklight_buffer.prompts import read_prompts
from forklight_buffer.reaper import Reaper
from forklight_buffer.reconcile import Books, Reconciler
from forklight_buffer.restore import Restorer
from forklight_buffer.retention import Retention
from forklight_buffer.servicer import BufferServicer, Desks
from forklight_buffer.settings import BufferSettings
from forklight_buffer.states import Phase, Purpose
from forklight_buffer.tasks import TaskMaker
from forklight_buffer.versions import Versions
from forklight_buffer.watchdog import Watchdog
