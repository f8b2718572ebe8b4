"""Deployment settings: the only reader of the environment. Names are FORKLIGHT_<FIELD>."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from forklight_core.errors import ConfigError

PREFIX = "FORKLIGHT_"


class TlsSettings(BaseModel):
    """Certificates of a process: all three files, or none for plaintext. Commands read them, too."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    tls_cert: str = ""
    """PEM file of this process's certificate; with it doors want certificates and channels show this one."""
    tls_key: str = ""
    """PEM file of its key."""
    tls_ca: str = ""
    """PEM file of the authority that signed the certificates of all services."""
    tls_name: str = ""
    """Name that the certificate of every door carries; empty: the host that is called."""


class ServiceSettings(TlsSettings):
    """What every service is told by its environment."""

    run_file: Path
    """Resolved run file (TOML)."""
    run_folder: Path
    """Folder of the run."""
    run_id: str
    """Id of the run."""
    listen: str = "127.0.0.1:0"
    """host:port of this process's own door."""
    stop_within_s: Annotated[float, Field(ge=0.0)] = 0.0
    """Told to stop, the process is gone after so long whatever it waits for; 0: it takes what it takes."""
    health_listen: str = ""
    """host:port for health checks in plaintext, for probes that know no certificates; empty: none."""
    pod: str = ""
    """Unique name of this process; empty: service name and process id."""
    otlp_endpoint: str = ""
    """OTLP/gRPC endpoint for traces and metrics; empty: nothing is exported."""
    metrics_listen: Annotated[str, Field(pattern=r"^(.+:\d{1,5})?$")] = ""
    """host:port where Prometheus may fetch this process's metrics; empty: nothing listens."""


Settings = TypeVar("Settings", bound=BaseModel)


def load_settings(cls: type[Settings], environ: Mapping[str, str] = os.environ) -> Settings:
    """Read a settings class from the environment; errors name the variable and what it is for."""
    values = {
        name: environ[PREFIX + name.upper()] for name in cls.model_fields if PREFIX + name.upper() in environ
    }
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(cls, error))) from None


def _explain(cls: type[BaseModel], error: ValidationError) -> list[str]:
    lines = ["the environment of this service is incomplete or wrong:"]
    for problem in error.errors():
        name = str(problem["loc"][0]) if problem["loc"] else "?"
        field = cls.model_fields.get(name)
        purpose = field.description if field is not None and field.description else "unknown setting"
        lines.append(f"  {PREFIX}{name.upper()}: {problem['msg']} ({purpose})")
    return lines


def describe_settings(cls: type[BaseModel]) -> str:
    """Every variable a service reads, one line each, for --help."""
    lines = []
    for name, field in cls.model_fields.items():
        default = "required" if field.is_required() else f"default {_shown(field.get_default())}"
        lines.append(f"  {PREFIX}{name.upper()}  {field.description or ''} ({default})")
    return "\n".join(lines)


def _shown(value: object) -> str:
    """A default as somebody would write it; of a secret, what it is (a default is none)."""
    return repr(value.get_secret_value() if isinstance(value, SecretStr) else value)
