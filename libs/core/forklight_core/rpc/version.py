"""Which contract a process speaks, told with every call: services of different contracts refuse each other.

The number rises with a change of proto/ that an older build would misread. Who sends none (KEDA, grpcurl, a
browser) is no service of ours and is answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from forklight_core.errors import VersionSkewError

HEADER = "forklight-version"
CONTRACT = 1


@cache
def own_version() -> str:
    """contract/build, as it travels."""
    try:
        build = version("forklight-core")
    except PackageNotFoundError:
        build = "unpackaged"
    return f"{CONTRACT}/{build}"


def check_caller(metadata: Mapping[str, object], method: str) -> None:
    """Refuse a call of another contract."""
    told = metadata.get(HEADER)
    if told is None:
        return
    contract, _, build = str(told).partition("/")
    if contract == str(CONTRACT):
        return
    own_build = own_version().partition("/")[2]
    raise VersionSkewError(
        f"{method}: the caller speaks contract {contract[:20]} (forklight {build[:40] or '?'}), this "
        f"service contract {CONTRACT} (forklight {own_build}): run one version of Forklight everywhere; what "
        f"waits goes on when the older side is replaced"
    )
