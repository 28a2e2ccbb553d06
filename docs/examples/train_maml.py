"""Train MAML to tell apart five characters from one drawing of each, and adapt it to new ones."""

import torch

from episodic import MAML, ClassSampler, Conv4, MetaLearner, Objective, TrainingConfig
from episodic import adapt, evaluate, train
from episodic.datasets.glyphs import draw_alphabet


def sample_episodes(alphabets: range, split: str) -> ClassSampler:
    images = [torch.from_numpy(draw_alphabet(i)).unsqueeze(2) for i in alphabets]
    return ClassSampler.from_classes([*torch.cat(images)], ways=5, shots=1, queries=5, split=split)


learner = MetaLearner(Conv4(filters=32).build((1, 28, 28), 5), MAML(), Objective("classification"))
validation = sample_episodes(range(20, 22), "validation")(torch.arange(40))
config = TrainingConfig(iterations=150, meta_batch=8, meta_lr=0.005, validate_every=50)
result = train(learner, sample_episodes(range(20), "train"), validation, config)

test = sample_episodes(range(22, 26), "test")(torch.arange(100))  # alphabets never seen in training
print("test:", evaluate(learner, result.theta, test))
task = test.part(0, 1)  # one new task: its support set adapts the model to five new characters
adapted = adapt(learner, result.theta, task)
print("predicted:", learner.query_outputs(adapted, task).argmax(-1).tolist())
