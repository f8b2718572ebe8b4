"""Whether transformers is here, in a release this room knows; imported once, quietly, and never before."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from forklight_core.errors import ConfigError

LEAST, BELOW = (5, 0), (6, 0)
INSTALL = 'pip install "forklight-model[hf]" (transformers>=5.0,<6)'


def installed_release() -> str | None:
    """The release of transformers that is installed; None where there is none."""
    try:
        return version("transformers")
    except PackageNotFoundError:
        return None


def fits(release: str) -> bool:
    """Whether this code is written for a release."""
    return LEAST <= tuple(int(part) for part in re.findall(r"\d+", release)[:2]) < BELOW


@cache
def require_transformers() -> str:
    """Import transformers and say its release; ConfigError with the command that mends it otherwise."""
    release = installed_release()
    if release is None:
        raise ConfigError(f"the model is one of transformers', and transformers is not installed: {INSTALL}")
    if not fits(release):
        raise ConfigError(f"transformers {release} is installed, this code is written for 5.x: {INSTALL}")
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # what it warns of is checked here, or is no news to a policy
    return release


def numerics() -> str:
    """What a transformers model's numbers depend on besides weights, config and dtype."""
    return f"hf/transformers-{require_transformers()}"
