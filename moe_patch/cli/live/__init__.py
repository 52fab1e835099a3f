"""`moe-patch live`: change the patches of running servers."""

from __future__ import annotations

import click

from moe_patch.cli.live.change import add, remove, reorder, rollback
from moe_patch.cli.live.show import show, version


@click.group(
    epilog="""\b
Examples:
  moe-patch live add /srv/patches/capitals.safetensors
  moe-patch live list --url http://localhost:8000
  moe-patch live rollback --url http://one:8000 --url http://two:8000

\b
The token is read from the file that --token-file names, from $MOE_PATCH_TOKEN, or from the file that
$MOE_PATCH_TOKEN_FILE names. Without these, and without --url, a server that `moe-patch serve` started for
you on this machine is found with its token.
""",
)
def live() -> None:
    """Add patches to running servers, and remove them, without a restart.

    A server finishes its running requests and lets others wait, changes its weights, clears its prefix cache,
    and is asked the patch's own facts. If it does not say them, the change is undone. Then the requests that
    waited are answered. With several --url, servers change one
    after the other. If one fails, the servers before it are changed back.
    """


for command in (add, remove, show, reorder, rollback, version):
    live.add_command(command)
