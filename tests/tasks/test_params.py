"""Each error message about params.yaml states the key, its value and the valid values."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys

import films
import pytest
from support import ROOT

from episodic.core.registry import ALGORITHMS, DATASETS
from episodic.datasets.cifar_fs import CifarFS
from tasks import params, preset
from tasks.experiments import lock
from tasks.params import renames
from tasks.runtime.stage import StageError
from tests.episodic.datasets.test_image_folder import drawn

GOOD = params.read_yaml(ROOT / "params.yaml")
DATA_SETS = ", ".join(sorted(DATASETS))
METHODS = ", ".join(sorted(ALGORITHMS))


def changed(**values):
    raw = copy.deepcopy(GOOD)
    for path, value in values.items():
        *sections, key = path.split("__")
        node = raw
        for section in sections:
            node = node[section]
        node[key] = value
    return raw


FAULTS = [
    ({"trian": {}}, "unknown key trian - did you mean train?"),
    ({"train__iteration": 5}, "unknown key train.iteration - did you mean iterations?"),
    ({"train__iterations": "many"}, "train.iterations is 'many'; it must be a whole number"),
    ({"train__iterations": 1.5}, "train.iterations is 1.5; it must be a whole number"),
    ({"train__iterations": True}, "train.iterations is True; it must be a whole number"),
    ({"train__iterations": 0}, "train.iterations is 0; it must be at least 1"),
    ({"train__meta_lr": "1e-3x"}, "train.meta_lr is '1e-3x'; it must be a number"),
    ({"train__meta_lr": -1}, "train.meta_lr is -1; it must be greater than 0"),
    (
        {"train__schedule": "cosin"},
        "train.schedule is 'cosin'; it must be constant, cosine or linear",
    ),
    (
        {"train__gradient_clip": 0},
        "train.gradient_clip is 0; it must be greater than 0",
    ),
    (
        {"train__classes": 4},
        "train.classes is 4; it must be null or between 5 and 1090, the number of training "
        "classes of glyphs",
    ),
    ({"train__classes": 0}, "train.classes is 0; it must be at least 1"),
    ({"train__groups": []}, "train.groups is []; it must not be empty"),
    ({"train__groups": "Latin"}, "train.groups is 'Latin'; it must be a list"),
    (
        {"dataset__name": "cifar_fs", "train__groups": ["fish", "treees"]},
        "train.groups contains 'treees', which has no training classes; choose from "
        f"{', '.join(sorted(CifarFS().limits(0).groups['train']))} - did you mean trees?",
    ),
    (
        {"train__groups": ["alphabet-000"], "train__classes": 1000},
        "train.classes is 1000; it must be null or between 5 and 39, the number of classes of "
        "train.groups",
    ),
    (
        {
            "train__groups": ["alphabet-000", "alphabet-008"],
            "train__within_group": True,
            "episodes__ways": 41,
        },
        "episodes.ways is 41; it must be at most 40, the train classes of the largest of "
        "train.groups, with train.within_group",
    ),
    (
        {
            "dataset__name": "clinc150",
            "model__name": "bag",
            "algorithm__name": "protonet",
            "train__ways": 60,
            "train__hard_episode_fraction": 0.5,
        },
        "train.hard_episode_fraction is 0.5; it must be 0 with at most 120 training classes (2 x "
        "ways), here 75",
    ),
    (
        {"train__ways": [3, 5]},
        "train.ways is [3, 5]; it must be null or episodes.ways (5) for maml, whose head has one "
        "output per class",
    ),
    (
        {"algorithm__name": "protonet", "train__ways": [1, 5]},
        "train.ways is [1, 5]; it must be null or at least 2 for glyphs",
    ),
    (
        {"algorithm__name": "protonet", "train__ways": [5, 2000]},
        "train.ways is [5, 2000]; it must be at most 1090, the number of train classes of glyphs",
    ),
    (
        {"train__shots": [1, 16]},
        "train.shots + train.queries is 16 + 5 = 21; it must be at most 20, the examples per class "
        "of glyphs",
    ),
    ({"train__shots": [5, 1]}, "train.shots is [5, 1]; it must be in ascending order"),
    ({"train__shots": [5]}, "train.shots is [5]; it must have 2 items"),
    ({"train__shots": [1, 2, 3]}, "train.shots is [1, 2, 3]; it must have at most 2 items"),
    ({"train__shots": [1, "x"]}, "train.shots.1 is 'x'; it must be a whole number"),
    ({"train__shots": "x"}, "train.shots is 'x'; it must be a whole number"),
    ({"train__seed": [1]}, "train.seed is [1]; it must be a whole number"),
    (
        {"train__unbalanced": True},
        "train.unbalanced is true; it must be false unless shots has bounds, such as [1, 10]",
    ),
    (
        {
            "dataset__name": "movielens",
            "model__name": "embeddings",
            "episodes__ways": 1,
            "train__shots": [1, 5],
        },
        "train.shots is [1, 5]; it must be a number or null for movielens, which has no classes; "
        "set train.vary_shots",
    ),
    (
        {"episodes__ways": [5, 20]},
        "episodes.ways is [5, 20]; it must be a number for maml, whose head has one output per "
        "class",
    ),
    (
        {"algorithm__name": "protonet", "episodes__ways": [1, 5]},
        "episodes.ways is [1, 5]; it must be at least 2 for glyphs",
    ),
    (
        {"algorithm__name": "protonet", "episodes__ways": [5, 2000], "train__ways": 5},
        "episodes.ways is [5, 2000]; it must be at most 153, the number of validation classes of "
        "glyphs\nparams.yaml: episodes.ways is [5, 2000]; it must be at most 276, the number of "
        "test classes of glyphs",
    ),
    (
        {"episodes__shots": [1, 16], "train__shots": 1},
        "episodes.shots + episodes.queries is 16 + 5 = 21; it must be at most 20, the examples per "
        "class of glyphs",
    ),
    ({"episodes__shots": [5, 1]}, "episodes.shots is [5, 1]; it must be in ascending order"),
    (
        {"episodes__unbalanced": True},
        "episodes.unbalanced is true; it must be false unless shots has bounds, such as [1, 10]",
    ),
    (
        {"episodes__shots": [1, 5], "episodes__query_balance": 2.0},
        "episodes.query_balance is 2.0; it must be null if ways or shots has bounds",
    ),
    (
        {"episodes__shots": [1, 5], "evaluate__augmentation": {"copies": 2, "flip": 0.5}},
        "evaluate.augmentation.copies is 2; it must be 0 if episodes.ways or episodes.shots has "
        "bounds",
    ),
    (
        {
            "dataset__name": "sinusoid",
            "model__name": "mlp",
            "episodes__ways": 1,
            "episodes__shots": [5, 10],
        },
        "episodes.shots is [5, 10]; it must be a number for sinusoid, which has no classes",
    ),
    (
        {"dataset__name": "sinusoid", "model__name": "mlp", "episodes__ways": [1, 5]},
        "episodes.ways is [1, 5]; it must be 1 for sinusoid, which has no classes",
    ),
    (
        {"train__augmentation": {"hue": 0.1}},
        "train.augmentation.hue is 0.1; it must be 0 for grey images, such as those of glyphs",
    ),
    (
        {
            "dataset__name": "clinc150",
            "model__name": "bag",
            "train__augmentation": {"flip": 0.5},
            "evaluate__augmentation": {"copies": 1, "crop": [0.5, 1]},
        },
        "train.augmentation.flip is 0.5; it must be 0 for examples that are not images, such as "
        "those of clinc150\nparams.yaml: evaluate.augmentation.crop is [0.5, 1.0]; it must be null "
        "for examples that are not images, such as those of clinc150",
    ),
    (
        {
            "dataset__name": "sinusoid",
            "model__name": "mlp",
            "episodes__ways": 1,
            "train__augmentation": {"contrast": 0.5},
        },
        "train.augmentation.contrast is 0.5; it must be 0 for examples that are not images, such "
        "as those of sinusoid",
    ),
    (
        {"train__augmentation": {"crop": [0.9, 0.2]}},
        "train.augmentation.crop is [0.9, 0.2]; it must be in ascending order",
    ),
    (
        {"train__augmentation": {"crop": 0.5}},
        "train.augmentation.crop is 0.5; it must be a list",
    ),
    (
        {"train__augmentation": {"crop": [0.5]}},
        "train.augmentation.crop is [0.5]; it must have 2 items",
    ),
    (
        {"train__augmentation": {"flips": 0.5}},
        "unknown key train.augmentation.flips - did you mean flip?",
    ),
    (
        {"evaluate__augmentation": {"copies": 3}},
        "evaluate.augmentation.copies is 3; it must be 0 unless a transformation, such as crop, is "
        "set",
    ),
    (
        {"train__hard_episode_fraction": 1.5},
        "train.hard_episode_fraction is 1.5; it must be at most 1",
    ),
    (
        {"train__hard_episode_fraction": 0.5, "train__within_group": True},
        "train.hard_episode_fraction is 0.5; it must be 0 if within_group is set",
    ),
    (
        {
            "dataset__name": "sinusoid",
            "model__name": "mlp",
            "episodes__ways": 1,
            "train__hard_episode_fraction": 0.5,
        },
        "train.hard_episode_fraction is 0.5; it must be 0 for sinusoid, which has no classes",
    ),
    (
        {
            "dataset__name": "sinusoid",
            "model__name": "mlp",
            "episodes__ways": 1,
            "train__groups": ["a"],
        },
        "train.groups is ['a']; it must be null for sinusoid, which has no classes",
    ),
    (
        {"dataset__name": "mini_imagenet", "train__groups": ["a"]},
        "train.groups is ['a']; it must be null for mini_imagenet, whose classes have no groups",
    ),
    ({"train__patience": "x"}, "train.patience is 'x'; it must be a whole number"),
    ({"train__plan__shard": 0}, "train.plan.shard is 0; it must be at least 1"),
    ({"train__plan__shard": "x"}, "train.plan.shard is 'x'; it must be a whole number"),
    (
        {"train__plan__mode": "fast"},
        "train.plan.mode is 'fast'; it must be auto, batched, per_task or compiled",
    ),
    (
        {"train__plan__mode": "per_task", "train__plan__shard": 4},
        "train.plan.mode is 'per_task'; it requires shard: 1 and query_tasks: 1 (or null)",
    ),
    ({"train__plan__shrad": 2}, "unknown key train.plan.shrad - did you mean shard?"),
    ({"train__plan": 3}, "train.plan is 3; it must be a section of keys"),
    ({"processes": 0}, "processes is 0; it must be at least 1"),
    ({"processes": "two"}, "processes is 'two'; it must be a whole number"),
    ({"train": 3}, "train is 3; it must be a section of keys"),
    ({"device": "gpu"}, "device is 'gpu'; it must be auto, cpu, cuda or mps"),
    (
        {"dataset__name": "omniglott"},
        f"dataset.name is 'omniglott'; it must be one of {DATA_SETS} - did you mean omniglot?",
    ),
    ({"dataset__nam": "x"}, "unknown key dataset.nam - did you mean name?"),
    ({"dataset__seed": "one"}, "dataset.seed is 'one'; it must be a whole number"),
    ({"dataset__seed": -1}, "dataset.seed is -1; it must be at least 0"),
    ({"episodes__seed": -1}, "episodes.seed is -1; it must be at least 0"),
    ({"train__seed": -1}, "train.seed is -1; it must be at least 0"),
    ({"train__meta_lr": float("inf")}, "train.meta_lr is inf; it must be at most 1e+06"),
    ({"dataset__glyphs": False}, "dataset.glyphs is False; it must be a section of keys"),
    (
        {"dataset__omniglot": {"spilt": "maml"}},
        "unknown key dataset.omniglot.spilt - did you mean split?",
    ),
    (
        {"dataset__name": "omniglot", "dataset__omniglot": {"size": 106}},
        "dataset.omniglot.size is 106; it must be at most 105",
    ),
    (
        {"train__augmentation": {"elastic": 1.5}},
        "train.augmentation.elastic is 1.5; it must be at most 1",
    ),
    (
        {"evaluate__augmentation": {"dihedral": True}},
        "unknown key evaluate.augmentation.dihedral",
    ),
    (
        {"train__augmentation": {"dihedral": True}, "algorithm__name": "finetune"},
        "train.augmentation.dihedral is true; it must be false for finetune, which is trained to "
        "tell all training classes apart",
    ),
    (
        {"model__conv4__downsample": "max_pool", "model__conv4__blocks": 6},
        "model.conv4.blocks is 6; it must be fewer for images of 28 x 28 pixels",
    ),
    (
        {"dataset__glyphs": {"alphabet": 9}},
        "unknown key dataset.glyphs.alphabet - did you mean alphabets?",
    ),
    (
        {"dataset__glyphs": {"alphabets": 2}},
        "dataset.glyphs.alphabets is 2; it must be at least 5",
    ),
    (
        {"model__conv4__downsample": "pool"},
        "model.conv4.downsample is 'pool'; it must be stride or max_pool",
    ),
    (
        {"model__name": "mlp", "model__mlp": {"hidden": 64}},
        "model.mlp.hidden is 64; it must be a list",
    ),
    (
        {"model__name": "mlp", "model__mlp": {"hidden": ["a"]}},
        "model.mlp.hidden.0 is 'a'; it must be a whole number",
    ),
    (
        {"algorithm__name": "mamal"},
        f"algorithm.name is 'mamal'; it must be one of {METHODS} - did you mean maml?",
    ),
    (
        {"algorithm__maml__inner_lr": -0.4},
        "algorithm.maml.inner_lr is -0.4; it must be greater than 0",
    ),
    ({"episodes__ways": 0}, "episodes.ways is 0; it must be at least 1"),
    ({"episodes__ways": 1}, "episodes.ways is 1; it must be at least 2 for glyphs"),
    (
        {"episodes__queries": 20},
        "episodes.shots + episodes.queries is 1 + 20 = 21; it must be at most 20, the examples "
        "per class of glyphs",
    ),
    (
        {"train__queries": 20},
        "episodes.shots + train.queries is 1 + 20 = 21; it must be at most 20, the examples per "
        "class of glyphs",
    ),
    ({"evaluate__steps": 1001}, "evaluate.steps is 1001; it must be at most 1000"),
    (
        {"train__ways": 1, "algorithm__name": "protonet"},
        "train.ways is 1; it must be null or at least 2 for glyphs",
    ),
    (
        {"train__ways": 7},
        "train.ways is 7; it must be null or episodes.ways (5) for maml, whose head has one "
        "output per class",
    ),
    (
        {"train__shots": 18},
        "train.shots + train.queries is 18 + 5 = 23; it must be at most 20, the examples per "
        "class of glyphs",
    ),
    (
        {"train__ensemble": 6},
        "train.ensemble is 6; it must be at most 5, the number of validations in 450 iterations "
        "with one every 90",
    ),
    ({"episodes__query_balance": 0}, "episodes.query_balance is 0; it must be greater than 0"),
    (
        {
            "episodes__query_balance": 2.0,
            "dataset__name": "sinusoid",
            "episodes__ways": 1,
            "model__name": "mlp",
        },
        "episodes.query_balance is 2.0; it must be null for sinusoid, which has no classes",
    ),
    (
        {
            "episodes__within_group": True,
            "dataset__name": "mini_imagenet",
            "model__conv4__filters": 8,
        },
        "episodes.within_group is true; it must be false for mini_imagenet, whose classes have no "
        "groups",
    ),
    (
        {"train__within_group": True, "episodes__ways": 6, "dataset__name": "cifar_fs"},
        "episodes.ways is 6; it must be at most 5, the train classes of the largest group of "
        "cifar_fs, with train.within_group",
    ),
    ({"report__title": 5}, "report.title is 5; it must be text"),
    ({"dataset__source": ""}, "dataset.source is ''; it must not be empty"),
    (
        {"dataset__ratings__split_fractions": [0.5, 0.5, 0.5]},
        "dataset.ratings.split_fractions is [0.5, 0.5, 0.5]; it must be three numbers that add up "
        "to 1",
    ),
    (
        {"dataset__name": "clinc150"},
        "model.name is 'conv4'; it must be bag, mlp or module for clinc150, whose examples are "
        "features of sentences",
    ),
    (
        {"model__name": "bag"},
        "model.name is 'bag'; it must be conv4, mlp, module, resnet12 or wide_resnet for glyphs, "
        "whose examples are images",
    ),
    (
        {
            "dataset__name": "clinc150",
            "dataset__clinc150__features__kind": "tokens",
            "dataset__clinc150__features__size": 10000,
            "model__name": "textcnn",
        },
        "model.textcnn.tokens is 8192; it must be at least dataset.clinc150.features.size (10000)",
    ),
    (
        {
            "dataset__name": "movielens",
            "dataset__movielens__tokens": 10000,
            "model__name": "embeddings",
            "episodes__ways": 1,
        },
        "model.embeddings.tokens is 4096; it must be at least dataset.movielens.tokens (10000)",
    ),
    (
        {"dataset__name": "movielens", "model__name": "embeddings", "episodes__ways": 1}
        | {"episodes__shots": 30},
        "episodes.shots is 30; it must be below dataset.movielens.min_ratings (30)",
    ),
    # What would exhaust the memory, or wait for ever.
    ({"processes": 100000}, "processes is 100000; it must be at most 1024"),
    (
        {"model__conv4__filters": 100000000},
        "model.conv4.filters is 100000000; it must be at most 4096",
    ),
    (
        {"model__conv4__blocks": 9},
        "model.conv4.blocks is 9; it must be fewer for images of 28 x 28 pixels",
    ),
    ({"episodes__test": 10**11}, f"episodes.test is {10**11}; it must be at most 1000000"),
    *(
        (
            {f"{section}__seed": 10**22},
            f"{section}.seed is {10**22}; it must be at most {2**63 - 1}",
        )
        for section in ("dataset", "episodes", "train")
    ),
]


@pytest.mark.parametrize(
    ("values", "message"), FAULTS, ids=[message.split(";")[0][:50] for _, message in FAULTS]
)
def test_invalid_values_raise_the_expected_error(values, message):
    with pytest.raises(StageError) as caught:
        params.parse(changed(**values))
    assert str(caught.value) == f"params.yaml: {message}"


def test_an_empty_section_has_its_defaults():
    for values in ({"train__plan": None}, {"train": None}, {"algorithm__maml": None}):
        assert params.parse(changed(**values)).train.plan.mode == "auto"


def test_every_error_is_listed():
    with pytest.raises(StageError) as caught:
        params.parse(changed(train__iterations=0, episodes__wais=5, device="tpu"))
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize("name", ["glyphs", "omniglot"])
def test_more_ways_than_classes(name):
    with pytest.raises(
        StageError,
        match=rf"episodes.ways is 5000; it must be at most \d+, the number of validation classes "
        rf"of {name}",
    ):
        params.parse(changed(episodes__ways=5000, dataset__name=name))


def test_sinusoid_has_one_way_and_no_images():
    with pytest.raises(StageError) as caught:
        params.parse(changed(dataset__name="sinusoid"))
    assert [line.split(" is ")[0] for line in str(caught.value).splitlines()] == [
        "params.yaml: episodes.ways",
        "params.yaml: model.name",
    ]


def test_numbers_are_read_as_yaml_1_2(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text((ROOT / "params.yaml").read_text().replace("meta_lr: 0.002", "meta_lr: 1e-3"))
    assert params.load(file, "train").train.meta_lr == 0.001


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [", "is not valid YAML"),
        ("a: 1\na: 2", "is not valid YAML.*duplicate key"),
        ("- 1", "must contain sections"),
        ("", "must contain sections"),
    ],
)
def test_invalid_params_files_are_rejected(tmp_path, text, message):
    file = tmp_path / "params.yaml"
    file.write_text(text)
    with pytest.raises(StageError, match=message):
        params.load(file, "train")


def test_a_stage_checks_the_whole_file_but_imports_its_own_sections_only(tmp_path):
    file = tmp_path / "params.yaml"
    program = (
        "import sys; from pathlib import Path; from tasks import params;"
        "params.load(Path(sys.argv[1]), 'dataset');"
        "print(sorted(m for m in sys.modules if m.startswith('episodic.')))"
    )
    file.write_text((ROOT / "params.yaml").read_text())
    result = subprocess.run(
        [sys.executable, "-c", program, file], cwd=ROOT, capture_output=True, text=True
    )
    assert (
        "episodic.datasets.glyphs" in result.stdout
        and "episodic.training.config" not in result.stdout
    ), result.stderr
    file.write_text(re.sub("iterations: .*", "iterations: -1", (ROOT / "params.yaml").read_text()))
    result = subprocess.run(
        [sys.executable, "-c", program, file], cwd=ROOT, capture_output=True, text=True
    )
    assert (
        result.returncode == 1 and "train.iterations is -1; it must be at least 1" in result.stderr
    )


def test_params_yaml_is_the_defaults():
    """Presets start from the defaults, which must therefore equal the committed file."""
    defaults = params.default_params()

    def without_tuples(value):
        return [without_tuples(v) for v in value] if isinstance(value, (list, tuple)) else value

    def flat(tree, path=""):
        result = {}
        for key, value in tree.items():
            result |= (
                flat(value, f"{path}{key}.")
                if isinstance(value, dict)
                else {f"{path}{key}": without_tuples(value)}
            )
        return result

    assert flat(GOOD) == flat(defaults)


def test_every_key_of_params_yaml_is_commented():
    values = [
        line
        for line in (ROOT / "params.yaml").read_text().splitlines()
        if re.match(r" *\w+: *[^# ]", line)
    ]
    assert len(values) > 35
    assert [line for line in values if "#" not in line] == []


def write_sentences_csv(folder):
    """A CSV of 25 labels with ten sentences each."""
    lines = [f"sentence {i} about {label},label {label}" for label in range(25) for i in range(10)]
    (folder / "said.csv").write_text("\n".join(["text,label", *lines]))
    return folder / "said.csv"


def write_source(name, folder):
    """Write the user data that a preset needs and return its path, or None."""
    sources = {
        "image_folder": lambda: drawn(folder / "own", [f"class {i}" for i in range(25)], 12),
        "movielens": lambda: films.write_ml_100k(folder / "own", min_ratings=31),
        "own_photos": lambda: drawn(folder / "own", [f"class {i}" for i in range(25)], 12),
        "ratings": lambda: films.write_csv(folder / "own", min_ratings=31),
        "text_folder": lambda: write_sentences_csv(folder),
    }
    return str(sources[name]()) if name in sources else None


@pytest.mark.parametrize("name", preset.list_presets())
def test_presets_apply_and_keep_comments(tmp_path, name):
    file = tmp_path / "params.yaml"
    original = (ROOT / "params.yaml").read_text()
    file.write_text(original)
    changes = preset.apply_preset(name, file, write_source(name, tmp_path))
    settings = params.parse(params.read_yaml(file))
    assert bool(changes) == (name != "default")
    for line, before in zip(file.read_text().splitlines(), original.splitlines(), strict=True):
        assert line.split("#")[1:] == before.split("#")[1:], "comments are kept"
    if name == "omniglot_20w1s":
        assert (
            settings.episodes.ways,
            settings.algorithm.config.inner_lr,
            settings.algorithm.config.inner_steps,
        ) == (20, 0.1, 5)
        assert (settings.train.meta_batch, settings.train.iterations) == (16, 60000)
    preset.apply_preset("default", file)
    assert file.read_text() == original, "the round trip is exact"


def test_unsuitable_user_data_is_an_error(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text((ROOT / "params.yaml").read_text())
    with pytest.raises(
        StageError,
        match=r"put your data there, or set it with python -m tasks.preset image_folder --source "
        r"PATH",
    ):
        preset.apply_preset("image_folder", file)
    assert file.read_text() == (ROOT / "params.yaml").read_text()
    source = drawn(tmp_path / "own", [f"class {i}" for i in range(10)], 10)
    for more in sorted((source / "class 3").iterdir())[3:]:
        more.unlink()
    with pytest.raises(StageError) as caught:
        preset.apply_preset("image_folder", file, str(source))
    message = str(caught.value)
    assert "must be at most 2, the number of validation classes of image_folder" in message
    assert "the examples per class of image_folder (class 3)" in message
    assert f"source: {source}" in file.read_text() and "name: image_folder" in file.read_text()


def test_presets_hold_only_what_differs():
    def check(values, base, path):
        for key, value in values.items():
            if isinstance(value, dict):
                check(value, base[key], f"{path}.{key}")
            else:
                default = base[key]
                same = (list(default) if isinstance(default, tuple) else default) == value
                assert not same, f"{path}.{key} is the default"

    for name in preset.list_presets()[1:]:
        check(params.read_yaml(preset.PRESETS / f"{name}.yaml"), params.default_params(), name)


@pytest.mark.parametrize("text", ["", "- 1", "train: ["])
def test_a_broken_params_file_is_rejected_and_unchanged(tmp_path, text):
    file = tmp_path / "params.yaml"
    file.write_text(text)
    with pytest.raises(StageError, match=r"must contain sections|is not valid YAML"):
        preset.apply_preset("tiny", file)
    assert file.read_text() == text


def test_an_unknown_preset_changes_nothing(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text((ROOT / "params.yaml").read_text())
    result = subprocess.run(
        [sys.executable, "-m", "tasks.preset", "omniglot_quik", "--params", file],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (
        result.returncode == 1
        and "did you mean omniglot_quick?" in result.stderr
        and "Traceback" not in result.stderr
    )
    assert file.read_text() == (ROOT / "params.yaml").read_text()


def test_own_data_in_its_default_place_is_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = {"dataset__name": "image_folder", "dataset__image_folder__size": 16}
    (tmp_path / "data" / "own").mkdir(parents=True)
    (tmp_path / "data" / "own" / ".gitignore").write_text("*\n")
    with pytest.raises(StageError, match=r"dataset.source is data/own, which is empty: put your"):
        params.parse(changed(**values))
    drawn(tmp_path / "data" / "own", [f"class {i}" for i in range(25)], 12)
    assert str(params.parse(changed(**values)).dataset.user_data) == "data/own"


def test_the_default_paths_of_earlier_versions_name_no_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    earlier = {"dataset__source": "data/README.md"}
    earlier |= {"dataset__clinc150__features__path": "data/README.md"}
    for name in ("glyphs", "movielens"):
        model = {"glyphs": {}, "movielens": {"model__name": "embeddings", "episodes__ways": 1}}
        settings = params.parse(changed(**earlier, **model[name], dataset__name=name))
        assert settings.dataset.user_data is None


EARLIER = {
    "train": {"hard": 0.5},
    "dataset": {
        "source": "data/README.md",
        "ratings": {"least": 7, "shares": [0.5, 0.25, 0.25]},
        "image_folder": {"shares": [0.5, 0.25, 0.25]},
    },
}
"""Keys of params.yaml by the names of an earlier version."""

PRESENT = {
    "train": {"hard_episode_fraction": 0.5},
    "dataset": {
        "source": "data/own",
        "ratings": {"min_ratings": 7, "split_fractions": [0.5, 0.25, 0.25]},
        "image_folder": {"split_fractions": [0.5, 0.25, 0.25]},
    },
}


def with_earlier_names():
    """params.yaml of an earlier version."""
    raw = copy.deepcopy(GOOD)
    for old, new in renames.RENAMED.items():
        *sections, key = old.split(".")
        node = raw
        for section in sections:
            node = node[section]
        node[key] = node.pop(new)
    params.merge_into(raw, copy.deepcopy(EARLIER))
    return raw


def test_keys_of_an_earlier_version_work_with_a_warning(tmp_path, capfd):
    earlier, present = with_earlier_names(), copy.deepcopy(GOOD)
    params.merge_into(present, copy.deepcopy(PRESENT))
    file = tmp_path / "params.yaml"
    file.write_text(json.dumps(earlier))
    settings = params.load(file, "train")
    assert settings.train.hard_episode_fraction == 0.5 and settings.raw == present
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == len(renames.RENAMED)
    warning = "train.hard has been renamed to train.hard_episode_fraction; use the new name"
    assert lines[0] == f"warning: {file}: {warning}"
    file.write_text(json.dumps(present))
    params.load(file, "train")
    assert capfd.readouterr().err == ""


def test_key_with_both_names_is_an_error():
    with pytest.raises(StageError) as caught:
        params.parse(changed(train__hard=0.5))
    assert str(caught.value) == (
        "params.yaml: train.hard has been renamed to train.hard_episode_fraction, and both are "
        "present; remove train.hard"
    )


def test_every_renamed_key_exists():
    for old, new in renames.RENAMED.items():
        *sections, _ = old.split(".")
        node = GOOD
        for section in sections:
            node = node[section]
        assert new in node


def test_a_preset_renames_the_keys_of_an_earlier_version(tmp_path):
    file = tmp_path / "params.yaml"
    original = (ROOT / "params.yaml").read_text()
    earlier = original.replace("  hard_episode_fraction: 0.0 #", "  hard: 0.0 #")
    assert earlier != original
    file.write_text(earlier)
    changes = preset.apply_preset("default", file)
    assert changes == ["train.hard -> train.hard_episode_fraction"]
    assert file.read_text() == original


def test_experiments_of_an_earlier_version_have_the_keys_of_today():
    recorded = {"params.yaml": {"train": {"hard": 0.5}, "dataset.ratings": {"least": 7}}}
    late = {"params.yaml": {"train": {"hard_episode_fraction": 0.25}}}
    stages = {"report": {"params": recorded}, "train": {"params": late}}
    assert lock.read_params(stages) == {
        "train": {"hard_episode_fraction": 0.25},
        "dataset": {"ratings": {"min_ratings": 7}},
    }
