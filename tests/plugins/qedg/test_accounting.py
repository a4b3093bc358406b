"""Exact accounting over whole audits: a counting callable is the truth."""

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import graftkit.methods.qedg as package
from graftkit.methods.qedg import StallError, TargetError
from graftkit.methods.qedg.generation import GeneratedQueries
from graftkit.methods.qedg.training import fit_substitute
from tests.plugins.qedg.cases import TINY, Counting, auditor, evaluation, network, quadrants

B = TINY.batch_size
X, Y = evaluation()
ALL = replace(TINY, tau=1.0)


def run(target, budget, config=ALL, **kwargs):
    options = {"baselines": (), **kwargs}
    return auditor(target, budget, config=config).run((X, Y), **options)


RANDOM = np.random.default_rng(0).integers(1, 4 * B, size=3).tolist()


@pytest.mark.parametrize("budget", [1, 2, B - 1, B, B + 1, 3 * B + 7, *RANDOM])
@pytest.mark.parametrize("deduplicate", [False, True])
def test_the_callable_sees_exactly_what_the_ledger_says(budget, deduplicate):
    target = Counting()
    result = run(target, budget, replace(ALL, deduplicate=deduplicate))
    used = result.ledger["attack_queries"]
    assert used == budget
    assert len(result.queries) == len(result.answers) == used
    assert target.rows == used + result.ledger["eval_queries"]
    assert result.ledger["failed"] == 0


def test_every_baseline_spends_its_own_budget_at_equal_rounds_and_steps():
    target = Counting()
    result = auditor(target, 50).run((X, Y), public_data=X.repeat(2, 1, 1, 1)[:70])
    assert result.arms == ["qedg", "noise", "public", "majority"]
    used = result.ledger["attack_queries"]
    assert used == 50
    assert [result.baseline_ledgers[arm]["attack_queries"] for arm in ("noise", "public")] == [used, used]
    assert target.rows == 3 * used + result.ledger["eval_queries"]
    rows = {arm: [(r["queries"], r["train_steps"]) for r in result.rows(arm)] for arm in result.arms}
    assert rows["noise"] == rows["public"] == rows["qedg"]


def test_public_data_that_is_used_up_ends_its_arm():
    result = auditor(Counting(), 50).run((X, Y), baselines=(), public_data=X[:20])
    assert result.baseline_ledgers["public"]["attack_queries"] == 20
    assert result.final("public")["queries"] == 20


def test_the_majority_label_is_measured_without_a_query():
    result = run(Counting(lambda x: torch.full((len(x),), 2)), 10, baselines=("majority",))
    assert result.final("majority")["agreement"] == 1
    assert result.baseline_ledgers == {}


def test_evaluation_rows_are_asked_once_and_booked_apart():
    target = Counting()
    result = run(target, 60, replace(ALL, transfer_rows=0))
    assert len(result.curve) > 3
    assert result.ledger["eval_queries"] == len(X)
    assert torch.equal(target.batches[0], X)
    assert sum(len(batch) for batch in target.batches) == len(X) + 60


def test_transfer_queries_are_evaluation_queries_and_stop_at_their_cap():
    attacked = replace(ALL, transfer_rows=7)
    result = run(Counting(), 40, attacked)
    assert result.ledger["eval_queries"] == len(X) + 7 * len(result.curve)
    capped = run(Counting(), 40, attacked, eval_budget=len(X) + 10)
    assert capped.ledger["eval_queries"] == len(X) + 7
    assert [row["transfer_success"] is None for row in capped.curve] == [False, True, True, True]


def test_only_rows_that_the_target_gets_right_are_attacked_and_success_is_what_it_then_says():
    truth, told = Y.clone(), []
    truth[:15] = (truth[:15] + 1) % 4

    def target(x):
        told.append(quadrants(x).argmax(1))
        return told[-1]

    result = auditor(target, 5, config=replace(ALL, transfer_rows=99)).run((X, truth), baselines=())
    assert result.ledger["eval_queries"] == len(X) + 25 * len(result.curve)
    # The last answers are those to the last transfer attack.
    expected = (told[-1] != truth[15:]).double().mean().item()
    assert result.final()["transfer_success"] == pytest.approx(expected)
    assert 0 < expected < 1


def test_generation_filter_training_and_free_augmentation_ask_nothing():
    target = Counting()
    config = replace(ALL, free_aug=("hflip",), free_aug_rate=1.0, free_aug_confidence=0.0)
    audit = auditor(target, 20, config=config)
    source = GeneratedQueries((1, 8, 8), 4, audit.config, 0, torch.device("cpu"))
    from graftkit.methods.qedg.pool import Pool

    pool = Pool(20, (1, 8, 8), quantised=True)
    net = network()
    candidates = source.propose(0, net, 1.0, pool)
    pool.add(candidates.images, torch.zeros(len(candidates.images)).long())
    fit_substitute(net, torch.optim.SGD(net.parameters(), 0.1), pool, config, 0)
    assert target.rows == 0


def test_what_the_callable_is_given():
    target = Counting()
    audit = auditor(target, 60, config=replace(ALL, batch_size_query=10), value_range=(-1.0, 3.0))
    audit.run(-1 + 4 * X, baselines=())
    attack = torch.cat(target.batches)[len(X) : len(X) + B]
    assert attack.shape == (B, 1, 8, 8)
    assert all(1 <= len(batch) <= 10 for batch in target.batches)
    assert attack.min() >= -1
    assert attack.max() <= 3
    levels = (attack + 1) / 4 * 255
    assert torch.allclose(levels, levels.round(), atol=1e-3)


def test_identical_images_are_asked_once():
    flat = replace(ALL, query_transform=lambda x, g: torch.zeros_like(x), stall_policy="stop")  # noqa: ARG005
    target = Counting()
    result = run(target, 40, flat)
    assert result.ledger["attack_queries"] == 1
    assert result.stopped == "stalled"
    result = run(target, 40, replace(flat, deduplicate=False))
    assert result.ledger["attack_queries"] == 40


# Stalls.


def test_a_filter_that_lets_nothing_through_is_raised_and_recorded():
    config = replace(TINY, tau=0.0, max_stall_rounds=2)
    result = run(Counting(), 30, config, baselines=("noise",))
    assert result.ledger["attack_queries"] == 30
    assert result.events[0] == {
        "arm": "qedg", "event": "stall", "round": 2, "queries": 0, "action": "tau raised", "tau": 0.05,
    }  # fmt: skip
    assert [event["round"] for event in result.events[:3]] == [2, 4, 6]
    # The noise that followed the attack's empty rounds has nothing to be filtered, and stalls nowhere.
    assert {event["arm"] for event in result.events} == {"qedg"}
    assert result.final("noise")["queries"] == 30
    assert result.final()["tau"] == result.events[-1]["tau"] > 0.2
    assert "tau raised to 0.05" in result.report()


def test_a_stall_may_stop_the_run():
    target = Counting()
    result = run(
        target, 30, replace(TINY, tau=0.0, stall_policy="stop", transfer_rows=0), baselines=("majority",)
    )
    assert (result.stopped, result.ledger["attack_queries"]) == ("stalled", 0)
    assert target.rows == len(X)
    assert "stopped early (stalled) with 30 queries unspent" in result.report()
    assert result.arms == ["qedg"]


def test_a_stall_may_be_an_error():
    target = Counting()
    config = replace(TINY, tau=0.0, stall_policy="error", transfer_rows=0)
    with pytest.raises(StallError, match="round 3: 3 rounds in a row brought fewer than 5% of 16 images"):
        run(target, 30, config)
    assert target.rows == len(X)


def test_everything_passes_at_tau_one():
    result = run(Counting(), 3 * B)
    assert [row["accept_rate"] for row in result.curve[:-1]] == [1.0, 1.0, 1.0]


def test_a_trickle_is_a_stall_too():
    half = run(
        Counting(), 40, replace(TINY, tau=1.0, stall_rate=1.0, query_transform=_collapse, max_stall_rounds=1)
    )
    # Half of the images are equal: 9 of 16 are new, less than all of them.
    assert half.stopped == "stalled"
    assert half.ledger["attack_queries"] == 9


def _collapse(x, random):
    del random
    x = x.clone()
    x[: len(x) // 2] = 0
    return x


# Failures, and what comes after them.


def bad_length(x):
    return torch.zeros(len(x) + 1).long()


def nan_scores(x):
    return torch.full((len(x), 4), float("nan"))


def out_of_range(x):
    return torch.full((len(x),), 4)


def strings(x):
    return ["zero"] * len(x)


def floats(x):
    return torch.full((len(x),), 0.5)


def raises(x):
    raise RuntimeError(f"cannot answer {len(x)} rows")


@pytest.mark.parametrize("answer", [bad_length, nan_scores, out_of_range, strings, floats, raises])
@pytest.mark.parametrize("call", [2, 3, 4])
def test_a_failing_target_stops_the_run_and_the_budget_holds_after_resumption(answer, call, tmp_path):
    """Call 1 answers the evaluation rows; then come rounds of two batches each."""
    budget = 3 * B + 5
    config = replace(ALL, batch_size_query=B // 2, transfer_rows=0)
    target = Counting(fail_at=call + 4, error=answer)
    with pytest.raises(TargetError, match="target: "):
        auditor(target, budget, config=config).run((X, Y), baselines=(), checkpoint=tmp_path / "run")
    assert target.rows - len(X) < budget
    result = auditor(target, budget, config=config).run(
        (X, Y), baselines=(), checkpoint=tmp_path / "run", resume=True
    )
    ledger = result.ledger
    assert ledger["failed"] == B // 2
    assert ledger["attack_queries"] + ledger["failed"] == budget == target.rows - len(X)
    assert len(result.queries) == ledger["attack_queries"]
    assert "queries failed and count as spent" in result.report()


def test_baselines_get_no_more_answers_than_an_attack_whose_queries_failed(tmp_path):
    config = replace(ALL, batch_size_query=B // 2, transfer_rows=0, on_error="retry")
    budget = 2 * B + 5
    target = Counting(fail_at=7, error=raises)
    result = auditor(target, budget, config=config).run(
        (X, Y), public_data=X.repeat(2, 1, 1, 1), checkpoint=tmp_path
    )
    used = result.ledger["attack_queries"]
    assert (result.ledger["failed"], used) == (B // 2, budget - B // 2)
    rows = {arm: [(r["queries"], r["train_steps"]) for r in result.rows(arm)] for arm in result.arms}
    assert rows["noise"] == rows["public"] == rows["qedg"]
    assert [c["attack_queries"] for c in result.baseline_ledgers.values()] == [used, used]


def test_a_failure_in_the_evaluation_costs_no_attack_query(tmp_path):
    target = Counting(fail_at=1, error=bad_length)
    with pytest.raises(TargetError, match="expected 40 answers"):
        auditor(target, 10, config=ALL).run((X, Y), baselines=(), checkpoint=tmp_path)
    result = auditor(target, 10, config=ALL).run((X, Y), baselines=(), checkpoint=tmp_path, resume=True)
    assert result.ledger["attack_queries"] == 10
    assert (result.ledger["failed"], result.ledger["eval_failed"]) == (0, len(X))


def test_a_process_that_dies_between_reservation_and_answer_has_spent_its_rows(tmp_path):
    """The callable is asked, the answer is never written: simulated by an exception that nothing books."""
    from graftkit.methods.qedg.ledger import QueryLedger

    budget, target = 2 * B + 3, Counting()
    with pytest.MonkeyPatch.context() as patch:
        commits = []

        def dying(self, number, answers):
            commits.append(number)
            if len(commits) == 3:
                raise SystemExit("killed")
            return original(self, number, answers)

        original = QueryLedger.commit
        patch.setattr(QueryLedger, "commit", dying)
        with pytest.raises(SystemExit, match="killed"):
            auditor(target, budget, config=replace(ALL, transfer_rows=0)).run(
                (X, Y), baselines=(), checkpoint=tmp_path
            )
    result = auditor(target, budget, config=replace(ALL, transfer_rows=0)).run(
        (X, Y), baselines=(), checkpoint=tmp_path, resume=True
    )
    assert result.ledger["failed"] == B
    assert target.rows - len(X) == budget == result.ledger["attack_queries"] + B


# No way out of the process.

NETWORK = {
    "socket", "ssl", "http", "urllib", "urllib3", "requests", "httpx", "aiohttp", "asyncio", "ftplib",
    "smtplib", "websockets", "grpc", "paramiko", "xmlrpc", "telnetlib", "subprocess", "boto3", "openai",
}  # fmt: skip


def test_no_module_imports_a_network_client():
    import graftkit.torch

    files = [
        *Path(package.__file__).parent.glob("*.py"),
        *Path(graftkit.torch.__file__).parents[1].glob("art/*.py"),
    ]
    assert len(files) > 20
    found = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {name.split(".")[0] for name in names} & NETWORK
    assert found == set()
