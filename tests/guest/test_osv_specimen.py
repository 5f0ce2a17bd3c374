"""The recipe osv-syscall-fpu on the specimen: what each of its switches must be found to be.

The specimen is a small guest of our own with OSv's names (tests/specimens/osv). What holds on a
real OSv is tested in test_osv_real.py.
"""

from __future__ import annotations

import json
import re
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import osv_specimen
import pytest
from harness import Command, Places, Result

from osvtriage.arch import X86_64
from osvtriage.guest.programs import find_gdb
from osvtriage.images.record import Stamp
from osvtriage.recipe.shipped import recipes_directory
from osvtriage.trial.record import RunRecord

Start = Callable[..., Command]
Run = Callable[..., Result]

RECIPE = "osv-syscall-fpu"
SETUP, FREE = "setup_large_syscall_stack", "free_tiny_syscall_stack"
smps = pytest.mark.parametrize("smp", [1, 2])


@pytest.fixture(scope="session")
def specimen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The specimen's kernel."""
    return osv_specimen.build(tmp_path_factory.mktemp("specimen"))


@pytest.fixture
def osv(command: Start, specimen: Path) -> Run:
    """Run osvtriage with the specimen as the image `specimen`."""
    added = ["images", "add", "specimen", "--system", "osv", "--kernel", specimen]
    done = command(*added, "--append", "--threads=8").wait()
    assert done.status == 0, done.err

    def run(*arguments: str | Path) -> Result:
        return command(*arguments, "--image", "specimen").wait()

    return run


@pytest.fixture
def switched(osv: Run, tmp_path: Path) -> Run:
    """Run the shipped recipe with a variant that gives the specimen the switches."""

    def run(*switches: str, options: tuple[str, ...] = (), edit: tuple[str, str] = ("", "")) -> Any:
        recipe = (recipes_directory() / f"{RECIPE}.toml").read_text()
        if edit[0]:
            assert edit[0] in recipe
            recipe = recipe.replace(*edit)
        path = tmp_path / "switched.toml"
        path.write_text(
            f'{recipe}\n[[variant]]\nname = "switched"\ntitle = "{" ".join(switches)}"\n'
            f'expect = "clean"\narguments = {json.dumps(switches)}\n'
        )
        result = osv("run", path, "--variant", "switched", *options)
        assert result.record, result.err
        return result

    return run


def findings(result: Result, check: str) -> list[dict[str, Any]]:
    return [one for one in result.record["findings"] if one["check"] == check]


def measures(result: Result) -> dict[str, int]:
    (check,) = [one for one in result.record["checks"] if one["check"] == "stack-bounds"]
    return dict(check["measures"])


@pytest.mark.parametrize("engine", ["gdb", "plugin"])
@smps
def test_all_controls_hold(osv: Run, plugin_qemu: Path, smp: int, engine: str) -> None:
    options = ["--engine", engine] + (["--qemu", str(plugin_qemu)] if engine == "plugin" else [])
    result = osv("verify", RECIPE, "--smp", str(smp), "--json", *options)
    report = json.loads(result.out)
    verdicts = {one["variant"]: (one["verdict"], one["reason"]) for one in report["controls"]}
    assert {name: verdict for name, (verdict, _) in verdicts.items()} == {
        "specimen-xmm0": "reproduced",
        "specimen-all": "reproduced",
        "specimen-sticky": "reproduced",
        "specimen-overflow": "reproduced",
        "specimen-panic": "inconclusive",
        "specimen-fixed": "clean",
    }, verdicts
    assert result.status == 0
    for control in report["controls"]:
        record = json.loads((Path(control["record"]) / "run.json").read_bytes())
        jsonschema.validate(record, RunRecord.json_schema())
        assert record["engine"] == engine


def test_both_engines_find_the_same(switched: Run, plugin_qemu: Path) -> None:
    """Also who wrote over whose registers, which is told by who was inside at the same time."""
    kinds = []
    for engine in ("gdb", "plugin"):
        options = ("--smp", "2", "--engine", engine, "--qemu", str(plugin_qemu))
        result = switched("--clobber=xmm0", "--overflow", options=options)
        kinds.append(
            {
                "titles": {one["title"] for one in result.record["findings"]},
                "signatures": {one["signature"] for one in result.record["findings"]},
                "measures": measures(result),
            }
        )
    assert kinds[0] == kinds[1]


@smps
def test_a_clobbered_register_is_named_with_both_values(switched: Run, smp: int) -> None:
    result = switched("--clobber=xmm0", options=("--smp", str(smp)))
    found = findings(result, "fpu-preserved")
    assert (result.status, len(found)) == (1, 8), result.reason
    for finding in found:
        assert finding["title"] == f"xmm0 changed in {SETUP}"
        assert list(finding["expected"]) == ["xmm0"]
        # The specimen loads a pattern of its own and clobbers with two pointers of its heap.
        assert finding["expected"]["xmm0"].startswith("5ec1")
        assert re.fullmatch(r"(0{8}41[0-9a-f]{6}){2}", finding["seen"]["xmm0"])
        functions = [frame["function"] for frame in finding["backtrace"]]
        assert functions[:2] == [SETUP, "syscall_entry"]
        assert finding["backtrace"][2]["kind"] == "system call"
    assert len({finding["task"]["pid"] for finding in found}) == 8
    assert result.record["agreement"] == "agree"


def test_all_threads_are_listed_with_where_they_are(switched: Run) -> None:
    result = switched("--clobber=xmm0")
    threads = findings(result, "fpu-preserved")[-1]["threads"]
    names = [thread["name"] for thread in threads]
    assert any(name.startswith("worker-") for name in names), names
    assert all(thread["backtrace"] for thread in threads)
    running = [thread for thread in threads if thread["status"] == "running"]
    assert [thread["backtrace"][0].partition("+")[0] for thread in running] == ["syscall_entry"]
    waiting = [thread for thread in threads if thread["status"] != "running"]
    assert all(thread["backtrace"][-1].startswith("thread_main+") for thread in waiting), waiting


def test_another_threads_state_is_recognised(switched: Run) -> None:
    result = switched("--clobber=all")
    found = findings(result, "fpu-preserved")
    assert found
    for finding in found:
        assert "the FPU holds the state of thread" in finding["title"]
        owner = finding["evidence"]["whose state"]
        assert owner["pid"] != finding["task"]["pid"]
        assert {"xmm0", "xmm15", "st0", "st7"} <= set(finding["seen"])


@pytest.mark.parametrize(
    ("switch", "kind", "register"),
    [
        ("sticky", "only sticky flags changed", "mxcsr"),
        ("control", "control or status bits changed", "mxcsr"),
        ("ftw", "tags changed, no value did", "ftw"),
    ],
)
def test_bits_that_are_no_values_are_told_apart(
    switched: Run, switch: str, kind: str, register: str
) -> None:
    result = switched(f"--clobber={switch}")
    found = findings(result, "fpu-preserved")
    assert (result.status, len(found)) == (1, 8), result.reason
    assert {finding["evidence"]["class"] for finding in found} == {kind}
    assert {name for finding in found for name in finding["expected"]} == {register}


@smps
def test_an_overflow_across_a_gap_is_caught_and_explains_the_crash(switched: Run, smp: int) -> None:
    result = switched("--overflow", options=("--smp", str(smp)))
    assert result.status == 1, result.reason
    (overwritten,) = findings(result, "stack-bounds")
    assert "wrote 24 bytes below its 1024-byte stack" in overwritten["title"]
    ((address, value),) = overwritten["seen"].items()
    assert int(value, 16) == 6
    assert measures(result)["stack size"] == 1024

    (crash,) = findings(result, "crash")
    assert crash["shows_bug"]
    assert crash["signature"].startswith("crash:page fault:")
    cause = crash["evidence"]["overwritten"]
    assert (cause["address"], cause["after"]) == (address, value)
    assert cause["of"]["pid"] == crash["task"]["pid"] == overwritten["evidence"]["victim"]["pid"]
    assert cause["by"]["pid"] == overwritten["task"]["pid"] != cause["of"]["pid"]
    assert int(crash["evidence"]["registers"]["rip"], 16) == 6
    assert int(crash["evidence"]["fault address"], 16) == 6
    kinds = [(frame["kind"], frame["function"]) for frame in crash["backtrace"]]
    fault = kinds.index(("exception", None))
    assert kinds[fault - 2 : fault] == [("call", "page_fault"), ("call", "ex_pf")]
    assert crash["backtrace"][fault]["note"] == "page fault (instruction fetch, not present)"
    assert crash["threads"]


@pytest.mark.parametrize("switches", [("--overflow=dead",), ("--fixed", "--overflow")])
def test_bytes_below_that_belong_to_nobody_are_no_damage(
    switched: Run, switches: tuple[str, ...]
) -> None:
    result = switched(*switches)
    assert findings(result, "stack-bounds") == []
    assert findings(result, "crash") == []
    assert 0 < measures(result)["high-water mark"] < 1024


def test_the_state_that_is_saved_is_clean(switched: Run) -> None:
    result = switched("--fixed", "--clobber=all")
    assert (result.status, result.record["verdict"]) == (0, "clean"), result.reason
    hits = {probe["name"]: probe["hits"] for probe in result.record["probes"]}
    assert (hits[SETUP], hits[FREE]) == (8, 8)
    (paint,) = result.record["interventions"]
    assert paint["stimulus"] == "paint"


@pytest.mark.parametrize(
    ("crash", "signature", "words"),
    [
        ("null", "crash:page fault:application::thread_body", "page fault"),
        ("gp", "crash:general protection:application::thread_body", "general protection"),
        ("assert", "crash:abort:", "Assertion failed"),
    ],
)
def test_a_guest_that_dies_is_a_finding_and_no_time_out(
    switched: Run, crash: str, signature: str, words: str
) -> None:
    result = switched(f"--crash={crash}")
    assert (result.status, result.record["verdict"]) == (125, "inconclusive")
    (finding,) = findings(result, "crash")
    assert not finding["shows_bug"]
    assert finding["signature"].startswith(signature)
    assert words in result.reason
    assert finding["threads"]


def test_the_instruction_that_clobbers_is_named(switched: Run) -> None:
    result = switched("--clobber=xmm0", options=("--pinpoint", "xmm0"))
    found = result.record["pinpoint"]
    first = found["backtrace"][0]
    assert first["function"] == "memory::page_range_allocator::alloc"
    assert "xmm0" in found["instruction"]
    callers = [frame["function"] for frame in found["backtrace"]]
    assert callers[1] == "malloc"
    assert "syscall_entry" in callers
    assert found["before"] != found["after"]
    assert "masks interrupts" in found["note"]
    # The passage that was stepped counts like the others.
    assert len(findings(result, "fpu-preserved")) == 8


def test_both_engines_name_the_same_instruction(switched: Run, plugin_qemu: Path) -> None:
    """The plugin does not step: interrupts come meanwhile, and the other vCPU runs on."""
    found = []
    # gdb does not follow a thread from one vCPU to another.
    for engine, smp in (("gdb", 1), ("plugin", 1), ("plugin", 2)):
        options = ("--pinpoint", "xmm0", "--engine", engine, "--qemu", str(plugin_qemu))
        record = switched("--clobber=xmm0", options=(*options, "--smp", str(smp))).record
        assert record["engine"] == engine
        places = [(one["function"], one["offset"]) for one in record["pinpoint"]["backtrace"]]
        found.append((record["pinpoint"]["instruction"], places))
    assert found[0] == found[1] == found[2]
    assert "interrupts and other vCPUs ran on" in record["pinpoint"]["note"]


@pytest.fixture(params=["gdb", "plugin"])
def looking(request: pytest.FixtureRequest, plugin_qemu: Path) -> tuple[str, ...]:
    """The options of either engine."""
    return ("--engine", request.param, "--qemu", str(plugin_qemu))


def test_a_register_that_nothing_clobbers_is_said_to_be_so(
    switched: Run, looking: tuple[str, ...]
) -> None:
    result = switched("--clobber=xmm0", options=(*looking, "--pinpoint", "xmm7"))
    found = result.record["pinpoint"]
    assert (found["instruction"], found["backtrace"]) == (None, [])
    assert "no instruction of the span changed it" in found["note"]


def test_a_register_that_is_put_back_is_said_to_be_so(
    switched: Run, looking: tuple[str, ...]
) -> None:
    result = switched("--fixed", options=(*looking, "--pinpoint", "xmm0"))
    assert result.record["verdict"] == "clean", result.reason
    found = result.record["pinpoint"]
    assert found["before"] == found["at_exit"] != found["after"]


def test_an_application_that_never_ends_is_watched_for_the_duration(switched: Run) -> None:
    result = switched("--fixed", "--forever", options=("--duration", "1"))
    assert (result.status, result.record["verdict"]) == (0, "clean"), result.reason
    assert "still ran after 1 s" in result.record["ending"]


def test_an_application_that_never_executes_syscall_says_nothing(switched: Run) -> None:
    result = switched("--no-syscall")
    assert result.status == 125
    assert f"probe {SETUP} was never hit" in result.reason


def test_an_application_that_cannot_be_loaded_is_named(switched: Run) -> None:
    result = switched("--cannot-load")
    assert result.status == 125
    assert "OSv could not start its application: Failed to load object: /app.so" in result.reason


def test_a_syscall_entry_of_another_shape_is_watched_at_the_functions(switched: Run) -> None:
    result = switched("--clobber=xmm0", edit=('inside = ["syscall_entry"]', 'inside = ["other"]'))
    assert (result.status, result.record["verdict"]) == (1, "reproduced"), result.reason
    assert len(findings(result, "fpu-preserved")) == 8
    notes = {probe["name"]: probe["note"] for probe in result.record["probes"]}
    assert "from the function's entry to its return" in notes[SETUP]
    assert notes["abort"] is None


def test_symbols_of_another_build_are_refused_before_a_probe_is_armed(
    osv: Run, places: Places, tmp_path: Path
) -> None:
    """Those of a disk can only be compared with the guest's memory: hence a record made by hand."""
    image = places.runs.parent / "data" / "images" / "specimen"
    other = osv_specimen.build(tmp_path, tiny=2048)
    record = json.loads((image / "image.json").read_bytes())
    (image / "symbols").write_bytes(other.read_bytes())
    stamp = Stamp.of(image / "symbols")
    record["files"]["symbols"] = {name: getattr(stamp, name) for name in stamp.__slots__}
    record["symbols"] = "symbols"
    (image / "image.json").write_text(json.dumps(record))

    result = osv("run", RECIPE)
    assert (result.status, result.record["verdict"]) == (128, "error"), result.err
    assert "the guest's code at" in result.reason
    assert "symbols of this build" in result.record["hint"]


def test_a_stripped_loader_needs_symbols_beside_it(
    command: Start, specimen: Path, tmp_path: Path
) -> None:
    stripped = osv_specimen.stripped(specimen, tmp_path)
    add = ("images", "add", "guest", "--system", "osv", "--kernel", stripped, "--append", "/app")
    alone = command(*add).wait()
    assert alone.status == 128
    assert "--symbols" in alone.err
    together = command(*add, "--symbols", specimen).wait()
    assert together.status == 0, together.err
    result = command("run", RECIPE, "--image", "guest", "--variant", "specimen-xmm0").wait()
    assert result.record["verdict"] == "reproduced", result.err


def test_a_missing_disk_is_named(command: Start, specimen: Path, tmp_path: Path) -> None:
    add = ("images", "add", "guest", "--system", "osv", "--kernel", specimen, "--append", "/app")
    done = command(*add, "--disk", tmp_path / "gone.img").wait()
    assert done.status != 0
    assert "gone.img" in done.err
    assert "Traceback" not in done.err


def test_the_specimens_controls_are_not_for_other_guests(
    command: Start, specimen: Path, tmp_path: Path
) -> None:
    renamed = tmp_path / "renamed.elf"
    renamed.write_bytes(specimen.read_bytes().replace(b"specimen_switches", b"specimen_sWitches"))
    add = ("images", "add", "guest", "--system", "osv", "--kernel", renamed, "--append", "/app")
    assert command(*add).wait().status == 0
    result = command("run", RECIPE, "--image", "guest", "--variant", "specimen-xmm0").wait()
    assert result.status == 129
    assert "as-is runs on every image" in result.err


def test_the_script_of_a_run_reproduces_it(switched: Run, places: Places) -> None:
    result = switched("--clobber=xmm0")
    assert result.directory is not None
    done = subprocess.run(
        [result.directory / "reproduce.sh"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=places.environment,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    stops = dict(re.findall(rf"^{SETUP} (entry|exit): xmm0=([0-9a-f]{{32}}) ", done.stdout, re.M))
    finding = findings(result, "fpu-preserved")[-1]
    assert stops["entry"].startswith(finding["expected"]["xmm0"][:4])
    assert stops["exit"] != stops["entry"]
    places.assert_clean()


def stop_at_syscall_entry(specimen: Path, stub: Path, setup: tuple[str, ...]) -> tuple[str, str]:
    """gdb's version, and what it says when it unwinds from what syscall_entry calls."""
    boot = [X86_64.qemu, "-accel", "tcg", "-cpu", "max", "-m", "256", "-nodefaults"]
    boot += ["-display", "none", "-no-reboot", "-kernel", str(specimen), "-append", "--threads=1"]
    boot += [
        "-S",
        "-chardev",
        f"socket,id=gdb,path={stub},server=on,wait=on",
        "-gdb",
        "chardev:gdb",
    ]
    qemu = subprocess.Popen(boot)
    try:
        commands = ["show version", *setup, f"target remote {stub}", f"hbreak *{SETUP}", "continue"]
        commands += ["bt", "stepi", "bt", "echo alive\\n", "kill"]
        done = subprocess.run(
            [
                *(str(find_gdb(X86_64)), "-nx", "-batch", str(specimen)),
                *(word for line in commands for word in ("-ex", line)),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            # A gdb that dies would leave a core.
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
        )
    finally:
        qemu.kill()
        qemu.wait()
    said = done.stdout + done.stderr
    return said.partition("\n")[0].rpartition(" ")[2], said


def test_gdb_does_not_die_of_syscall_entrys_unwind_information(
    specimen: Path, tmp_path: Path
) -> None:
    """With the symbols that a user may load, which have that information."""
    version, said = stop_at_syscall_entry(specimen, tmp_path / "with", X86_64.gdb_setup)
    assert "alive" in said, said
    assert "internal-error" not in said
    _, bare = stop_at_syscall_entry(specimen, tmp_path / "without", ())
    if version.startswith("13."):
        assert "Unknown CFA rule" in bare
        assert "alive" not in bare
