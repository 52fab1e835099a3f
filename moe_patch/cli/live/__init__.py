"""`moe-patch live`: the patches of running servers."""

from __future__ import annotations

import click

from moe_patch.cli.live.change import add, remove, reorder, rollback
from moe_patch.cli.live.show import show, version


@click.group(
    epilog="""\b
Examples:
  moe-patch live add /srv/patches/capitals.safetensors --url http://localhost:8000
  moe-patch live list --url http://localhost:8000
  moe-patch live rollback --url http://one:8000 --url http://two:8000

\b
The token is read from $MOE_PATCH_TOKEN, or from the file that --token-file or $MOE_PATCH_TOKEN_FILE names.
""",
)
def live() -> None:
    """Put patches on running servers, and take them off, without a restart.

    A server drains, changes its weights, forgets cached prefixes and is then asked the patch's own facts. If
    it does not say them, it goes back to what it was. With several --url, servers change one after the
    other, and if one cannot, those before it go back too.
    """


for command in (add, remove, show, reorder, rollback, version):
    live.add_command(command)
