"""Loading TOML into models: what is wrong is named with its file, its line and its key."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from osvtriage.model.errors import DataFileError
from osvtriage.recipe.image import ImageManifest
from osvtriage.recipe.lines import key_lines
from osvtriage.recipe.shipped import images_directory
from osvtriage.recipe.tomlfile import load, loads


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Hold(Table):
    kind: Literal["hold"]
    seconds: float


class Write(Table):
    kind: Literal["write"]
    address: str


class Call(Table):
    to: str
    inside: tuple[str, ...] = ()


class Probe(Table):
    name: str
    call: Call | None = None
    limit: int = 100
    stimulus: tuple[Annotated[Hold | Write, Field(discriminator="kind")], ...] = ()


class Document(Table):
    title: str
    probe: tuple[Probe, ...] = ()
    limits: dict[str, Call] = {}
    schema_: str = Field(alias="schema", default="")


def refusal(text: str, model: type[BaseModel] = Document) -> str:
    with pytest.raises(DataFileError) as caught:
        loads(text.encode(), model, "x.toml")
    return str(caught.value)


def test_a_good_file_gives_the_model(tmp_path: Path) -> None:
    path = tmp_path / "good.toml"
    path.write_text('title = "t"\nschema = "1"\n[[probe]]\nname = "p"\ncall.to = "save_fpu"\n')
    document = load(path, Document)
    assert document.schema_ == "1"
    assert document.probe[0].call == Call(to="save_fpu")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            'title = "t"\n\nprob = 1\n',
            'x.toml:3: unknown key "prob" at the top level; did you mean "probe"?',
        ),
        (
            'title = "t"\n[[probe]]\nname = "a"\n[[probe]]\nname = "b"\n# comment\nlimits = 1\n',
            'x.toml:7: unknown key "limits" in [[probe]]; did you mean "limit"?',
        ),
        (
            'title = "t"\n[[probe]]\nname = "a"\n[probe.call]\nto = "f"\nindise = []\n',
            'x.toml:6: unknown key "indise" in [probe.call]; did you mean "inside"?',
        ),
        (
            'title = "t"\n[[probe]]\nname = "a"\ncall = { to = "f", inisde = [] }\n',
            'x.toml:4: unknown key "inisde" in [probe.call]; did you mean "inside"?',
        ),
        (
            'title = "t"\n[[probe]]\nname = "a"\n[[probe.stimulus]]\nkind = "write"\n'
            'adress = "0"\naddress = "0"\n',
            'x.toml:6: unknown key "adress" in [[probe.stimulus]]; did you mean "address"?',
        ),
        (
            'title = "t"\n[limits.x]\nto = "f"\ntoo = "f"\n',
            'x.toml:4: unknown key "too" in [limits.x]; did you mean "to"?',
        ),
        (
            'title = "t"\nzzzz = 1\n',
            'x.toml:2: unknown key "zzzz" at the top level; '
            "the keys are limits, probe, schema, title",
        ),
        (
            'title = "t"\n[[probe]]\nname = "a"\n\n[[probe]]\nlimit = 1\n',
            'x.toml:5: the key "name" is missing in [[probe]]',
        ),
        ("# empty\n", 'x.toml:1: the key "title" is missing at the top level'),
        (
            'title = "t"\n[[probe]]\nname = "a"\nlimit = "many"\n',
            'x.toml:4: "limit" in [[probe]]: input should be a valid integer, unable to parse '
            'string as an integer, not "many"',
        ),
        (
            'title = "t"\n[[probe]]\nname = "a"\ncall.to = "f"\ncall.inside = [\n  "a",\n  3,\n]\n',
            'x.toml:7: "inside" in [probe.call]: input should be a valid string, not 3',
        ),
    ],
)
def test_a_problem_names_line_and_key(text: str, expected: str) -> None:
    assert refusal(text) == expected


def test_an_unknown_kind_of_a_union_names_its_table() -> None:
    text = 'title = "t"\n[[probe]]\nname = "a"\n[[probe.stimulus]]\nkind = "hodl"\n'
    message = refusal(text)
    assert message.startswith("x.toml:4: ")
    assert "'hold', 'write'" in message
    assert "[[probe.stimulus]]" in message


def test_all_problems_are_told_in_the_order_of_the_file() -> None:
    message = refusal('title = "t"\n[[probe]]\nlimit = "x"\nnmae = "a"\n')
    lines = [line.split(":")[1] for line in message.splitlines()]
    assert lines == ["2", "3", "4"]


def test_the_keys_that_a_table_lacks_are_told_together() -> None:
    message = refusal("# nothing\n", ImageManifest)
    assert message == (
        'x.toml:1: the keys "schema", "name", "title", "system", "arch", "debian" are missing '
        "at the top level"
    )


def test_an_array_whose_elements_are_wrong_is_not_called_too_short() -> None:
    class Least(Table):
        probe: tuple[Probe, ...] = Field(min_length=1)

    message = refusal("[[probe]]\nname = 3\n", Least)
    assert message == 'x.toml:2: "name" in [[probe]]: input should be a valid string, not 3'
    assert "at least 1 item" in refusal("probe = []\n", Least)


def test_no_more_than_ten_problems_are_told() -> None:
    message = refusal("title = 't'\n" + "".join(f"k{n} = 1\n" for n in range(25)))
    assert len(message.splitlines()) == 11
    assert message.endswith("and 15 more")


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        (b"title = 't'\nname = \n", 2),
        (b"a = 1\nb = 2\na = 3\n", 3),
        (b"title = 't'\n[broken\n", 2),
        (b"x = '''\nnever\nclosed", 3),
        (b"title = 't'\nname = '\xff'\n", 2),
    ],
)
def test_a_file_that_is_not_toml_names_the_line(raw: bytes, line: int) -> None:
    with pytest.raises(DataFileError, match=rf"^x\.toml:{line}: "):
        loads(raw, Document, "x.toml")


@pytest.mark.parametrize(
    "raw",
    [
        b"x = " + b"[" * 100_000,
        b"x = " + b"9" * 5_000,
        b"x." * 30_000 + b"x = 1",
        b"x = " + b"{a = " * 5_000 + b"1" + b"}" * 5_000,
        b"\0",
        b"\xef\xbb\xbftitle = 't'",
    ],
)
def test_hostile_text_is_an_error_like_any_other(raw: bytes) -> None:
    with pytest.raises(DataFileError):
        loads(raw, Document, "x.toml")


def test_control_characters_are_written_out() -> None:
    message = refusal('title = "t"\n"\\u001b[2J" = 1\n')
    assert "\x1b" not in message
    assert "\\x1b[2J" in message


@pytest.mark.parametrize("kind", ["missing", "directory", "huge"])
def test_a_file_that_cannot_be_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.toml"
    if kind == "directory":
        path.mkdir()
    elif kind == "huge":
        path.write_bytes(b"#" * (2 << 20))
    with pytest.raises(DataFileError, match=r"x\.toml"):
        load(path, Document)


@given(st.text())
def test_any_text_gives_a_model_or_a_data_file_error(text: str) -> None:
    with pytest.raises(DataFileError):
        loads(text.encode("utf-8", "surrogatepass"), Document, "x.toml")


_LINES = (
    'title = "t"\n',
    "[[probe]]\n",
    "[probe.call]\n",
    'name = "a"\n',
    "limit = 1\n",
    'call = { to = "f" }\n',
    "[limits.a]\n",
    'to = "g"\n',
    "call.to = 3\n",
    "x = [ { a = 1 }, # c\n [ ] ]\n",
    "'a b'.c = '''\n]'''\n",
)


@given(st.lists(st.sampled_from(_LINES)))
def test_lines_put_together_give_a_model_or_a_data_file_error(lines: list[str]) -> None:
    message = "x.toml:"
    try:
        loads("".join(lines).encode(), Document, "x.toml")
    except DataFileError as error:
        message = str(error)
    assert message.startswith("x.toml:")


# A writer of TOML in many layouts. Every key is unique, so that its line can be found by searching.

_SCALARS = st.sampled_from(
    [
        *("1", "-0.5e3", "true", "2024-01-01", "0x1F", "inf", '""', "''", "'\\'", '"\\"]"'),
        *('"a # b = [c]"', '"""a\\""" b"""""', '"""\n[[no]]\nkey = 1\n"""'),
        "'''\n[no] # it's\n'''",
    ]
)


@st.composite
def documents(draw: st.DrawFn) -> str:
    count = 0

    def key() -> str:
        nonlocal count
        count += 1
        name = f"unique{count}end"
        return draw(st.sampled_from([name, f'"{name}"', f"'{name}'"]))

    def value(depth: int) -> str:
        kind = draw(st.sampled_from(["scalar", "scalar", "array", "inline"])) if depth else "scalar"
        if kind == "array":
            gap = draw(st.sampled_from([" ", "\n", " # ] comment\n "]))
            items = [value(depth - 1) for _ in range(draw(st.integers(0, 3)))]
            return "[" + gap + f",{gap}".join(items) + gap + "]"
        if kind == "inline":
            pairs = [f"{key()} = {value(depth - 1)}" for _ in range(draw(st.integers(0, 3)))]
            return "{ " + ", ".join(pairs) + " }"
        return draw(_SCALARS)

    def body() -> str:
        text = ""
        for _ in range(draw(st.integers(0, 4))):
            dots = draw(st.sampled_from([".", " . "])).join(
                key() for _ in range(draw(st.integers(1, 2)))
            )
            text += draw(st.sampled_from(["", "\n", "  ", "# [x]\n"]))
            text += f"{dots} = {value(2)}{draw(st.sampled_from(['', ' # c']))}\n"
        return text

    text = body()
    for _ in range(draw(st.integers(0, 4))):
        name = key()
        if draw(st.booleans()):
            for _ in range(draw(st.integers(1, 3))):
                text += f"[[{name}]]\n{body()}"
                if draw(st.booleans()):
                    text += f"[ {name} . {key()} ]\n{body()}"
        else:
            text += f"[{name}.{key()}]\n{body()}"
    return draw(st.sampled_from([text, text.replace("\n", "\r\n")]))


def paths(node: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    items = node.items() if isinstance(node, dict) else enumerate(node)
    found = []
    for element, child in items:
        found.append((*path, element))
        if isinstance(child, dict | list):
            found += paths(child, (*path, element))
    return found


@given(documents())
def test_every_key_is_found_on_the_line_where_it_stands(text: str) -> None:
    where = key_lines(text)
    lines = text.split("\n")
    expected = paths(tomllib.loads(text))
    assert set(where) == set(expected)
    for path in expected:
        if isinstance(path[-1], str):
            assert path[-1] in lines[where[path] - 1]


@pytest.mark.parametrize("path", sorted(images_directory().glob("*.toml")), ids=lambda p: p.stem)
def test_the_shipped_manifests_are_valid(path: Path) -> None:
    assert load(path, ImageManifest).name == path.stem


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ('suite = "sid"', 'suite = "-o Dir=/"', '"suite" in [debian]'),
        ('kernel = "linux-image-powerpc64le"', 'kernel = "--print"', '"kernel" in [debian]'),
        ("memory = 1024", "memory = 0", '"memory" at the top level'),
        ('arch = "ppc64le"', 'arch = "pcc64le"', '"arch" at the top level'),
        ('append = "panic=-1', 'append = "a\\nb', '"append" at the top level'),
    ],
)
def test_a_manifest_with_a_bad_value(before: str, after: str, problem: str) -> None:
    text = (images_directory() / "debian-sid-ppc64le.toml").read_text()
    assert before in text
    assert problem in refusal(text.replace(before, after), ImageManifest)
