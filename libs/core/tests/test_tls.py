"""Certificates between services: who is let in, what the others are told, and files that change."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from forklight.v1 import rollout_pb2, rollout_pb2_grpc
from forklight_core.errors import ConfigError, ForklightError, UnavailableError, WeightsError
from forklight_core.ports import free_ports
from forklight_core.rpc import RpcServer, open_channel, open_sync_channel, serve
from forklight_core.rpc.health_probe import probe
from forklight_core.rpc.identity import Identity, TlsFiles, as_holder_of, files_of, find_identity
from forklight_core.settings import TlsSettings
from libs.core.tests.certificates import Authority, make_authority
from libs.core.tests.test_rpc import REGISTRATION

DEADLINE_S = 10.0


@pytest.fixture(scope="module")
def authority() -> Authority:
    return make_authority()


async def ask(channel: grpc.aio.Channel, *, patience_s: float = 5) -> int:
    reply = await rollout_pb2_grpc.RolloutStub(channel).Drain(
        rollout_pb2.DrainRequest(deadline_s=7), timeout=patience_s
    )
    return int(reply.num_finished)


def channel_of(server: RpcServer, files: TlsFiles | None) -> grpc.aio.Channel:
    with as_holder_of(files):
        return open_channel(server.address)


async def test_holders_of_one_authority_call_each_other(authority: Authority, tmp_path: Path) -> None:
    door, caller = authority.sign(tmp_path / "door"), authority.sign(tmp_path / "caller")
    with as_holder_of(door):
        opening = serve("127.0.0.1:0", [REGISTRATION])
        async with opening as server:
            with as_holder_of(caller), open_sync_channel(server.address) as sync:
                stub = rollout_pb2_grpc.RolloutStub(sync)
                reply = await asyncio.to_thread(stub.Drain, rollout_pb2.DrainRequest(deadline_s=9), timeout=5)
                assert reply.num_finished == 9
                with pytest.raises(WeightsError, match="torn"):
                    await asyncio.to_thread(stub.Drain, rollout_pb2.DrainRequest(deadline_s=1), timeout=5)
            async with channel_of(server, caller) as channel:
                assert await ask(channel) == 7


async def test_who_is_not_let_in_is_told_why(authority: Authority, tmp_path: Path) -> None:
    door, caller = authority.sign(tmp_path / "door"), authority.sign(tmp_path / "caller")
    stranger = make_authority("another").sign(tmp_path / "stranger")
    both = tmp_path / "both.crt"
    both.write_bytes(stranger.authority.read_bytes() + door.authority.read_bytes())
    elsewhere = authority.sign(tmp_path / "elsewhere", host="buffer.elsewhere")
    with as_holder_of(door):
        opening = serve("127.0.0.1:0", [REGISTRATION])
        async with opening as server:
            for files, advice in (
                (None, "that door wants certificates; set FORKLIGHT_TLS_CERT"),
                (stranger, "not of the authority in FORKLIGHT_TLS_CA"),
                (replace(stranger, authority=both), "does not accept the certificate in FORKLIGHT_TLS_CERT"),
                (replace(caller, name="buffer.elsewhere"), "lacks the name that was called"),
            ):
                await is_refused(server, files, advice)
    async with serve("127.0.0.1:0", [REGISTRATION]) as server:
        await is_refused(server, caller, "that door speaks plaintext")
    with as_holder_of(elsewhere):
        opening = serve("127.0.0.1:0", [REGISTRATION])
        async with opening as server:
            await is_refused(server, caller, "set FORKLIGHT_TLS_NAME")
            async with channel_of(server, replace(caller, name="buffer.elsewhere")) as channel:
                assert await ask(channel) == 7
            with as_holder_of(caller):
                one_pod = open_channel(server.address, server_name="buffer.elsewhere")
            async with one_pod as channel:
                assert await ask(channel) == 7


async def is_refused(server: RpcServer, files: TlsFiles | None, advice: str) -> None:
    async with channel_of(server, files) as channel:
        with pytest.raises(UnavailableError, match=advice):
            await ask(channel)


async def test_new_certificates_are_used_without_a_restart(authority: Authority, tmp_path: Path) -> None:
    """Both sides move to another authority; half of the files do not count; a call under way is not cut."""
    door, caller = authority.sign(tmp_path / "door"), authority.sign(tmp_path / "caller")
    with as_holder_of(door):
        opening = serve("127.0.0.1:0", [REGISTRATION])
        async with opening as server, channel_of(server, caller) as channel:
            assert await ask(channel) == 7
            slow = asyncio.ensure_future(ask_slowly(channel))
            following = make_authority("the next one")
            spare = following.sign(tmp_path / "spare")
            shutil.copy(spare.key, door.key)
            await asyncio.sleep(1.1)
            async with channel_of(server, authority.sign(tmp_path / "late")) as late:
                assert await ask(late) == 7
            following.sign(tmp_path / "door")
            following.sign(tmp_path / "caller")
            end = time.monotonic() + DEADLINE_S
            while not await answers(channel_of(server, spare)):
                assert time.monotonic() < end
            assert await ask(channel) == 7
            assert not await answers(channel_of(server, authority.sign(tmp_path / "old")))
            assert await slow == 3


async def ask_slowly(channel: grpc.aio.Channel) -> int:
    request = rollout_pb2.DrainRequest(deadline_s=3)  # answered after 5 s
    return int((await rollout_pb2_grpc.RolloutStub(channel).Drain(request, timeout=20)).num_finished)


async def answers(channel: grpc.aio.Channel) -> bool:
    async with channel:
        try:
            return await ask(channel, patience_s=1) == 7
        except ForklightError:
            return False


async def test_probes_without_certificates_have_a_door_of_their_own(
    authority: Authority, tmp_path: Path
) -> None:
    door, port = authority.sign(tmp_path / "door"), free_ports(1)[0]
    with as_holder_of(door):
        opening = serve("127.0.0.1:0", [REGISTRATION], health_listen=f"127.0.0.1:{port}")
        async with opening as server:
            assert (await asyncio.to_thread(probe, server.address)).is_serving
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as plain:
                stub = health_pb2_grpc.HealthStub(plain)
                reply = await stub.Check(health_pb2.HealthCheckRequest(service="ready"), timeout=5)
                assert reply.status == health_pb2.HealthCheckResponse.SERVING
                with pytest.raises(grpc.aio.AioRpcError, match="Method not found"):
                    await ask(plain)
            async with grpc.aio.insecure_channel(server.address) as plain:
                with pytest.raises(grpc.aio.AioRpcError):
                    await health_pb2_grpc.HealthStub(plain).Check(health_pb2.HealthCheckRequest(), timeout=5)


def test_files_that_do_not_hold_are_named(authority: Authority, tmp_path: Path) -> None:
    good = authority.sign(tmp_path / "good")
    other = make_authority("another").sign(tmp_path / "other")
    (tmp_path / "words").write_text("no certificate")
    for files, said in (
        (replace(good, key=tmp_path / "absent"), "FORKLIGHT_TLS_KEY names .*absent, which cannot be read"),
        (replace(good, key=other.key), "the key belongs to another certificate"),
        (replace(good, authority=other.authority), "does not hold against .*FORKLIGHT_TLS_CA"),
        (replace(good, certificate=tmp_path / "words"), "not a PEM certificate"),
        (replace(good, authority=tmp_path / "words"), "FORKLIGHT_TLS_CA. holds no certificate"),
        (authority.sign(tmp_path / "late", days=-1), "certificate has expired"),
    ):
        with pytest.raises(ConfigError, match=said):
            files.read()
    held = good.read()
    assert 6 < (held.valid_until - time.time()) / 86400 < 7


def test_three_files_or_none(authority: Authority, tmp_path: Path) -> None:
    good = authority.sign(tmp_path)
    three = {
        "FORKLIGHT_TLS_CERT": str(good.certificate),
        "FORKLIGHT_TLS_KEY": str(good.key),
        "FORKLIGHT_TLS_CA": str(good.authority),
    }
    found = find_identity(three)
    assert found is not None and found.files == good
    assert find_identity({}) is None
    with pytest.raises(ConfigError, match="FORKLIGHT_TLS_KEY and FORKLIGHT_TLS_CA not set"):
        find_identity({"FORKLIGHT_TLS_CERT": "x"})
    assert files_of(TlsSettings()) is None


def test_a_file_that_is_torn_leaves_the_old_certificates_in_use(authority: Authority, tmp_path: Path) -> None:
    files = authority.sign(tmp_path)
    identity = Identity(files)
    before = identity.certificates()
    files.certificate.write_bytes(b"")
    os.utime(files.certificate, (1, 1))
    time.sleep(1.05)
    assert identity.certificates() is before
