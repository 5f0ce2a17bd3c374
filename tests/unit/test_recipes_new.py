"""`osvtriage recipes new`: the file it writes, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osvtriage.cli.main import main
from osvtriage.model.errors import UsageError
from osvtriage.trial import library
from osvtriage.trial.draft import Place, draft
from osvtriage.trial.new_recipe import from_export, require_name


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """What a session of ppc64le-save-fpu exported, somebody's own comment with it."""
    recipe = library.load("ppc64le-save-fpu")
    text = draft(recipe, [Place("f", "save_fpu")], recipe.get_variant("fp-fix-reverted"))
    path = tmp_path / "export.toml"
    path.write_text(text.replace("[[check]]", "# Seen on Monday.\n[[check]]"))
    return path


def test_a_recipe_is_begun_from_an_export(
    export: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["recipes", "new", "odd-f0", "--from", str(export)]) == 0
    told = capsys.readouterr().out
    written = Path("odd-f0.toml").read_text()
    # All but its name is the export's.
    assert written.splitlines()[3:] == [
        'name = "odd-f0"',
        *export.read_text().splitlines()[4:],
    ]
    assert "# Seen on Monday." in written
    assert "odd-f0.toml:5: to fill in: what goes wrong" in told
    # Lint says the same, and that this is no recipe yet.
    assert main(["recipes", "lint", "odd-f0.toml"]) == 129
    said = capsys.readouterr().err
    assert told.startswith(said)

    # A whole one, once all is filled in.
    title = written.replace('title = "" # fill in: what goes wrong, in a line', 'title = "f0 lost"')
    about = title.replace(" # fill in: how it goes wrong, and why nobody sees it", "")
    mark = "# fill in: expect, the verdict that it must give: clean or reproduced"
    whole = about.replace(mark, 'expect = "clean"', 1).replace(mark, 'expect = "reproduced"', 1)
    Path("odd-f0.toml").write_text(whole)
    assert main(["recipes", "lint", "odd-f0.toml"]) == 0
    assert capsys.readouterr().out == "odd-f0.toml: sound\n"


@pytest.mark.parametrize("other", library.names())
def test_without_an_export_it_is_begun_like_another(
    other: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "deep" / "mine.toml"
    assert main(["recipes", "new", "mine", "--like", other, "--out", str(path)]) == 0
    told = capsys.readouterr().out
    for missing in ("a [[probe]]", "a [[check]]", "what makes the difference"):
        assert f"to fill in: {missing}" in told
    assert 'name = "mine"\n' in path.read_text()


def test_a_file_that_exists_is_left_alone(
    export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "there.toml"
    for name in (path, tmp_path / "link.toml"):
        if name is not path:
            # Also one that leads nowhere.
            name.symlink_to(tmp_path / "nothing")
        else:
            name.write_text("mine")
        arguments = ["recipes", "new", "odd", "--from", str(export), "--out", str(name)]
        assert main(arguments) == 129
        assert "exists" in capsys.readouterr().err
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\xff", b"schema =", b"[[probe]]\nname = 1\n", b"a." * 3000 + b"b = 1"),
        b'schema = "osvtriage.image/1"\nname = "x"\nprobe = []\n',
        b'schema = "osvtriage.recipe/1"\nprobe = []\n',
        b'schema = "osvtriage.recipe/1"\nname = """a\nb"""\nprobe = []\n',
        b"# " + b"x" * (1 << 20),
    ],
    ids=lambda content: content[:20].decode("latin-1"),
)
def test_what_is_no_export_is_refused_with_where_one_comes_from(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "export.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError) as error:
        from_export("odd", path)
    assert "ot export" in str(error.value.hint)
    with pytest.raises(UsageError, match="No such file"):
        from_export("odd", tmp_path / "nothing")


@pytest.mark.parametrize(
    "name", ["", "a b", "a/b", "../a", "x" * 65, "odd.toml", "ppc64le-save-fpu", "-x", 'a"b', "a\n"]
)
def test_a_name_that_no_recipe_can_have_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        require_name(name)


@given(st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}\Z"))
def test_any_other_name_is_taken_and_is_the_recipes(name: str) -> None:
    if name.endswith(".toml") or name in library.names():
        return
    require_name(name)
    assert f'\nname = "{name}"\n' in draft(library.load("osv-syscall-fpu"), [], name=name)
