"""What these files import stands in the environment of `make test-parity` alone: no other run opens them."""


def pytest_ignore_collect(collection_path, config):
    expression = config.option.markexpr
    return (collection_path.suffix == ".py" and ("parity" not in expression or "not parity" in expression)) or None
