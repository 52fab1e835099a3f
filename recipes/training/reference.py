"""Write the reference figures of the self-test of `moe-patch doctor`, as this machine computes them.

    python -m recipes.training.reference        # writes recipes/atlas/reference.json

Run it again when atlas, its recipe or the arithmetic of a method changes.
"""

from __future__ import annotations

from importlib.metadata import version

from moe_patch.doctor.reference import Expected, SelfTestReference, reference_file
from moe_patch.doctor.self_test import measure_figures
from moe_patch.io.files import write_text

# Far above the differences between processors and numbers of threads, and far below those of a wrong result.
# The tolerances of the base's new answers and of the norm are also below the differences that TF32 makes, see
# docs/measurements.md.
TOLERANCES = {
    "log-probabilities of true answers, base": 1e-4,
    "log-probabilities of new answers, base": 1e-4,
    "losses of the target values": 1e-3,  # a patch holds them with four decimals
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
