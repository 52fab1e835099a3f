"""Which releases are installed, as records of builds and runs say it."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version


def installed_versions(*distributions: str) -> dict[str, str]:
    """The versions of Python and of distributions by name, "unknown" where one is not installed."""
    found = {"python": ".".join(str(part) for part in sys.version_info[:3])}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # an extra, or a source tree that is on the path
            found[name] = "unknown"
    return found
