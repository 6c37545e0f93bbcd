"""Files for tests on object stores."""


def upload(local, folder):
    """A folder of this machine, copied into a store."""
    for path in sorted(path for path in local.rglob("*") if path.is_file()):
        target = folder / path.relative_to(local).as_posix()
        target.parent.mkdir()
        target.upload(path)
    return folder
