"""Write what `moe-patch doctor` holds its self-test to, as this machine computes it.

    python -m recipes.training.reference        # writes recipes/atlas/reference.json

To be run again when atlas, its recipe or a method's arithmetic changes.
"""

from __future__ import annotations

from importlib.metadata import version

from moe_patch.doctor.reference import Expected, SelfTestReference, reference_file
from moe_patch.doctor.self_test import measure_figures
from moe_patch.io.files import write_text

# Far above what processors and threads make of the last bits, and far below what a wrong result is off by.
# Those of new answers of the base and of the norm are also below what TF32 is off by: docs/measurements.md.
TOLERANCES = {
    "log-probabilities of true answers, base": 1e-4,
    "log-probabilities of new answers, base": 1e-4,
    "losses of the target values": 1e-3,  # a patch has them with four decimals
    "norm of the delta by layer": 5e-3,
    "log-probabilities of new answers, merged": 1e-3,
    "log-probabilities, hooked less merged": 1e-4,
}


def main() -> None:
    checks = {
        name: Expected(values=[_rounded(value) for value in values], tolerance=TOLERANCES.get(name, 0.0))
        for name, values in measure_figures("cpu").items()
    }
    made_with = {name: version(name) for name in ("torch", "transformers")}
    write_text(
        reference_file(),
        SelfTestReference(made_with=made_with, checks=checks).model_dump_json(indent=2) + "\n",
    )


def _rounded(value: float | str) -> float | str:
    return value if isinstance(value, str) else round(float(value), 6) + 0.0  # of -0.0 it makes 0.0


if __name__ == "__main__":
    main()
