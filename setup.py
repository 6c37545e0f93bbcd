"""Package mapping: the folders beside `tfvt/` in the repository install as its subpackages.

`trainers`, `configs` and `tfrecords_tools` would be too generic as top-level names in site-packages.
"""

from setuptools import find_packages, setup

BESIDE = ("trainers", "configs", "tfrecords_tools")

packages = find_packages(include=["tfvt", "tfvt.*"])
package_dir = {"tfvt": "tfvt"}
for folder in BESIDE:
    package_dir[f"tfvt.{folder}"] = folder
    packages.append(f"tfvt.{folder}")
    packages += [f"tfvt.{folder}.{name}" for name in find_packages(folder)]

setup(
    packages=packages,
    package_dir=package_dir,
    py_modules=["tfvt_cli"],
    package_data={"tfvt": ["py.typed"], "tfvt.configs": ["*.yaml"], "tfvt.tfrecords_tools": ["layouts/*.yaml"]},
)
