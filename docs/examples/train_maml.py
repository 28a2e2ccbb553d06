"""Train MAML on 5-way 1-shot episodes of drawn characters, and adapt it to new characters."""

import torch

import episodic as ep
from episodic.datasets.glyphs import draw_alphabet


def make_sampler(split: str, alphabets: range) -> ep.ClassSampler:
    images = torch.cat([torch.from_numpy(draw_alphabet(i)) for i in alphabets])  # (n, 20, 28, 28)
    classes = list(images.unsqueeze(2))
    return ep.ClassSampler.from_classes(classes, ways=5, shots=1, queries=5, split=split)


model = ep.Conv4(filters=16).build((1, 28, 28), outputs=5)
learner = ep.MetaLearner(model, ep.MAML(inner_lr=0.4), ep.Objective("classification"))
validation = make_sampler("validation", range(20, 22))(torch.arange(40))  # episodes 0 to 39
config = ep.TrainingConfig(iterations=300, meta_batch=8, meta_lr=0.01)
result = ep.train(learner, make_sampler("train", range(20)), validation, config)

test = make_sampler("test", range(22, 26))(torch.arange(100))  # alphabets not seen in training
print(ep.evaluate(learner, result.theta, test))
task = test.slice_tasks(0, 1)
adapted = ep.adapt(learner, result.theta, task)  # uses only the support set
print(learner.query_outputs(adapted, task).argmax(-1))  # the predicted class of each query
