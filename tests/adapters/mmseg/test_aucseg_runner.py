"""AUCSeg in the real Runner, from the shipped configs: train, validate, kill, resume, AMP, EMA, two ranks."""

import copy
import logging
import socket
import zipfile

import pytest
import torch
import torch.multiprocessing as mp

pytest.importorskip("mmseg", reason="needs the mmseg extra")

from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.registry import FUNCTIONS
from mmengine.runner import Runner

from tests.adapters.mmseg.aucseg_cases import (
    CONFIGS,
    hook_of,
    scene_config,
    trained,
    two_processes,
    until_killed,
    weights,
    write_scenes,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # the host's own, dozens


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes"))


def test_from_a_config_text(scenes, tmp_path):
    text = scene_config(scenes, tmp_path).pretty_text
    assert "graftkit.mmseg" in text
    runner = trained(Config.fromstring(text, ".py"))
    spy = hook_of(runner, "Spy")
    assert len(spy.outputs) == 6
    for out in spy.outputs:
        assert 0 < out["decode.loss_auc"] < 2
        assert out["loss"] == pytest.approx(out["decode.loss_ce"] + out["decode.loss_auc"], rel=1e-6)
    log = next(tmp_path.rglob("vis_data/scalars.json")).read_text()
    assert {"decode.loss_auc", "bank_pasted", "bank_filled"} <= set(eval_keys(log))


def eval_keys(log):
    import json

    return [key for line in log.splitlines() for key in json.loads(line)]


@pytest.mark.parametrize("arm", ["ce", "ce_auc", "ce_bank", "ce_auc_bank"])
def test_the_four_configs(scenes, tmp_path, arm):
    runner = trained(scene_config(scenes, tmp_path, arm, iterations=2, **{"train_cfg.val_interval": 2}))
    spy = hook_of(runner, "Spy")
    assert ("decode.loss_auc" in spy.outputs[0]) == ("auc" in arm)
    assert any(type(hook).__name__ == "TMemoryBankHook" for hook in runner.hooks) == ("bank" in arm)
    (metrics,) = spy.validations
    assert {"aAcc", "mIoU", "mAcc", "mIoU.head", "mIoU.middle", "mIoU.tail"} <= set(metrics)


def test_configs_differ_in_two_lines():
    losses = {}
    for arm in ("ce", "ce_auc", "ce_bank", "ce_auc_bank"):
        cfg = Config.fromfile(CONFIGS / f"{arm}.py").to_dict()
        losses[arm] = (
            [loss["type"] for loss in cfg["model"]["decode_head"].pop("loss_decode")],
            [hook["type"] for hook in cfg.pop("custom_hooks", [])],
        )
        cfg.pop("tail_classes", None)
        rest = cfg
        base = Config.fromfile(CONFIGS / "base.py").to_dict()
        base["model"]["decode_head"].pop("loss_decode")
        assert rest == base
    ce, both, bank = ["CrossEntropyLoss"], ["CrossEntropyLoss", "AUCSegLoss"], ["TMemoryBankHook"]
    assert losses == {
        "ce": (ce, []),
        "ce_auc": (both, []),
        "ce_bank": (ce, bank),
        "ce_auc_bank": (both, bank),
    }


@pytest.mark.parametrize("collate", ["pseudo_collate", "default_collate"])
def test_the_model_sees_what_was_pasted(scenes, tmp_path, collate):
    assert FUNCTIONS.get("default_collate") is default_collate
    cfg = scene_config(scenes, tmp_path, "ce_bank", **{"train_dataloader.collate_fn": {"type": collate}})
    runner = Runner.from_cfg(cfg)
    seen = []
    head = runner.model.decode_head
    original = head.loss_by_feat
    head.loss_by_feat = lambda logits, samples: (
        seen.append(torch.stack([s.gt_sem_seg.data[0] for s in samples])),
        original(logits, samples),
    )[1]
    runner.train()
    bank = hook_of(runner, "TMemoryBankHook").bank
    full = [labels for labels in seen[2:] for labels in labels]
    assert all(bank.counts.values())
    assert sum(bool((labels == 5).any()) for labels in full) > len(full) / 2  # 15 % without the bank
    plain = trained(scene_config(scenes, tmp_path / "plain", "ce"))
    raw = list(torch.cat(hook_of(plain, "Spy").labels))
    assert sum(bool((labels == 5).any()) for labels in raw) < len(raw) / 2


def test_names_of_a_wrapped_data_set_and_padding(scenes, tmp_path):
    cfg = scene_config(scenes, tmp_path, "ce_bank", iterations=2)
    cfg.train_dataloader.dataset = {
        "type": "RepeatDataset", "times": 2, "dataset": cfg.train_dataloader.dataset
    }  # fmt: skip
    cfg.model.data_preprocessor.size = (56, 72)
    runner = Runner.from_cfg(cfg)
    seen, head = [], runner.model.decode_head
    original = head.loss_by_feat
    head.loss_by_feat = lambda logits, samples: (
        seen.extend(s.gt_sem_seg.data[0] for s in samples),
        original(logits, samples),
    )[1]
    runner.train()
    assert hook_of(runner, "TMemoryBankHook").bank.tail_classes == (4, 5)
    assert any((labels == 5).any() for labels in seen)
    for labels in seen:  # padded after the hook: nothing is pasted there
        assert labels.shape == (56, 72)
        assert (labels[48:] == 255).all()
        assert (labels[:, 64:] == 255).all()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_and_resumed_continues_bit_for_bit(scenes, tmp_path):
    whole = trained(scene_config(scenes, tmp_path / "whole", iterations=6))
    cfg = scene_config(scenes, tmp_path / "killed", iterations=6)
    process = mp.get_context("spawn").Process(target=until_killed, args=(cfg.pretty_text, 5))
    process.start()
    process.join(800)
    assert process.exitcode == -9
    assert (tmp_path / "killed" / "iter_3.pth").exists()
    assert not (tmp_path / "killed" / "iter_6.pth").exists()
    cfg.resume = True
    cfg.experiment_name += "-resumed"
    resumed = trained(cfg)
    assert resumed.iter == 6
    assert_same_state(whole, resumed)
    for k in (3, 4, 5):  # and the same pictures were seen
        assert torch.equal(hook_of(whole, "Spy").labels[k], hook_of(resumed, "Spy").labels[k - 3])
        assert torch.equal(hook_of(whole, "Spy").inputs[k], hook_of(resumed, "Spy").inputs[k - 3])
    assert torch.equal(weights(whole), weights(resumed))


def assert_same_state(one, two):
    states = [hook_of(runner, "TMemoryBankHook").bank.state_dict() for runner in (one, two)]
    patches = [[p for kept in state["patches"] for p in kept] for state in states]
    assert len(patches[0]) == len(patches[1]) > 0
    for p, q in zip(*patches, strict=True):
        assert torch.equal(p["image"], q["image"])
        assert torch.equal(p["mask"], q["mask"])
        assert (p["place"], p["serial"]) == (q["place"], q["serial"])
    assert torch.equal(states[0]["generator"], states[1]["generator"])


def test_the_bank_in_a_checkpoint_is_safe_and_stays_as_it_was(scenes, tmp_path):
    runner = trained(scene_config(scenes, tmp_path, iterations=3))
    checkpoint = torch.load(tmp_path / "iter_3.pth", weights_only=False)
    state = checkpoint["graftkit_tmemory_bank"]
    torch.save(state, tmp_path / "bank.pt")
    again = torch.load(tmp_path / "bank.pt", weights_only=True)
    assert torch.equal(again["generator"], hook_of(runner, "TMemoryBankHook").bank.generator.get_state())


@pytest.fixture
def logged():
    """Messages of mmengine's logger, which does not propagate to pytest's."""
    messages = []

    class Keep(logging.Handler):
        def emit(self, record):
            messages.append(record.getMessage())

    def attach(runner):
        runner.logger.addHandler(Keep(level=logging.WARNING))
        return messages

    return attach


def test_weights_alone_bring_no_bank(scenes, tmp_path, logged):
    trained(scene_config(scenes, tmp_path / "first", iterations=3))
    cfg = scene_config(
        scenes, tmp_path / "second", iterations=1, load_from=str(tmp_path / "first" / "iter_3.pth")
    )
    cfg.custom_hooks[0].update(start_iter=100)  # nothing is stored by this run itself
    runner = Runner.from_cfg(cfg)
    messages = logged(runner)
    runner.train()
    assert len(hook_of(runner, "TMemoryBankHook").bank) == 0
    assert not any("TMemoryBankHook" in m for m in messages)


@pytest.mark.parametrize(
    ("change", "words"),
    [("remove", "no graftkit_tmemory_bank"), ("classes", "tail_classes"), ("ratio", "resize_ratio")],
)
def test_a_checkpoint_that_does_not_fit_warns_and_starts_empty(scenes, tmp_path, logged, change, words):
    trained(scene_config(scenes, tmp_path, iterations=3))
    path = tmp_path / "iter_3.pth"
    cfg = scene_config(scenes, tmp_path, iterations=4, resume=True)
    cfg.custom_hooks[0].update(start_iter=100)
    if change == "remove":
        checkpoint = torch.load(path, weights_only=False)
        del checkpoint["graftkit_tmemory_bank"]
        torch.save(checkpoint, path)
    elif change == "classes":
        cfg.custom_hooks[0].tail_classes = ["sign"]
    else:
        cfg.custom_hooks[0].resize_ratio = 0.5
    runner = Runner.from_cfg(cfg)
    messages = logged(runner)
    runner.train()
    assert runner.iter == 4
    assert len(hook_of(runner, "TMemoryBankHook").bank) == 0
    assert any("TMemoryBankHook" in m and words in m for m in messages)


def test_iterations_outside_the_window_are_left_alone(scenes, tmp_path):
    cfg = scene_config(scenes, tmp_path, "ce_bank", iterations=6)
    cfg.custom_hooks[0].update(start_iter=1, stop_iter=3)
    runner = Runner.from_cfg(cfg)
    bank_hook = hook_of(runner, "TMemoryBankHook")
    calls = []
    bank_hook.before_train_iter = (
        lambda original: (
            lambda run, **kw: (calls.append((run.iter, len(bank_hook.bank))), original(run, **kw))[1]
        )
    )(bank_hook.before_train_iter)
    runner.train()
    sizes = dict(calls)
    assert sizes[0] == sizes[1] == 0  # nothing stored at 0
    assert sizes[2] > 0
    assert sizes[3] == sizes[5] == len(bank_hook.bank)


def test_validation_and_test_never_touch_it(scenes, tmp_path):
    cfg = scene_config(scenes, tmp_path, iterations=2)
    cfg.test_dataloader, cfg.test_evaluator = (
        copy.deepcopy(cfg.val_dataloader),
        copy.deepcopy(cfg.val_evaluator),
    )
    cfg.test_cfg = {"type": "TestLoop"}
    runner = trained(cfg)
    bank = hook_of(runner, "TMemoryBankHook").bank
    before = bank.state_dict()
    metrics = runner.val()
    assert runner.test() == metrics  # the same pictures, unpasted
    after = bank.state_dict()
    assert torch.equal(before["generator"], after["generator"])
    assert before["serial"] == after["serial"]


def test_beside_ema(scenes, tmp_path):
    cfg = scene_config(scenes, tmp_path / "whole", iterations=6)
    cfg.custom_hooks.append({"type": "EMAHook", "momentum": 0.1})
    whole = trained(cfg)
    parts = copy.deepcopy(cfg)
    parts.work_dir, parts.experiment_name = str(tmp_path / "parts"), "ema-parts"
    parts.train_cfg.max_iters = 3
    trained(parts)
    parts.train_cfg.max_iters, parts.resume, parts.experiment_name = 6, True, "ema-rest"
    rest = trained(parts)
    assert_same_state(whole, rest)
    averages = [
        torch.cat([p.flatten() for p in hook_of(r, "EMAHook").ema_model.parameters()]) for r in (whole, rest)
    ]
    assert torch.equal(*averages)
    assert not torch.equal(averages[0], weights(whole))


def mixed_precision(cfg):
    cfg.optim_wrapper.update(type="AmpOptimWrapper", dtype="bfloat16", loss_scale=1.0)
    runner = Runner.from_cfg(cfg)
    seen = []
    loss = runner.model.decode_head.loss_decode[1]
    loss.register_forward_hook(lambda _m, args, out: seen.append((args[0].dtype, out.dtype, bool(out > 0))))
    runner.train()
    return seen


def test_amp_wrapper_on_a_cpu(scenes, tmp_path, monkeypatch):
    """mmengine refuses its AMP wrapper without an accelerator; behind that check, bf16 on a CPU works."""
    from mmengine.optim.optimizer import amp_optimizer_wrapper

    monkeypatch.setattr(amp_optimizer_wrapper, "is_cuda_available", lambda: True)
    seen = mixed_precision(scene_config(scenes, tmp_path, iterations=3))
    assert seen == [(torch.bfloat16, torch.float32, True)] * 3


@pytest.mark.gpu
def test_amp_wrapper(scenes, tmp_path):
    assert len(mixed_precision(scene_config(scenes, tmp_path, iterations=3))) == 3


def test_gradient_accumulation(scenes, tmp_path):
    runner = trained(scene_config(scenes, tmp_path, iterations=4, **{"optim_wrapper.accumulative_counts": 2}))
    assert len(hook_of(runner, "Spy").outputs) == 4


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def ranks(cfg, folder):
    folder.mkdir()
    mp.spawn(two_processes, args=(cfg.pretty_text, free_port(), str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_under_mmengines_launcher(scenes, tmp_path):
    cfg = scene_config(
        scenes,
        tmp_path / "work",
        iterations=3,
        launcher="pytorch",
        env_cfg={"dist_cfg": {"backend": "gloo"}},
        model_wrapper_cfg={"type": "MMDistributedDataParallel", "device_ids": None},
    )
    cfg.model.decode_head.loss_decode[1].sync = True
    first, second = ranks(cfg, tmp_path / "first")
    assert torch.equal(first["weights"], second["weights"])
    assert first["losses"] == pytest.approx(second["losses"], abs=1e-6)  # synchronised: the same on both
    assert (first["seed"], second["seed"]) == (0, 1)
    assert not same_patches(first, second)  # each rank has a bank of its own

    # Resume: every rank starts from rank 0's patches, and draws differently.
    cfg.resume, cfg.train_cfg.max_iters = True, 4
    cfg.custom_hooks[0].start_iter = 100  # only what the checkpoint brings
    one, two = ranks(cfg, tmp_path / "second")
    assert same_patches(first, one)
    assert same_patches(first, two)
    assert not torch.equal(one["generator"], two["generator"])
    assert one["iter"] == two["iter"] == 4


def same_patches(a, b):
    return len(a["patches"]) == len(b["patches"]) and all(map(torch.equal, a["patches"], b["patches"]))


@pytest.mark.data
def test_camvid(data_root, tmp_path):
    """The shipped config on the real pictures: trains, validates by group, checkpoints, resumes."""
    with zipfile.ZipFile(data_root / "camvid" / "camvid_240x180.zip") as file:
        file.extractall(tmp_path / "camvid")
    cfg = Config.fromfile(CONFIGS / "ce_auc_bank.py")
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = str(tmp_path / "camvid")
    cfg.train_cfg.update(max_iters=4, val_interval=4)
    cfg.default_hooks.checkpoint.interval = 2
    cfg.val_dataloader.dataset.indices = 20  # of 101
    cfg.custom_hooks.append({"type": "Spy"})
    cfg.work_dir, cfg.log_level, cfg.experiment_name = str(tmp_path / "work"), "ERROR", "camvid-first"
    runner = trained(cfg)
    (metrics,) = hook_of(runner, "Spy").validations
    assert 0 < metrics["mIoU"] < 100
    assert {"mIoU.head", "mIoU.middle", "mIoU.tail"} <= set(metrics)
    assert sum(hook_of(runner, "TMemoryBankHook").bank.counts.values()) > 5
    cfg.train_cfg.update(max_iters=5, val_interval=5)
    cfg.resume, cfg.experiment_name = True, "camvid-second"
    rest = trained(cfg)
    assert len(hook_of(rest, "Spy").outputs) == 1
    assert len(hook_of(rest, "TMemoryBankHook").bank) > 5
