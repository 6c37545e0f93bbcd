"""docs/training.md: a program that loads `final.keras` runs as printed, and the import that it tells of is needed."""

import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np

import tests.contracts as contracts
import tfvt

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")

WITHOUT_IMPORT = """
import keras
try:
    keras.models.load_model("runs/digits/final.keras")
except TypeError as error:
    assert "Could not locate class 'BatchNormalization'" in str(error), error
else:
    raise AssertionError("the file loads without tfvt: the page can say so")
"""


def test_final_keras_loads_as_printed(tmp_path):
    model = tfvt.create_model(
        "vt_resnet18", input_shape=(32, 32, 3), num_classes=3, width=8, depths=(1,), token_dim=16, output_channels=16
    )
    (tmp_path / "runs" / "digits").mkdir(parents=True)
    model.save(tmp_path / "runs" / "digits" / "final.keras")
    images = contracts.random_images((2, 32, 32, 3))
    np.save(tmp_path / "images.npy", images)
    (block,) = re.findall(r"```python\n(.*?load_model.*?)```", PAGE, flags=re.DOTALL)
    apply = "import numpy as np\nlogits = keras.ops.convert_to_numpy(model(np.load('images.npy')))\n"
    code = "\n".join([WITHOUT_IMPORT, block, apply, "np.save('logits.npy', logits)"])
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), keras.ops.convert_to_numpy(model(images)))
