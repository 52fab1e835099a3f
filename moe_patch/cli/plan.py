"""`moe-patch plan`: memory and time of a build, before it is begun."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from moe_patch.cli.console import print_json, print_tables, say
from moe_patch.cli.method_options import method_option
from moe_patch.cli.model_name import DEFAULT, say_model
from moe_patch.cli.options import DTYPES, dtype_of, json_option, quiet_transformers

if TYPE_CHECKING:
    from moe_patch.planning import Plan


@click.command(
    epilog="""\b
Examples:
  moe-patch plan --model ./Qwen3-30B-A3B --facts 50
  moe-patch plan --model config.json --facts 1000 --gpu 8xH100 --ram 512GiB
""",
)
@click.option("--model", help=f"Name or folder of a model, or its config.json.  {DEFAULT}")
@click.option("--facts", type=click.IntRange(min=1), required=True, help="How many facts to edit.")
@method_option
@click.option("--recipe", help="Hyper-parameters: a .yaml file, or the name of a recipe that ships.")
@click.option("--gpu", "gpus", help="GPUs to run on, as H100, 8xA100 or 80GiBx8.  [default: this machine]")
@click.option("--ram", help="Main memory, as 128GiB.  [default: that of this machine]")
@click.option(
    "--dtype", type=click.Choice(DTYPES), default="auto", show_default=True, help="Type of the weights."
)
@json_option
def plan(
    model: str | None,
    facts: int,
    method: str,
    recipe: str | None,
    gpus: str | None,
    ram: str | None,
    dtype: str,
    as_json: bool,
) -> None:
    """Say what a build of FACTS facts will take: time and memory by stage, and the device map.

    Only the model's config is read. Operations are counted; this machine is measured for some seconds with
    layers of the model's own sizes, and other GPUs are taken at a third of their published peaks.
    """
    from moe_patch.methods import get_method
    from moe_patch.planning import Resources, make_plan, outline_model, plan_job
    from moe_patch.tuning import settle

    quiet_transformers()
    chosen, resources = get_method(method), Resources.of(gpus, ram)
    outline = outline_model(say_model(model), dtype_of(dtype))
    choice = settle(outline.base, chosen, recipe=recipe)
    job = plan_job(outline, chosen, choice.options, facts)
    show_plan(make_plan(outline, job, resources), as_json=as_json)


def show_plan(found: Plan, *, as_json: bool) -> None:
    """Print a plan."""
    if as_json:
        print_json(found.to_json())
        return
    print_tables(*found.tables())
    say(*found.lines())
