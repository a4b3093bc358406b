"""Seeds, growth, continuation, interruption, files, pickles, silence."""

import pickle

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.exceptions import NotFittedError

from graftkit.sklearn import DPCML, LeaveOneOut
from tests.adapters.sklearn.dpcml_cases import assert_same, interactions, tiny

X = interactions()


def test_same_seed_same_vectors():
    first = tiny().fit(X)
    assert_same(first, tiny().fit(X))
    assert not np.array_equal(first.user_vectors_, tiny(random_state=1).fit(X).user_vectors_)
    kept = first.user_vectors_.copy()
    np.testing.assert_array_equal(first.fit(X).user_vectors_, kept)
    assert not np.array_equal(tiny(random_state=None).fit(X).user_vectors_, kept)


@pytest.mark.parametrize("make", [np.random.RandomState, np.random.default_rng])
def test_generators_as_seed(make):
    assert_same(tiny(random_state=make(3)).fit(X), tiny(random_state=make(3)).fit(X))


def test_global_generators_are_left_alone():
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state().clone()  # noqa: NPY002
    tiny(early_stopping=True).fit(X).recommend([0])
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)


@pytest.mark.parametrize(
    "options", [{}, {"optimizer": "adam"}, {"sampling": "dihars", "dihars_mode": "threshold"}]
)
def test_partial_fit_goes_on_where_fit_ended(options):
    whole = tiny(max_iter=6, **options).fit(X)
    parts = tiny(max_iter=3, **options).fit(X)
    for _ in range(3):
        parts.partial_fit(X)
    assert_same(whole, parts)
    assert parts.n_iter_ == whole.n_iter_ == 6
    assert parts.history_ == whole.history_


def test_partial_fit_from_nothing_is_one_pass():
    assert_same(tiny().partial_fit(X), tiny(max_iter=1).fit(X))
    assert_same(tiny(early_stopping=True).partial_fit(X), tiny(max_iter=1).fit(X))  # of all of X


def test_counts_go_on_where_interactions_are_not_kept():
    ((train, test),) = LeaveOneOut(random_state=0).split(X)
    model = tiny(store_interactions=False).fit(train).partial_fit(test)
    np.testing.assert_array_equal(model.item_counts_, X.toarray().sum(axis=0))


def test_pickles_hold_arrays_once():
    model = tiny().fit(X)
    assert "_ranker" not in model.__getstate__()


def test_partial_fit_learns_new_entries_and_remembers_old_ones():
    ((train, test),) = LeaveOneOut(random_state=0).split(X)
    model = tiny(max_iter=10).fit(train)
    before = model.score_pairs(*test.nonzero()).mean()
    for _ in range(10):
        model.partial_fit(test)
    assert model.score_pairs(*test.nonzero()).mean() > before
    assert (model.interactions_ != X).nnz == 0
    np.testing.assert_array_equal(model.item_counts_, X.toarray().sum(axis=0))


def test_growth():
    model = tiny().fit(X)
    old = model.user_vectors_.copy()
    bigger = sp.csr_matrix((np.ones(3), ([20, 21, 21], [30, 31, 2])), shape=(22, 32))
    with pytest.raises(ValueError, match=r"X has 32 features.*\(20, 30\).*allow_growth=True"):
        model.partial_fit(bigger)
    np.testing.assert_array_equal(model.user_vectors_, old)
    model.partial_fit(bigger, allow_growth=True)
    assert (model.n_users_, model.n_features_in_) == (22, 32)
    assert model.item_counts_.tolist() == np.asarray(model.interactions_.sum(axis=0)).ravel().tolist()
    assert model.recommend([21], n=40)[0][0].tolist().count(-1) == 40 - 30
    np.testing.assert_array_equal(model.user_vectors_[: 3 * 20], old)  # no old user was trained
    model.partial_fit(model.interactions_)
    with pytest.raises(
        ValueError, match=r"X has 30 features.*users x items of shape \(22, 32\), got \(20, 30\)"
    ):
        model.partial_fit(X, allow_growth=True)


@pytest.mark.parametrize("call", ["fit", "partial_fit"])
def test_failure_leaves_an_earlier_fit_whole(call, monkeypatch):
    def diverge(_):
        raise RuntimeError("diverged")

    model = tiny().fit(X)
    before = dict(vars(model))
    monkeypatch.setattr("graftkit.methods.dpcml.training.Trainer.run_epoch", diverge)
    with pytest.raises(RuntimeError, match="diverged"):
        getattr(model, call)(X)
    assert vars(model).keys() == before.keys()
    assert all(vars(model)[key] is before[key] for key in before)


def test_failing_callback_leaves_the_estimator_as_it_was():
    def fail(epoch, record):
        raise RuntimeError(f"now {epoch} {len(record)}")

    model = tiny()
    before = dict(vars(model))
    with pytest.raises(RuntimeError, match="now 0"):
        model.fit(X, callbacks=[fail])
    assert vars(model) == before
    with pytest.raises(NotFittedError, match="not fitted"):
        model.recommend([0])


def test_interrupt_keeps_a_usable_model(monkeypatch):
    def interrupt(epoch, _):
        if epoch == 1:
            raise KeyboardInterrupt("now")

    with pytest.warns(UserWarning, match="interrupted after pass 2 of 3"):
        model = tiny().fit(X, callbacks=[interrupt])
    assert model.n_iter_ == 2
    assert model.recommend([0], n=3)[0].shape == (1, 3)

    def at_once(*_):
        raise KeyboardInterrupt("at once")

    model = tiny()
    monkeypatch.setattr("graftkit.methods.dpcml.training.Trainer.run_epoch", at_once)
    with pytest.raises(KeyboardInterrupt, match="at once"):
        model.fit(X)
    assert not hasattr(model, "user_vectors_")


def test_early_stopping_keeps_the_best_pass():
    model = tiny(early_stopping=True, max_iter=30, patience=2, validation_fraction=0.3).fit(X)
    values = [record["validation"] for record in model.history_]
    assert model.best_iter_ == int(np.argmax(values)) + 1
    assert model.n_iter_ == len(values) == model.best_iter_ + 2 or model.n_iter_ == 30
    assert (model.interactions_ != X).nnz == 0  # what was held out is still seen


def test_validation_that_is_no_number_never_wins():
    values = iter([np.nan, 0.2, np.nan, 0.1])
    model = tiny(early_stopping=True, max_iter=4, patience=None, scoring=lambda *_: next(values)).fit(X)
    assert model.best_iter_ == 2


def test_validation_matrix_is_recorded_and_decides_only_when_asked():
    ((train, test),) = LeaveOneOut(random_state=0).split(X)
    recorded = tiny(max_iter=5).fit(train, X_val=test)
    assert len([record["validation"] for record in recorded.history_]) == 5
    assert recorded.best_iter_ is None
    assert_same(recorded, tiny(max_iter=5).fit(train))
    decided = tiny(max_iter=5, early_stopping=True, patience=1).fit(train, X_val=test)
    assert decided.best_iter_ is not None


@pytest.mark.parametrize("protocol", [pickle.DEFAULT_PROTOCOL, 2])
def test_pickle_and_joblib(protocol, tmp_path):
    model = tiny(assignment="apa").fit(X)
    joblib.dump(model, tmp_path / "m.joblib")
    for twin in (pickle.loads(pickle.dumps(model, protocol=protocol)), joblib.load(tmp_path / "m.joblib")):
        np.testing.assert_array_equal(twin.recommend(np.arange(20))[0], model.recommend(np.arange(20))[0])
        assert_same(twin.partial_fit(X), pickle.loads(pickle.dumps(model)).partial_fit(X))


def test_save_and_load(tmp_path):
    import pandas as pd

    frame = pd.DataFrame(X.toarray()).add_prefix("item")
    model = tiny(assignment="apa", sampling="dihars", dihars_mode="threshold").fit(frame)
    path = tmp_path / "model.npz"
    model.save(path)
    twin = DPCML.load(path)
    assert twin.get_params() == model.get_params()
    assert_same(twin, model)
    assert twin.feature_names_in_.tolist() == model.feature_names_in_.tolist()
    for name in ("n_iter_", "best_iter_", "history_", "n_users_", "n_features_in_"):
        assert getattr(twin, name) == getattr(model, name)
    for a, b in zip(twin.recommend([0, 5]), model.recommend([0, 5]), strict=True):
        np.testing.assert_array_equal(a, b)
    assert_same(twin.partial_fit(frame), model.partial_fit(frame))
    with np.load(path, allow_pickle=False) as stored:  # no array needs pickle
        assert all(stored[key].dtype.kind in "fiuU" for key in stored.files)


def test_save_of_what_json_cannot_hold(tmp_path):
    path = tmp_path / "model.npz"
    model = tiny(
        assignment=lambda counts: np.minimum(counts, 2),
        scoring=lambda *_: 0.0,
        random_state=np.random.default_rng(0),
        store_interactions=False,
    ).fit(X)
    model.save(path)
    twin = DPCML.load(path)
    assert_same(twin, model)
    assert twin.assignment.tolist() == model.n_vectors_per_user_.tolist()
    assert (twin.scoring, twin.random_state, twin.interactions_) == ("ndcg@10", None, None)
    assert_same(twin.partial_fit(X), model.partial_fit(X))
    with pytest.raises(NotFittedError, match="not fitted"):
        tiny().save(path)


def test_files_of_something_else(tmp_path):
    from graftkit.methods.dpcml.serialization import write_model

    write_model(tmp_path / "other.npz", {"a": np.arange(3)}, {})
    with pytest.raises(ValueError, match=r"other\.npz: expected a fitted DPCML, got a file without"):
        DPCML.load(tmp_path / "other.npz")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a, _: a.update(user_ptr_=a["user_ptr_"] + 1), "user_ptr_"),
        (lambda a, _: a.update(user_ptr_=a["user_ptr_"].astype(float)), "user_ptr_"),
        (lambda a, _: a.update(user_ptr_=a["user_ptr_"][::-1]), "user_ptr_"),
        (lambda a, _: a.update(item_vectors_=a["item_vectors_"][:, :3]), "user_vectors_"),
        (lambda a, _: a.update(item_vectors_=a["item_vectors_"].ravel()), "item_vectors_|user_vectors_"),
        (lambda a, _: a.update(user_vectors_=a["user_vectors_"] * np.nan), "user_vectors_ with finite"),
        (lambda a, _: a.update(user_vectors_=a["user_vectors_"].astype(float)), "user_vectors_.*float64"),
        (lambda a, _: a.update(item_counts_=a["item_counts_"][1:]), "item_counts_"),
        (lambda a, _: a.update({"moment/item/moment1": np.zeros((2, 2))}), "moment/item/moment1"),
        (lambda a, _: a.pop("moment/user/moment2"), "moment/user/moment2.*got none"),
        (lambda a, _: a.update(indices=a["indices"] + 1000), r"interactions of shape \(20, 30\)"),
        (lambda a, _: a.pop("indices"), "interactions of shape"),
        (lambda a, _: a.update(feature_names=np.array(["x"])), "30 feature names"),
        (lambda _, m: m.pop("history"), "something else .*history"),
        (lambda _, m: m.pop("parameters"), "something else .*parameters"),
        (lambda _, m: m["parameters"].update(zzz=1), "something else .*zzz"),
        (lambda _, m: m.update(n_steps=None), "something else"),
        (lambda _, m: m["generator"].pop("state"), "generator: expected a state of PCG64"),
        (lambda _, m: m.update(generator=3), "generator: expected one of PCG64"),
    ],
)
def test_damaged_files(change, words, tmp_path):
    from graftkit.methods.dpcml.serialization import read_model, write_model

    path = tmp_path / "model.npz"
    tiny().fit(X).save(path)
    arrays, meta = read_model(path)
    change(arrays, meta)
    write_model(path, arrays, meta)
    with pytest.raises(ValueError, match=words):
        DPCML.load(path)


def test_model_of_another_machine(tmp_path):
    """Saved where there is a GPU, loaded where there is none: queries run, and say where."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    from graftkit.methods.dpcml.serialization import read_model, write_model

    model = tiny().fit(X)
    model.save(tmp_path / "m.npz")
    arrays, meta = read_model(tmp_path / "m.npz")
    meta["parameters"]["device"] = "cuda"
    write_model(tmp_path / "m.npz", arrays, meta)
    with pytest.warns(UserWarning, match="queries run on the CPU") as caught:
        twin = DPCML.load(tmp_path / "m.npz")
    assert caught[0].filename == __file__
    pickled = pickle.dumps(model.set_params(device="cuda"))
    with pytest.warns(UserWarning, match="queries run on the CPU"):
        other = pickle.loads(pickled)
    for loaded in (twin, other):
        assert loaded.device == "cuda"
        for call in ("recommend", "similar_items"):
            ids, _ = getattr(loaded, call)([0, 1])
            np.testing.assert_array_equal(ids, getattr(model, call)([0, 1])[0])
        loaded.recommend_for(X[:2])
        with pytest.raises(RuntimeError, match="device"):
            loaded.partial_fit(X)


def test_no_interactions_kept():
    model = tiny(store_interactions=False).fit(X)
    assert model.interactions_ is None
    assert model.recommend([0], n=3, filter_seen=False)[0].shape == (1, 3)
    for call in (lambda: model.recommend([0]), lambda: model.explain(0, 1), lambda: model.score(X)):
        with pytest.raises(ValueError, match="store_interactions"):
            call()


def test_queries_store_nothing():
    model = tiny().fit(X)
    before = dict(vars(model))
    model.recommend([0])
    model.transform(X)
    model.score(X)
    model.explain(0, 1)
    assert vars(model).keys() == before.keys()
    assert all(vars(model)[key] is before[key] for key in before)


def test_silent_by_default(capfd):
    tiny().fit(X).recommend([0])
    assert capfd.readouterr() == ("", "")
    tiny(verbose=1).fit(X)
    out, err = capfd.readouterr()
    assert out == ""
    assert "DPCML: 100%" in err


@pytest.mark.slow
def test_number_of_threads_hardly_matters():
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(tiny().fit(X).user_vectors_)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-3)


@pytest.mark.gpu
def test_cuda_follows_the_same_loss():
    cpu, gpu = tiny(max_iter=10).fit(X), tiny(max_iter=10, device="cuda").fit(X)
    assert gpu.history_[-1]["loss"] == pytest.approx(cpu.history_[-1]["loss"], rel=1e-3)
    assert (gpu.recommend(np.arange(20))[0] == cpu.recommend(np.arange(20))[0]).mean() > 0.9
