"""EDGE's benchmark: its transcription equals the loss it is timed against; losing rows are rendered."""

import pytest
import torch
from torch import nn

from graftkit.methods.edge import EDGELoss
from tests.benchmarks import published_edge as published
from tests.benchmarks.quality_edge import ARMS, arms, fit, measure, network
from tests.benchmarks.render_edge import headlines, render
from tests.plugins.edge.cases import draw, joined


def test_naive_transcription_equals_ours_where_it_does_not_overflow():
    logits, targets = joined(*draw(0, 9, 7, 5))
    ours = EDGELoss(k=4, margin=1.0)(logits, targets)
    assert published.naive_loss(logits, targets, 4, 1.0).item() == pytest.approx(ours.item(), rel=1e-9)
    assert published.naive_energy(torch.tensor([[90.0]])).item() == float("inf")


def test_rival_is_cross_entropy_and_two_hinges():
    loss = pytest.importorskip("pytorch_ood.loss", reason="needs pytorch-ood")
    logits, targets = joined(*draw(1, 6, 5, 3))
    rival = loss.EnergyRegularizedLoss(alpha=0.3, margin_in=-8.0, margin_out=-1.0)
    energy = -torch.cat([torch.zeros(11, 1), logits], 1).logsumexp(1)
    expected = nn.functional.binary_cross_entropy_with_logits(logits[:6], targets[:6])
    expected = expected + 0.3 * (
        (energy[:6] + 8).relu().square().mean() + (-1 - energy[6:]).relu().square().mean()
    )
    assert published.bounded_regulariser(logits, targets, rival).item() == pytest.approx(expected.item())


def record(arm, seed, auroc, mean_ap=0.5, **more):
    figures = dict.fromkeys(("FPR95_ID+", "FPR95_OOD+", "AP_IN", "AP_OUT"), 0.25)
    ood = {"JointEnergy/nine (near)": [{"AUROC": auroc, **figures}, {"AUROC": auroc / 2, **figures}]}
    settings = {"data": "digits", "arm": arm, "seed": seed, "n_train": 10, "epochs": 2}
    settings |= {"exposed": arm != "BCE", "section": "quality", "seconds": 3.0}
    return {**settings, "mAP": mean_ap, "rare AP": 0.4, "ood": ood, **more}


def test_losing_rows_and_costs_in_accuracy_are_said():
    records = [record("BCE", s, 0.4, 0.7) for s in (0, 1)]
    records += [record("BCE + L_conf", s, 0.8, 0.6) for s in (0, 1)]
    records += [record("EDGE m=1", s, 0.7 + 0.2 * s, 0.55, active_fraction=0.3) for s in (0, 1)]
    records += [record("bounded OE", s, 0.9) for s in (0, 1)]
    text = render(records)
    assert "EDGE m=1 has the best mean AUROC in 0 of 2 columns." in text
    assert "nine (near) (to bounded OE, by 0.100); nine (near), rare (to bounded OE, by 0.050)" in text
    assert "Its mAP is 0.150 below that of BCE, the best." in text
    assert "| bounded OE + | **0.900 (0.000)** |" in text
    assert "| EDGE m=1 + | 0.800 (0.141) |" in text
    assert "| BCE | 0.400 (0.000) | 0.250 (0.000) | 0.200 (0.000) | 0.250 (0.000) | -0.200 |" in text
    assert "0.30 (0.00)" in text


def test_headlines_name_the_hardest_rival_and_the_cost():
    records = [record("BCE", s, 0.4, 0.7) for s in range(3)]
    records += [record("EDGE m=1", s, 0.7 + 0.1 * s, 0.55) for s in range(3)]
    records += [record("EDGE m=3", s, 1.0) for s in range(3)]  # a setting of ours is no rival
    records += [record("bounded OE", s, 0.8) for s in range(3)]
    records += [{**record("EDGE m=1", 0, 0.1), "epochs": 20}]  # one seed of the larger size
    for r in records:
        rare = {"JointEnergy/checker": 0.6 if r["arm"] == "BCE" else 0.5, "JointEnergy/noise": 0.6}
        rare["MaxLogit/noise"] = 0.0
        r["ood"] |= {name: [{"AUROC": 0.9}, {"AUROC": value}] for name, value in rare.items()}
    records += [
        {"section": "step", "ms": {"BCE, 16 rows": {"median": 10.0}, "EDGE, 16 and 16": {"median": 21.0}}},
        *({"section": "memory", "loss": name, "times": n} for name, n in (("BCE", 2.0), ("EDGE", 2.5))),
    ]
    for r in records[:3]:  # another score of a plain training is a rival too, where it is harder to beat
        r["ood"] |= {"MSP/nine (near)": [{"AUROC": 0.9}, {"AUROC": 0.6}]}
    near, far, accuracy = headlines(records)
    assert near.task == "Digit composites, rare labels"
    assert near.ours == pytest.approx({0: 0.35, 1: 0.4, 2: 0.45})
    assert near.rival == "BCE, MSP"
    assert near.rivals["bounded OE"] == dict.fromkeys(range(3), 0.4)
    assert near.verdict() == "**behind**"
    assert (near.time, near.memory) == ("2.1 of a step without outliers", "2.5 times the logits (BCE 2.0)")
    assert (far.metric, far.ours, far.rival) == ("AUROC, worst far", dict.fromkeys(range(3), 0.5), "BCE")
    assert accuracy.rival == "BCE"
    assert accuracy.verdict() == "**behind**"
    assert headlines([]) == []
    assert all(line.time == line.memory == "-" for line in headlines(records[:12]))


def test_sections_that_were_not_run_say_so():
    text = render([])
    assert text.count("Not run.") == 9


@pytest.mark.slow
@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_trains_and_is_measured(arm):
    from graftkit.methods.edge.composites import digit_task

    task = digit_task(0, n_train=128, n_test=64)
    criterion, exposed = arms(task, 1, 128)[arm]
    before = network(task)[1].weight.clone()
    model, state = fit(task, criterion, exposed, 0, 2)
    assert not torch.equal(model[1].weight, before)
    assert state["seconds"] > 0
    figures = measure(task, model, ("JointEnergy", "MaxLogit"))
    assert set(figures["ood"]) == {f"{s}/{name}" for s in ("JointEnergy", "MaxLogit") for name in task.ood}
    assert 0 < figures["mAP"] < 1
