"""Write what `moe-patch doctor` holds its self-test to, as this machine computes it.

    python -m moe_patch_recipes.atlas.reference        # writes recipes/atlas/reference.json

To be run again when atlas, its recipe or a method's arithmetic changes. Tolerances are set for fp32 products,
far above what processors and thread counts make of the last bits and far below what a wrong result is off by.
"""

from __future__ import annotations

from importlib.metadata import version

from moe_patch.doctor.reference import Expected, Reference, reference_file
from moe_patch.doctor.self_test import measure
from moe_patch.files import write_text

TOLERANCES = {
    "log-probabilities of true answers, base": 1e-3,
    "log-probabilities of new answers, base": 1e-3,
    "losses of the target values": 5e-3,
    "norm of the delta by layer": 5e-2,
    "log-probabilities of new answers, merged": 1e-2,
    "log-probabilities, hooked less merged": 1e-3,
}


def main() -> None:
    checks = {
        name: Expected(values=[_rounded(value) for value in values], tolerance=TOLERANCES.get(name, 0.0))
        for name, values in measure("cpu").items()
    }
    made_with = {name: version(name) for name in ("torch", "transformers")}
    write_text(
        reference_file(), Reference(made_with=made_with, checks=checks).model_dump_json(indent=2) + "\n"
    )


def _rounded(value: float | str) -> float | str:
    return value if isinstance(value, str) else round(float(value), 6) + 0.0  # of -0.0 it makes 0.0


if __name__ == "__main__":
    main()
