"""Graphviz draws what the report gives it. It is a process, and so no unit test."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from osvtriage.model.errors import MissingRequirement, OsvtriageError
from osvtriage.model.lists import ListNode, ListsSnapshot
from osvtriage.report.lists import dot, svg

USED, CACHE, ELEMENT = (f"{address:016x}" for address in (0x10, 0x30, 0x4AC0))
JOINED = ListsSnapshot(
    used=USED,
    cache=CACHE,
    user=None,
    in_flight=None,
    lock=0,
    nodes=(
        ListNode(USED, USED, USED),
        ListNode(CACHE, ELEMENT, ELEMENT),
        ListNode(ELEMENT, CACHE, USED, 0),
    ),
)


def test_a_picture_is_drawn() -> None:
    picture = ElementTree.fromstring(svg(dot({"child": JOINED})))
    assert picture.tag.endswith("svg")
    words = {text for one in picture.iter() if (text := (one.text or "").strip())}
    assert {"child", "stack_used", "stack_cache", "4ac0", "(free)", "prev: JOINED"} <= words


def test_what_is_no_graph_is_refused_with_dots_own_words() -> None:
    with pytest.raises(OsvtriageError, match="syntax error"):
        svg("no graph")


def test_without_graphviz_the_package_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingRequirement, match="dot was not found") as caught:
        svg(dot({"child": JOINED}))
    assert "apt-get install --no-install-recommends graphviz" in (caught.value.hint or "")
