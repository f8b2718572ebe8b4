"""The paths of this door. What a request means is in `plan` and `generation`, how it ends in `exchange`."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from forklight_rollout.http.exchange import CLIENT_GONE, Exchange
from forklight_rollout.http.plan import Backend, Plan, RequestBounds, plan_chat, plan_completion
from forklight_rollout.http.refusals import Json, RefusalError
from forklight_rollout.http.requests import ChatRequest, CompletionRequest, parse_request
from forklight_rollout.http.service import GenerationService

router = APIRouter()

MOST_BODY_BYTES = 8 * 2**20
READ_DEADLINE_S = 30.0


@router.get("/health")
async def get_health(request: Request) -> Response:
    """200 while requests are taken."""
    service_of(request).require_backend()
    return JSONResponse({"status": "ok"})


@router.get("/v1/models")
async def list_models(request: Request) -> Response:
    """The one policy this pod follows."""
    return JSONResponse({"object": "list", "data": [_describe_model(request)]})


@router.get("/v1/models/{model:path}")
async def get_model(request: Request, model: str) -> Response:
    """The same by its name."""
    check_model(model, service_of(request))
    return JSONResponse(_describe_model(request))


@router.post("/v1/completions")
async def complete(request: Request) -> Response:
    """Go on from prompts as they are."""
    return await answer(request, CompletionRequest)


@router.post("/v1/chat/completions")
async def complete_chat(request: Request) -> Response:
    """Answer a conversation."""
    return await answer(request, ChatRequest)


async def answer(request: Request, kind: type[CompletionRequest | ChatRequest]) -> Response:
    """Read, check, generate, reply. The exchange ends here, or with the last event of its stream."""
    service = service_of(request)
    exchange = Exchange(service, traceparent=request.headers.get("traceparent", ""))
    is_streaming = False
    try:
        asked = parse_request(kind, await read_body(request))
        check_model(asked.model, service)
        # In a thread: encoding a long prompt must not keep leases from their heartbeat.
        plan = await asyncio.to_thread(make_plan, asked, exchange.backend, service.bounds)
        await exchange.start(plan)
        is_streaming = plan.is_stream
        return exchange.stream() if is_streaming else await exchange.reply(request.receive)
    finally:
        if not is_streaming:
            exchange.close()


def make_plan(asked: CompletionRequest | ChatRequest, backend: Backend, bounds: RequestBounds) -> Plan:
    """What the engine is asked for."""
    if isinstance(asked, ChatRequest):
        return plan_chat(asked, backend, bounds)
    return plan_completion(asked, backend, bounds)


async def read_body(request: Request) -> bytes:
    """The body of a request, bounded in size and time."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RefusalError(status=415, message="send JSON with the header Content-Type: application/json")
    body = bytearray()
    try:
        async with asyncio.timeout(READ_DEADLINE_S):
            async for part in request.stream():
                body += part
                if len(body) > MOST_BODY_BYTES:
                    raise RefusalError(status=413, message=f"the body is larger than {MOST_BODY_BYTES} bytes")
    except TimeoutError:
        raise RefusalError(status=408, message=f"no body within {READ_DEADLINE_S:.0f} s") from None
    except ClientDisconnect:
        raise RefusalError(status=CLIENT_GONE, message="the client went") from None
    return bytes(body)


def check_model(name: str | None, service: GenerationService) -> None:
    """There is one; a client that names another is told."""
    if name is not None and name != service.bounds.model:
        raise RefusalError(
            status=404,
            message=f"there is no model {name!r} here; this pod serves {service.bounds.model!r}",
            param="model",
            reason="model_not_found",
        )


def service_of(request: Request) -> GenerationService:
    """The service behind this door."""
    service: GenerationService = request.app.state.service
    return service


def _describe_model(request: Request) -> Json:
    service = service_of(request)
    limits = service.require_backend().thread.limits
    return {
        "id": service.bounds.model,
        "object": "model",
        "created": request.app.state.created,
        "owned_by": "forklight",
        "max_model_len": limits.max_tokens,
    }
