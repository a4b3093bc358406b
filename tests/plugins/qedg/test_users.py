"""What users bring: their own transforms, flaky targets, words, numbers and threads."""

import json
import threading
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from graftkit.methods.qedg import BudgetError, DivergenceError, QEDGConfig, compare_defences
from tests.plugins.qedg.cases import (
    CLASSES,
    SHAPE,
    TINY,
    Counting,
    auditor,
    evaluation,
    network,
    quadrants,
    weights,
)

X, Y = evaluation()


def test_settings_in_numpys_numbers_are_the_settings():
    numbers = {
        "batch_size": np.int64(16),
        "fit_batch_size": np.int32(4),
        "transfer_rows": np.int16(3),
        "tau": np.float32(0.5),
        "target_confidence": np.float32(0.5),
        "lr": np.float32(0.5),
    }
    config = QEDGConfig(**numbers)
    assert config.fingerprint() == QEDGConfig(**{k: v.item() for k, v in numbers.items()}).fingerprint()
    assert {type(getattr(config, name)) for name in numbers} == {int, float}


@dataclass
class Rolled:
    by: int = 1

    def __call__(self, x, _):
        return x.roll(self.by, 3)


class Locked(Rolled):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


@pytest.mark.parametrize("transform", [Rolled(2), Locked()])
def test_transforms_of_any_class_are_named_and_not_copied(transform):
    config = replace(TINY, query_transform=transform, free_aug=(transform,))
    name = f"{__name__}.{type(transform).__name__}"
    assert (config.as_dict()["query_transform"], config.as_dict()["free_aug"]) == (name, [name])
    assert json.dumps(config.as_dict())


class Viewing(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, CLASSES)

    def forward(self, x):
        return self.linear(x.view(len(x), -1))


def test_transforms_may_give_views_and_other_precisions():
    def turned(x, _):
        return x.transpose(2, 3).double()

    config = replace(TINY, loop_transform=turned, query_transform=turned, free_aug=(turned,),
                     free_aug_rate=1.0, free_aug_confidence=0.0)  # fmt: skip
    result = auditor(substitute=Viewing(), config=config).run(X, baselines=())
    assert result.ledger["attack_queries"] == 40


@pytest.mark.parametrize("baselines", [(), ("noise",)])
def test_a_copy_that_diverges_after_its_last_round_is_no_safe_model(baselines):
    with pytest.raises(DivergenceError, match="scores are not finite; lower lr"):
        auditor(budget=10, config=replace(TINY, lr=1e30)).run(X, baselines=baselines)


@pytest.mark.parametrize("y", [None, Y])
def test_retries_that_spend_the_evaluation_budget_are_named(y):
    target = Counting(fail_at=1, error=lambda _: 1 / 0)
    audit = auditor(target, config=replace(TINY, on_error="retry"))
    with pytest.raises(BudgetError, match="evaluation: 40 rows unanswered, eval_budget is spent"):
        audit.run((X, y), eval_budget=40, baselines=())
    assert target.rows == 40


def test_a_transfer_attack_without_all_its_answers_is_not_measured():
    target = Counting(fail_at=3, error=lambda _: 1 / 0)  # evaluation, first round, transfer
    result = auditor(target, config=replace(TINY, on_error="retry")).run(X, eval_budget=80, baselines=())
    assert (result.ledger["eval_queries"], result.ledger["eval_failed"]) == (40, 40)
    assert {row["transfer_success"] for row in result.curve} == {None}


@pytest.mark.parametrize("high", [99.0, 100.0, 1000.0])
def test_evaluation_rows_reach_the_target_as_they_are(high):
    """Some whole numbers come back from [0, 1] changed; int() in a target would cut them."""
    rows = torch.arange(int(high) // 2, int(high) // 2 + 40).float()[:, None, None, None].expand(40, *SHAPE)
    target = Counting()
    auditor(target, value_range=(0.0, high)).run(rows, baselines=())
    assert torch.equal(target.batches[0], rows)


def test_a_callback_hears_of_the_round_that_the_budget_cut():
    heard = []
    auditor(budget=20).run(X, baselines=(), callback=lambda progress: heard.append(progress.used))
    assert heard == [16, 20]


def test_the_figure_takes_the_owners_words_as_they_are():
    result = auditor(target_id=r"model_{x} $\bad$ v1").run(X, baselines=())
    assert r"$\bad$" in result.plot().get_title()
    assert len(result.to_html()) > 10_000


def fairness(**options):
    text = auditor().run(X, **options).report()
    return "Fewer queries" in text, "Baselines had the same" in text, "Other baselines had" in text


def test_the_report_calls_equal_what_was_equal():
    few = torch.linspace(0, 1, 5 * 64).reshape(5, *SHAPE)
    assert fairness(baselines=()) == (False, False, False)
    assert fairness(baselines=("majority",)) == (False, False, False)
    assert fairness(baselines=("noise",)) == (False, True, False)
    assert fairness(baselines=("noise",), public_data=few) == (True, False, True)
    assert fairness(baselines=(), public_data=few) == (True, False, False)
    text = auditor().run(X, baselines=(), public_data=few).report()
    assert "no equal comparison: public (5 of 40)" in text


def compared(variants, **changes):
    return compare_defences(
        variants, SHAPE, CLASSES, substitute=network(), budget=20, eval_data=X,
        owner_confirmation=True, target_id="x", config=replace(TINY, **changes),
    )  # fmt: skip


def test_no_query_is_no_equal_answer():
    table = compared({"as it is": quadrants, "other": lambda x: -quadrants(x)}, tau=0.0, stall_policy="stop")
    assert [row["queries"] for row in table.rows] == [0, 0]
    assert not table.rows[1]["same_answers"]
    assert "same label" not in table.report()


def test_a_failing_defence_is_named():
    with pytest.raises(RuntimeError, match="ZeroDivisionError") as caught:
        compared({"as it is": quadrants, "broken": lambda _: 1 / 0})
    assert caught.value.__notes__ == ["compare_defences: in the audit of variant 'broken'"]
    with pytest.raises(ValueError, match=r"variants\['a'\]: expected a callable, or a pair"):
        compared({"a": (quadrants, 3, 4)})


PHOTO = {"loop_transform": "photo_loop", "query_transform": "photo"}
DIGITS = {"loop_transform": "digits", "query_transform": "digits"}


@pytest.mark.parametrize("changes", [DIGITS, {**PHOTO, "quantise": False, "free_aug": ("hflip",)}])
def test_torchs_default_dtype_changes_nothing(changes):
    substitute, config = network(), replace(TINY, **changes)
    first = auditor(substitute=substitute, config=config).run((X, Y))
    torch.set_default_dtype(torch.float64)
    try:
        second = auditor(substitute=substitute, config=config).run((X, Y))
        with pytest.raises(ValueError, match="substitute: expected a module for float32 inputs"):
            auditor(substitute=network())
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(first.queries, second.queries)
    assert torch.equal(weights(first), weights(second))
    assert first.final("noise") == second.final("noise")


def edited(path, change):
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    for entry in entries:
        change(entry)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


@pytest.mark.parametrize("answer", [9, -1, 1.5, "1", None, True])
def test_answers_of_a_damaged_ledger_are_refused(answer, tmp_path):
    auditor(budget=10).run(X, checkpoint=tmp_path, baselines=())

    def damage(entry):
        if entry["op"] == "commit":
            entry["answers"] = [answer] * len(entry["answers"])

    edited(tmp_path / "qedg.jsonl", damage)
    target = Counting()
    with pytest.raises(ValueError, match=r"ledger: expected labels in \[0, 3\]"):
        auditor(target).run(X, checkpoint=tmp_path, resume=True, baselines=())
    assert target.rows == 0


def test_answers_to_other_images_are_not_taken_for_these(tmp_path):
    """Another number of threads makes other images; answers in the ledger belong to those asked for."""
    auditor(budget=10).run(X, checkpoint=tmp_path, baselines=())

    def elsewhere(entry):
        if entry["op"] == "reserve" and entry["kind"] == "attack":
            entry["digest"] = "0" * 64

    edited(tmp_path / "qedg.jsonl", elsewhere)
    target = Counting()
    with pytest.raises(ValueError, match=r"checkpoint: expected the images that .* as many threads"):
        auditor(target).run(X, checkpoint=tmp_path, resume=True, baselines=())
    assert target.rows == 0
