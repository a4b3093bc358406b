"""BiLT's section of the report: verdicts with their sign; the yardstick computes the same loss."""

import pytest
import torch

from graftkit.methods.bilt import BiLTLoss, HierarchicalHead
from tests.benchmarks.bench_bilt import TABLES, nested_tree
from tests.benchmarks.published_bilt import PublishedBiLT
from tests.benchmarks.render_bilt import headlines, render


def quality(arm, seed, top1, severity, hd):
    metrics = {"top1": top1, "level1_rollup": 0.9, "mistake_severity": severity, "hd@1": 0.3, "hd@3": hd,
               "hd@3_bound": 0.7, "tice": 0.0}  # fmt: skip
    return {"section": "quality", "data": "digits", "arm": arm, "seed": seed, "epochs": 6, "metrics": metrics}


def test_wins_losses_and_even_cases_are_named():
    text = render([
        quality("flat CE", 0, 0.90, 1.5, 1.10), quality("flat CE", 1, 0.92, 1.4, 1.12),
        quality("BiLT + AIGDL", 0, 0.85, 1.6, 0.80), quality("BiLT + AIGDL", 1, 0.87, 1.4, 0.82),
    ])  # fmt: skip
    assert ("BiLT + AIGDL against flat CE, 2 seeds: top-1 -5.0 +- 0.0 (worse), "
            "severity +0.050 +- 0.636 (even), HD@3 -0.300 +- 0.000 (better)") in text  # fmt: skip
    assert text.index("| BiLT + AIGDL |") < text.index("| flat CE |")  # by rising HD@3
    assert "No HD@3 can be below 0.700" in text


def test_headlines_name_the_hardest_rival_and_not_our_own_parts():
    records = [
        quality(arm, seed, top1, severity, hd)
        for seed in range(3)
        for arm, top1, severity, hd in (("BiLT + AIGDL", 0.80 + seed / 100, 1.5, 0.90),
                                        ("BiLT", 0.99, 1.0, 0.50), ("AIGDL alone", 0.99, 1.0, 0.50),
                                        ("flat CE", 0.70 + seed / 90, 1.6, 1.20),
                                        ("flat CE + CRM", 0.60, 1.6, 0.80 + seed / 100))
    ]  # fmt: skip
    for seconds, model in (
        ({"flat head": 1.0, "ours": 1.25}, "resnet18"),
        ({"flat head": 1.0, "ours": 9.0}, "x"),
    ):
        records.append({"section": "end", "model": model, "seconds": seconds})
    for head, size in (("ours", 30), ("published procedure", 40)):
        records.append({"section": "memory", "leaves": 7, "head": head, "extra_bytes": size})
    top1, severity, hd = headlines(records)
    assert (top1.rival, top1.metric, top1.verdict()) == ("flat CE", "top-1, %", "ahead")
    assert (severity.ours[0], severity.differences()) == (-1.5, pytest.approx([0.1] * 3))
    assert (hd.rival, hd.metric, hd.verdict()) == ("flat CE + CRM", "-HD@3", "**behind**")
    assert hd.cells()[-2:] == ["1.25 of a ResNet-18 step with a flat head", "0.75 of published, 7 classes"]
    cost = {"section": "cost", "seconds": {"ours": 3.0, "published procedure": 4.0, "flat head": 2.0}}
    assert headlines([*records[:15], cost])[0].cells()[-2:] == ["0.75 of head and loss as published", "-"]
    assert headlines([]) == []


@pytest.mark.parametrize(("ours", "verdict"), [(4.0, "met"), (6.0, "missed for X at 64 (0.60)")])
def test_verdict_on_cost(ours, verdict):
    seconds = {"flat head": 2.0, "published procedure": 10.0, "ours": ours}
    text = render([{"section": "cost", "data": "X", "batch": 64, "seconds": seconds}])
    assert f"procedure: {verdict}" in text
    assert f"{(ours - 2) / 8:.2f} |" in text
    assert "takes 0.20 to 0.20 of it" in text


@pytest.mark.parametrize(("ours", "verdict"), [(1.04, "met"), (1.2, "missed with the classes of X")])
def test_verdict_end_to_end(ours, verdict):
    record = {"section": "end", "model": "resnet18", "pixels": 224, "batch": 2, "data": "X"}
    assert verdict in render([{**record, "seconds": {"flat head": 1.0, "ours": ours}}])


def test_recovery_says_where_it_fails():
    text = render(
        [{"section": "recovery", "seed": s, "correlation": c, "rows": 4} for s, c in enumerate((0.2, -0.1))]
    )
    assert "over 2 seeds, not positive in 1" in text


def test_sections_without_records_say_so():
    assert render([]).count("Not run.") == 8


@pytest.mark.parametrize("name", ["FGVC-Aircraft", "CIFAR-100"])
def test_the_yardstick_computes_the_same_loss(name):
    """Same weights, same loss and gradient: what is compared in time is one thing."""
    tree = nested_tree(TABLES[name])
    assert tree.sizes == TABLES[name]
    torch.manual_seed(0)
    published, head = PublishedBiLT(16, tree, neck=8), HierarchicalHead(16, tree, neck=8)
    state = {
        k: v for k, v in published.state_dict().items() if k.startswith(("neck", "links", "classifiers"))
    }
    for h in range(tree.num_levels):
        torch.nn.init.normal_(published.weights[h])
        state[f"costs.{h}.weight"] = published.weights[h].detach().clone()
    head.load_state_dict(state, strict=False)
    x, y = torch.randn(12, 16), torch.randint(0, tree.num_classes, (12,))
    one, two = published.loss(x, y), BiLTLoss(tree)(head(x), y)
    torch.testing.assert_close(one, two)
    one.backward()
    two.backward()
    torch.testing.assert_close(head.costs[-1].weight.grad, published.weights[-1].grad, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(head.neck[1].weight.grad, published.neck[1].weight.grad, rtol=1e-3, atol=1e-6)
