"""ONNX files with 8-bit integers: smaller, and close to those in float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from photographs import write_photographs
from typer.testing import CliRunner

import episodic
from episodic.cli import app
from episodic.inference.export import export_onnx
from episodic.inference.quantization import QuantizationError
from episodic.training import model_folder
from tests.episodic.algorithms.test_every_algorithm import sampler, trained
from tests.episodic.inference.test_few_shot import folder_of

runtime = pytest.importorskip("onnxruntime", reason="onnxruntime has no wheel for this Python")
onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """A convolutional network adapted to two examples of each of its classes, and queries."""
    folder = tmp_path_factory.mktemp("model") / "run"
    folder_of("protonet", folder, theta=trained("protonet").theta)
    episode = sampler("test", shots=2)(torch.arange(1))
    model = episodic.load(folder).adapt(episode.support_x[0], episode.support_y[0].tolist())
    model.save(folder.parent / "adapted")
    return model, episode.query_x[0], folder.parent / "adapted"


def predict(path, x) -> np.ndarray:
    return runtime.InferenceSession(str(path)).run(None, {"x": x})[0]


def test_convolutions_have_8_bit_weights(adapted, tmp_path):
    model, x, _ = adapted
    paths = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    export_onnx(model, paths[0])
    export_onnx(model, paths[1], int8=True)
    graph = onnx.load(str(paths[1])).graph
    weights = [i for i in graph.initializer if len(i.dims) == 4 and min(i.dims[:2]) > 1]
    kinds = {onnx.TensorProto.DataType.Name(weight.data_type) for weight in weights}
    assert weights and kinds == {"INT8"}
    assert len([node for node in graph.node if node.op_type == "Conv"]) == len(
        [n for n in onnx.load(str(paths[0])).graph.node if n.op_type == "Conv"]
    )
    expected, found = (predict(path, x.numpy()) for path in paths)
    assert not np.array_equal(expected, found) and np.abs(expected - found).max() < 0.1
    keys = [
        {entry.key: entry.value for entry in onnx.load(str(path)).metadata_props} for path in paths
    ]
    assert keys[0].items() <= keys[1].items(), "classes and preprocessing"
    again = tmp_path / "again.onnx"
    export_onnx(model, again, int8=True)
    assert again.read_bytes() == paths[1].read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.onnx", "float.onnx", "int8.onnx"]


def test_an_image_encoder_needs_images(tmp_path):
    photographs = write_photographs(tmp_path / "photographs", list("abcde"), 2)
    model = episodic.from_encoder("efficientnet_lite0").adapt(
        sorted(photographs.glob("*/0.png")), [p.name for p in sorted(photographs.iterdir())]
    )
    model.save(tmp_path / "adapted")
    run = CliRunner()
    arguments = ["export", str(tmp_path / "adapted"), str(tmp_path / "int8.onnx"), "--int8"]
    failed = run.invoke(app, arguments)
    assert failed.exit_code == 1 and "add --examples FOLDER" in failed.stderr
    assert not (tmp_path / "int8.onnx").exists()
    done = run.invoke(app, [*arguments, "--examples", str(photographs)])
    assert done.exit_code == 0, done.output
    export_onnx(model, tmp_path / "float.onnx")
    small, large = (tmp_path / f"{name}.onnx" for name in ("int8", "float"))
    assert small.stat().st_size < 0.4 * large.stat().st_size
    crops = model.inputs.crops
    queries = crops.unflatten(crops(sorted(photographs.glob("*/1.png")))).float().numpy() / 255
    expected, found = predict(large, queries), predict(small, queries)
    assert (expected.argmax(1) == found.argmax(1)).mean() >= 0.8, "chance is 0.2"


def test_what_cannot_be_quantized(adapted, tmp_path):
    *_, folder = adapted
    rows = torch.eye(4)
    config = {
        "algorithm": {"name": "protonet"},
        "model": {"name": "mlp", "hidden": []},
        "batch_norm": "inductive",
        "kind": "classification",
        "ways": 2,
        "shots": 1,
        "classes": 0,
        "input": [4],
        "inputs": {"kind": "numbers"},
    }
    model_folder.save(tmp_path / "run", [{}], config)
    plain = episodic.load(tmp_path / "run").adapt(rows[:2].numpy(), ["a", "b"])
    with pytest.raises(QuantizationError, match="no convolution and no linear layer"):
        export_onnx(plain, tmp_path / "model.onnx", int8=True)
    run = CliRunner()
    for arguments, message in (
        (["model.pt2", "--int8"], "--int8 is for *.onnx"),
        (["model.onnx", "--examples", "x"], "--examples for --int8"),
        (["model.onnx", "--int8", "--unknown"], "8-bit integers change distances"),
        (
            ["model.onnx", "--int8", "--coverage", "0.9"],
            "sets hold for float32: export without int8",
        ),
        (["model.onnx", "--int8", "--examples", "x"], "models with an image encoder: omit it"),
    ):
        ended = run.invoke(
            app, ["export", str(folder), str(tmp_path / arguments[0]), *arguments[1:]]
        )
        assert ended.exit_code == 1 and message in ended.stderr, ended.output
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
