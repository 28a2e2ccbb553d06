"""FGVCx Fungi: photographs of 1,394 species of fungi."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le

from episodic.datasets.sources.archives import Archive
from episodic.datasets.sources.class_table import ClassRow
from episodic.datasets.sources.photographs import Photographs

__all__ = ["Fungi"]

ADDRESS = "https://labs.gbif.org/fgvcx/2018"
ANNOTATIONS = ("train.json", "val.json")


@dataclass(frozen=True)
class Fungi(Photographs):
    """89,760 photographs of 1,394 species of fungi, 994 / 200 / 200 classes.

    A species has 6 to 442 photographs. The images of the official training and validation parts are
    merged, as in Meta-Dataset.

    Args:
        features: How images are encoded.
        size: Height and width to which images are resized.
        min_images: Classes with fewer images are left out.

    Brigit Schroeder, Yin Cui: FGVCx Fungi Classification Challenge, 2018.
    https://github.com/visipedia/fgvcx_fungi_comp
    """

    min_images: Annotated[int, Ge(1), Le(200)] = 1

    license = (
        "FGVCx Fungi 2018, https://github.com/visipedia/fgvcx_fungi_comp, Danish Svampe Atlas, for "
        "non-commercial research and education; not redistributable."
    )
    name = "fungi"
    archives = (
        Archive(
            "fungi_train_val.tgz",
            f"{ADDRESS}/fungi_train_val.tgz",
            "df2b2980835668ed1d9a0e286e4bdadd",
            16 << 30,
        ),
        Archive(
            "train_val_annotations.tgz",
            f"{ADDRESS}/train_val_annotations.tgz",
            "c3c0f1b8a8d0b60619c43d9c89bdbc7e",
            64 << 20,
        ),
    )
    image_pattern = r"images/.+\.(?i:jpe?g)"
    label_files = ANNOTATIONS

    def list_classes(self) -> list[ClassRow]:
        return [c for c in super().list_classes() if c.examples >= self.min_images]

    def find_classes(self, files: dict[str, bytes]) -> Callable[[str], str]:
        category_of: dict[str, int] = {}
        for file in ANNOTATIONS:
            content = json.loads(files[file])
            categories = {a["image_id"]: a["category_id"] for a in content["annotations"]}
            category_of |= {
                image["file_name"]: categories[image["id"]] for image in content["images"]
            }
        # Two species have the same name, so the names of the table begin with the number.
        names = {int(c.name[:4]): c.name for c in super().list_classes()}
        return lambda name: names[category_of[name]]
