"""What `pixel_url` and `pixel_tag` take."""

from datetime import UTC, datetime
from typing import assert_type

from pixel_middleware import pixel_tag, pixel_url
from pixel_middleware.wire.urls import Html

BASE = "https://example.com"

assert_type(pixel_url(BASE, "page", write_key="k", anonymous_id="a"), str)
assert_type(
    pixel_tag(
        BASE,
        "track",
        write_key="k",
        anonymous_id="a",
        event="Opened",
        properties={"total": 1.5, "items": [1, 2]},
        sent_at=datetime.now(UTC),
        signing_key="s3cret",
    ),
    Html,
)

pixel_tag(BASE, "page", write_key="k", anonymous_id="a", nonsense=3)  # type: ignore[call-arg]
pixel_url(BASE, "page", anonymous_id="a")  # type: ignore[call-arg]
pixel_url(BASE, "click", write_key="k", anonymous_id="a")  # type: ignore[arg-type]
pixel_url(BASE, "page", write_key="k", anonymous_id=7)  # type: ignore[arg-type]
pixel_url(BASE, "track", write_key="k", anonymous_id="a", event="e", properties=[1])  # type: ignore[arg-type]
