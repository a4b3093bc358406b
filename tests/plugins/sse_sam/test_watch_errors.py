"""What a watched model, its criterion, its targets and its outputs may not be."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graftkit.torch import SSESAM
from tests.plugins.sse_sam.loops import weights
from tests.plugins.sse_sam.watch_cases import BATCHES, OwnLoss, net, optimizer_for, watching


def test_step_without_forward_backward_or_criterion():
    model, optimizer, criterion = watching()
    x, y = BATCHES[0]
    with pytest.raises(RuntimeError, match="the model was not called"):
        optimizer.step()
    model.eval()
    criterion(model(x), y).backward()
    with pytest.raises(RuntimeError, match="not called in train mode"):
        optimizer.step()
    model.train()
    loss = criterion(model(x), y)
    with pytest.raises(RuntimeError, match=r"backward\(\) was not called"):
        optimizer.step()
    F.cross_entropy(model(x), y).backward()
    with pytest.raises(RuntimeError, match="criterion was never called"):
        optimizer.step()
    del loss


def test_criterion_on_something_else_than_the_output():
    model, optimizer, criterion = watching()
    x, y = BATCHES[0]
    criterion(model(x) * 2, y).backward()
    with pytest.raises(RuntimeError, match="not the watched model's output itself"):
        optimizer.step()


def test_targets_that_cannot_be_found():
    class Entropy(nn.Module):
        def forward(self, logits: Tensor) -> Tensor:
            return -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()

    model, _, criterion = watching(criterion=Entropy())
    with pytest.raises(ValueError, match=r"targets: expected a tensor beside .*targets_from="):
        criterion(model(BATCHES[0][0]))


def test_outputs_changed_in_place_before_the_criterion():
    model, _, criterion = watching()
    out = model(BATCHES[0][0])
    out.mul_(2)
    with pytest.raises(RuntimeError, match="model output was changed in place"):
        criterion(out, BATCHES[0][1])


def test_targets_changed_in_place_are_named():
    model, optimizer, criterion = watching()
    x, y = BATCHES[0][0], BATCHES[0][1].clone()
    criterion(model(x), y).backward()
    y[0] = 1
    with pytest.raises(RuntimeError, match=r"criterion args\[1\] changed in place"):
        optimizer.step()


@pytest.mark.parametrize("output", [lambda z: (z, z), lambda z: {"features": z}], ids=["tuple", "mapping"])
def test_outputs_that_are_no_scores(output):
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = net()

        def forward(self, x: Tensor) -> object:
            return output(self.body(x))

    model, optimizer, _ = watching(Odd())
    assert optimizer.completed_steps == 0  # and held: the hooks of a forgotten optimizer are inert
    with pytest.raises(TypeError, match="output_module"):
        model(BATCHES[0][0])


def test_own_loss_models_must_show_scores_and_labels():
    model = OwnLoss("losses")
    optimizer = optimizer_for(model)
    optimizer.watch(model, None)
    with pytest.raises(TypeError, match=r"output_module=.*targets_from="):
        model(BATCHES[0][0], labels=BATCHES[0][1])
    model = OwnLoss("dict")
    optimizer = optimizer_for(model)
    optimizer.watch(model, None)
    with pytest.raises(ValueError, match=r"targets: .*labels.*targets_from="):
        model(*BATCHES[0])


def test_watch_arguments():
    model = net()
    optimizer = optimizer_for(model)
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module"):
        optimizer.watch("model", nn.CrossEntropyLoss())
    with pytest.raises(TypeError, match="criterion: expected"):
        optimizer.watch(model, 3)
    with pytest.raises(ValueError, match="the model whose parameters this optimizer holds"):
        optimizer.watch(net(), nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match="output_module: expected the name of a submodule"):
        optimizer.watch(model, None, output_module="head")
    with pytest.raises(TypeError, match="targets_from"):
        optimizer.watch(model, None, targets_from=3)
    optimizer.watch(model, nn.CrossEntropyLoss())


def test_labels_beyond_the_counts_are_refused_with_weights_untouched():
    model = net()
    optimizer = SSESAM(model.parameters(), lr=0.5, class_counts=[50, 3], tail_threshold=10, switch_step=9)
    criterion = nn.CrossEntropyLoss()
    optimizer.watch(model, criterion)
    before = weights(model)
    criterion(model(BATCHES[0][0]), BATCHES[0][1]).backward()
    with pytest.raises(ValueError, match="targets"):
        optimizer.step()
    assert torch.equal(weights(model), before)


def test_a_criterion_of_two_outputs_is_refused_before_backward():
    def both(first: Tensor, second: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(first, y) + F.cross_entropy(second, y)

    model = net()
    optimizer = optimizer_for(model)
    criterion = optimizer.watch(model, both)
    x, y = BATCHES[0]
    out = model(x)
    for first, second in ((out, model(x)), (out, out)):
        with pytest.raises(RuntimeError, match=r"criterion: expected one output .* got 2 \(at 0, 1\)"):
            criterion(first, second, y)


def test_a_criterions_argument_on_the_graph_is_an_extra_term_and_not_a_graph_gone():
    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = net()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            features = self.body[:3](x)
            return {"logits": self.body[4](features), "features": features}

    def centred(logits: Tensor, y: Tensor, features: Tensor) -> Tensor:
        return F.cross_entropy(logits, y) + features.square().mean()

    model = Features()
    optimizer = optimizer_for(model)
    criterion = optimizer.watch(model, centred)
    x, y = BATCHES[0]
    out = model(x)
    criterion(out["logits"], y, out["features"]).backward()
    with pytest.raises(RuntimeError, match="another loss term"):
        optimizer.step()


def test_an_output_module_that_is_called_twice_is_refused():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.times = net(), 2

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {
                "loss": sum(
                    F.cross_entropy(self.body[4](self.body[:3](x)), labels) for _ in range(self.times)
                )
            }

    model = Twice()
    optimizer = optimizer_for(model)
    optimizer.watch(model, None, output_module="body.4")
    x, y = BATCHES[0]
    with pytest.raises(RuntimeError, match="output_module: expected one call of it in each forward"):
        model(x, labels=y)
    model.times = 1  # what a forward that raised has left behind does no harm
    model(x, labels=y)["loss"].backward()
    optimizer.step()
    assert optimizer.completed_steps == 1
