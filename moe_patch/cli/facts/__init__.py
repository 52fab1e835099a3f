"""`moe-patch facts`: how files of facts are understood, and facts in the native form."""

from __future__ import annotations

import click

from moe_patch.cli.facts.check import check
from moe_patch.cli.facts.convert import convert


@click.group(
    epilog="""\b
Examples:
  moe-patch facts check facts.csv
  moe-patch facts convert sentences.txt -o facts.jsonl
""",
)
def facts() -> None:
    """See how a file of facts is understood, and write facts in the native form.

    A file has JSON, a table (.csv, .tsv), or sentences and questions with answers (.txt).
    """


for command in (check, convert):
    facts.add_command(command)
