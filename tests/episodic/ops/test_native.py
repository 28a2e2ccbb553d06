"""native.cpp compared with torch's convolution, batch norm, ReLU and maximum; its compilation."""

from __future__ import annotations

import os
import platform
import shutil

import pytest
import torch
import torch.nn.functional as F
import warm
from support import COMPILER, ROOT, needs_compiler
from torch import Tensor

from episodic import ops
from episodic.core.errors import UserError
from episodic.ops import backend, conv2d, native, norm_relu
from episodic.ops.convolution import average_shared_gradients

TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-5}


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """The names of the native functions that were called."""
    names: list[str] = []
    call = native._call
    monkeypatch.setattr(
        native, "_call", lambda name, *rest: (names.append(name), call(name, *rest))[1]
    )
    return names


def assert_close(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape
    scale = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCES[expected.dtype] * scale)


def compute_derivatives(
    function, inputs: list[Tensor], along: Tensor, second: list[Tensor]
) -> list[Tensor]:
    """The value of a function and its derivatives.

    These are the gradients along `along`, and the gradients of those along `second` with respect to
    the inputs and `along`.
    """
    inputs, along = [x.clone().requires_grad_() for x in inputs], along.clone().requires_grad_()
    y = function(*inputs)
    first = torch.autograd.grad(y, inputs, along, create_graph=True)
    last = torch.autograd.grad(
        first, [*inputs, along], second, allow_unused=True, materialize_grads=True
    )
    return [y.detach(), *(g.detach() for g in first), *last]


SHAPES = [
    # tasks, n, in, out, height, width, kernel, stride
    (2, 3, 1, 4, 7, 9, 3, 2),  # one channel in, fewer channels than a vector
    (3, 2, 5, 7, 8, 8, 3, 1),  # no multiple of anything
    (2, 5, 64, 64, 14, 14, 3, 2),  # conv4's second layer: whole tiles
    (2, 2, 32, 48, 9, 7, 5, 2),  # two and three vectors, a wider kernel
    (1, 3, 16, 19, 6, 6, 1, 1),  # a kernel of one place
    (2, 30, 35, 20, 28, 28, 3, 3),  # a stride as wide as the kernel; images in several parts
    (2, 75, 1, 8, 28, 28, 3, 2),  # conv4's first layer, images in two parts of unequal size
    (2, 13, 16, 16, 28, 28, 3, 1),  # gradients in several parts, too
    (2, 2, 17, 5, 5, 4, 1, 2),  # a stride wider than the kernel: places that no window sees
    (1, 2, 130, 80, 11, 11, 3, 1),  # more terms than are taken at a time
    (1, 1, 8, 8, 1, 1, 3, 2),  # an image of one place
    (1, 2, 4, 6, 2, 3, 7, 5),  # a kernel wider, a stride larger than the image
    (2, 3, 6, 2, 5, 5, 3, 1),  # too few channels out for native.cpp
]


@needs_compiler
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_convolution_matches_torch_up_to_the_second_derivative(shape, dtype, calls):
    tasks, n, into, out, height, width, k, stride = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tasks, n, into, height, width, generator=generator, dtype=dtype)
    w = (
        torch.randn(tasks, out, into, k, k, generator=generator, dtype=dtype)
        / (into * k * k) ** 0.5
    )
    along = torch.randn(
        tasks, n, out, -(-height // stride), -(-width // stride), generator=generator, dtype=dtype
    )

    def loop(x, w):
        return torch.stack(
            [F.conv2d(a, b, None, stride, k // 2) for a, b in zip(x, w, strict=True)]
        )

    expected = compute_derivatives(loop, [x, w], along, [x.flip(1), w.flip(1)])
    with backend.use_compiled_kernels():
        actual = compute_derivatives(
            lambda x, w: conv2d(x, w, stride=stride), [x, w], along, [x.flip(1), w.flip(1)]
        )
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b)
    assert ("to_images" in calls) == (into >= 4) and ({"convolve", "to_kernels"} <= set(calls)) == (
        out >= 4
    )


@needs_compiler
def test_non_contiguous_inputs_are_accepted():
    """A part of a larger tensor, and the gradient of a sum, whose strides are 0."""
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(3, 4, 9, 6, 10, generator=generator, dtype=torch.float64)
    w = torch.randn(2, 5, 4, 3, 3, generator=generator, dtype=torch.float64)
    outputs = []
    for compiled in (False, True):
        x, v = whole.clone().requires_grad_(), w.clone().requires_grad_()
        with backend.use_compiled_kernels(compiled):
            y = conv2d(ops.channels_last(x)[1:, :, 2:6, :, 3:], v)
            outputs.append([y.detach(), *torch.autograd.grad(y.sum(), [x, v])])
    for a, b in zip(*outputs, strict=True):
        assert_close(a, b)


@needs_compiler
def test_mismatched_shapes_are_rejected_without_out_of_bounds_reads():
    x, w = torch.ones(2, 3, 8, 5, 5), torch.ones(2, 4, 8, 3, 3)
    with backend.use_compiled_kernels():
        for a, b, error in (
            (x, w[:, :, :7], ValueError),
            (x, w[:1].repeat(3, 1, 1, 1, 1), ValueError),
            (x, w[..., :2], ValueError),
            (x[:, :0], w, ValueError),
            (x.double(), w, TypeError),
            (x.bfloat16(), w.bfloat16(), TypeError),
        ):
            with pytest.raises(error):
                conv2d(a, b)
        with pytest.raises(TypeError, match="norm_forward requires contiguous CPU tensors of one"):
            norm_relu(x.double(), torch.ones(2, 8), torch.zeros(2, 8))
        torch.testing.assert_close(
            norm_relu(x, torch.ones(1, 8), torch.full((1, 8), 2.0)), torch.full_like(x, 2.0)
        )


@needs_compiler
@pytest.mark.parametrize("averaged", [False, True])
def test_tasks_that_share_their_weights_are_one_call(averaged, monkeypatch):
    seen, call = [], native._call
    monkeypatch.setattr(
        native,
        "_call",
        lambda name, tensors, *rest: (
            seen.append((name, rest[0].tasks)),
            call(name, tensors, *rest),
        )[1],
    )
    generator = torch.Generator().manual_seed(0)
    x, w = (
        torch.randn(3, 2, 8, 6, 6, generator=generator).double(),
        torch.randn(1, 16, 8, 3, 3, generator=generator).double(),
    )
    along = torch.randn(3, 2, 16, 6, 6, generator=generator).double()
    expected = compute_derivatives(
        lambda x, w: conv2d(x, w.expand(3, -1, -1, -1, -1).contiguous()),
        [x, w],
        along,
        [x.flip(1), w.flip(1)],
    )
    with backend.use_compiled_kernels(), average_shared_gradients(averaged):
        actual = compute_derivatives(
            lambda x, w: conv2d(x, w.expand(3, -1, -1, -1, -1)),
            [x, w],
            along,
            [x.flip(1), w.flip(1)],
        )
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b)
    # Gradients of kernels are one per task, unless only their sum is needed.
    once = {"convolve", "to_images"} | ({"to_kernels"} if averaged else set())
    assert {name for name, tasks in seen if tasks == 1} == once


def test_averaged_gradients_of_shared_kernels_have_the_sum_of_those_of_the_tasks():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 2, 4, 6, 6, generator=generator, dtype=torch.float64)
    w = torch.randn(5, 4, 3, 3, generator=generator, dtype=torch.float64)
    w = w.expand(3, -1, -1, -1, -1).requires_grad_()
    (own,) = torch.autograd.grad((conv2d(x, w) ** 2).sum(), w)
    with average_shared_gradients():
        (averaged,) = torch.autograd.grad((conv2d(x, w) ** 2).sum(), w)
        separate = w.detach().clone().requires_grad_()
        (of_separate,) = torch.autograd.grad((conv2d(x, separate) ** 2).sum(), separate)
    assert_close(averaged, own.mean(0).expand_as(own))
    assert_close(of_separate, own)  # kernels in separate memory are not merged


def norm_relu_by_torch(pool: bool):
    """Batch norm, ReLU and maximum of torch, in a sequential loop over tasks."""

    def function(x, scale, shift):
        y = torch.stack(
            [
                F.batch_norm(a, None, None, b, c, training=True).relu()
                for a, b, c in zip(x, scale, shift, strict=True)
            ]
        )
        return ops.max_pool2d(y) if pool else y

    return function


@needs_compiler
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize(
    "shape",
    [(2, 3, 1, 4, 4), (2, 2, 5, 7, 5), (3, 5, 64, 4, 6), (1, 25, 33, 20, 21), (2, 1, 16, 2, 2)],
    ids=str,
)
def test_norm_matches_torch_up_to_the_second_derivative(shape, pool, dtype, calls):
    tasks, n, channels, height, width = shape
    generator = torch.Generator().manual_seed(0)
    x = 3 + torch.randn(shape, generator=generator, dtype=torch.float64)
    scale = 1 + 0.1 * torch.randn(tasks, channels, generator=generator, dtype=torch.float64)
    scale[:, ::3] *= -1  # there the smallest value is the maximum
    shift = 0.1 * torch.randn(tasks, channels, generator=generator, dtype=torch.float64)
    size = (height // 2, width // 2) if pool else (height, width)
    along = torch.randn(tasks, n, channels, *size, generator=generator, dtype=torch.float64)
    second = [
        torch.randn(t.shape, generator=generator, dtype=torch.float64) for t in (x, scale, shift)
    ]
    expected = compute_derivatives(norm_relu_by_torch(pool), [x, scale, shift], along, second)
    with backend.use_compiled_kernels():
        actual = compute_derivatives(
            lambda x, scale, shift: norm_relu(x, scale, shift, pool),
            *(
                [t.to(dtype) for t in some] if isinstance(some, list) else some.to(dtype)
                for some in ([x, scale, shift], along, second)
            ),
        )
    if dtype == torch.float64:
        for a, b in zip(actual, expected, strict=True):
            assert_close(a, b)
    else:  # where a ReLU or a maximum can switch by rounding, only nearly all agree
        for a, b in zip(actual, expected, strict=True):
            assert ((a - b).norm() / b.norm().clamp(min=1e-3)).item() < 1e-3
    assert set(calls) == {"norm_forward", "norm_gradient", "norm_second"}


@needs_compiler
def test_of_equal_values_the_first_is_the_maximum(calls):
    """Tied maxima, as on white paper: gradients go where those of torch go."""
    x = torch.zeros(1, 2, 4, 4, 4, dtype=torch.float64)
    x[:, :, :, 1:3, 3] = 1
    scale, shift = torch.tensor([[1.0, -1.0, 2.0, -0.5]]).double(), torch.full((1, 4), 0.7).double()
    along = torch.arange(32.0).double().view(1, 2, 4, 2, 2)
    expected = compute_derivatives(
        norm_relu_by_torch(True), [x, scale, shift], along, [x.flip(1), scale, shift]
    )
    with backend.use_compiled_kernels():
        actual = compute_derivatives(
            lambda x, scale, shift: norm_relu(x, scale, shift, True),
            [x, scale, shift],
            along,
            [x.flip(1), scale, shift],
        )
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b)
    assert calls


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=needs_compiler)])
def test_a_third_derivative_is_correct_or_an_error(compiled):
    generator = torch.Generator().manual_seed(0)
    x, w = (
        torch.randn(1, 2, 4, 5, 5, generator=generator).double(),
        torch.randn(1, 6, 4, 3, 3, generator=generator).double(),
    )

    def third(function, *inputs):
        value = function(*(leaves := [t.clone().requires_grad_() for t in inputs]))
        for _ in range(2):
            value = sum(
                g.pow(3).sum()
                for g in torch.autograd.grad(value.pow(3).sum(), leaves, create_graph=True)
            )
        return torch.autograd.grad(value, leaves)

    expected = third(lambda x, w: F.conv2d(x[0], w[0], padding=1), x, w)
    with backend.use_compiled_kernels(compiled):
        actual = third(conv2d, x, w)
        for a, b in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * b.abs().max().item())
        with pytest.raises(NotImplementedError, match="norm_relu has no third derivative"):
            third(norm_relu, x, torch.ones(1, 4).double(), torch.zeros(1, 4).double())


@needs_compiler
@pytest.mark.parametrize("pool", [False, True])
def test_nan_is_propagated(pool, calls):
    x = torch.ones(1, 2, 16, 4, 4)
    x[0, 1, 3, 2, 2] = float("nan")
    with backend.use_compiled_kernels():
        y = norm_relu(x, torch.ones(1, 16), torch.zeros(1, 16), pool)
    assert y[0, :, 3].isnan().all() and not y[0, :, 4:].isnan().any()
    generator = torch.Generator().manual_seed(0)
    x, weights = (
        torch.randn(1, 2, 16, 4, 4, generator=generator),
        torch.randn(y.shape, generator=generator),
    )
    gradients = []
    for compiled in (False, True):
        leaf = x.clone().requires_grad_()
        with backend.use_compiled_kernels(compiled):
            y = norm_relu(leaf, torch.ones(1, 16), torch.full((1, 16), float("nan")), pool)
            gradients += torch.autograd.grad((y * weights).sum(), leaf)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-5)
    assert gradients[0].abs().max() > 0.1, (
        "the gradient passes through NaN as through an active ReLU"
    )
    assert set(calls) == {"norm_forward", "norm_gradient"}


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """An empty cache folder, with no library loaded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    native.load_library.cache_clear()
    yield tmp_path
    native.load_library.cache_clear()


def lower_optimization(level: str, monkeypatch) -> None:
    """Compile with another level than -O3, which a flag of CXX does not override."""
    flags = [level if flag == "-O3" else flag for flag in native.FLAGS]
    monkeypatch.setattr(native, "FLAGS", flags)


@needs_compiler
@pytest.mark.parametrize(
    "command",
    [
        "clang++",
        "g++ -mno-avx512f",
        "g++ -mno-avx",
        "g++ -fsanitize=undefined -fno-sanitize-recover",
    ],
)
def test_every_width_of_vectors_and_every_compiler_computes_the_same(command, fresh, monkeypatch):
    if shutil.which(command.split()[0]) is None:
        pytest.skip(f"{command.split()[0]} is not installed here")
    if "-mno" in command and platform.machine() != "x86_64":
        pytest.skip("these vectors are those of x86-64")
    monkeypatch.setenv("CXX", command)
    if "sanitize" in command:  # -O3 takes 20 seconds longer
        lower_optimization("-O1", monkeypatch)
    generator = torch.Generator().manual_seed(0)
    for tasks, n, into, out, height, width, k, stride in SHAPES:
        x = torch.randn(tasks, n, into, height, width, generator=generator, dtype=torch.float64)
        w = torch.randn(tasks, out, into, k, k, generator=generator, dtype=torch.float64)
        scale, along = (
            torch.randn(2, tasks, out, generator=generator, dtype=torch.float64),
            torch.ones(1, dtype=torch.float64),
        )
        pool = min(-(-height // stride), -(-width // stride)) > 1

        def network(x, w, scale, shift, stride=stride, pool=pool):
            return norm_relu(conv2d(x, w, stride=stride), scale, shift, pool).square().mean()[None]

        inputs = [x, w, *scale]
        expected = compute_derivatives(network, inputs, along, [t.flip(0) for t in inputs])
        with backend.use_compiled_kernels():
            actual = compute_derivatives(network, inputs, along, [t.flip(0) for t in inputs])
        for a, b in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * max(1.0, b.abs().max().item()))


def test_a_missing_compiler_is_an_error(fresh, monkeypatch):
    monkeypatch.setenv("PATH", str(fresh))
    with pytest.raises(
        UserError,
        match=r"need a C\+\+ compiler, and neither g\+\+ nor clang\+\+ is installed; "
        r"install one, or set train.plan.mode to auto and ev",
    ):
        backend.prepare_compiled_kernels(torch.device("cpu"))
    monkeypatch.setenv("CXX", "icpx -O2")
    with pytest.raises(
        UserError, match=r"compiler, and icpx \(set by CXX\) is not installed; install one"
    ):
        backend.prepare_compiled_kernels(torch.device("cpu"))


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(fresh, monkeypatch):
    script = fresh / "c++"
    script.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && exit\nwhile [ "$1" != -o ]; do shift; done\n'
        'echo half > "$2"; echo "x.cpp:1: fatal error: no such thing" >&2; exit 1\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    with pytest.raises(
        UserError,
        match=r"does not compile .*native.cpp: x.cpp:1: fatal error: no such thing; "
        r"set train.plan.mode to auto",
    ):
        backend.prepare_compiled_kernels(torch.device("cpu"))
    assert [path.name for path in (fresh / "cache").rglob("*") if path.is_file()] == ["lock"]


def test_an_invalid_cache_folder_is_reported(fresh, monkeypatch):
    (fresh / "cache").write_text("a file")
    monkeypatch.setenv("CXX", COMPILER or "true")
    with pytest.raises(
        UserError,
        match=r"cache/episodic cannot be written \(Not a directory\); "
        r"set XDG_CACHE_HOME to another folder",
    ):
        backend.prepare_compiled_kernels(torch.device("cpu"))


@pytest.fixture
def log(fresh, monkeypatch):
    """A file with a line for each compilation, all without optimization."""
    script, path = fresh / "c++", fresh / "log"
    script.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] || echo compiled >> {path}\nexec {COMPILER} "$@" -O0\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    return path


@needs_compiler
def test_kernels_are_compiled_once_for_all_programs(log):
    for _ in range(2):
        native.load_library.cache_clear()  # as a new program begins
        backend.prepare_compiled_kernels(torch.device("cpu"))
    assert log.read_text() == "compiled\n"


@needs_compiler
def test_programs_that_begin_at_once_compile_once(log):
    program = (
        "import torch; from episodic.ops import backend; "
        "backend.prepare_compiled_kernels(torch.device('cpu'))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    programs = [warm.Process(["-c", program], ROOT, environment) for _ in range(3)]
    ended = [program.communicate() for program in programs]
    assert [program.wait() for program in programs] == [0, 0, 0], ended
    assert log.read_text() == "compiled\n"


def test_a_damaged_file_is_reported(fresh, monkeypatch):
    broken = fresh / "native-0.so"
    broken.write_bytes(b"cut off")
    monkeypatch.setattr(native, "build_library", lambda command: broken)
    monkeypatch.setattr(native, "find_compiler", lambda: ["c++"])
    with pytest.raises(
        UserError,
        match=r"library built by c\+\+ cannot be loaded \(.*native-0.so.*\); "
        r"set CXX to another C\+\+ compiler, or delete",
    ):
        native.load_library()


@pytest.mark.skipif(
    shutil.which("gcc") is None, reason="gcc, which links no C++, is not installed here"
)
def test_a_compiler_of_another_language_is_rejected_and_leaves_nothing(tmp_path):
    # In a separate process, because another test may have loaded the C++ library globally.
    program = "from episodic.ops import native; native.load_library()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CXX": "gcc"}
    environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    result = warm.run(["-c", program], ROOT, environment)
    assert result.returncode != 0
    assert "the library built by gcc cannot be loaded" in result.stderr
    assert not list((tmp_path / "cache").rglob("*.so"))


def test_without_fcntl_the_library_is_still_there():
    program = (
        "import sys; sys.modules['fcntl'] = None; "
        "import episodic.models.conv4, episodic.engine.outer"
    )
    result = warm.run(["-c", program], ROOT, {**os.environ, "PYTHONPATH": str(ROOT)})
    assert result.returncode == 0, result.stderr


def test_an_invalid_compiler_command_is_an_error(fresh, monkeypatch):
    monkeypatch.setenv("CXX", "g++ '")
    with pytest.raises(UserError, match=r"CXX is .*; it must be a command"):
        backend.prepare_compiled_kernels(torch.device("cpu"))
    script = fresh / "c++"
    script.write_text("no program")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    with pytest.raises(
        UserError, match=r"c\+\+ does not run \(Exec format error\); set train.plan.mode to auto"
    ):
        backend.prepare_compiled_kernels(torch.device("cpu"))
