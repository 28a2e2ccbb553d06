"""`episodic adapt --extend`, as users run it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from episodic.cli import app
from episodic.preprocessing.sentences.ngrams import fit_idf
from episodic.training import model_folder
from tests.episodic.algorithms.test_every_algorithm import sampler, trained
from tests.episodic.inference.test_few_shot import folder_of, tampered
from tests.episodic.inference.test_growing import content

NAMES = ("cat", "dog", "eel", "fox")
UNCALIBRATED = (
    "next: probabilities are not calibrated: the model was trained without train.calibration"
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A trained model adapted to two images of each of three classes, and other images."""
    folder = tmp_path_factory.mktemp("prepared")
    folder_of("protonet", folder / "run", theta=trained("protonet").theta)
    images = sampler("test").examples[-100:, 0].numpy()
    subsets = {
        "support": (("cat", "dog", "eel"), range(2)),
        "more": (("dog", "fox"), range(2, 5)),
        "test": (NAMES, range(5, 20)),
    }
    for subset, (names, numbers) in subsets.items():
        for name in names:
            (folder / subset / name).mkdir(parents=True)
            for i in numbers:
                path = folder / subset / name / f"{i}.png"
                Image.fromarray(255 - images[20 * NAMES.index(name) + i]).save(path)
    call(
        "adapt", *(str(folder / name) for name in ("run", "support")), "-o", str(folder / "adapted")
    )
    return folder


@pytest.fixture
def workspace(prepared, tmp_path, monkeypatch) -> Path:
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*args: str, code: int = 0) -> tuple[str, str]:
    """Standard output and standard error."""
    ended = CliRunner().invoke(app, list(args))
    assert ended.exit_code == code, ended.output
    if code == 1:
        assert not ended.stdout
        assert all(line.startswith("error: ") for line in ended.stderr.splitlines())
    return ended.stdout, ended.stderr


def test_a_folder_of_examples_is_added(workspace):
    out, notes = call("adapt", "--extend", "adapted", "more", "-o", "next")
    assert out.splitlines() == [
        "next: add dog 3, fox 3",
        "next: 4 classes, 12 examples (cat 2, dog 5, eel 2, fox 3)",
        UNCALIBRATED,
    ]
    assert notes == ""
    shutil.copytree("more", "support", dirs_exist_ok=True)
    call("adapt", "run", "support", "-o", "anew")
    assert content(Path("next")) == content(Path("anew"))
    info, _ = call("info", "next")
    lines = info.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("history"))
    first, second = lines[start : start + 2]
    assert first.startswith("history     adapt    cat 2, dog 2, eel 2, digest ")
    assert second.startswith("            add      dog 3, fox 3, digest ")


def test_the_folder_itself_is_replaced_and_known_examples_are_left_out(workspace):
    shutil.copytree("more", "support", dirs_exist_ok=True)
    out, notes = call("adapt", "--extend", "adapted", "support", "-o", "adapted")
    assert "12 examples" in out
    assert notes.startswith("note: 6 of 12 examples of support are in adapted already, with the")
    before = content(Path("adapted"))
    out, _ = call("adapt", "--extend", "adapted", "support", "-o", "adapted")
    assert out.splitlines()[0] == "adapted: 4 classes, 12 examples (cat 2, dog 5, eel 2, fox 3)"
    assert content(Path("adapted")) == before
    assert not [path for path in workspace.iterdir() if path.name.startswith(".")]


def test_classes_are_removed_and_labels_corrected(workspace):
    """Also a class that is replaced, whose examples get another label."""
    out, _ = call("adapt", "--extend", "adapted", "--remove", "eel", "--remove", "cat", "more",
                  "--correct", "support/eel/0.png=fox", "-o", "next")  # fmt: skip
    assert out.splitlines() == [
        "next: remove eel 2",
        "next: remove cat 2",
        "next: add dog 3, fox 3",
        "next: correct fox 1",
        "next: 2 classes, 9 examples (dog 5, fox 4)",
        UNCALIBRATED,
    ]
    shutil.move("support/cat/0.png", "support/dog/moved.png")
    shutil.rmtree("support/eel")
    out, _ = call("adapt", "--extend", "adapted", "--correct", "support", "-o", "next")
    assert out.splitlines()[0] == "next: correct dog 1 (was cat 1)"
    _, note = call("adapt", "--extend", "next", "--correct", "support", "-o", "next")
    assert note.startswith("note: support changes nothing: next has the right label already")


def test_the_name_of_a_class_may_contain_the_separator(workspace):
    Path("support/eel").rename("support/e=f")
    call("adapt", "run", "support", "-o", "adapted")
    correction = "support/cat/0.png=e=f"
    out, _ = call("adapt", "--extend", "adapted", "--correct", correction, "-o", "next")
    assert out.splitlines()[0] == "next: correct e=f 1 (was cat 1)"


def test_everything_is_labelled(workspace):
    out, note = call("suggest", "adapted", "support")
    assert (out, note) == ("", "note: nothing is suggested: all 6 examples are labelled already\n")


def test_what_one_example_takes_away_is_told(workspace):
    """A head on an encoder learns what is unknown from left-out examples."""
    from photographs import write_photographs

    write_photographs(Path("photos"), list("abcd"), 3)
    shutil.move("photos/d", "more_photos/d")
    for path in Path("more_photos/d").glob("[12].png"):
        path.unlink()
    call("adapt", "photos", "--encoder", "efficientnet_lite0", "-o", "head")
    out, note = call("adapt", "--extend", "head", "more_photos", "-o", "next")
    assert out.splitlines()[-1].startswith(
        "next: probabilities are not calibrated: a class has one"
    )
    assert "the model cannot detect unknown classes: a class has one example: add a second" in note
    result = json.loads(call("adapt", "--extend", "head", "more_photos", "-o", "n", "--json")[0])
    assert (result["calibrated"], result["unknown"]) == (False, False)


def test_what_old_classes_lose_is_measured(workspace):
    args = ("adapt", "--extend", "adapted", "more", "-o", "next", "--held-out", "test")
    out, _ = call(*args)
    assert "\naccuracy on 45 held-out examples of old classes: " in out and "95 % interval" in out
    assert "\n  fox  new " in out
    result = json.loads(call(*args, "--json")[0])
    held_out = result["held_out"]
    assert result["classes"] == {"cat": 2, "dog": 5, "eel": 2, "fox": 3}
    assert [change["action"] for change in result["changes"]] == ["add"]
    for model, key in (("adapted", "before"), ("next", "after")):
        lines, _ = call("predict", model, "test/cat", "--json")
        right = [json.loads(line)["label"] == "cat" for line in lines.splitlines()]
        assert held_out["classes"]["cat"][key] == sum(right) / 15
    assert held_out["change_low"] <= held_out["change"] <= held_out["change_high"]


def test_examples_of_the_model_are_not_held_out(workspace):
    args = ("adapt", "--extend", "adapted", "more", "-o", "next", "--held-out", "test")
    out, notes = call(*args)
    assert notes == ""
    for subset in ("support", "more"):  # those that the model has, and those that it gets
        shutil.copytree(subset, "test", dirs_exist_ok=True)
    again, notes = call(*args)
    assert again == out
    assert notes.startswith("note: 12 of 72 examples of test are not held out, since the model is")


def test_an_example_with_two_labels_is_refused(workspace):
    shutil.copy("support/cat/0.png", "support/dog/copy.png")
    _, error = call("adapt", "run", "support", "-o", "x", code=1)
    assert error == (
        "error: support/dog/copy.png, which support/cat/0.png is a copy of: it is an example of"
        " 'cat' and of 'dog': correct a label, or leave it out\n"
    )
    assert not Path("x").exists()


def test_gradient_methods_say_that_they_adapt_anew(workspace):
    folder_of("finetune", Path("finetune"))
    call("adapt", "finetune", "support", "-o", "tuned", "--steps", "3")
    _, notes = call("adapt", "--extend", "tuned", "more", "-o", "next")
    assert notes.startswith("note: finetune adapted anew to all 12 examples, from its meta-")
    shutil.copytree("more", "support", dirs_exist_ok=True)
    call("adapt", "finetune", "support", "-o", "anew", "--steps", "3")
    assert content(Path("next")) == content(Path("anew"))
    call("adapt", "--extend", "tuned", "more", "-o", "next", "--steps", "0")
    assert content(Path("next"))["config.json"]["adapted"]["steps"] == 0


def test_a_table_of_sentences(workspace):
    sentences = ["good morning", "hello you", "buy milk", "buy bread"]
    config = {
        "algorithm": {"name": "protonet"},
        "model": {"name": "bag"},
        "batch_norm": "transductive",
        "input": [256],
        "inputs": {"kind": "text", "features": "ngrams", "idf": fit_idf(sentences, 256)},
        "kind": "classification",
        "ways": 2,
        "shots": 1,
        "classes": 3,
    }
    model_folder.save(Path("text"), [model_folder.build_learner(config).init(0)], config)
    Path("a.csv").write_text("text,label\ngood morning,greet\nhello you,greet\nbuy milk,shop\n")
    Path("b.csv").write_text("text,label\nhow are you,ask\n")
    call("adapt", "text", "a.csv", "-o", "words")
    long = "buy bread and milk " * 20
    out, _ = call("adapt", "--extend", "words", "b.csv", "-o", "words", "--correct",
                  f"{long}=shop", "--correct", "hello you=ask")  # fmt: skip
    assert out.splitlines() == [
        "words: add ask 1",
        "words: correct shop 1",
        "words: correct ask 1 (was greet 1)",
        "words: 3 classes, 5 examples (ask 2, greet 1, shop 2)",
        UNCALIBRATED.replace("next", "words"),
    ]
    listed, _ = call("predict", "words", "b.csv", "--json")  # the column text, without the header
    assert [json.loads(line)["text"] for line in listed.splitlines()] == ["how are you"]
    Path("c.csv").write_text("how are you\n")
    assert "c.csv has no column text" in call("predict", "words", "c.csv", code=1)[1]


def test_errors_are_one_line_and_leave_no_output(workspace):
    folder_of("maml", Path("maml"))
    Path("empty/fox").mkdir(parents=True)
    shutil.copytree("support/cat", "wrong/dog")
    shutil.copytree("adapted", "old")
    tampered(Path("old"), lambda c: c["adapted"].pop("history"))
    for args, message in (
        (("adapted",), "--extend needs examples to add, --remove or --correct"),
        (("run", "more"), "is a model that is not adapted to a task yet"),
        (("old", "more"), "since an earlier version wrote its folder: adapt the trained model to"),
        (("adapted", "run", "more"), "--extend takes one folder of examples and no --head"),
        (("adapted", "more", "--head", "ridge"), "and no --head: adapted has its model and its"),
        (("adapted", "empty"), "empty/fox has 0 images"),
        (("adapted", "nowhere"), "nowhere does not exist"),
        (("adapted", "wrong"), "wrong/dog/0.png: it is an example of 'cat' already, not of 'dog'"),
        (("adapted", "--remove", "cot"), "no class 'cot'; its classes are cat, dog, eel - did you"),
        (("adapted", "--remove", "cat", "--remove", "dog"), "only 'eel' would be left"),
        (("adapted", "--correct", "more/dog/2.png=dok"), "no class 'dok'; its classes are cat"),
        (("adapted", "--correct", "no.png=dog"), "no.png cannot be read: No such file"),
        (("adapted", "--correct", "no.png"), "--correct is 'no.png'; it must be EXAMPLE=LABEL"),
        (("adapted", "more", "--held-out", "more/dog"), "has no folders, only 3 images"),
        (("adapted", "more", "--held-out", "more"), "is adapted to all examples of more: hold out"),
        (("adapted", "more", "--steps", "3"), "steps is 3; it must be omitted"),
    ):
        _, error = call("adapt", "--extend", *args, "-o", "x", code=1)
        assert message in error, args
        assert not Path("x").exists()
    _, error = call("adapt", "run", "support", "-o", "x", "--remove", "cat", code=1)
    assert "--remove, --correct, --held-out and --json need --extend ADAPTED" in error
    _, error = call("adapt", "-o", "x", code=1)
    assert error.startswith("error: specify MODEL and SUPPORT, or only SUPPORT with --encoder")
    _, error = call("adapt", "--extend", "adapted", "more", "-o", "support", code=1)
    assert "support exists and is not an adapted model" in error


def test_an_interrupted_replacement_keeps_the_old_folder(workspace, monkeypatch):
    before = content(Path("adapted"))
    rename = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if self.name.endswith(".part"):
            raise OSError(5, "Input/output error", str(target))
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    call("adapt", "--extend", "adapted", "more", "-o", "adapted", code=1)
    assert content(Path("adapted")) == before
