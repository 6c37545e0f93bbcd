import pytest
from record_files import write_records


@pytest.fixture
def records(tmp_path):
    """23 records in four shards, one of them empty."""
    return write_records(tmp_path, (7, 0, 11, 5))
