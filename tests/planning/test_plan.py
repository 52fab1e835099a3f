"""Plans: placement, what does not fit, and what options mean."""

from __future__ import annotations

import pytest

from moe_patch.errors import ConfigError, ModelError
from moe_patch.methods import get_method
from moe_patch.planning import Gpus, ModelOutline, Resources, make_plan, outline_model, plan_job
from moe_patch.planning.machine import gpu
from moe_patch.planning.placement import GIB
from moe_patch.planning.plan import duration, size
from moe_patch.planning.probe import Probed
from moe_patch.planning.stages import Job
from moe_patch.planning.work import Work
from tests.planning.test_outline import outline_of

H100 = Gpus(1, 80 * GIB, "H100", named=True)


@pytest.fixture(scope="module")
def model() -> ModelOutline:
    return outline_of("qwen3_moe")


@pytest.mark.parametrize(
    ("text", "count", "gib", "kind"),
    [
        ("H100", 1, 80, "H100"),
        ("8xh100", 8, 80, "H100"),
        ("A100 x 4", 4, 80, "A100"),
        ("80GiB", 1, 80, "A100"),
        ("80GiB x 8", 8, 80, "A100"),
        ("2x24GB", 2, 24, "RTX3090"),
        ("1000", 1, 1000, "RTX3090"),
    ],
)
def test_gpus_are_read(text: str, count: int, gib: int, kind: str) -> None:
    found = Gpus.parse(text)
    assert (found.count, found.memory, found.kind) == (count, gib * GIB, kind)


@pytest.mark.parametrize("text", ["", "0xH100", "8x", "2xH100x2", "H100,A100", "-1xH100", "TPU", "8x8x8GiB"])
def test_other_gpus_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected"):
        Gpus.parse(text)


@pytest.mark.parametrize("ram", ["0GiB", "much", "-3GiB", "nan"])
def test_other_memory_is_refused(ram: str) -> None:
    with pytest.raises(ConfigError, match="expected a form"):
        Resources.of("H100", ram)


def test_a_model_that_fits_lies_on_one_gpu(model: ModelOutline) -> None:
    plan = make_plan(model, Job(5, (1,)), Resources(gpu("H100"), H100, 64 * GIB))
    assert plan.placement.layers == {"0": 3}
    assert plan.placement.fits
    assert plan.peak > model.bytes
    assert [option for option, _ in plan.options] == ["--device-map auto"]


def test_a_model_that_does_not_fit_is_spread_and_then_said_not_to_fit(model: ModelOutline) -> None:
    half = Gpus(2, int(3.5 * model.bytes), "L4", named=True)
    spread = make_plan(model, Job(1, (1,), facts_per_pass=1), Resources(gpu("L4", 2), half, 64 * GIB))
    assert set(spread.placement.layers) <= {"0", "1"}
    small = Gpus(1, model.bytes // 3, "L4", named=True)
    plan = make_plan(model, Job(5, (1,)), Resources(gpu("L4"), small, 64 * GIB))
    assert not plan.placement.fits
    assert any("more than there is" in note for note in plan.notes)
    assert any("bfloat16" in note for note in plan.notes)


def test_a_search_that_does_not_fit_gets_smaller_passes(model: ModelOutline) -> None:
    job = Job(500, (1,), facts_per_pass=512)
    tight = Gpus(1, 8 * model.bytes, "L4", named=True)
    plan = make_plan(model, job, Resources(gpu("L4"), tight, 64 * GIB))
    assert plan.job.facts_per_pass < 512
    assert any("facts_per_pass" in option for option, _ in plan.options)


def test_a_report_has_what_a_program_needs(model: ModelOutline) -> None:
    plan = make_plan(model, Job(5, (1,), trace=True), Resources(gpu("H100"), H100, 64 * GIB))
    found = plan.to_json()
    assert found["seconds"] == pytest.approx(sum(stage["seconds"] for stage in found["stages"]))
    assert found["peak"] == max(stage["bytes"] for stage in found["stages"])
    assert any("tracing" in note for note in found["notes"])
    assert len(plan.tables()) == 2


def test_layers_are_measured_once_and_add_up(model: ModelOutline) -> None:
    machine = Probed()
    one, two = (machine.seconds(Work("forward", 4, 8, 1, layers), model) for layers in ((0,), (0, 1)))
    assert two == pytest.approx(2 * one)  # the layers are of one kind, so the second measures nothing
    assert machine.seconds(Work("forward", 4, 8, 10, (0,)), model) == pytest.approx(10 * one)
    assert machine.seconds(Work("search", 4, 8, 1, (0,)), model) >= 0
    assert machine.decompose(16) > 0
    assert machine.hash(2**20) > 0


@pytest.mark.parametrize("model_type", ["gpt_oss", "deepseek_v3", "granitemoehybrid", "qwen3_next"])
def test_other_architectures_can_be_measured(model_type: str) -> None:
    outline = outline_of(model_type)
    every = tuple(range(len(outline.layers)))
    machine = Probed()
    for kind in ("forward", "search", "step"):
        assert machine.seconds(Work(kind, 2, 8, 1, every, 2), outline) >= 0  # type: ignore[arg-type]


def test_options_become_a_job() -> None:
    atlas, method = outline_model(None), get_method("moeedit")
    job = plan_job(atlas, method, method.options(layers=(2, 1), projection=False, batch_size=10), 50)
    assert (job.facts, job.layers, job.batch, job.corpus_tokens, job.trace) == (50, (1, 2), 10, 0, False)
    open_ = plan_job(atlas, method, method.options(), 50)
    assert open_.trace
    assert open_.own_text
    mote = get_method("mote")
    assert plan_job(atlas, mote, mote.options(), 50).tucker


def test_what_cannot_be_planned_is_refused() -> None:
    atlas, memoe, method = outline_model(None), get_method("memoe"), get_method("moeedit")
    with pytest.raises(ConfigError, match="no plan for MEMoE"):
        plan_job(atlas, memoe, memoe.options(), 5)
    with pytest.raises(ModelError, match="dense"):
        plan_job(atlas, method, method.options(layers=(5,)), 5)


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.02, "20 ms"), (59.96, "60.0 s"), (600, "10 min"), (7200, "2.0 h")]
)
def test_durations_are_said_shortly(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(("amount", "said"), [(100, "0.1 KiB"), (2**20, "1.0 MiB"), (3 * GIB, "3.0 GiB")])
def test_sizes_are_said_shortly(amount: int, said: str) -> None:
    assert size(amount) == said
