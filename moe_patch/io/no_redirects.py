"""HTTP requests that carry a secret: they are not redirected to whom it was not given."""

from __future__ import annotations

import urllib.request
from typing import Any


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: a redirect must not receive a key or a token."""

    def redirect_request(self, *_: Any) -> None:
        """Refuse, so that the redirect is answered with its own status, as an error."""
        return
