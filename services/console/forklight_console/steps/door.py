"""Series over HTTP: the query as parameters, the answer as compact JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

from fastapi import Query
from fastapi.responses import Response

from forklight_console.steps.series import MOST_POINTS, Series, SeriesQuery

MOST_FIELDS = 300
Fields = Annotated[str, Query(max_length=10_000, description="names, by commas")]
Points = Annotated[int, Query(ge=16, le=MOST_POINTS)]
Number = Annotated[int, Query(ge=0)]


def read_query(
    fields: Fields,
    points: Points = 1000,
    have: Annotated[str, Query(pattern=r"^(\d{1,9},\d{1,9},\d{1,9})?$")] = "",
    low: float | None = None,
    high: float | None = None,
) -> SeriesQuery:
    """A dependency. `have` is `bucket,generation,full_buckets` of the last answer to the same question."""
    names = tuple(dict.fromkeys(name for name in fields.split(",") if name))[:MOST_FIELDS]
    bucket, generation, full_buckets = (int(each) for each in (have or "0,0,0").split(","))
    return SeriesQuery(
        fields=names,
        points=points,
        low=low,
        high=high,
        bucket=bucket,
        generation=generation,
        full_buckets=full_buckets,
    )


def series_reply(series: Series) -> Response:
    """Names of `Series`."""
    return Response(json.dumps(asdict(series), separators=(",", ":")), media_type="application/json")
