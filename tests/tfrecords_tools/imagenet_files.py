"""ImageNet in miniature, in the layout in which it is distributed."""

import io
import tarfile
from pathlib import Path

import numpy as np
from image_files import encode, picture
from scipy.io import savemat

SYNSETS = {
    "n01440764": "tench, Tinca tinca",
    "n01443537": "goldfish, Carassius auratus",
    "n01484850": "great white shark",
}
IDS = {3: "n01440764", 1: "n01443537", 2: "n01484850"}  # not in the order of the synsets
VALIDATION_IDS = (2, 3, 1, 1, 2, 3)
VALIDATION_LABELS = (2, 0, 1, 1, 2, 0)


def tar(members) -> bytes:
    """An uncompressed tar of (name, bytes) pairs."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def train_images() -> dict[str, dict[str, bytes]]:
    """Synset -> file name -> bytes; among them a PNG and a CMYK JPEG that their names call JPEG."""
    images = {
        synset: {f"{synset}_{index}.JPEG": encode(picture(10 * label + index)) for index in range(4)}
        for label, synset in enumerate(SYNSETS)
    }
    images["n01484850"]["n01484850_2.JPEG"] = encode(picture(50), "PNG")
    ink = np.dstack([picture(51), picture(52)[..., 0]])
    images["n01443537"]["n01443537_1.JPEG"] = encode(ink, mode="CMYK")
    return images


def validation_images() -> dict[str, bytes]:
    return {f"ILSVRC2012_val_{n:08d}.JPEG": encode(picture(100 + n)) for n in range(1, len(VALIDATION_IDS) + 1)}


def unlabelled_images() -> dict[str, bytes]:
    return {f"ILSVRC2012_test_{n:08d}.JPEG": encode(picture(200 + n)) for n in (1, 2)}


def devkit_files() -> dict[str, bytes]:
    """The two files of the development kit that matter, with an inner node of the hierarchy among the classes."""
    rows = [(number, synset, SYNSETS[synset], 0) for number, synset in sorted(IDS.items())]
    rows.append((4, "n01439121", "cyprinid, cyprinid fish", 2))
    fields = [("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("words", "O"), ("num_children", "f8")]
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, fields).reshape(-1, 1)})
    ids = "".join(f"{number}\n" for number in VALIDATION_IDS)
    return {"data/meta.mat": meta.getvalue(), "data/ILSVRC2012_validation_ground_truth.txt": ids.encode()}


def write_devkit(folder):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in devkit_files().items():
            info = tarfile.TarInfo(f"ILSVRC2012_devkit_t12/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    Path(folder, "ILSVRC2012_devkit_t12.tar.gz").write_bytes(packed.getvalue())


def write_tars(folder) -> Path:
    """The downloads: train, validation and test tars and the development kit."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    class_tars = [(f"{synset}.tar", tar(files.items())) for synset, files in train_images().items()]
    (folder / "ILSVRC2012_img_train.tar").write_bytes(tar(class_tars))
    (folder / "ILSVRC2012_img_val.tar").write_bytes(tar(validation_images().items()))
    tests = [(f"test/{name}", content) for name, content in unlabelled_images().items()]
    (folder / "ILSVRC2012_img_test_v10102019.tar").write_bytes(tar(tests))
    write_devkit(folder)
    return folder


def write_folders(folder) -> Path:
    """The same, unpacked."""
    folder = Path(folder)
    files = {f"train/{synset}/{name}": data for synset, found in train_images().items() for name, data in found.items()}
    files |= {f"val/{name}": data for name, data in validation_images().items()}
    files |= {f"test/{name}": data for name, data in unlabelled_images().items()}
    files |= {f"ILSVRC2012_devkit_t12/{name}": data for name, data in devkit_files().items()}
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder
