"""Package mapping: the folders beside `tfvt/` in the repository install as its subpackages.

`trainers`, `configs` and `tfrecords_tools` would be too generic as top-level names in site-packages.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

BESIDE = ("trainers", "configs", "tfrecords_tools")

packages = find_packages(include=["tfvt", "tfvt.*"])
package_dir = {"tfvt": "tfvt"}
for folder in BESIDE:
    package_dir[f"tfvt.{folder}"] = folder
    packages.append(f"tfvt.{folder}")
    packages += [f"tfvt.{folder}.{name}" for name in find_packages(folder)]

# The description on PyPI stands alone: links and pictures that lead into the repository become their text there.
readme = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
readme = re.sub(r"!?\[([^\]]+)\]\((?!https?:)[^)]+\)", r"\1", readme)

setup(
    long_description=readme,
    long_description_content_type="text/markdown",
    packages=packages,
    package_dir=package_dir,
    py_modules=["tfvt_cli"],
    include_package_data=False,  # only what the next line names
    package_data={"tfvt": ["py.typed"], "tfvt.configs": ["*.yaml"], "tfvt.tfrecords_tools": ["layouts/*.yaml"]},
)
