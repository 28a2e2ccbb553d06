"""What puts the model's score in proportion: simpler answers to the same episodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F

from episodic.core.episode import Episode
from episodic.core.objective import average
from episodic.engine.learner import MetaLearner
from episodic.training.baselines import (
    constant_prediction_errors,
    input_centroid_scores,
    random_init_scores,
)
from tasks.prepared import Prepared

CENTROIDS = {"image": "pixel_centroid", "ngrams": "ngram_centroid", "encoder": "encoder_centroid"}
"""What the nearest class mean of the inputs is called; of tokens, which are no quantities, there is none."""

Readers = Callable[[Episode, int], dict[str, torch.Tensor]]
"""(episode, number of its first task) -> the score `(tasks,)` of each baseline that looks at more than the tensors of an episode."""


def sentences(source: Prepared, test: pd.DataFrame) -> Readers:
    """Baselines that read the sentences: scikit-learn's tf-idf of words, its weights from the training classes."""
    from episodic.analysis.text_baselines import TfidfClassifiers

    texts, classes = source.texts(), source.classes()
    train = classes[classes["split"] == "train"]
    known = [
        texts[row]
        for first, count in zip(train["offset"], train["count"], strict=True)
        for row in range(first, first + count)
    ]
    baselines = TfidfClassifiers.fit(known)

    def score(episode: Episode, first: int) -> dict[str, torch.Tensor]:
        lines = test.iloc[first : first + episode.tasks]
        found = []
        for line, support_y, query_y in zip(
            lines.to_dict("records"), episode.support_y.cpu(), episode.query_y.cpu(), strict=True
        ):
            support, query = ([texts[row] for row in line[part]] for part in ("support", "query"))
            answers = baselines.predict(support, support_y.numpy(), query)
            found.append(
                {
                    name: float((answer == query_y.numpy()).mean())
                    for name, answer in answers.items()
                }
            )
        return {
            name: torch.tensor([one[name] for one in found], device=episode.query_y.device)
            for name in found[0]
        }

    return score


def scores(
    plain: MetaLearner,
    episode: Episode,
    seed: int,
    rate: float,
    first: int,
    inputs: dict[str, Any],
    read: Readers | None,
    tuned: int,
) -> dict[str, torch.Tensor]:
    """read: of baselines that look at sentences or at who rated what; tuned: episodes that `random_init` sees"""
    part = episode.part(0, max(0, tuned - first)) if first + episode.tasks > tuned else episode
    random_init = (
        random_init_scores(plain, seed, part, rate, first)
        if part.tasks
        else torch.empty(0, device=episode.query_y.device)
    )
    result = {"random_init": F.pad(random_init, (0, episode.tasks - part.tasks))}
    if plain.objective.kind == "classification":
        if name := CENTROIDS.get(inputs.get("features", inputs["kind"])):
            result[name] = input_centroid_scores(episode)
    else:
        if episode.support_size is None:
            result["zero"] = constant_prediction_errors(
                episode, torch.zeros((), device=episode.query_y.device)
            )
        result["support_mean"] = constant_prediction_errors(
            episode, average(episode.support_y, episode.support_size)[:, None, None]
        )
    return result | (read(episode, first) if read else {})
