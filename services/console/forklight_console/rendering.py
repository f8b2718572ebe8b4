"""Pages from templates: one environment, and what every page is given (run, theme, navigation)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import Request
from fastapi.responses import Response
from fastapi.templating import Jinja2Templates


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A page of the navigation; `key` follows a `g` on the keyboard."""

    name: str
    path: str
    key: str


PLACES = (
    Place(name="Run", path="/", key="r"),
    Place(name="Samples", path="/samples", key="s"),
    Place(name="Groups", path="/groups", key="g"),
    Place(name="Ledger", path="/ledger", key="l"),
    Place(name="Fleet", path="/fleet", key="f"),
    Place(name="Control", path="/control", key="c"),
    Place(name="Compare", path="/compare", key="m"),
)
templates = Jinja2Templates(Path(__file__).parent / "templates")


def render(
    request: Request, template: str, context: Mapping[str, object] | None = None, *, status: int = 200
) -> Response:
    """A page: the template with the context and what base.html needs."""
    path = request.url.path
    here = next((place.name for place in reversed(PLACES) if _is_under(path, place.path)), "")
    shared = {
        "run_id": request.app.state.run_id,
        "places": PLACES,
        "here": here,
        "has_token": request.app.state.has_token,
    }
    return templates.TemplateResponse(request, template, {**shared, **(context or {})}, status_code=status)


def _is_under(path: str, place: str) -> bool:
    return path == place or (place != "/" and path.startswith(f"{place}/"))
