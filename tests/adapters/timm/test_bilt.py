"""A wrapped model behaves as a timm model: families, classifier, groups, bad input."""

import pytest
import torch
from torch import nn

pytest.importorskip("timm", reason="needs the timm extra")

import timm
from timm.data import resolve_data_config
from timm.models import group_parameters
from timm.optim import create_optimizer_v2

import graftkit.timm
import graftkit.torch
from graftkit.timm import (
    BiLTLoss,
    HierarchicalClassifier,
    HierarchicalHead,
    LabelTree,
    wrap_timm,
)
from tests.adapters.timm.bilt_cases import MODELS, TREE, flat, pictures, small


@pytest.mark.filterwarnings("ignore:a distilled model")
@pytest.mark.parametrize("existing", [False, True], ids=["by name", "existing model"])
@pytest.mark.parametrize("case", MODELS)
def test_every_family(case, existing):
    name, arguments, width = MODELS[case]
    if existing:
        base = flat(name, arguments).train()
        with torch.no_grad():
            size = arguments.get("img_size", 64 if name != "test_vit" else 160)
            x, y = pictures(2, size)
            expected = base.eval().forward_head(base.forward_features(x), pre_logits=True)
        model = wrap_timm(base, TREE)
        assert model.backbone is base
        torch.testing.assert_close(
            model.eval().forward_head(model.forward_features(x), pre_logits=True), expected
        )
    else:
        model = wrap_timm(name, TREE, **arguments)
        x, y = pictures(2, arguments.get("img_size", 64 if name != "test_vit" else 160))
    assert model.head_hidden_size == model.head.in_features == width
    assert isinstance(model.get_classifier(), HierarchicalHead)
    assert model.num_classes == 5
    out = model.train()(x)
    BiLTLoss(TREE)(out, y).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []  # none unused, or DDP would stop
    model.eval()
    twin = wrap_timm(name, TREE, **arguments).eval()
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(twin(x).scores, model(x).scores)
        assert torch.equal(model.forward_head(model.forward_features(x)).scores, model(x).scores)
        assert torch.equal(model.predict(x), model(x).scores.argmax(1))


def test_a_distilled_model_warns():
    with pytest.warns(UserWarning, match="distilled training is lost"):
        wrap_timm("deit_tiny_distilled_patch16_224", TREE, **MODELS["deit, distilled"][1])


def test_other_channels_and_existing_pooling_are_kept():
    assert wrap_timm("test_resnet", TREE, in_chans=1)(torch.zeros(2, 1, 64, 64)).scores.shape == (2, 5)
    model = wrap_timm(timm.create_model("test_resnet", global_pool="catavgmax"), TREE)
    assert model.backbone.global_pool.pool_type == "catavgmax"


def test_wrapping_leaves_modes_and_statistics():
    base = flat("test_resnet", {}).train()
    base.layer1.eval()
    before = base.bn1.running_mean.clone()
    wrap_timm(base, TREE)
    assert (base.training, base.layer1.training) == (True, False)
    assert torch.equal(base.bn1.running_mean, before)


def test_precision_of_the_backbone_is_kept():
    assert next(wrap_timm(flat("test_resnet", {}).double(), TREE).head.parameters()).dtype == torch.float64


def test_timm_finds_the_configuration():
    model = small()
    assert resolve_data_config(model=model)["input_size"] == (3, 160, 160)
    assert model.default_cfg is model.pretrained_cfg is model.backbone.pretrained_cfg
    assert model.num_features == 96


def test_the_classifier_can_be_reset():
    model = small()
    x = pictures()[0]
    first = model.head
    model.reset_classifier(torch.arange(6).numpy()[5])  # any integer
    assert model.head is not first
    assert model.head.neck[1].out_features == 8  # the options stay
    tree = LabelTree.from_paths([("a", "x"), ("b", "y"), ("b", "z")])
    model.eval().reset_classifier(tree, global_pool="catavgmax")
    assert (model.num_classes, model.head_hidden_size, model.tree) == (3, 192, tree)
    assert not model.head.training
    assert model(x).scores.shape == (6, 3)
    model.reset_classifier(0)
    assert model(x).shape == (6, 192)
    assert model.num_classes == 0
    for number in (7, 3):
        with pytest.raises(ValueError, match=r"num_classes: expected a LabelTree, 0 or 0.*needs its tree"):
            model.reset_classifier(number)


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext", "test_mambaout"]
)
@pytest.mark.parametrize("coarse", [False, True])
def test_groups_are_those_of_the_backbone_with_the_head_last(name, coarse):
    model = small(name)
    groups = group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)
    plain = timm.create_model(name, num_classes=0)
    expected = group_parameters(plain, plain.group_matcher(coarse=coarse), reverse=True)
    assert {
        n.removeprefix("backbone."): k for n, k in groups.items() if n.startswith("backbone.")
    } == expected
    head = {k for n, k in groups.items() if n.startswith("head.")}
    assert head == {max(expected.values()) + 1} or head == {max(groups.values())}


def test_optimizers_with_layer_decay_and_without_decay_of_corrections():
    model = small("test_vit")
    assert "backbone.pos_embed" in model.no_weight_decay()
    assert {"head.costs.0.weight", "head.costs.1.weight"} <= model.no_weight_decay()
    optimizer = create_optimizer_v2(model, "sgd", lr=0.1, weight_decay=0.05, layer_decay=0.5)
    scale = {id(p): g["lr_scale"] for g in optimizer.param_groups for p in g["params"]}
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert scale[id(model.head.classifiers[-1].weight)] == 1.0
    assert scale[id(model.backbone.patch_embed.proj.weight)] < 0.5
    assert decay[id(model.head.costs[1].weight)] == 0
    assert decay[id(model.head.classifiers[-1].weight)] == 0.05


def test_published_rates():
    model = small()
    backbone, head = model.param_groups()
    assert (backbone["lr"], head["lr"]) == (pytest.approx(0.01), 0.1)
    assert len(backbone["params"]) + len(head["params"]) == len(list(model.parameters()))
    with pytest.raises(ValueError, match="backbone_lr_scale"):
        model.param_groups(backbone_lr_scale=-1)


def test_gradient_checkpointing_gives_the_same_gradients():
    x, y = pictures(2, 160)
    grads = []
    for enable in (False, True):
        model = small("test_vit")
        model.set_grad_checkpointing(enable)
        assert model.backbone.grad_checkpointing is enable
        BiLTLoss(TREE)(model(x), y).backward()
        grads.append(model.backbone.patch_embed.proj.weight.grad)
    torch.testing.assert_close(*grads)


def test_predicting_keeps_the_mode_and_needs_no_gradient():
    model = small().train()
    x, _ = pictures()
    model.backbone.layer1.eval()
    before = model.backbone.bn1.running_mean.clone()
    every = model.predict(x, level="all", decode="rollup")
    assert TREE.is_path(every).all()
    assert torch.equal(model.predict(x, level=1, decode="rollup"), every[:, 0])
    assert (model.training, model.backbone.layer1.training) == (True, False)
    assert torch.equal(model.backbone.bn1.running_mean, before)
    assert set(model.predict(x, threshold=1.0).tolist()) == {-1}
    for source in ("prob", "crm"):
        assert model.predict(x, source=source).shape == (6,)


def test_public_names():
    assert {"BiLTLoss", "HierarchicalClassifier", "HierarchicalHead", "HierarchicalMetrics", "LabelTree",
            "wrap_timm"} <= set(graftkit.timm.__all__)  # fmt: skip
    for name in ("BiLTLoss", "HierarchicalHead", "HierarchicalMetrics", "LabelTree"):
        assert getattr(graftkit.torch, name) is getattr(graftkit.timm, name)


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (nn.Linear(3, 3), {}, TypeError, r"model: expected a timm model, or the name of one"),
        (7, {}, TypeError, r"model: expected a timm model"),
        ("test_resnet", {"beta": -1}, ValueError, r"beta: expected a finite number >= 0, got -1"),
        ("test_resnet", {"levels": "one"}, ValueError, r"levels"),
        ("test_resnet", {"pretrained": "yes"}, TypeError, r"pretrained"),
        ("test_resnet", {"num_classes": 10}, ValueError, r"num_classes: expected 5"),
        (
            "test_resnet",
            {"global_pool": ""},
            ValueError,
            r"pooled features of shape \(B, width\).*global_pool",
        ),
        ("no_such_model", {}, RuntimeError, r"no_such_model"),
        ("test_resnet", {"tree": "tree.json"}, TypeError, r"tree: expected a LabelTree, got 'tree.json'"),
    ],
)
def test_arguments(model, options, error, message):
    with pytest.raises(error, match=message):
        wrap_timm(model, options.pop("tree", TREE), **options)


def test_arguments_of_existing_models_and_the_entry_point():
    base = flat("test_resnet", {})
    with pytest.raises(TypeError, match=r"model_kwargs: expected none with a model that exists already, got"):
        wrap_timm(base, TREE, in_chans=1)
    with pytest.raises(TypeError, match=r"\['pretrained'\]"):
        wrap_timm(base, TREE, pretrained=True)
    with pytest.raises(ValueError, match="beta"):
        wrap_timm(base, TREE, beta=-1)
    assert base.num_classes == 7  # as it was
    with pytest.raises(TypeError, match=r"head_options: expected some of neck, .*got \['nek'\]"):
        HierarchicalClassifier(base, TREE, nek=3)
    with pytest.raises(TypeError, match=r"base: expected the name of a timm model.*--model-kwargs"):
        timm.create_model("bilt", tree=TREE)
    with pytest.raises(TypeError, match=r"tree: expected a LabelTree or the path of one, got 3"):
        timm.create_model("bilt", base="test_resnet", tree=3)
    with pytest.raises(ValueError, match=r"tree: expected a file that exists, got 'nowhere.json'"):
        timm.create_model("bilt", base="test_resnet", tree="nowhere.json")


class Odd(nn.Module):
    """A model whose classifier takes a part of the features with it."""

    num_classes = 7

    def __init__(self):
        super().__init__()
        self.pretrained_cfg = {"input_size": (3, 8, 8)}
        self.fc = nn.Conv2d(3, 4, 1)

    def forward_features(self, x):
        return self.fc(x)

    def forward_head(self, x, pre_logits=False):  # noqa: ARG002
        return x.mean((2, 3)) + (1 if self.num_classes else 0)

    def reset_classifier(self, num_classes, global_pool=None):  # noqa: ARG002
        self.num_classes = num_classes


def test_a_classifier_that_takes_features_with_it():
    with pytest.raises(
        ValueError, match=r"a model whose features stay when its classifier goes.*num_classes=0"
    ):
        wrap_timm(Odd(), TREE)


class Forgetful(Odd):
    """A model whose ``reset_classifier`` takes 'avg' for a missing pool, as several families did and do."""

    def __init__(self):
        super().__init__()
        self.global_pool = "max"

    def forward_head(self, x, pre_logits=False):  # noqa: ARG002
        return x.amax((2, 3)) if self.global_pool == "max" else x.mean((2, 3))

    def reset_classifier(self, num_classes, global_pool="avg"):
        self.num_classes, self.global_pool = num_classes, global_pool


def test_the_pooling_is_named_when_the_classifier_goes():
    assert wrap_timm(Forgetful(), TREE, neck=None).backbone.global_pool == "max"


def test_building_draws_as_timm_and_torch_do_and_no_more():
    """The trial head draws nothing: base and head get the numbers that they would get alone."""
    torch.manual_seed(3)
    base = timm.create_model("test_resnet", num_classes=0)
    head = HierarchicalHead(96, TREE, neck=8)
    torch.manual_seed(3)
    model = wrap_timm("test_resnet", TREE, neck=8)
    assert torch.equal(model.backbone.conv1.weight if hasattr(base, "conv1") and hasattr(base.conv1, "weight")
                       else next(model.backbone.parameters()), next(base.parameters()))  # fmt: skip
    assert torch.equal(model.head.classifiers[-1].weight, head.classifiers[-1].weight)


@pytest.mark.parametrize("pool", ["", "foo"])
def test_a_pooling_that_fails_leaves_the_model_as_it_was(pool):
    model = small(global_pool="max").eval()
    x, _ = pictures()
    before = model(x).scores
    with pytest.raises((ValueError, AssertionError), match=r"global_pool|Invalid pool"):
        model.reset_classifier(TREE, pool)
    assert torch.equal(model(x).scores, before)
    assert model.backbone.global_pool.pool_type == "max"


@pytest.mark.parametrize(
    "options",
    [
        {"neck": None}, {"beta": 0.25}, {"chain": False}, {"levels": "finest"}, {"aigdl": False},
        {"activation": "leaky_relu"}, {"detach_delta_prob": True}, {"rank": 2}, {"compat": "official-cifar"},
    ],
    ids=str,
)  # fmt: skip
def test_every_option_of_the_head_arrives(options):
    model = small(**options)
    head = HierarchicalHead(96, TREE, **{"neck": 8, **options})
    assert repr(model.head) == repr(head)
    head.load_state_dict(model.head.state_dict())
    features = torch.randn(4, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model.head.eval()(features).scores, head.eval()(features).scores)


def test_a_model_that_cannot_be_wrapped_keeps_its_classifier():
    base = flat("test_vit", {"global_pool": ""})
    with pytest.raises(ValueError, match=r"pooled features of shape \(B, width\)"):
        wrap_timm(base, TREE)
    assert base.num_classes == 7
    assert isinstance(base.get_classifier(), nn.Linear)


def test_a_tree_that_the_head_refuses_leaves_the_model_as_it_was():
    model = small(compat="official-cifar")
    with pytest.raises(ValueError, match="compat"):
        model.reset_classifier(LabelTree.from_levels([range(5000)]), "max")
    assert model.backbone.global_pool.pool_type == "avg"
    assert model.tree == TREE


def test_intermediate_features_are_those_of_the_backbone():
    model = small().eval()
    x, _ = pictures(2)
    found = model.forward_intermediates(x, indices=2, intermediates_only=True)
    expected = model.backbone.forward_intermediates(x, indices=2, intermediates_only=True)
    assert len(found) == 2
    for one, two in zip(found, expected, strict=True):
        assert torch.equal(one, two)


def test_a_model_is_built_where_torch_puts_new_tensors():
    with torch.device("meta"):  # stands for a GPU
        model = wrap_timm("test_resnet", TREE, rank=2)
    assert {t.device.type for t in (*model.parameters(), *model.buffers())} == {"meta"}


def test_a_head_that_is_off_a_boolean_and_a_model_wrapped_twice(tmp_path):
    model = small()
    with pytest.raises(TypeError, match=r"num_classes: expected a LabelTree or an integer, got False"):
        model.reset_classifier(False)
    with pytest.raises(TypeError, match=r"model: expected a model not wrapped yet.*reset_classifier"):
        wrap_timm(model, TREE)
    assert isinstance(model.head, HierarchicalHead)
    model.reset_classifier(0)
    for call in (lambda: model.predict(pictures()[0]), lambda: model.save_weights(tmp_path / "w")):
        with pytest.raises(ValueError, match=r"model: expected a head, got none after reset_classifier\(0\)"):
            call()
    assert list(tmp_path.iterdir()) == []
