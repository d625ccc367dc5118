"""The name that tells an installation from every other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.store.instance import INSTANCE_FILE, instance_id


def test_id_is_made_once(tmp_path: Path) -> None:
    """
    The first start makes an id, every other one finds it; another directory has another one.
    """
    first = instance_id(tmp_path, random_bytes=os.urandom)
    other = tmp_path / "other"
    other.mkdir()

    assert 16 == len(first)
    assert first == instance_id(tmp_path, random_bytes=os.urandom)
    assert first != instance_id(other, random_bytes=os.urandom)
    assert [INSTANCE_FILE, "other"] == sorted(path.name for path in tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "x", "0" * 15, "0" * 17, "Via: 1.1 evil\r\n", "\u00e9" * 16])
def test_file_that_holds_no_id_is_replaced(tmp_path: Path, content: str) -> None:
    """
    What is no id never reaches a header field.
    """
    (tmp_path / INSTANCE_FILE).write_text(content, "utf-8")

    made = instance_id(tmp_path, random_bytes=lambda count: b"\x0f" * count)

    assert "0f" * 8 == made == instance_id(tmp_path, random_bytes=os.urandom)
