"""Signatures: what makes crashes equal, and what does not."""

from __future__ import annotations

from osvtriage.model.crash import Crash, crash_signature, most_telling
from osvtriage.model.event import Frame, road


def frames(*functions: str, entered: str | None = None) -> list[Frame]:
    found = [Frame(f"{at:016x}", name, at) for at, name in enumerate(functions)]
    return found + ([Frame("", kind=entered, note="")] if entered else [])


def test_it_is_the_road_where_all_functions_tell_something() -> None:
    found = frames("f", "g", "h", entered="system call")
    assert crash_signature("page fault", found) == f"crash:page fault:{road(found)}"
    assert crash_signature("page fault", found) == "crash:page fault:f<g<h<?:system-call"


def test_addresses_offsets_and_what_the_compiler_appends_do_not_count() -> None:
    one = [Frame("ffffffff81000000", "f.cold", 4), Frame("ffffffff81000010", "g.part.0", 8)]
    two = [Frame("ffffffffb5000000", "f", 0x40), Frame("ffffffffb5000010", "g.isra.0", 0x80)]
    assert crash_signature("x", one) == crash_signature("x", two) == "crash:x:f<g"


def test_functions_that_only_report_are_left_out_where_they_are_innermost() -> None:
    reported = frames("dump_stack_lvl", "panic", "f", "g")
    assert crash_signature("x", reported) == "crash:x:f<g"
    # Farther out they are part of the road.
    assert crash_signature("x", frames("f", "panic")) == "crash:x:f<panic"
    # Better them than nothing.
    assert crash_signature("x", frames("dump_stack", "panic")) == "crash:x:dump_stack<panic"


def test_the_processors_choice_of_a_variant_does_not_count() -> None:
    signatures = {
        crash_signature("x", frames(name, "f"))
        for name in ("memset_erms", "memset_orig", "__memcpy", "copy_user_generic_string")
    }
    assert signatures == {"crash:x:f"}
    assert crash_signature("x", frames("memory::free", "f")) == "crash:x:memory::free<f"


def test_a_recursion_counts_once_however_deep() -> None:
    shallow, deep = frames("f", "f", "g"), frames(*["f"] * 100, "g")
    assert crash_signature("x", shallow) == crash_signature("x", deep) == "crash:x:f<g"


def test_the_way_in_counts_also_behind_the_functions_that_are_shown() -> None:
    many = frames(*"abcdefgh", entered="interrupt")
    assert crash_signature("x", many) == "crash:x:a<b<c<d<e:interrupt"


def test_where_a_walk_could_not_be_followed_is_left_out() -> None:
    unsure = [*frames("f"), Frame("", kind="unsure", note="no table")]
    assert crash_signature("x", unsure) == "crash:x:f"


def test_nothing_known() -> None:
    assert crash_signature("x", []) == "crash:x:"


def test_the_first_fatal_crash_tells_most() -> None:
    warning = Crash("linux", "warning", "warning", "w", 1)
    oops = Crash("linux", "oops", "page fault", "p", 2, fatal=True)
    later = Crash("linux", "oops", "page fault", "q", 3, fatal=True)
    assert most_telling([warning, oops, later]) is oops
    assert most_telling([warning]) is warning
    assert most_telling([]) is None
