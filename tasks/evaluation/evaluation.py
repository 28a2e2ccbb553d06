"""Setup of the stage `evaluate`: a trained model and the fixed test episodes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from episodic.core.episode import Episode
from episodic.data.augmentation import SupportAugmentation
from episodic.training import model_folder
from episodic.training.config import EvaluationConfig
from episodic.training.evaluation import count_inner_steps, curve_steps, episodes_per_chunk
from tasks.prepared import PreparedFolder
from tasks.runtime.stage import StageError


@dataclass(frozen=True)
class EvaluationSetup:
    """A trained model and the test episodes that it is evaluated on.

    Attributes:
        source: The prepared data.
        test: The fixed test episodes, one per row.
        augmentation: Augmented copies of their support examples.
        trained: The trained model. `ways` of its config is the number of ways of the test episodes;
            some algorithms may be trained with a different number.
        steps: Inner steps of the headline score.
        step_counts: Numbers of inner steps after which episodes are scored, in ascending order.
        chunk: Number of episodes computed at once.
        query_numbers: Number of values in all query sets of the test episodes: a measure of work.
    """

    source: PreparedFolder
    test: pd.DataFrame
    augmentation: SupportAugmentation
    trained: model_folder.TrainedModel
    steps: int
    step_counts: list[int]
    chunk: int
    query_numbers: int

    @classmethod
    def load(
        cls, settings: EvaluationConfig, source: PreparedFolder, model: Path
    ) -> EvaluationSetup:
        """Read the model in the folder `model` and check that it accepts the test episodes.

        Raises:
            StageError: The examples of the episodes differ in form from those of training.
        """
        trained = model_folder.load(model, source.device)
        source = source.with_inputs(trained.config["inputs"])
        check_inputs(trained.config, source)
        test, learner = source.read_episodes("test"), trained.learner
        episode = _load_episodes(source, test, settings.augmentation, slice(1))
        variant = learner.test_variant
        (variant.check_ways if source.is_varied else variant.check_episode)(episode)
        if source.kind == "classification":
            trained = replace(trained, config=trained.config | {"ways": source.meta["ways"]})
        steps = count_inner_steps(learner, settings.steps)
        step_counts = curve_steps(learner, steps)
        chunk = settings.chunk or episodes_per_chunk(episode)
        if source.is_varied and not variant.handles_padding:
            chunk = 1
        query_numbers = episode.query_x.numel() * len(test)
        return cls(
            source,
            test,
            settings.augmentation,
            trained,
            steps,
            step_counts,
            chunk,
            query_numbers,
        )

    @property
    def chunks(self) -> list[slice]:
        """The rows of `test` that are computed at once."""
        count = len(self.test)
        return [
            slice(start, min(start + self.chunk, count)) for start in range(0, count, self.chunk)
        ]

    @property
    def chunk_sizes(self) -> list[int]:
        """The number of episodes in each chunk."""
        return [rows.stop - rows.start for rows in self.chunks]

    def load_episodes(self, rows: slice) -> Episode:
        """Load the test episodes of some rows of `test` to the device.

        Episodes of different sizes are padded, unless padding would affect their scores: `chunk` is
        then 1, and the episode is as if it had been drawn alone.
        """
        episode = _load_episodes(self.source, self.test, self.augmentation, rows)
        return episode.trim() if self.source.is_varied and self.chunk == 1 else episode


def check_inputs(config: dict[str, Any], source: PreparedFolder) -> None:
    """Check that the examples of a dataset are of the form that a model was trained on.

    Args:
        config: The content of the model's config.json.
        source: The prepared data, which may be of another dataset than that of training.

    Raises:
        StageError: The examples differ in shape or in how they were computed.
    """
    for key in ("input", "inputs"):
        if config[key] != source.meta[key]:
            dataset, trained_on = source.meta["dataset"], config["dataset"]
            raise StageError(
                f"{source.folder} has {_describe_inputs(source.meta)} of {dataset}, and the model "
                f"was trained on {_describe_inputs(config)} of {trained_on}: prepare both with the "
                "same features (dataset.*.features in params.yaml)"
            )


def _describe_inputs(described: dict[str, Any]) -> str:
    """Describe the examples by the keys `input` and `inputs` of a config.json or meta.json."""
    shape, inputs = " x ".join(map(str, described["input"])), described["inputs"]
    if encoder := inputs.get("encoder"):
        return f"features ({shape}) of the encoder {encoder['name']} ({encoder['digest'][:7]})"
    inverted = ", inverted" if inputs.get("inverted") else ""
    return f"examples ({inputs.get('features', inputs['kind'])}, {shape}{inverted})"


def _load_episodes(
    source: PreparedFolder,
    test: pd.DataFrame,
    augmentation: SupportAugmentation,
    rows: slice,
) -> Episode:
    episode = source.build_episodes(test[rows])
    if not augmentation.copies:
        return episode
    index, seed = torch.arange(len(test))[rows], source.meta["seed"]
    episode = episode.to(source.sampling_device)
    return augmentation.extend_support(episode, index, seed, "test").to(source.device)
