"""A summary of a patch, for `inspect`, `build` and `drop`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from moe_patch.cli.console import plain_table
from moe_patch.cli.protection import preserved_line, protection_table
from moe_patch.io.wording import counted

if TYPE_CHECKING:
    from moe_patch.patch import LayerDelta, Patch
    from moe_patch.stack.untaken import Untaken


def describe_patch(patch: Patch, path: Path) -> dict[str, Any]:
    """The summary as plain data: facts, build results, layers with norms and sizes, experts, base, hash."""
    from moe_patch.stack.untaken import share_taken, untaken_facts

    return {
        "kind": patch.kind,
        "method": patch.method,
        "schema": patch.schema,
        "facts": _facts(patch),
        "taken": share_taken(patch),
        "untaken": [_untaken(one) for one in untaken_facts(patch)],
        "layers": [_layer(index, delta) for index, delta in sorted(patch.layers.items())],
        "experts": {str(index): delta.experts() for index, delta in sorted(patch.layers.items())},
        "bypass": _bypass(patch) if patch.kind == "bypass" else None,
        "bytes": path.stat().st_size,
        "dense_bytes": sum(_dense_bytes(delta) for delta in patch.layers.values()),
        "base": {
            "model_type": patch.base.model_type,
            "config": patch.base.config,
            "index": patch.base.index,
            "experts": {str(index): digest for index, digest in sorted(patch.base.experts.items())},
        },
        "controls": None if patch.controls is None else len(patch.controls.prompts),
        "hash": patch.hash,
        "created": patch.created,
        "parents": list(patch.parents),
        "tools": dict(patch.tools),
        "hyperparameters": dict(patch.hyperparameters),
    }


def summary_tables(described: dict[str, Any], *, untaken: bool = True) -> list[Table]:
    """Tables for the whole patch, for its layers, and with `untaken` for facts that did not take."""
    whole = plain_table("", ("", "patch"))
    whole.show_header = False
    touched = sum(len(experts) for experts in described["experts"].values())
    whole.add_row("method", f"{described['method']} ({described['kind']})")
    whole.add_row("facts", _facts_line(described))
    if described["bypass"]:
        whole.add_row("bypass", _bypass_line(described["bypass"]))
    elif described["kind"] == "prompt":
        whole.add_row("changes", "prompts alone")
    else:
        whole.add_row("experts touched", f"{touched} in {counted(len(described['layers']), 'layer')}")
    if preserved := preserved_line(described["hyperparameters"]):
        whole.add_row("preserved text", preserved)
    whole.add_row("size", _size_line(described["bytes"], described["dense_bytes"]))
    whole.add_row("base", f"{described['base']['model_type']} {described['base']['config']}")
    whole.add_row("controls", str(described["controls"] or "none"))
    whole.add_row("hash", described["hash"])
    whole.add_row("created", described["created"])
    dense = any(layer["dense"] for layer in described["layers"])
    compared = any("largest_ratio" in layer for layer in described["layers"])
    columns = ("layer", "experts", "rows", *(("dense",) if dense else ()))
    columns += ("lambda", "norm of the delta", "largest expert", "bytes")
    columns += ("times its expert",) if compared else ()
    layers = plain_table("Layers", columns, right=columns)
    for layer in described["layers"]:
        norms = (f"{layer['ridge']:.4g}", f"{layer['norm']:.4g}", f"{layer['largest_expert_norm']:.4g}")
        counts = (layer["layer"], layer["experts"], layer["rows"], *((layer["dense"],) if dense else ()))
        ratio = (f"{layer['largest_ratio']:.3g}",) if compared else ()
        layers.add_row(*map(str, counts), *norms, f"{layer['bytes']:,}", *ratio)
    protection = protection_table(described["hyperparameters"])
    tables = [whole, *([layers] if described["layers"] else []), *([protection] if protection else [])]
    show = untaken and described["untaken"]
    return [*tables, _untaken_table(described["untaken"])] if show else tables


def _untaken_table(untaken: list[dict[str, Any]]) -> Table:
    columns = ("id", "prompt", "new answer", "says instead", "likely because")
    table = plain_table(f"Facts that did not take ({len(untaken)})", columns)
    for one in untaken:
        table.add_row(one["id"], one["text"], one["target_new"], one["says"] or "", "; ".join(one["reasons"]))
    return table


def fact_table(described: dict[str, Any], limit: int | None = None) -> Table:
    """A table of at most `limit` facts, with how well their target values were reached."""
    facts = described["facts"][:limit]
    numbers = [
        name
        for name in (facts[0]["result"] if facts else {})
        if all(type(fact["result"].get(name)) in (int, float) for fact in facts)
    ]
    headings = [name.replace("_", " ") for name in numbers]
    left = len(described["facts"]) - len(facts)
    title = f"Facts ({left} more with --all)" if left else "Facts"
    table = plain_table(title, ("id", "prompt", "new answer", *headings), right=headings)
    for fact in facts:
        figures = (f"{fact['result'][name]:.4g}" for name in numbers)
        table.add_row(fact["id"], fact["text"], fact["target_new"], *figures)
    return table


def _facts_line(described: dict[str, Any]) -> str:
    count = len(described["facts"])
    line = f"{count} ({described['schema']})"
    if described["taken"] is None:
        return line
    return f"{line}, of which {count - len(described['untaken'])} took ({described['taken']:.1%})"


def _untaken(one: Untaken) -> dict[str, Any]:
    return {
        "id": one.fact.id,
        "text": one.fact.text,
        "target_new": one.fact.target_new,
        "says": one.says,
        "loss": one.loss,
        "reasons": list(one.reasons),
    }


def _facts(patch: Patch) -> list[dict[str, Any]]:
    results = patch.results or ({},) * len(patch.facts)
    return [
        {
            "id": fact.id,
            "prompt": fact.prompt,
            "subject": fact.subject,
            "text": fact.text,
            "target_new": fact.target_new,
            "target_true": fact.target_true,
            "result": dict(result),
        }
        for fact, result in zip(patch.facts, results, strict=True)
    ]


def _layer(index: int, delta: LayerDelta) -> dict[str, Any]:
    from moe_patch.patch.delta import delta_tensors
    from moe_patch.solve.delta_algebra import delta_penalties

    norms = [math.sqrt(square) for square in delta_penalties(delta).values()]
    return {
        "layer": index,
        "experts": len(norms),
        "rows": len(delta.rows.value),
        "dense": 0 if delta.dense is None else len(delta.dense.expert),
        "ridge": delta.ridge,
        "norm": math.hypot(*norms),
        "largest_expert_norm": max(norms, default=0.0),
        "bytes": sum(
            tensor.nbytes for name, tensor in delta_tensors(index, delta).items() if name.startswith("delta.")
        ),
    }


def _bypass(patch: Patch) -> dict[str, Any]:
    from moe_patch.bypass import holds_codebook, read_bypass, read_codebook, read_routed
    from moe_patch.bypass.codebook_file import read_fact_keys

    if holds_codebook(patch):
        codebook = read_codebook(patch)
        return {
            **codebook.config.model_dump(mode="json"),
            "router": "codebook",
            "parameters": sum(weight.numel() for weight in codebook.parameters()),
            "facts_with_key": int((read_fact_keys(patch) >= 0).sum()),
        }
    bypass, expert = read_bypass(patch), read_routed(patch).expert.long()
    return {
        **bypass.config.model_dump(mode="json"),
        "parameters": sum(weight.numel() for weight in bypass.parameters()),
        "facts_by_expert": expert.bincount(minlength=bypass.config.experts).tolist(),
    }


def _bypass_line(bypass: dict[str, Any]) -> str:
    if bypass["router"] == "codebook":
        return (
            f"a codebook of {bypass['keys']} keys beside layer {bypass['layer']}, for "
            f"{bypass['facts_with_key']} facts; {bypass['parameters']:,} parameters"
        )
    facts = ", ".join(map(str, bypass["facts_by_expert"]))
    return (
        f"{counted(bypass['experts'], 'expert')} of width {bypass['expert_width']} beside layer "
        f"{bypass['layer']}, for {facts} facts; {bypass['router']} router "
        f"{'with' if bypass['scope_gate'] else 'without'} a scope gate{_merge(bypass)}; "
        f"{bypass['parameters']:,} parameters"
    )


def _merge(bypass: dict[str, Any]) -> str:
    merges = {"hard": "", "weighted": f", {bypass['top_k']} experts a prompt", "soft": ", all experts merged"}
    return merges[bypass["merge"]]


def _dense_bytes(delta: LayerDelta) -> int:
    """The size in bytes of the touched experts' deltas as dense fp32 matrices."""
    d_model, d_key = delta.widths
    return 4 * len(delta.experts()) * d_model * d_key


def _size_line(size: int, dense: int) -> str:
    compared = (
        f", {dense / size:.1f} times smaller than the dense deltas of these experts" if dense > size else ""
    )
    return f"{size:,} bytes{compared}"
