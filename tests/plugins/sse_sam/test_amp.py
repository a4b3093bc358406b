"""Mixed precision: bf16 by autocast, fp16 by GradScaler, driven by the unmodified loop or by closures."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from graftkit.methods.sse_sam import loop_form
from graftkit.torch import SSESAM
from tests.plugins.sse_sam.loops import counted, mixed_batches, weights

BATCHES = [(x.float(), y) for x, y in mixed_batches(n=6)]


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 4))


def optimizer_for(model: nn.Module, **kwargs) -> SSESAM:
    return SSESAM(
        model.parameters(), **{"lr": 0.1, "tail_classes": [3], "switch_step": 15, "momentum": 0.9, **kwargs}
    )


def scaled_step(model, optimizer, criterion, scaler, batch, *, clip=None):
    x, y = batch
    optimizer.zero_grad()
    with torch.autocast("cpu", dtype=torch.float16):
        loss = criterion(model(x), y)
    scaler.scale(loss).backward()
    if clip is not None:
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    scaler.step(optimizer)
    scaler.update()


@pytest.mark.parametrize("clip", [None, 1e6, 0.3])
def test_thirty_unmodified_fp16_steps_follow_the_full_precision_run(clip):
    runs = []
    for half in (True, False):
        model = net()
        optimizer = optimizer_for(model)
        criterion = nn.CrossEntropyLoss()
        optimizer.watch(model, criterion)
        scaler = torch.amp.GradScaler("cpu", enabled=half, init_scale=2.0**12)
        for k in range(30):
            batch = BATCHES[k % 6]
            if half:
                scaled_step(model, optimizer, criterion, scaler, batch, clip=clip)
            else:
                optimizer.zero_grad()
                criterion(model(batch[0]), batch[1]).backward()
                if clip is not None:
                    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
        assert optimizer.completed_steps == 30
        assert optimizer.stage == 2
        assert not hasattr(optimizer, "grad_scale")
        runs.append(weights(model))
    start = weights(net())
    assert (runs[0] - runs[1]).norm() < 0.02 * (runs[1] - start).norm()
    assert (runs[1] - start).norm() > 0.1


def test_passes_of_an_fp16_step_run_under_the_recorded_autocast():
    model = net()
    optimizer = optimizer_for(model)
    criterion = nn.CrossEntropyLoss()
    optimizer.watch(model, criterion, verify=False)
    seen = []
    model[0].register_forward_hook(lambda _module, _args, out: seen.append(out.dtype))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    with counted(model[0], 12) as work:
        scaled_step(model, optimizer, criterion, scaler, BATCHES[3])
    assert len(seen) == 4
    assert set(seen) == {torch.float16}
    assert work.units == pytest.approx(2 + (BATCHES[3][1] == 3).sum().item() / 12)


def test_overflow_in_the_users_backward_skips_the_step_and_lowers_the_scale():
    model = net()
    optimizer = optimizer_for(model)
    criterion = nn.CrossEntropyLoss()
    optimizer.watch(model, criterion)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    before = weights(model)
    model[0].weight.register_hook(lambda grad: grad * float("inf"))
    with counted(model[0], 12) as work:
        scaled_step(model, optimizer, criterion, scaler, BATCHES[3])
    assert work.units == pytest.approx(1.0)  # nothing is repeated for a step that is skipped
    assert torch.equal(weights(model), before)
    assert optimizer.completed_steps == 0
    assert scaler.get_scale() == 2.0**9


def test_overflow_in_a_repeated_pass_skips_too_and_the_next_step_goes_on():
    model = net()
    optimizer = optimizer_for(model)
    criterion = nn.CrossEntropyLoss()
    optimizer.watch(model, criterion, verify=False)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    before = weights(model)
    calls = []

    def overflow(module, args, output):
        del module, args
        calls.append(1)
        return output * float("inf") if len(calls) == 3 else output

    model[3].register_forward_hook(overflow)
    optimizer.unwatch()
    optimizer.watch(model, criterion, verify=False)
    scaled_step(model, optimizer, criterion, scaler, BATCHES[3])
    assert torch.equal(weights(model), before)
    assert optimizer.completed_steps == 0
    scaled_step(model, optimizer, criterion, scaler, BATCHES[3])
    assert optimizer.completed_steps == 1
    assert not torch.equal(weights(model), before)


def test_scaler_without_a_watched_model_raises_and_leaves_no_attribute():
    model = net()
    optimizer = optimizer_for(model)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(F.cross_entropy(model(BATCHES[0][0]), BATCHES[0][1])).backward()
    with pytest.raises(RuntimeError, match=r"GradScaler\.step.*watch\(model, criterion\).*scaler=scaler"):
        scaler.step(optimizer)
    assert not hasattr(optimizer, "found_inf")
    assert not hasattr(optimizer, "grad_scale")


def test_scaler_with_a_positional_closure_raises():
    # torch accepts this and runs the closure on unscaled fp16 losses.
    model = net()
    optimizer = optimizer_for(model)
    x, y = BATCHES[3]
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(F.cross_entropy(model(x), y)).backward()
    with pytest.raises(RuntimeError, match=r"GradScaler\.step"):
        scaler.step(optimizer, lambda: (F.cross_entropy(model(x), y, reduction="none"), y))


def test_closures_with_a_scaler():
    runs = []
    for half in (True, False):
        model = net()
        optimizer = optimizer_for(model, switch_step=3)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12) if half else None
        for x, y in BATCHES:

            def closure(x=x, y=y, model=model, half=half):
                with torch.autocast("cpu", dtype=torch.float16, enabled=half):
                    return F.cross_entropy(model(x), y, reduction="none"), y

            loss = optimizer.step(closure, scaler=scaler)
            assert torch.isfinite(loss)
            if scaler is not None:
                scaler.update()
        runs.append(weights(model))
    assert (runs[0] - runs[1]).norm() < 0.02 * (runs[1] - weights(net())).norm()


def test_closure_overflow_skips_lowers_the_scale_and_is_not_counted():
    model = net()
    optimizer = optimizer_for(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    before = weights(model)
    x, y = BATCHES[3]
    optimizer.step(lambda: (F.cross_entropy(model(x), y, reduction="none") * float("inf"), y), scaler=scaler)
    scaler.update()
    assert torch.equal(weights(model), before)
    assert optimizer.completed_steps == 0
    assert scaler.get_scale() == 2.0**11


@pytest.mark.parametrize("overflow", [False, True])
def test_the_explicit_form_on_scaled_losses(overflow):
    x, y = BATCHES[3]
    model, exact = net(), net()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    for m, s in ((model, scaler), (exact, None)):
        optimizer = optimizer_for(m)
        before = weights(m)

        def losses(m=m, s=s):
            with torch.autocast("cpu", dtype=torch.float16, enabled=s is not None):
                each = F.cross_entropy(m(x), y, reduction="none")
            return each if s is None else s.scale(each)

        optimizer.first_step(losses(), y)
        for part in optimizer.parts:
            with optimizer.perturbed(part):
                optimizer.second_step(losses() * (float("inf") if overflow and s is not None else 1.0), y)
        optimizer.step(scaler=s)
        if s is not None:
            s.update()
            assert optimizer.completed_steps == (0 if overflow else 1)
            assert torch.equal(weights(m), before) == overflow
            assert s.get_scale() == (2.0**11 if overflow else 2.0**12)
    if not overflow:
        assert (weights(model) - weights(exact)).norm() < 0.02 * (weights(exact) - weights(net())).norm()


def test_non_finite_gradient_without_a_scaler_raises_before_anything_changes():
    model = net()
    optimizer = optimizer_for(model)
    before = weights(model)
    x, y = BATCHES[3]
    with pytest.raises(RuntimeError, match="non-finite gradient"):
        optimizer.step(lambda: (F.cross_entropy(model(x), y, reduction="none") * float("nan"), y))
    criterion = nn.CrossEntropyLoss()
    optimizer.watch(model, criterion)
    (criterion(model(x), y) * float("inf")).backward()
    with pytest.raises(RuntimeError, match="non-finite gradient"):
        optimizer.step()
    assert torch.equal(weights(model), before)
    assert optimizer.completed_steps == 0


def test_bf16_autocast_in_an_unmodified_loop():
    model, exact = net(), net()
    criterion = nn.CrossEntropyLoss()
    for m, half in ((model, True), (exact, False)):
        optimizer = optimizer_for(m, switch_step=3)
        optimizer.watch(m, criterion)
        for x, y in BATCHES:
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                loss = criterion(m(x), y)
            loss.backward()
            optimizer.step()
        optimizer.unwatch()
    assert (weights(model) - weights(exact)).norm() < 0.1 * (weights(exact) - weights(net())).norm()


def test_repeats_that_overflow_alone_run_under_a_lower_scale_until_they_fit():
    # The user's backward is finite and the repeats are not, so the scaler never lowers its scale.
    x, y = BATCHES[3]
    runs = []
    for fragile in (True, False):
        model = net()
        optimizer = optimizer_for(model)
        criterion = nn.CrossEntropyLoss()
        optimizer.watch(model, criterion, verify=False)
        forwards = []

        def guard(module, args, output, forwards=forwards, fragile=fragile):
            del module, args
            forwards.append(1)
            if fragile and len(forwards) > 1:
                output.register_hook(lambda g: g * float("inf") if g.abs().max() > 30 else g)

        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        handle = model[3].register_forward_hook(guard)
        tries = 0
        while optimizer.completed_steps == 0:
            forwards.clear()
            scaled_step(model, optimizer, criterion, scaler, (x, y))
            tries += 1
            assert tries < 12
        handle.remove()
        assert scaler.get_scale() == 2.0**10
        assert (tries > 1) == fragile
        runs.append(weights(model))
    start = weights(net())
    assert (runs[0] - runs[1]).norm() < 0.02 * (runs[1] - start).norm()


def test_a_lowered_scale_of_repeats_comes_back_after_good_steps(monkeypatch):
    monkeypatch.setattr(loop_form, "GOOD_STEPS", 2)
    model = net()
    optimizer = optimizer_for(model)
    criterion = nn.CrossEntropyLoss()
    optimizer.watch(model, criterion)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizer._seed_factor = 0.25
    factors = []
    for k in range(6):
        scaled_step(model, optimizer, criterion, scaler, BATCHES[k])
        factors.append(optimizer._seed_factor)
    assert factors == [0.25, 0.5, 0.5, 1.0, 1.0, 1.0]


def test_repeats_that_are_never_finite_stop_the_run_in_the_end():
    # Skipping for ever would look like training.
    model = net()
    optimizer = optimizer_for(model, switch_step=0)
    criterion = nn.CrossEntropyLoss()
    forwards = []

    def guard(module, args, output):
        del module, args
        forwards.append(1)
        return output * float("nan") if len(forwards) == 3 else output

    model[3].register_forward_hook(guard)
    optimizer.watch(model, criterion, verify=False)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    before = weights(model)
    for _ in range(24):
        forwards.clear()
        scaled_step(model, optimizer, criterion, scaler, BATCHES[3])
    forwards.clear()
    with pytest.raises(RuntimeError, match=r"stay non-finite at 6e-08 of the loss scale"):
        scaled_step(model, optimizer, criterion, scaler, BATCHES[3])
    assert torch.equal(weights(model), before)
    assert optimizer.completed_steps == 0


@pytest.mark.parametrize("kind", [{}, {"stage1": "sam", "gamma": None, "switch_step": None}])
def test_a_step_inside_the_users_autocast_sees_the_moved_weights(kind):
    # Autocast keeps casts of weights while its outermost context is open; a stale one would undo the move.
    x, y = BATCHES[3]
    results = []
    for inside in (True, False):
        model = net()
        optimizer = optimizer_for(model, rho=(0.5, 0.5), **kind)
        criterion = nn.CrossEntropyLoss()
        optimizer.watch(model, criterion, verify=False)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = criterion(model(x), y)
            if inside:
                loss.backward()
                optimizer.step()
        if not inside:
            loss.backward()
            optimizer.step()
        results.append(weights(model))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-6)
