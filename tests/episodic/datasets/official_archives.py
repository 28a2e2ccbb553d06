"""Small archives of exactly the layout of the official ones, with a colour per class."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from episodic.datasets.aircraft import Aircraft
from episodic.datasets.cub import CUB
from episodic.datasets.dtd import DTD
from episodic.datasets.eurosat import EuroSAT
from episodic.datasets.fungi import Fungi
from episodic.datasets.sources.class_table import ClassRow, read_class_table
from episodic.datasets.traffic_signs import TrafficSigns
from episodic.datasets.vgg_flower import VGGFlower

Files = dict[str, bytes]
PER_CLASS = 2


def colour_of(number: int, image: int) -> tuple[int, int, int]:
    """A colour per class, with the image in blue, that JPEG does not confuse."""
    return (number % 40) * 6, (number // 40) * 6, image * 100


def encode(colour: tuple[int, int, int], format: str = "JPEG", size: tuple[int, int] = (48, 32)):
    file = io.BytesIO()
    options = {"quality": 95} if format == "JPEG" else {}
    Image.new("RGB", size, colour).save(file, format, **options)
    return file.getvalue()


def images_of(classes: list[ClassRow]) -> Iterator[tuple[int, int, ClassRow]]:
    """Number of the class, number of the image, and class, in an order that is not sorted."""
    for image in reversed(range(PER_CLASS)):
        for number in reversed(range(len(classes))):
            yield number, image, classes[number]


def write_cub(classes: list[ClassRow]) -> dict[str, Files]:
    files = {"attributes.txt": b"1 has_bill_shape", "CUB_200_2011/images.txt": b"1 a.jpg"}
    for number, image, c in images_of(classes):
        species = c.name.split(".")[1]
        name = f"CUB_200_2011/images/{c.name}/{species}_{image:04d}_{number}.jpg"
        files[name] = encode(colour_of(number, image))
        files[f"CUB_200_2011/images/{c.name}/._{species}.jpg"] = b"a file of another system"
    return {"CUB_200_2011.tgz": files}


def write_aircraft(classes: list[ClassRow]) -> dict[str, Files]:
    folder = "fgvc-aircraft-2013b/data"
    files, lists, boxes = {"fgvc-aircraft-2013b/README": b"text"}, {"trainval": [], "test": []}, []
    for i, (number, image, c) in enumerate(images_of(classes)):
        # The aircraft is in the middle; around it is another colour, as the line of text is.
        pixels = np.full((48, 64, 3), 255, np.uint8)
        pixels[16:32, 16:48] = colour_of(number, image)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=0)
        # Names are sorted as the images of a class are numbered.
        name = f"{1_000_000 * image + i:07d}"
        files[f"{folder}/images/{name}.jpg"] = file.getvalue()
        lists["test" if image else "trainval"].append(f"{name} {c.name}")
        boxes.append(f"{name} 17 17 48 32")
    files |= {
        f"{folder}/images_variant_{part}.txt": "\n".join([*lines, ""]).encode()
        for part, lines in lists.items()
    }
    files[f"{folder}/images_box.txt"] = "\n".join([*boxes, ""]).encode()
    files[f"{folder}/images_family_test.txt"] = b"0000000 Boeing 737\n"
    return {"fgvc-aircraft-2013b.tar.gz": files}


def write_dtd(classes: list[ClassRow]) -> dict[str, Files]:
    files = {"dtd/labels/train1.txt": b"banded/banded_0002.jpg\n"}
    for number, image, c in images_of(classes):
        files[f"dtd/images/{c.name}/{c.name}_{image:04d}.jpg"] = encode(colour_of(number, image))
    files["dtd/images/waffled/.directory"] = b"[Dolphin]"
    return {"dtd-r1.0.1.tar.gz": files}


def write_vgg_flower(classes: list[ClassRow]) -> dict[str, Files]:
    from scipy.io import savemat

    files, labels = {}, []
    for i, (number, image, _) in enumerate(sorted(images_of(classes), key=lambda row: row[1])):
        files[f"jpg/image_{i + 1:05d}.jpg"] = encode(colour_of(number, image))
        labels.append(number + 1)
    file = io.BytesIO()
    savemat(file, {"labels": np.array([labels], np.uint8)})
    # The header of 116 bytes contains the time.
    content = b"MATLAB 5.0 MAT-file".ljust(116) + file.getvalue()[116:]
    return {"102flowers.tgz": files, "imagelabels.mat": {"imagelabels.mat": content}}


def write_fungi(classes: list[ClassRow]) -> dict[str, Files]:
    files, parts = {}, {"train.json": [], "val.json": []}
    for number, image, c in images_of(classes):
        category, species = c.name.split(".", 1)
        name = f"images/{int(category)}_{species.replace(' ', '_')}/{image}.JPG"
        files[name] = encode(colour_of(number, image))
        parts["val.json" if image else "train.json"].append((name, int(category)))
    annotations = {}
    for part, rows in parts.items():
        start = 500_000 if part == "val.json" else 0
        content = {
            "images": [{"id": start + i, "file_name": name} for i, (name, _) in enumerate(rows)],
            "categories": [{"id": int(c.name[:4]), "name": c.name[5:]} for c in classes],
            "annotations": [
                {"id": i, "image_id": start + i, "category_id": category}
                for i, (_, category) in enumerate(rows)
            ][::-1],
        }
        annotations[part] = json.dumps(content).encode()
    return {"fungi_train_val.tgz": files, "train_val_annotations.tgz": annotations}


def write_traffic_signs(classes: list[ClassRow]) -> dict[str, Files]:
    folder = "GTSRB/Final_Training/Images"
    files = {"GTSRB/Readme-Images.txt": b"text"}
    for number, image, c in images_of(classes):
        sign = f"{folder}/{int(c.name[:2]):05d}"
        files[f"{sign}/{image:05d}_00029.ppm"] = encode(colour_of(number, image), "PPM")
        files[f"{sign}/GT-{int(c.name[:2]):05d}.csv"] = b"Filename;Width;Height\n"
    return {"GTSRB_Final_Training_Images.zip": files}


def write_eurosat(classes: list[ClassRow]) -> dict[str, Files]:
    files = {}
    for number, image, c in images_of(classes):
        files[f"2750/{c.name}/{c.name}_{image + 1}.jpg"] = encode(colour_of(number, image))
    return {"EuroSAT.zip": files}


PHOTOGRAPHS: dict[type, Callable[[list[ClassRow]], dict[str, Files]]] = {
    CUB: write_cub,
    Aircraft: write_aircraft,
    DTD: write_dtd,
    VGGFlower: write_vgg_flower,
    Fungi: write_fungi,
    TrafficSigns: write_traffic_signs,
    EuroSAT: write_eurosat,
}


def read_small_table(name: str) -> list[ClassRow]:
    """The classes of a dataset, with two images each."""
    return [c._replace(examples=PER_CLASS) for c in read_class_table(name)]


def pack(path: Path, files: Files) -> Path:
    """Write an archive, or the only file, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.mkdir(next(iter(files)).split("/")[0])
            for name, content in files.items():
                archive.writestr(name, content)
    elif path.suffix in (".tgz", ".gz"):
        with tarfile.open(path, "w:gz", compresslevel=1) as archive:
            folder = tarfile.TarInfo("./" + next(iter(files)).split("/")[0])
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
            for i, (name, content) in enumerate(files.items()):
                member = tarfile.TarInfo(f"./{name}" if i % 2 else name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    else:
        (content,) = files.values()
        path.write_bytes(content)
    return path


def unpack(folder: Path, archives: dict[str, Files]) -> Path:
    """Write the files of all archives to a folder, and return it."""
    for files in archives.values():
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    return folder


def digest(path: Path, length: int) -> str:
    """MD5 for a length of 32 digits, SHA-256 for 64."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, {32: "md5", 64: "sha256"}[length]).hexdigest()
