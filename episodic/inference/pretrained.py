"""Few-shot classification by a pretrained encoder and a head, without meta-training.

learner = episodic.from_encoder("efficientnet_lite0")
adapted = learner.adapt(["cat.jpg", "dog.jpg"], ["cat", "dog"])
adapted.predict(["new.jpg"])
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from episodic.core.config import ConfigError
from episodic.core.device import choose_device
from episodic.core.registry import ALGORITHMS, did_you_mean
from episodic.inference.few_shot import FewShotLearner
from episodic.inference.heads import DEFAULT_HEAD, HEADS, PARTIAL_FINETUNE
from episodic.inference.partial_finetune import PartialFineTuning, PartialFineTuningLearner
from episodic.preprocessing.encoders.architectures import LITE0
from episodic.preprocessing.encoders.encoder import find_encoder
from episodic.preprocessing.encoders.weights import read_description
from episodic.preprocessing.image import EncodedImagePreprocessor
from episodic.training import model_folder

__all__ = ["from_encoder"]


def from_encoder(
    encoder: str | Path = LITE0,
    head: str | PartialFineTuning = DEFAULT_HEAD,
    device: str = "cpu",
) -> FewShotLearner:
    """Make a few-shot learner of a pretrained image encoder and a head.

    Nothing is trained in advance: the head is fitted to the support set of each task. The head
    `partial_finetune` also fine-tunes the last block of the encoder on it.

    Args:
        encoder: `efficientnet_lite0`, or an encoder file that `episodic encoder import` wrote.
        head: One of `HEADS`, or the settings of `partial_finetune`.
        device: Device of the head, as for `choose_device`. The encoder runs on the CPU.

    Raises:
        EncoderError: There is no such encoder.
        ConfigError: There is no such head, or the device is not available.
    """
    fine_tuning = head if isinstance(head, PartialFineTuning) else PartialFineTuning()
    if isinstance(head, PartialFineTuning):
        head = PARTIAL_FINETUNE
    if head not in HEADS:
        known = list(HEADS)
        hint = did_you_mean(head, known)
        raise ConfigError("head", head, f"must be one of {', '.join(known)}{hint}")
    chosen_device = choose_device(device)
    path = find_encoder(encoder)
    description = read_description(path)
    name, settings = HEADS[head]
    config = {
        "algorithm": {"name": name} | asdict(ALGORITHMS[name](**settings)),
        "model": {"name": "mlp", "hidden": []},
        "batch_norm": "inductive",
        "kind": "classification",
        "ways": 0,
        "shots": 0,
        "classes": 0,
        "input": [description.width],
        "inputs": {"kind": "image", "encoder": description.to_json()},
        "head": head,
        "parameters": 0,
        "dataset": None,
    }
    learner = model_folder.build_learner(config)
    trained = model_folder.TrainedModel(learner, [learner.init(0)], config)
    encoded = EncodedImagePreprocessor(description, path)
    if head == PARTIAL_FINETUNE:
        return PartialFineTuningLearner(trained, encoded.crops, chosen_device, encoded, fine_tuning)
    return FewShotLearner(trained, encoded, chosen_device)
