"""docs/hub.md as printed, and model cards, by the clients of the Hugging Face hub; nothing is sent or fetched."""

import json
import re
import shutil
from pathlib import Path

import huggingface_hub
import keras
import numpy as np
import pytest
from safetensors.numpy import save_file

import tfvt
from tests.export.test_card import CARD
from tests.test_readme import torchvision_names
from tfvt.export.card import card_text

# keras-hub calls models that it has built on lists of inputs with a tensor, which Keras notes.
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore:[\\s\\S]*structure of `inputs`:UserWarning")]

PAGE = (Path(__file__).parent.parent.parent / "docs" / "hub.md").read_text(encoding="utf-8")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub as a folder: what is uploaded lies there, and is downloaded from there."""

    def create_repo(self, repo_id, **kwargs):
        (tmp_path / "hub" / repo_id).mkdir(parents=True, exist_ok=True)
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(self, *, repo_id, folder_path, **kwargs):
        shutil.copytree(folder_path, tmp_path / "hub" / repo_id, dirs_exist_ok=True)

    def snapshot_download(repo_id, **kwargs):
        return str(tmp_path / "hub" / repo_id)

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


def test_the_hub_parses_the_card(tmp_path):
    (tmp_path / "README.md").write_text(card_text(CARD, "served", "savedmodel"), encoding="utf-8")
    data = huggingface_hub.ModelCard.load(tmp_path / "README.md").data
    assert isinstance(data, huggingface_hub.ModelCardData)
    assert (data.license, data.library_name, data.pipeline_tag) == ("unknown", "keras", "image-classification")
    assert data.tags == ["tfvt", "vt_resnet18", "savedmodel"]
    assert [(r.metric_type, r.metric_name, r.metric_value) for r in data.eval_results] == [
        ("accuracy", "top1", 0.9725),
        ("top5", "top5", 1.0),
    ]
    assert {(r.dataset_name, r.dataset_split) for r in data.eval_results} == {("digits: 1", "validation")}


def test_keras_saves_to_the_hub_and_loads_from_it(hub):
    options = {"num_classes": 3, "input_shape": (64, 64, 3), "depths": (1,), "width": 8, "num_tokens": 4}
    model = tfvt.create_model("vt_resnet18", **options)
    model.save("hf://someone/tokens")
    assert (hub / "someone" / "tokens" / "model.weights.h5").is_file()
    loaded = keras.saving.load_model("hf://someone/tokens")
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype("float32")
    np.testing.assert_array_equal(loaded(images), model(images))


def test_every_block_runs_as_printed(hub):
    """One after the other. The page supposes a folder of timm, and an export."""
    folder = hub.parent / "downloads" / "resnet18"
    folder.mkdir(parents=True)
    save_file(torchvision_names(tfvt.create_model("resnet18")), folder / "model.safetensors")
    cfg = {"input_size": [3, 224, 224], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    config = {"architecture": "resnet18", "num_classes": 1000, "num_features": 512, "pretrained_cfg": cfg}
    (folder / "config.json").write_text(json.dumps(config))
    (hub.parent / "served").mkdir()
    (hub.parent / "served" / "README.md").write_text(card_text(CARD, "served", "savedmodel"))
    names = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(code, names)
    assert "```bash" not in PAGE
    assert names["own"].output_shape == (None, 2)
    assert names["tuned"].output_shape == (None, 10)
    assert names["report"].unused == ()
    np.testing.assert_array_equal(names["shared"].get_weights()[0], names["own"].get_weights()[0])
    assert (hub / "someone" / "served" / "README.md").is_file()
    assert set(names["backbone"].output) == {"P3", "P4", "P5", "P6", "P7"}
