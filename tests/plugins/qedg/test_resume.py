"""Determinism: one seed one run, half and resume is the whole, hard labels are all that is seen."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from graftkit.methods.qedg.checkpoint import fingerprint
from graftkit.methods.qedg.generation import GeneratedQueries
from tests.plugins.qedg.cases import (
    TINY,
    auditor,
    batch_norm_network,
    evaluation,
    network,
    quadrants,
    weights,
)

X, Y = evaluation()
# Batch norm, dropout, free augmentation, momentum, a filter that drops, partial rounds: all that has a state.
FULL = replace(TINY, tau=0.35, free_aug=("hflip", "vflip"), free_aug_rate=0.5, free_aug_confidence=0.3)
OPTIONS = {"substitute": batch_norm_network(), "config": FULL}


def assert_equal(first, second):
    assert torch.equal(first.queries, second.queries)
    assert torch.equal(first.answers, second.answers)
    assert torch.equal(weights(first), weights(second))
    plain = [{**result.as_dict(), "seconds": 0} for result in (first, second)]
    for figures in plain:
        figures["ledger"].pop("budgets")
        for counters in figures["baseline_ledgers"].values():
            counters.pop("budgets")
        # How often the evaluation was asked depends on how often the run was started.
        figures["ledger"].pop("eval_queries")
    assert plain[0] == plain[1]


def test_one_seed_one_run_and_global_generators_untouched():
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = auditor(budget=50, **OPTIONS).run((X, Y))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    torch.manual_seed(99)
    second = auditor(budget=50, **OPTIONS).run((X, Y))
    assert_equal(first, second)
    assert first.ledger == second.ledger
    other = auditor(budget=50, **OPTIONS, seed=4).run((X, Y))
    assert not torch.equal(first.queries, other.queries)


@pytest.mark.parametrize("half", [7, 16, 25])
def test_half_and_resume_is_the_whole(half, tmp_path):
    whole = auditor(budget=50, **OPTIONS).run((X, Y), public_data=X.repeat(2, 1, 1, 1))
    part = auditor(budget=half, **OPTIONS).run((X, Y), public_data=X.repeat(2, 1, 1, 1), checkpoint=tmp_path)
    assert part.ledger["attack_queries"] == half
    assert torch.equal(part.queries, whole.queries[:half])
    again = auditor(budget=50, **OPTIONS).run(
        (X, Y), public_data=X.repeat(2, 1, 1, 1), checkpoint=tmp_path, resume=True
    )
    assert again.ledger["budgets"] == [half, 50]
    assert again.ledger["attack_queries"] == 50
    assert_equal(whole, again)
    assert f"{half}, 50" in again.report()


def test_a_finished_run_can_be_opened_again_without_a_query(tmp_path):
    first = auditor(budget=30, **OPTIONS).run((X, Y), checkpoint=tmp_path)
    asked = []

    def target(x):
        asked.append(len(x))
        return quadrants(x)

    config = {**OPTIONS, "config": replace(FULL)}
    again = auditor(target, budget=30, **config).run((X, Y), checkpoint=tmp_path, resume=True)
    assert_equal(first, again)
    # Only what the measurement after the last saved round asks again, booked as evaluation.
    assert again.ledger["attack_queries"] == 30
    assert sum(asked) == again.ledger["eval_queries"] - first.ledger["eval_queries"]


def test_a_callback_stops_and_the_run_goes_on_as_if_it_had_not(tmp_path):
    whole = auditor(budget=50, **OPTIONS).run((X, Y))
    seen = []

    def stop(progress):
        seen.append(progress)
        return progress.round == 2

    part = auditor(budget=50, **OPTIONS).run((X, Y), callback=stop, checkpoint=tmp_path)
    assert (part.stopped, [p.round for p in seen]) == ("callback", [1, 2])
    assert seen[-1].used == part.ledger["attack_queries"] < 50
    assert seen[-1].budget == 50
    assert 0 < seen[-1].accept_rate <= 1
    assert seen[-1].losses["loss_total"] > 0
    assert seen[-1].eta > 0
    again = auditor(budget=50, **OPTIONS).run((X, Y), checkpoint=tmp_path, resume=True)
    assert_equal(whole, again)


@pytest.mark.parametrize("stop", [2, 5])
def test_starved_rounds_and_the_raised_filter_outlive_an_interruption(stop, tmp_path):
    config = replace(TINY, tau=0.0, max_stall_rounds=3)
    whole = auditor(budget=20, config=config).run(X, baselines=())
    auditor(budget=20, config=config).run(
        X, baselines=(), checkpoint=tmp_path, callback=lambda progress: progress.round == stop
    )
    again = auditor(budget=20, config=config).run(X, baselines=(), checkpoint=tmp_path, resume=True)
    assert whole.events[0]["round"] == 3
    assert_equal(whole, again)


def test_rounds_that_are_done_are_not_made_again(tmp_path, monkeypatch):
    auditor(budget=50, **OPTIONS).run(
        X, baselines=(), checkpoint=tmp_path, callback=lambda progress: progress.round == 2
    )
    made, propose = [], GeneratedQueries.propose

    def noted(self, index, *rest):
        made.append(index)
        return propose(self, index, *rest)

    monkeypatch.setattr(GeneratedQueries, "propose", noted)
    auditor(budget=50, **OPTIONS).run(X, baselines=(), checkpoint=tmp_path, resume=True)
    assert made[0] == 2


def test_measuring_finished_copies_changes_nothing_and_tells_what_a_smaller_budget_gives():
    config = {**OPTIONS, "config": replace(FULL, tau=1.0)}
    plain = auditor(budget=48, **config).run((X, Y), baselines=())
    finished = auditor(budget=48, **config).run((X, Y), baselines=(), finish_each=True)
    assert torch.equal(weights(plain), weights(finished))
    small = auditor(budget=16, **config).run((X, Y), baselines=())
    assert finished.curve[0]["phase"] == "finished"
    names = ("queries", "agreement", "kappa", "transfer_success", "train_steps")
    assert [finished.curve[0][n] for n in names] == [small.final()[n] for n in names]
    assert [finished.curve[0][n] for n in names] != [plain.curve[0][n] for n in names]


@pytest.mark.parametrize(
    "rescored",
    [
        lambda x: 3 * quadrants(x) - 40,
        lambda x: quadrants(x).softmax(1),
        lambda x: (20 * quadrants(x)).softmax(1).numpy().astype(np.float64),
        lambda x: quadrants(x).argmax(1),
        lambda x: torch.eye(4)[quadrants(x).argmax(1)],
    ],
)
def test_hard_mode_sees_labels_only(rescored):
    first = auditor(budget=30, **OPTIONS).run((X, Y))
    second = auditor(rescored, budget=30, **OPTIONS).run((X, Y))
    assert_equal(first, second)


def test_soft_mode_sees_probabilities_and_resumes(tmp_path):
    def soft(x):
        return (10 * quadrants(x)).softmax(1)

    options = {**OPTIONS, "label_mode": "soft"}
    whole = auditor(soft, budget=40, **options).run((X, Y))
    assert whole.answers.shape == (40, 4)
    assert torch.allclose(whole.answers, soft(whole.queries), atol=1e-6)
    auditor(soft, budget=13, **options).run((X, Y), checkpoint=tmp_path)
    again = auditor(soft, budget=40, **options).run((X, Y), checkpoint=tmp_path, resume=True)
    assert_equal(whole, again)
    other = auditor(lambda x: (3 * quadrants(x)).softmax(1), budget=40, **options).run((X, Y))
    assert not torch.equal(weights(other), weights(whole))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"config": replace(FULL, lr=0.02)}, "checkpoint: config_hash"),
        ({"target_id": "other"}, "checkpoint: target_id: expected 'quadrants v1' as in the run"),
        ({"seed": 8}, "checkpoint: seed"),
        ({"substitute": batch_norm_network(1)}, "checkpoint: substitute_hash"),
        ({"substitute": network()}, "checkpoint: substitute"),
        ({"value_range": (0.0, 2.0)}, "checkpoint: value_range"),
        ({"label_mode": "soft"}, "checkpoint: label_mode"),
    ],
)
def test_another_run_is_not_resumed(change, words, tmp_path):
    auditor(budget=5, **OPTIONS).run(X, baselines=(), checkpoint=tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=words):
        auditor(budget=5, **{**OPTIONS, **change}).run(X, baselines=(), checkpoint=tmp_path, resume=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_other_evaluation_rows_or_schedules_are_not_resumed_and_nothing_without_asking(tmp_path):
    audit = auditor(budget=5, **OPTIONS)
    audit.run(X, baselines=(), checkpoint=tmp_path)
    with pytest.raises(ValueError, match="checkpoint: eval_hash"):
        audit.run(X[1:], baselines=(), checkpoint=tmp_path, resume=True)
    with pytest.raises(ValueError, match="checkpoint: eval_every"):
        audit.run(X, baselines=(), checkpoint=tmp_path, resume=True, eval_every=3)
    with pytest.raises(ValueError, match=r"checkpoint: expected a folder without a run.*resume=True"):
        audit.run(X, baselines=(), checkpoint=tmp_path)
    with pytest.raises(ValueError, match="budget: expected at least 5"):
        auditor(budget=4, **OPTIONS).run(X, baselines=(), checkpoint=tmp_path, resume=True)
    # The failed attempts have let go of the ledger.
    audit.run(X, baselines=(), checkpoint=tmp_path, resume=True)


def test_broken_files_are_refused(tmp_path):
    audit = auditor(budget=40, **OPTIONS)
    audit.run(X, baselines=(), checkpoint=tmp_path)
    state, header = tmp_path / "qedg.pt", tmp_path / "run.json"
    whole = state.read_bytes()
    state.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"checkpoint: expected a state of QEDG in qedg.pt"):
        audit.run(X, baselines=(), checkpoint=tmp_path, resume=True)
    state.write_bytes(whole)
    text = header.read_text()
    for broken, words in (("{", "expected JSON in run.json"), ("[]", "a run of format")):
        header.write_text(broken)
        with pytest.raises(ValueError, match=words):
            audit.run(X, baselines=(), checkpoint=tmp_path, resume=True)
    header.write_text(text)
    audit.run(X, baselines=(), checkpoint=tmp_path, resume=True)


def test_a_state_is_never_unpickled(tmp_path):
    audit = auditor(budget=40, **OPTIONS)
    audit.run(X, baselines=(), checkpoint=tmp_path)
    torch.save({"round": Trap()}, tmp_path / "qedg.pt")
    with pytest.raises(ValueError, match="expected a state of QEDG"):
        audit.run(X, baselines=(), checkpoint=tmp_path, resume=True)


@pytest.mark.parametrize("left", ["nothing", "an empty file", "half"])
def test_a_state_without_its_ledger_is_refused_before_the_first_query(left, tmp_path):
    auditor(budget=40, **OPTIONS).run(X, baselines=(), checkpoint=tmp_path)
    ledger, asked = tmp_path / "qedg.jsonl", []
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.unlink()
    if left != "nothing":
        ledger.write_bytes(b"" if left == "an empty file" else b"".join(lines[:4]))
    with pytest.raises(ValueError, match=r"checkpoint: qedg.jsonl: expected the \d+ or more that qedg.pt"):
        auditor(asked.append, budget=40, **OPTIONS).run(X, baselines=(), checkpoint=tmp_path, resume=True)
    assert asked == []


def test_ledgers_without_their_header_join_no_other_run(tmp_path):
    auditor(budget=20, **OPTIONS).run(X, baselines=(), checkpoint=tmp_path)
    (tmp_path / "run.json").unlink()
    for resume in (False, True):
        with pytest.raises(ValueError, match=r"checkpoint: expected no ledgers in a folder without run.json"):
            auditor(budget=20, seed=9).run(X, baselines=(), checkpoint=tmp_path, resume=resume)


@pytest.mark.parametrize("state", [{"round": 1}, {}, [1], torch.zeros(2)])
def test_a_state_without_its_fields_is_refused(state, tmp_path):
    audit = auditor(budget=20, **OPTIONS)
    audit.run(X, baselines=(), checkpoint=tmp_path)
    torch.save(state, tmp_path / "qedg.pt")
    with pytest.raises(ValueError, match=r"expected a state of QEDG in qedg.pt"):
        audit.run(X, baselines=(), checkpoint=tmp_path, resume=True)


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("code from a file was run",))


def test_fingerprints_tell_values_shapes_and_types_apart():
    a = torch.arange(6.0)
    seen = {fingerprint(t) for t in (a, a.reshape(2, 3), a.double(), a + 1, None)}
    assert len(seen) == 5
    assert fingerprint(network()) == fingerprint(network())
    assert fingerprint(network()) != fingerprint(network(seed=1))
