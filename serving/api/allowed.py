"""The allowed places of patches: folders on the server, and names on the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moe_patch.errors import ConfigError
from moe_patch_serving.errors import NoSuchPatch, PlaceNotAllowed

HUB = "hf://"


@dataclass(frozen=True, slots=True)
class Allowed:
    """Allowed folders, with their subfolders, and Hub names as `hf://org` or `hf://org/name`."""

    folders: tuple[Path, ...] = ()
    hub: tuple[str, ...] = ()

    def find(self, reference: str) -> Path:
        """The path of the file that a reference names. Symbolic links are followed; Hub files are fetched.

        Raises:
            PlaceNotAllowed: the file is outside of the allowed places. The error does not reveal whether the
                file exists.
            NoSuchPatch: there is no such file.
            MoePatchError: the Hub has no such file, or cannot be reached.
        """
        return self._from_hub(reference) if reference.startswith(HUB) else self._from_disk(reference)

    def _from_disk(self, reference: str) -> Path:
        try:
            path = Path(reference).resolve()
        except (OSError, ValueError, RuntimeError) as error:  # too long, contains NUL, or circular links
            raise PlaceNotAllowed(f"{reference!r} is no path: {error}") from error
        if not Path(reference).is_absolute() or not any(path.is_relative_to(home) for home in self.folders):
            homes = ", ".join(map(str, self.folders)) or "none"
            raise PlaceNotAllowed(
                f"{reference}: expected an absolute path in one of the folders that are allowed ({homes})"
            )
        if not path.is_file():
            raise NoSuchPatch(f"{reference}: there is no such file on the server")
        return path

    def _from_hub(self, reference: str) -> Path:
        if not any(_within(reference, prefix) for prefix in self.hub):
            prefixes = ", ".join(self.hub) or "none"
            raise PlaceNotAllowed(f"{reference}: this server takes from the Hub what begins with {prefixes}")
        from moe_patch.share.hub import pull_patch  # noqa: PLC0415  imports the Hub's client

        return Path(pull_patch(reference))


def parse_allowed(places: Sequence[str]) -> Allowed:
    """Parse places.

    Raises:
        ConfigError: a place is neither a folder nor a name on the Hub.
    """
    folders, hub = [], []
    for place in places:
        if place.startswith(HUB):
            hub.append(_prefix(place))
        elif Path(place).is_dir():
            folders.append(Path(place).resolve())
        else:
            raise ConfigError(
                f"{place}: expected a folder, or {HUB} and an organisation's or repository's name"
            )
    return Allowed(tuple(folders), tuple(hub))


def _prefix(place: str) -> str:
    prefix = place.rstrip("/")
    if prefix == HUB.rstrip("/"):
        raise ConfigError(f"{place}: expected at least an organisation's name after {HUB}")
    return prefix


def _within(reference: str, prefix: str) -> bool:
    """Whether `prefix` names the reference, or something that contains it."""
    return reference.startswith(prefix) and reference[len(prefix) :][:1] in {"", "/", "@"}
