"""Weights carry their tree; training repeats and resumes bit for bit."""

import copy
import io
import pickle

import pytest
import torch
from safetensors.torch import load, save

from graftkit.methods.bilt import BiLTLoss, HierarchicalHead, LabelTree
from graftkit.methods.bilt.state import decode_tree, encode_tree
from tests.plugins.bilt.cases import SMALL, batch, head_of

OTHERS = {
    r"only here: 'bus'; only there: 'tram'": LabelTree.from_paths(
        [*SMALL.paths()[:4], ("vehicle", "road", "tram")]),
    r"the same classes in another order": SMALL.align(["bus", "cat", "wolf", "car", "dog"]),
    r"the same classes under other parents": LabelTree.from_paths(
        [("animal", "pet", "cat"), ("animal", "pet", "dog"), ("animal", "pet", "wolf"),
         ("vehicle", "road", "car"), ("vehicle", "wild", "bus")]),
}  # fmt: skip


def test_state_travels_by_safetensors_and_by_torch():
    head = head_of(SMALL)
    state = head.state_dict()
    assert decode_tree(state["_extra_state"]) == SMALL
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    for stored in (
        load(save({k: v.contiguous() for k, v in state.items()})),
        torch.load(file, weights_only=True),
    ):
        other = HierarchicalHead(5, SMALL, neck=4).double()
        assert str(other.load_state_dict(stored)) == "<All keys matched successfully>"
        x, _ = batch(4, 5)
        assert torch.equal(other.eval()(x).scores, head.eval()(x).scores)


@pytest.mark.parametrize("message", OTHERS)
def test_weights_of_another_tree_are_refused_and_change_nothing(message):
    head = head_of(SMALL)
    before = {k: v.clone() for k, v in head.state_dict().items()}
    state = head_of(OTHERS[message], seed=5).state_dict()
    for strict in (True, False):
        with pytest.raises(
            ValueError, match=r"same label tree \(fingerprints \w{12} and \w{12}\), got .*" + message
        ):
            head.load_state_dict(state, strict=strict)
    assert all(torch.equal(v, before[k]) for k, v in head.state_dict().items())


def test_a_head_inside_another_module_is_guarded_too():
    outer = torch.nn.Sequential(torch.nn.Linear(5, 5).double(), head_of(SMALL))
    other = torch.nn.Sequential(
        torch.nn.Linear(5, 5).double(), head_of(OTHERS["the same classes in another order"])
    )
    with pytest.raises(ValueError, match="same label tree"):
        outer.load_state_dict(other.state_dict())


def test_weights_without_a_tree_or_with_rubbish():
    head = head_of(SMALL)
    state = head.state_dict()
    bad = {"text": "tree", "numbers": torch.zeros(3), "bytes": torch.tensor([255, 254], dtype=torch.uint8)}
    for value in bad.values():
        with pytest.raises(ValueError, match=r"state: expected a label tree as bytes"):
            head.load_state_dict({**state, "_extra_state": value})
    del state["_extra_state"]
    with pytest.raises(RuntimeError, match="_extra_state"):
        head.load_state_dict(state)
    head.load_state_dict(state, strict=False)


def test_names_of_any_alphabet_survive():
    tree = LabelTree.from_paths([("τὰ ζῷα", "猫"), ("τὰ ζῷα", "犬")])
    assert decode_tree(encode_tree(tree)) == tree


def test_copies_and_pickles():
    head = head_of(SMALL).eval()
    x, _ = batch(3, 5)
    with torch.no_grad():
        expected = head(x).scores
        for twin in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
            assert torch.equal(twin(x).scores, expected)
            assert twin.tree == SMALL


def train(head, optimizer, steps, start=0):
    losses = []
    for k in range(start, start + steps):
        x, y = batch(8, 5, seed=k, dtype=torch.float32)
        optimizer.zero_grad()
        loss = BiLTLoss(SMALL)(head(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def fresh():
    head = head_of(SMALL, dtype=torch.float32)
    return head, torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9)


def test_twenty_steps_repeat_and_resume_bit_for_bit():
    first = train(*fresh(), 20)
    assert train(*fresh(), 20) == first
    head, optimizer = fresh()
    train(head, optimizer, 9)
    stored = copy.deepcopy((head.state_dict(), optimizer.state_dict()))
    other, resumed = fresh()
    other.load_state_dict(stored[0])
    resumed.load_state_dict(stored[1])
    assert train(other, resumed, 11, start=9) == first[9:]
    assert first[-1] < first[0]


def test_making_a_head_draws_from_the_global_generator_as_torch_layers_do_and_training_does_not():
    head, optimizer = fresh()
    before = torch.get_rng_state()
    train(head, optimizer, 1)
    assert torch.equal(torch.get_rng_state(), before)
