"""Where traces and metrics go."""

from __future__ import annotations

from forklight_core.runfile.sections.section import Section


class TelemetrySection(Section):
    """Where traces and metrics go."""

    otlp_endpoint: str = ""
    """OTLP/gRPC endpoint such as http://127.0.0.1:4317; empty: nothing is exported."""
