"""Installed releases, compared with the ranges that moe-patch declares.

The upper end of a declared range is the next minor release after the newest tested one. So the ranges show
what was tested. Lock files have the exact releases, but they are not installed with the package.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from moe_patch.doctor.report import Release, VersionStatus
from moe_patch.errors import ConfigError
from moe_patch.versions import vllm_version

_FOR_DEVELOPMENT = {"bench", "dev", "docs"}
_LOWER_ENDS = {">=", ">"}


def required_releases(name: str = "moe-patch") -> tuple[Release, ...]:
    """List what the distribution `name` and its extras require, and the installed release of each package.

    Extras for development of the project itself are left out.

    Raises:
        ConfigError: the distribution is not installed, so its ranges are unknown.
    """
    try:
        ours = distribution(name)
    except PackageNotFoundError as error:
        raise ConfigError(
            f"{name} is not installed in this environment, so its ranges are unknown: pip install {name}"
        ) from error
    extras = set(ours.metadata.get_all("Provides-Extra") or ()) - _FOR_DEVELOPMENT
    found = [
        _release(requirement, extra)
        for requirement in map(Requirement, ours.requires or ())
        for extra in _asked_for_by(requirement, extras)
    ]
    return tuple(sorted(found, key=lambda release: (release.extra or "", release.name)))


def _asked_for_by(requirement: Requirement, extras: Iterable[str]) -> list[str | None]:
    """The extras that require it; [None] if it is always required; [] if it does not apply here."""
    marker = requirement.marker
    if marker is None or marker.evaluate({"extra": ""}):
        return [None]
    return [extra for extra in sorted(extras) if marker.evaluate({"extra": extra})]


def _release(requirement: Requirement, extra: str | None) -> Release:
    installed = _installed(requirement.name)
    return Release(
        name=requirement.name,
        installed=installed,
        supported=", ".join(sorted(map(str, requirement.specifier), reverse=True)),  # the lower end first
        standing=_standing(installed, requirement.specifier),
        extra=extra,
    )


def _installed(name: str) -> str | None:
    if name == "vllm":  # its builds have several names
        return vllm_release()
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def vllm_release() -> str | None:
    """The installed release of vLLM, from any of its builds; None if there is none."""
    try:
        return str(vllm_version())
    except ConfigError:
        return None


def _standing(installed: str | None, specifier: SpecifierSet) -> VersionStatus:
    if installed is None:
        return "not installed"
    if specifier.contains(installed, prereleases=True):
        return "tested"
    lower_ends = (part for part in specifier if part.operator in _LOWER_ENDS)
    if all(part.contains(installed, prereleases=True) for part in lower_ends):
        return "newer than tested"
    return "older than supported"
