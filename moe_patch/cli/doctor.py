"""`moe-patch doctor`: what is installed, on which devices it runs, and whether it works on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from moe_patch.cli.console import plain_table, print_json, print_tables, say
from moe_patch.cli.options import json_option, quiet_transformers
from moe_patch.io.wording import counted
from moe_patch.progress import progress_bars

if TYPE_CHECKING:
    from rich.table import Table

    from moe_patch.doctor import DoctorReport
    from moe_patch.doctor.report import Device, Release, SelfTestResult
    from moe_patch.progress import Progress


@click.command(
    epilog="""\b
Examples:
  moe-patch doctor
  moe-patch doctor --device cuda:0 --device cuda:1
  moe-patch doctor --json > report.json

\b
Exit codes:
  0 no self-test failed   1 a self-test failed
"""
)
@click.option(
    "--device",
    "names",
    multiple=True,
    metavar="NAME",
    help="Device to test, such as cpu or cuda:0; repeatable.  [default: all devices]",
)
@click.option(
    "--self-test/--no-self-test",
    "tested",
    default=True,
    show_default=True,
    help="Build a small patch, apply it, ask its facts, and remove it.",
)
@json_option
def doctor(names: tuple[str, ...], tested: bool, as_json: bool) -> None:
    """Examine this installation, and test it on every device.

    Prints the installed and the tested releases, the devices, free memory and disk, the cache, and whether
    the plugin would be on in vLLM. Start a bug report with the output of --json. A release that was not
    tested is a warning, not a failure.
    """
    from moe_patch.doctor import (
        DoctorReport,
        find_devices,
        plugin_state,
        required_releases,
        storage_info,
        system_info,
    )

    there = find_devices()
    chosen = _chosen(names, [device.name for device in there])
    quiet_transformers()
    with progress_bars() as progress:
        tests = _self_tests(chosen, progress) if tested else ()
    report = DoctorReport(system_info(), required_releases(), there, storage_info(), plugin_state(), tests)
    if as_json:
        print_json(report.to_json())
    else:
        print_tables(*_tables(report))
    for warning in report.warnings:
        say(f"Warning: {warning}", err=True)
    for test in report.self_tests:
        for failure in test.failures:
            say(f"Failed on {test.device}: {failure}", err=True)
    if not report.passed:
        raise click.exceptions.Exit(1)


def _chosen(names: Sequence[str], there: Sequence[str]) -> Sequence[str]:
    """The named devices, without repeats, or all devices if none is named."""
    for name in names:
        if name not in there:
            raise click.BadParameter(
                f"there is no device {name!r} here: expected one of {', '.join(there)}", param_hint="--device"
            )
    return tuple(dict.fromkeys(names)) or there


def _self_tests(names: Sequence[str], progress: Progress | None) -> tuple[SelfTestResult, ...]:
    from moe_patch.doctor import run_self_test, stored_reference

    def report(name: str) -> Progress | None:
        return progress and (lambda stage, done, total: progress(f"{name}: {stage}", done, total))

    reference = stored_reference()
    return tuple(run_self_test(name, reference, report(name)) for name in names)


def _tables(report: DoctorReport) -> list[Table]:
    tests = [_test_table(test) for test in report.self_tests]
    return [_system_table(report), _release_table(report.releases), _device_table(report.devices), *tests]


def _system_table(report: DoctorReport) -> Table:
    table = plain_table("", ("", "here"))
    table.show_header = False
    system, storage, plugin = report.system, report.storage, report.plugin
    table.add_row("moe-patch", system.moe_patch)
    table.add_row("Python", f"{system.python}, {system.platform}")
    table.add_row("processor", f"{system.processor}, {counted(system.cores, 'core')}")
    table.add_row(
        "torch",
        f"built for {system.torch_build}; kernels for {system.instructions}, "
        f"{counted(system.threads, 'thread')}",
    )
    table.add_row(
        "cache", f"{storage.cache}: {counted(storage.cache_files, 'file')}, {_size(storage.cache_bytes)}"
    )
    free = f"{_size(storage.free_at_cache)} at the cache, {_size(storage.free_at_work)} in the working folder"
    table.add_row("free disk", free)
    table.add_row("vLLM", plugin.vllm or "not installed")
    table.add_row("plugin for vLLM", "on" if plugin.on else f"off: {'; '.join(plugin.off_because)}")
    return table


def _release_table(releases: Sequence[Release]) -> Table:
    table = plain_table("Releases", ("package", "for", "installed", "supported", ""))
    for release in releases:
        table.add_row(
            release.name,
            release.extra or "",
            release.installed or "",
            release.supported or "any",
            release.standing,
        )
    return table


def _device_table(devices: Sequence[Device]) -> Table:
    right = ("free memory", "memory")
    table = plain_table("Devices", ("device", "product", "capability", *right), right=right)
    for device in devices:
        memory = (_size(device.free), _size(device.total))
        table.add_row(device.name, device.product or "", device.capability or "", *memory)
    return table


def _test_table(test: SelfTestResult) -> Table:
    outcome = "passed" if test.passed else "failed"
    table = plain_table(
        f"Self-test on {test.device}: {outcome} in {test.seconds:.1f} s",
        ("check", "furthest off", "tolerance", ""),
        right=("furthest off", "tolerance"),
    )
    for check in test.checks:
        off, allowed = (
            ("", "") if check.furthest is None else (f"{check.furthest:.1e}", f"{check.tolerance:g}")
        )
        table.add_row(check.name, off, allowed, "passed" if check.passed else "failed")
    return table


def _size(count: int | None) -> str:
    """Bytes as GiB, or as MiB below one GiB."""
    if count is None:
        return "unknown"
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
