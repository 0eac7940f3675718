"""MODELS_FILE: what does not work is refused in one line."""

import pytest

from app.catalog import configured
from app.errors import SettingsError
from app.settings import load


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"models: [{id: a, read_timeout: 2026-02-30}]", "line 1 has a value that cannot be"),
        (b"models:\n  - id: a\n   engine: echo\n", "line 3 is no YAML"),
        (b"models: [\xff\xfe]", "is no YAML"),
        (b"models: a", "no list `models`"),
        (b"models: [{id: a}]", "no host"),
    ],
)
def test_a_file_that_does_not_work_is_refused_in_one_line(tmp_path, content, fault):
    path = tmp_path / "models.yaml"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"^MODELS_FILE: .*for example") as refused:
        configured(load({"MODELS_FILE": str(path)}))
    assert fault in str(refused.value)
    assert "\n" not in str(refused.value)
