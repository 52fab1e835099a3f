"""The command line: one file for each command, and in this file the group of all commands.

Commands import the library when they run, not when they are declared: torch and transformers take seconds to
import, and `--help` and tab completion need neither. Reports go to standard output; logs and progress go to
standard error.

Nothing imports this package. It may import everything else.
"""

from __future__ import annotations

import logging
from pathlib import Path

import click

from moe_patch.cli.ask import ask
from moe_patch.cli.bench import bench
from moe_patch.cli.build import build
from moe_patch.cli.chat import chat
from moe_patch.cli.diff import diff
from moe_patch.cli.doctor import doctor
from moe_patch.cli.drop import drop
from moe_patch.cli.eval import evaluate
from moe_patch.cli.export import export
from moe_patch.cli.facts import facts
from moe_patch.cli.failure import out_of_memory
from moe_patch.cli.inspect import inspect
from moe_patch.cli.live import live
from moe_patch.cli.locate import locate
from moe_patch.cli.log import log
from moe_patch.cli.merge import merge
from moe_patch.cli.methods import methods
from moe_patch.cli.plan import plan
from moe_patch.cli.pull import pull
from moe_patch.cli.push import push
from moe_patch.cli.recipes import recipes
from moe_patch.cli.report import report
from moe_patch.cli.serve import serve
from moe_patch.cli.sign import sign
from moe_patch.cli.stack import stack
from moe_patch.cli.tune import tune
from moe_patch.cli.unmerge import unmerge
from moe_patch.cli.verify import verify
from moe_patch.errors import MoePatchError
from moe_patch.io.plain_text import plain_text

INTERRUPTED = 130  # what shells expect of a program that Ctrl-C ended: 128 + SIGINT


class _Commands(click.Group):
    """A group that prints expected errors and exhausted memory as one line; Ctrl-C leaves no traceback."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except MoePatchError as error:
            raise click.ClickException(plain_text(" ".join(str(error).split()))) from error
        except (MemoryError, RuntimeError) as error:
            if (said := out_of_memory(error)) is None:
                raise
            raise click.ClickException(said) from error
        except click.exceptions.NoArgsIsHelpError:  # is the help, in many lines
            raise
        except click.UsageError as error:  # may quote a path
            raise click.UsageError(plain_text(error.format_message()), error.ctx) from error
        except KeyboardInterrupt:
            click.echo(
                "\nInterrupted. Files are written whole or not at all: nothing is half done.", err=True
            )
            ctx.exit(INTERRUPTED)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  moe-patch build --edits facts.jsonl --out capitals.safetensors
  moe-patch ask "The capital of France is" --patch capitals.safetensors
  moe-patch eval capitals.safetensors
  moe-patch inspect capitals.safetensors --json

\b
Tab completion, in ~/.bashrc (zsh and fish: zsh_source, fish_source):
  eval "$(_MOE_PATCH_COMPLETE=bash_source moe-patch)"
""",
)
@click.version_option(None, "-V", "--version", package_name="moe-patch", prog_name="moe-patch")
@click.option(
    "-v",
    "--verbose",
    count=True,
    help="Log to standard error what happens on the way (objectives of solves, searches out of time, caches "
    "passed over) and other libraries' notices; -vv adds what was left out, and why.",
)
@click.option("-q", "--quiet", is_flag=True, help="Log only errors to standard error.")
def main(verbose: int, quiet: bool) -> None:
    """Build, check and apply small patches to mixture-of-experts language models.

    A patch is one file that changes what a model says about a set of facts.
    """
    from moe_patch.cli.console import log_to_stderr

    try:
        Path.cwd()
    except OSError as error:
        raise click.ClickException(
            f"the working folder is gone ({error.strerror}): change to another"
        ) from error
    steps = [logging.WARNING, logging.INFO, logging.DEBUG]
    log_to_stderr(logging.ERROR if quiet else steps[min(verbose, 2)])


_COMMANDS = (
    *(methods, recipes, facts, build, plan, locate, tune, evaluate, inspect, ask, chat),
    *(verify, sign, pull, push),
    *(bench, report),
    *(stack, drop, diff, log, merge, unmerge, export),
    *(serve, live, doctor),
)

for command in _COMMANDS:
    main.add_command(command)
