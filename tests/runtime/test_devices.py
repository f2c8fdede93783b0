"""--device: what is there, what is not, and Apple's GPU, which is played by the CPU.

A tensor that is 'on Apple' is one of the CPU that says otherwise. It meets no tensor of the CPU,
and nothing that is computed from it has float64 or uses an operator that MPS lacks: else there is
an error, as there would be on a Mac.
"""

import importlib
import sys

from runtime import devices, session
from runtime.check import check_model
from runtime.run_folder import RunFolder

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import common
import grpo
from compose.reader import scripts
from countdown_task import CountdownTask
from tasks import InputError
from tools import tiny_runs

MPS = torch.device("mps")
MEET = (torch.Tensor.__getitem__, torch._has_compatible_shallow_copy_type)  # places; modules' `to`
LACKS = {"unique_dim", "cummax", "cummin", "linalg_eigh", "histc"}


class Watch(TorchDispatchMode):
    """What MPS does not compute is an error inside `with`."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in LACKS:
            raise NotImplementedError(f"{name} is not implemented for MPS")
        with torch._C.DisableTorchFunctionSubclass():
            found = func(*args, **kwargs or {})
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor) and tensor.dim() and tensor.dtype == torch.float64:
                raise TypeError(f"{name}: MPS has no float64")
        return found


class OnApple(torch.Tensor):
    device = MPS

    @property
    def grad(self):
        with torch._C.DisableTorchFunctionSubclass():
            gradient = torch.Tensor.grad.__get__(self)
            return None if gradient is None else gradient.as_subclass(OnApple)

    @grad.setter
    def grad(self, gradient):
        with torch._C.DisableTorchFunctionSubclass():
            torch.Tensor.grad.__set__(self, gradient)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        outside = any(not isinstance(x, OnApple) and x.dim() > 0 for x in tensors)
        if outside and func not in MEET:
            raise RuntimeError(f"{func.__name__}: a tensor of the CPU meets one of MPS")
        with Watch():
            return super().__torch_function__(func, types, args, kwargs or {})


class Mac(TorchFunctionMode):
    """`.to`, and what makes tensors, for the device `mps`; gradients are watched as well."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.Tensor.backward:
            with Watch():
                return func(*args, **kwargs)
        if func is torch.Tensor.to:
            given = [*args[1:], *kwargs.values()]
            for other in [x for x in given if isinstance(x, torch.Tensor)]:
                given += [other.device, other.dtype]
            places = [x for x in given if isinstance(x, torch.device | str)]
            tensor = args[0]
            for dtype in [x for x in given if isinstance(x, torch.dtype)]:
                tensor = func(tensor, dtype)
            if places:
                side = OnApple if torch.device(places[0]) == MPS else torch.Tensor
                if side is OnApple and tensor.dtype == torch.float64:
                    raise TypeError("to: MPS has no float64")
                tensor = tensor.as_subclass(side)
            return tensor
        if kwargs.get("device") in (MPS, "mps"):
            return func(*args, **kwargs | {"device": "cpu"}).as_subclass(OnApple)
        return func(*args, **kwargs)


@pytest.fixture
def mac(monkeypatch):
    """A machine with Apple's GPU, chosen."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(common, "DEVICE", common.DEVICE)  # to be put back
    monkeypatch.setattr(common, "MODEL_DEVICE", common.MODEL_DEVICE)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    with Mac():
        common.use_device("mps")
        yield
    torch.__future__.set_overwrite_module_params_on_conversion(False)


def two_steps(folder):
    """What sampling and learning find in two steps, and the weights after them."""
    options = tiny_runs.options_of("grpo", model=folder, max_new_tokens=40)
    config = grpo.Config(**options, reward_weights=[1.0, 0.1])
    model, tokenizer = common.load_model(folder, config)
    check_model(model, 200)
    reference, _ = common.load_model(folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    found = []
    for step in (1, 2):
        rollout, rewards = grpo.sample_batch(model, tokenizer, CountdownTask(), config, step)
        rewards = torch.rand(rewards.shape, generator=common.torch_stream(step))  # signal for all
        rollout.ref_logprobs = grpo.over_rollout(
            grpo.completion_logprobs, reference, rollout, config
        )
        advantages = grpo.compute_advantages(rewards, config)
        update = grpo.update_policy(model, optimizer, rollout, advantages, config)
        found.append((rollout.completion_ids, rollout.logprobs, rollout.entropy, update))
    return found, [parameter.detach().to("cpu") for parameter in model.parameters()]


@pytest.mark.parametrize("folder", ["llama_folder", "qwen_folder", "gpt2_folder"])
def test_two_steps_on_apple(folder, request):
    folder = request.getfixturevalue(folder)
    request.getfixturevalue("mac")  # now, when the folder is written
    assert common.MODEL_DEVICE == MPS
    model, _ = common.load_model(folder)
    assert model.device == MPS and isinstance(next(model.parameters()), OnApple)
    found, weights = two_steps(folder)
    common.use_device("cpu")
    expected, as_on_a_cpu = two_steps(folder)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one[:3], two[:3], atol=0, rtol=0)
        assert one[3] == two[3] and one[3]["updates"]
    assert all(map(torch.equal, weights, as_on_a_cpu))


def test_mps_is_played_strictly(llama_folder, request, monkeypatch):
    """What a Mac refuses is refused: so is a rollout that lies there with the model."""
    request.getfixturevalue("mac")
    there = torch.rand(3, device="mps")
    with pytest.raises(TypeError, match="no float64"):
        there.cumsum(0, dtype=torch.float64)
    with pytest.raises(TypeError, match="no float64"):
        torch.rand(3, dtype=torch.float64).to("mps")
    with pytest.raises(NotImplementedError, match="unique_dim"):
        there[None].unique(dim=0)
    with pytest.raises(RuntimeError, match="meets"):
        there + torch.rand(3)
    with pytest.raises(TypeError, match="no float64"):
        (there.requires_grad_().to("cpu").double().to("mps")).sum()
    model, tokenizer = common.load_model(llama_folder)
    monkeypatch.setattr(common, "DEVICE", MPS)
    problems = CountdownTask().sample(2, common.stream("a"))
    config = grpo.Config(max_new_tokens=20)
    with pytest.raises(TypeError, match="no float64"):
        grpo.sample_groups(model, tokenizer, problems, config, common.torch_stream("a"))
    with pytest.raises(InputError, match="unique_dim"):
        check_model(model, 200)


def test_an_operator_that_mps_lacks_is_one_line(monkeypatch, request):
    """Also where no check before the first step has met it."""
    request.getfixturevalue("mac")
    says = "The operator 'aten::glu' is not currently implemented for the MPS device. If you want"

    def train(config):
        raise NotImplementedError(says)

    monkeypatch.setattr(sys, "argv", ["grpo.py"])
    with pytest.raises(SystemExit) as refusal:
        session.launch(train, grpo.Config, grpo.__doc__)
    assert "--device mps: The operator 'aten::glu' is not" in refusal.value.code
    assert "\n" not in refusal.value.code and "PYTORCH_ENABLE_MPS_FALLBACK=1" in refusal.value.code
    common.use_device("cpu")
    with pytest.raises(NotImplementedError):
        session.launch(train, grpo.Config, grpo.__doc__)


@pytest.mark.slow
@pytest.mark.parametrize("script", scripts())
def test_every_script_on_apple(script, llama_folder, tmp_path, request, monkeypatch):
    """A critic and a second model too."""
    request.getfixturevalue("mac")
    monkeypatch.setattr(RunFolder, "save", lambda *_: None)  # it would write what lies in memory
    module = importlib.import_module(script)
    options = tiny_runs.options_of(script, model=llama_folder, steps=2, device="mps")
    module.train(module.Config(**options, output_dir=str(tmp_path)))
    assert len(tiny_runs.training_rows(tmp_path)) == 2


# ---- Choosing -----------------------------------------------------------------------------------


def test_a_device_that_is_not_there(tmp_path, monkeypatch):
    for name, module in (("cuda", torch.cuda), ("mps", torch.backends.mps)):
        monkeypatch.setattr(module, "is_available", lambda: False)
        config = grpo.Config(device=name, output_dir=str(tmp_path / "run"))
        with pytest.raises(InputError, match=rf"^--device {name}: PyTorch finds none here"):
            session.Run(config, "grpo.py")
    assert not (tmp_path / "run").exists()


def test_auto_takes_cuda_or_the_cpu(monkeypatch):
    """Apple's GPU has to be asked for: nobody has tried it."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for there, name in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert devices.find("auto") == (torch.device(name), torch.device(name))
        assert devices.find("cpu") == (torch.device("cpu"), torch.device("cpu"))


@pytest.mark.slow
def test_bf16_on_a_cpu_without_it_is_told(llama_folder, tmp_path, monkeypatch, capsys):
    """With the factor that was timed; not where it is as fast."""
    said = []
    for number, slowness in enumerate((40.2, 0.6)):
        monkeypatch.setattr(devices, "bf16_slowness", lambda slowness=slowness: slowness)
        options = tiny_runs.options_of("grpo", model=llama_folder, dtype="bfloat16", steps=0)
        grpo.train(grpo.Config(**options, device="cpu", output_dir=str(tmp_path / str(number))))
        said.append("this CPU 40 times as long" in capsys.readouterr().out)
    assert said == [True, False]
    assert devices.bf16_slowness(64) > 0
