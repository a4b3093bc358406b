"""The ledger: what is booked, what a dead process leaves behind, what is refused."""

import json

import pytest

from graftkit.methods.qedg import BudgetError, QueryLedger


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.jsonl"


def test_rows_are_reserved_before_and_booked_after(path):
    ledger = QueryLedger(10, path, eval_budget=3)
    number = ledger.reserve("attack", 4, 2)
    on_disk = [json.loads(line) for line in path.read_text().splitlines()]
    assert on_disk == [
        {"op": "budget", "rows": 10},
        {"op": "reserve", "id": number, "kind": "attack", "rows": 4, "round": 2},
    ]
    assert (ledger.used, ledger.remaining) == (0, 6)
    ledger.commit(number, [1, 0, 0, 1])
    assert (ledger.used, ledger.failed, ledger.remaining) == (4, 0, 6)
    ledger.fail(ledger.reserve("attack", 5), "why")
    assert (ledger.used, ledger.failed, ledger.remaining) == (4, 5, 1)
    assert ledger.answers("attack", 2) == [1, 0, 0, 1]
    assert ledger.answers("attack", 0) == []
    ledger.commit(ledger.reserve("evaluation", 2), [0, 0])
    assert ledger.eval_remaining == 1
    assert ledger.as_dict() == {
        "budget": 10, "attack_queries": 4, "failed": 5, "remaining": 1, "eval_queries": 2, "eval_failed": 0,
        "eval_budget": 3, "budgets": [10],
    }  # fmt: skip


@pytest.mark.parametrize("on_disk", [False, True])
def test_no_more_than_the_budget(path, on_disk):
    ledger = QueryLedger(5, path if on_disk else None, eval_budget=1)
    ledger.reserve("attack", 3)
    with pytest.raises(BudgetError, match="attack: 3 queries asked for, 2 left"):
        ledger.reserve("attack", 3)
    ledger.reserve("transfer", 1)
    with pytest.raises(BudgetError, match="evaluation: 1 queries asked for, 0 left"):
        ledger.reserve("evaluation", 1)


def test_what_was_open_when_the_process_died_is_spent(path):
    first = QueryLedger(10, path)
    first.commit(first.reserve("attack", 2), [7, 8])
    first.reserve("attack", 3)
    first.reserve("transfer", 4)
    first.close()
    again = QueryLedger(10, path)
    assert (again.used, again.failed, again.remaining) == (2, 3, 5)
    assert (again.eval_used, again.eval_failed) == (0, 4)
    assert again.answers("attack") == [7, 8]
    assert again.reserve("attack", 1) == 3
    again.close()
    assert QueryLedger(10, path).failed == 4


def test_a_torn_last_line_is_dropped(path):
    first = QueryLedger(10, path)
    number = first.reserve("attack", 2)
    first.commit(number, [1, 2])
    first.close()
    whole = path.read_bytes()
    for cut in range(1, len(whole) - whole.rindex(b"\n", 0, -1)):
        path.write_bytes(whole[:-cut])
        ledger = QueryLedger(10, path)
        # The answer is lost, the query is not.
        assert (ledger.used, ledger.failed) == (0, 2)
        ledger.commit(ledger.reserve("attack", 1), [0])
        ledger.close()
        assert all(json.loads(line) for line in path.read_text().splitlines())


def test_soft_answers_come_back_exactly(path):
    import torch

    answers = torch.rand(3, 4, generator=torch.Generator().manual_seed(0)).tolist()
    first = QueryLedger(3, path)
    first.commit(first.reserve("attack", 3), answers)
    first.close()
    assert QueryLedger(3, path).answers("attack") == answers


def test_a_budget_may_grow_and_is_recorded_but_may_not_shrink(path):
    QueryLedger(10, path).close()
    QueryLedger(15, path).close()
    QueryLedger(15, path).close()
    with pytest.raises(ValueError, match="budget: expected at least 15, the ledger's own budget, got 14"):
        QueryLedger(14, path)
    ledger = QueryLedger(20, path)
    assert ledger.budgets == [10, 15, 20]
    ledger.close()


def test_only_one_process_holds_it(path):
    ledger = QueryLedger(10, path)
    with pytest.raises(ValueError, match="path: expected a ledger that no other process has open"):
        QueryLedger(10, path)
    ledger.close()
    QueryLedger(10, path).close()


def test_a_closed_ledger_books_nothing(path):
    ledger = QueryLedger(10, path)
    ledger.close()
    with pytest.raises(BudgetError, match="closed"):
        ledger.reserve("attack", 1)


def test_another_file_is_refused_and_left_as_it_was(path):
    for text in ("no json\n", '{"op": "spend"}\n', "[1]\n", "3\n"):
        path.write_text(text)
        with pytest.raises(ValueError, match="path: expected a ledger of QEDG, JSON lines"):
            QueryLedger(10, path)
        assert path.read_text() == text


@pytest.mark.parametrize(
    "line",
    [
        {"op": "commit", "id": 99, "answers": [1]}, {"op": "fail", "id": 0}, {"op": "budget"},
        {"op": "reserve", "id": 1, "kind": "attack"}, {"op": "commit", "id": 1, "answers": [1, 2, 3]},
    ],
)  # fmt: skip
def test_lines_that_do_not_belong_together_are_refused_and_left_as_they_were(path, line):
    first = QueryLedger(10, path)
    first.commit(first.reserve("attack", 2), [7, 8])
    first.reserve("attack", 2)
    first.close()
    text = path.read_text() + json.dumps(line) + "\n"
    path.write_text(text)
    for _ in range(2):  # the refusal has let go of the file
        with pytest.raises(ValueError, match="path: expected a ledger of QEDG, JSON lines"):
            QueryLedger(10, path)
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: QueryLedger(0), ValueError, "budget: expected an integer >= 1, got 0"),
        (lambda: QueryLedger(-5), ValueError, "budget"),
        (lambda: QueryLedger(2.5), TypeError, "budget"),
        (lambda: QueryLedger(True), TypeError, "budget"),
        (lambda: QueryLedger(2, eval_budget=-1), ValueError, "eval_budget"),
        (lambda: QueryLedger(2).reserve("atack", 1), ValueError, "Did you mean 'attack'"),
        (lambda: QueryLedger(2).reserve("attack", 0), ValueError, "rows"),
        (lambda: QueryLedger(2).commit(0, []), ValueError, "number: expected an open reservation"),
        (lambda: QueryLedger(2).fail(0, ""), ValueError, "number: expected an open reservation"),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_commit_must_have_every_row():
    ledger = QueryLedger(5)
    number = ledger.reserve("attack", 3)
    with pytest.raises(ValueError, match="open reservation of 2 rows"):
        ledger.commit(number, [1, 2])
    assert (ledger.used, ledger.remaining) == (0, 2)
