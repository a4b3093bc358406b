"""Two gloo processes, one of them often without a tail sample, against one process on the whole batch."""

import pytest
import torch
import torch.multiprocessing as mp
from torch.nn import functional as F

from tests.plugins.sse_sam import reference as ref
from tests.plugins.sse_sam import workers
from tests.plugins.sse_sam.loops import weights


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Every case on both processes, from one start of a pair."""
    folder = tmp_path_factory.mktemp("gloo")
    mp.spawn(workers.run, args=(str(folder), EXACT | LOCAL | FAILING | UNUSED | NEVER | WORK), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


EXACT = {
    "closures": ("closures", {}),
    "closures, subset": ("closures", {"tail_pass": "subset"}),
    "explicit": ("explicit", {}),
    "copied": ("copied", {}),
    "loop": ("loop", {}),
    "loop, full": ("loop", {"tail_pass": "full"}),
    "loop, accumulation": ("loop", {"accumulate": True}),
    "loop, watched below DDP": ("loop", {"inner": True}),
    "loop, gradients as views of DDP's buckets": ("loop", {"views": True}),
    "loop, clipping that does not bite": ("loop", {"clip": 1e6}),
    "FSDP2, closures": ("sharded", {}),
    "FSDP2, closures, subset": ("sharded", {"tail_pass": "subset"}),
    "FSDP2, loop": ("sharded", {"form": "loop"}),
    "FSDP2 nested, loop": ("sharded", {"form": "loop", "nested": True}),
}
LOCAL = {
    **{f"local {case}": (case, {"sync_perturbation": False}) for case in ("closures", "explicit", "loop")},
    "accumulate": ("accumulated", {}),
}
FAILING = {
    "one bad rank": ("one_bad_rank", {}),
    "FSDP2, local": ("sharded", {"sync_perturbation": False}),
    "FSDP2, accumulate": ("sharded_accumulation", {}),
}
UNUSED = {"a layer that one process does not use": ("unused", {})}
NEVER = {"never used": ("never_used", {})}

WORK = {
    f"{'local' if local else 'exact'} work, {'with' if tail else 'without'} tail": (
        "work_of_stage_2", {"tail": tail, "sync_perturbation": not local},
    )
    for local in (True, False) for tail in (True, False)
}  # fmt: skip


def one_process():
    model = workers.net()
    optimizer = workers.optimizer_for(model)
    for x, y in workers.batches():
        optimizer.step(lambda x=x, y=y: (F.cross_entropy(model(x), y, reduction="none"), y))
    return weights(model)


def own_perturbations():
    """m-sharpness from its definition: the mean over processes of each one's sharpened gradient."""
    model = workers.net()
    params = list(model.parameters())
    base = torch.optim.SGD(params, lr=0.3, momentum=0.9)
    for k, batch in enumerate(workers.batches()):
        total = [torch.zeros_like(p) for p in params]
        for rank in (0, 1):
            x, y = workers.halves(rank, *batch)
            grads = ref.sharpened(
                params,
                lambda x=x, y=y: ref.part_losses(model, x, y, [3])[0],
                lambda x=x, y=y: ref.part_losses(model, x, y, [3])[1],
                rho_head=0.05 if k < workers.SWITCH else 0.0,
                rho_tail=0.1,
            )
            for t, g in zip(total, grads, strict=True):
                t += g / 2
        for p, t in zip(params, total, strict=True):
            p.grad = t
        base.step()
    return weights(model)


@pytest.mark.parametrize("case", EXACT)
def test_exact_perturbation_equals_one_process_on_the_whole_batch(results, case):
    first, second = (result[case] for result in results)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, one_process(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", LOCAL)
def test_local_perturbation_is_each_processs_own(results, case):
    first, second = (result[case] for result in results)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, own_perturbations(), rtol=0, atol=1e-12)
    assert (first - one_process()).norm() > 1e-5


def test_a_gradient_that_is_not_finite_on_one_process_stops_both(results):
    assert all(result["one bad rank"].startswith("NonFiniteGradient") for result in results)


def test_sharded_parameters_refuse_local_perturbation(results):
    assert all("sync_perturbation: expected True with FSDP2" in result["FSDP2, local"] for result in results)


@pytest.mark.parametrize("case", WORK)
def test_work_of_a_processs_step_in_stage_2_is_that_of_the_table(results, case):
    expected = 1 + 2 / 3 if "with tail" in case else 1.0
    assert [result[case] for result in results] == pytest.approx([expected] * 2)


def test_sharded_parameters_refuse_gradients_of_one_process(results):
    assert all("Use step([closure, ...]) instead" in result["FSDP2, accumulate"] for result in results)


@pytest.mark.parametrize("case", UNUSED)
def test_a_layer_that_one_process_does_not_use_equals_one_process(results, case):
    model = workers.Branching()
    optimizer = workers.optimizer_for(model)
    for x, y in workers.branching_batches():
        optimizer.step(lambda x=x, y=y: (F.cross_entropy(model(x), y, reduction="none"), y))
    for result in results:
        torch.testing.assert_close(result[case], weights(model), rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", NEVER)
def test_a_parameter_that_nobody_uses_has_no_gradient(results, case):
    assert [result[case] for result in results] == [True, True]
