"""Where REDIS_URL leads."""

import pytest

from app.config.settings import load_settings
from app.errors import SettingsError
from app.stores.factory import make_store
from app.stores.memory import MemoryStore


def test_without_one_all_is_in_the_process() -> None:
    assert type(make_store(load_settings({}))) is MemoryStore


@pytest.mark.parametrize(
    "url", ["localhost:6379", "redis://localhost:notaport/0", "http://localhost"]
)
def test_one_that_is_none_is_refused_as_every_setting_is(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^REDIS_URL: .*for example"):
        make_store(load_settings({"REDIS_URL": url, "BOOTSTRAP_SERVERS": "127.0.0.1:1"}))
