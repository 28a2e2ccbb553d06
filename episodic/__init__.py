"""Few-shot meta-learning: episodes, meta-gradients, evaluation with intervals.

Train a meta-learner:

    learner = MetaLearner(Conv4().build((1, 28, 28), 5), MAML(), Objective("classification"))
    result = train(learner, sampler, validation, TrainingConfig(iterations=300))
    print(evaluate(learner, result.theta, episodes))

Use a trained model:

    adapted = load("models/run").adapt(images, labels)
    adapted.predict(other_images)

Names are imported on first use. The library requires torch and numpy. Extras install what single
functions need in addition.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from episodic.algorithms.anil import ANIL as ANIL
    from episodic.algorithms.baseline_plus_plus import BaselinePlusPlus as BaselinePlusPlus
    from episodic.algorithms.bd_cspn import BDCSPN as BDCSPN
    from episodic.algorithms.boil import BOIL as BOIL
    from episodic.algorithms.feat import FEAT as FEAT
    from episodic.algorithms.finetune import FineTuning as FineTuning
    from episodic.algorithms.fomaml import FOMAML as FOMAML
    from episodic.algorithms.imaml import IMAML as IMAML
    from episodic.algorithms.laplacian_shot import LaplacianShot as LaplacianShot
    from episodic.algorithms.logistic import LogisticRegression as LogisticRegression
    from episodic.algorithms.maml import MAML as MAML
    from episodic.algorithms.maml_plus_plus import MAMLPlusPlus as MAMLPlusPlus
    from episodic.algorithms.matching_net import MatchingNet as MatchingNet
    from episodic.algorithms.melu import MeLU as MeLU
    from episodic.algorithms.meta_baseline import MetaBaseline as MetaBaseline
    from episodic.algorithms.meta_curvature import MetaCurvature as MetaCurvature
    from episodic.algorithms.meta_lstm import MetaLSTM as MetaLSTM
    from episodic.algorithms.meta_sgd import MetaSGD as MetaSGD
    from episodic.algorithms.metaoptnet import MetaOptNet as MetaOptNet
    from episodic.algorithms.protonet import ProtoNet as ProtoNet
    from episodic.algorithms.reptile import Reptile as Reptile
    from episodic.algorithms.ridge import RidgeRegression as RidgeRegression
    from episodic.algorithms.simpleshot import SimpleShot as SimpleShot
    from episodic.algorithms.tim import TIM as TIM
    from episodic.algorithms.transductive_finetune import (
        TransductiveFineTuning as TransductiveFineTuning,
    )
    from episodic.core.config import ConfigError as ConfigError
    from episodic.core.device import choose_device as choose_device
    from episodic.core.episode import Episode as Episode
    from episodic.core.errors import UserError as UserError
    from episodic.core.model import Model as Model
    from episodic.core.model import ModelSpec as ModelSpec
    from episodic.core.model import Params as Params
    from episodic.core.objective import Objective as Objective
    from episodic.core.registry import ALGORITHMS as ALGORITHMS
    from episodic.core.registry import DATASETS as DATASETS
    from episodic.core.registry import MODELS as MODELS
    from episodic.core.statistics import mean_ci95 as mean_ci95
    from episodic.data.augmentation import Augmentation as Augmentation
    from episodic.data.augmentation import AugmentedSampler as AugmentedSampler
    from episodic.data.augmentation import SupportAugmentation as SupportAugmentation
    from episodic.data.augmentation import TrainingAugmentation as TrainingAugmentation
    from episodic.data.sampling import ClassSampler as ClassSampler
    from episodic.data.sampling import Sampler as Sampler
    from episodic.data.sampling import SinusoidSampler as SinusoidSampler
    from episodic.data.sampling import TaskSampler as TaskSampler
    from episodic.data.varied_sampling import VariedClassSampler as VariedClassSampler
    from episodic.engine.learner import Algorithm as Algorithm
    from episodic.engine.learner import MetaLearner as MetaLearner
    from episodic.engine.outer import MetaGradient as MetaGradient
    from episodic.engine.outer import meta_gradient as meta_gradient
    from episodic.engine.plan import Plan as Plan
    from episodic.inference.adapted import AdaptedModel as AdaptedModel
    from episodic.inference.adapted_folder import load_adapted as load_adapted
    from episodic.inference.export import export_onnx as export_onnx
    from episodic.inference.export import export_torch as export_torch
    from episodic.inference.few_shot import FewShotEvaluation as FewShotEvaluation
    from episodic.inference.few_shot import FewShotLearner as FewShotLearner
    from episodic.inference.few_shot import load as load
    from episodic.inference.forgetting import Forgetting as Forgetting
    from episodic.inference.forgetting import measure_forgetting as measure_forgetting
    from episodic.inference.partial_finetune import PartialFineTuning as PartialFineTuning
    from episodic.inference.pretrained import from_encoder as from_encoder
    from episodic.inference.sklearn import FewShotClassifier as FewShotClassifier
    from episodic.models.bag import BagOfFeatures as BagOfFeatures
    from episodic.models.conv4 import Conv4 as Conv4
    from episodic.models.embeddings import Embeddings as Embeddings
    from episodic.models.mlp import MLP as MLP
    from episodic.models.module import TorchModule as TorchModule
    from episodic.models.resnet12 import ResNet12 as ResNet12
    from episodic.models.textcnn import TextCNN as TextCNN
    from episodic.models.wide_resnet import WideResNet as WideResNet
    from episodic.preprocessing.encoders.encoder import ImageEncoder as ImageEncoder
    from episodic.preprocessing.encoders.encoder import load_encoder as load_encoder
    from episodic.training.config import EvaluationConfig as EvaluationConfig
    from episodic.training.config import TrainingConfig as TrainingConfig
    from episodic.training.evaluation import Evaluation as Evaluation
    from episodic.training.evaluation import adapt as adapt
    from episodic.training.evaluation import adaptation_curve as adaptation_curve
    from episodic.training.evaluation import evaluate as evaluate
    from episodic.training.loop import DivergedError as DivergedError
    from episodic.training.loop import TrainingResult as TrainingResult
    from episodic.training.loop import train as train

__version__ = "0.1.0"

_MODULES = {
    "ALGORITHMS": "episodic.core.registry",
    "ANIL": "episodic.algorithms.anil",
    "AdaptedModel": "episodic.inference.adapted",
    "Algorithm": "episodic.engine.learner",
    "Augmentation": "episodic.data.augmentation",
    "AugmentedSampler": "episodic.data.augmentation",
    "BDCSPN": "episodic.algorithms.bd_cspn",
    "BOIL": "episodic.algorithms.boil",
    "BagOfFeatures": "episodic.models.bag",
    "BaselinePlusPlus": "episodic.algorithms.baseline_plus_plus",
    "ClassSampler": "episodic.data.sampling",
    "ConfigError": "episodic.core.config",
    "Conv4": "episodic.models.conv4",
    "DATASETS": "episodic.core.registry",
    "DivergedError": "episodic.training.loop",
    "Embeddings": "episodic.models.embeddings",
    "Episode": "episodic.core.episode",
    "Evaluation": "episodic.training.evaluation",
    "EvaluationConfig": "episodic.training.config",
    "FEAT": "episodic.algorithms.feat",
    "FOMAML": "episodic.algorithms.fomaml",
    "FewShotClassifier": "episodic.inference.sklearn",
    "FewShotEvaluation": "episodic.inference.few_shot",
    "FewShotLearner": "episodic.inference.few_shot",
    "Forgetting": "episodic.inference.forgetting",
    "FineTuning": "episodic.algorithms.finetune",
    "ImageEncoder": "episodic.preprocessing.encoders.encoder",
    "IMAML": "episodic.algorithms.imaml",
    "LogisticRegression": "episodic.algorithms.logistic",
    "LaplacianShot": "episodic.algorithms.laplacian_shot",
    "MAML": "episodic.algorithms.maml",
    "MAMLPlusPlus": "episodic.algorithms.maml_plus_plus",
    "MLP": "episodic.models.mlp",
    "MODELS": "episodic.core.registry",
    "MatchingNet": "episodic.algorithms.matching_net",
    "MeLU": "episodic.algorithms.melu",
    "MetaBaseline": "episodic.algorithms.meta_baseline",
    "MetaCurvature": "episodic.algorithms.meta_curvature",
    "MetaGradient": "episodic.engine.outer",
    "MetaLSTM": "episodic.algorithms.meta_lstm",
    "MetaLearner": "episodic.engine.learner",
    "MetaOptNet": "episodic.algorithms.metaoptnet",
    "MetaSGD": "episodic.algorithms.meta_sgd",
    "Model": "episodic.core.model",
    "ModelSpec": "episodic.core.model",
    "Objective": "episodic.core.objective",
    "Params": "episodic.core.model",
    "PartialFineTuning": "episodic.inference.partial_finetune",
    "Plan": "episodic.engine.plan",
    "ProtoNet": "episodic.algorithms.protonet",
    "Reptile": "episodic.algorithms.reptile",
    "ResNet12": "episodic.models.resnet12",
    "RidgeRegression": "episodic.algorithms.ridge",
    "Sampler": "episodic.data.sampling",
    "SimpleShot": "episodic.algorithms.simpleshot",
    "SinusoidSampler": "episodic.data.sampling",
    "SupportAugmentation": "episodic.data.augmentation",
    "TIM": "episodic.algorithms.tim",
    "TaskSampler": "episodic.data.sampling",
    "TextCNN": "episodic.models.textcnn",
    "TorchModule": "episodic.models.module",
    "TrainingAugmentation": "episodic.data.augmentation",
    "TrainingConfig": "episodic.training.config",
    "TrainingResult": "episodic.training.loop",
    "TransductiveFineTuning": "episodic.algorithms.transductive_finetune",
    "UserError": "episodic.core.errors",
    "VariedClassSampler": "episodic.data.varied_sampling",
    "WideResNet": "episodic.models.wide_resnet",
    "adapt": "episodic.training.evaluation",
    "adaptation_curve": "episodic.training.evaluation",
    "choose_device": "episodic.core.device",
    "evaluate": "episodic.training.evaluation",
    "export_onnx": "episodic.inference.export",
    "export_torch": "episodic.inference.export",
    "from_encoder": "episodic.inference.pretrained",
    "load": "episodic.inference.few_shot",
    "load_encoder": "episodic.preprocessing.encoders.encoder",
    "load_adapted": "episodic.inference.adapted_folder",
    "measure_forgetting": "episodic.inference.forgetting",
    "mean_ci95": "episodic.core.statistics",
    "meta_gradient": "episodic.engine.outer",
    "train": "episodic.training.loop",
}
"""The module of each public name."""

__all__ = [*_MODULES, "__version__"]


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
