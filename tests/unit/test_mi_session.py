"""The MI conversation with gdb, over pipes: a transcript answers in gdb's place."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from osvtriage.gdb.session import MiSession
from osvtriage.model.errors import GdbError, LimitExceeded

TRANSCRIPTS = Path(__file__).parents[1] / "fixtures" / "mi"


class Gdb:
    """The other end of the pipes: reads commands, and says what it is told to."""

    def __init__(self, session: MiSession) -> None:
        child = session.child
        self._descriptors = [child.stdin, child.stdout, child.stderr]
        self._stdin, self._stdout = child.stdin, child.stdout
        self.commands: list[str] = []

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._reader = asyncio.StreamReader()
        self._transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self._reader), os.fdopen(os.dup(self._stdin), "rb")
        )

    async def next(self) -> str:
        """The next command, with its token."""
        line = (await self._reader.readline()).decode().rstrip("\n")
        self.commands.append(line)
        return line

    def say(self, *lines: str) -> None:
        os.write(self._stdout, "".join(f"{line}\n" for line in lines).encode())

    def say_bytes(self, raw: bytes) -> None:
        os.write(self._stdout, raw)

    def die(self) -> None:
        os.close(self._stdout)
        self._descriptors.remove(self._stdout)

    def close(self) -> None:
        self._transport.close()
        for descriptor in self._descriptors:
            os.close(descriptor)

    async def play(self, transcript: str) -> None:
        """Answer each command of *transcript* with what stands behind it."""
        said, *parts = re.split(r"(?m)^(?=\d+-)", transcript)
        self.say_bytes(said.encode())
        for part in parts:
            command, _, said = part.partition("\n")
            assert await self.next() == command
            self.say_bytes(said.encode())


@asynccontextmanager
async def conversation(tmp_path: Path, texts: list[str]) -> AsyncIterator[tuple[MiSession, Gdb]]:
    async with MiSession(Path("/usr/bin/gdb"), tmp_path / "gdb.log", texts.append) as session:
        gdb = Gdb(session)
        await gdb.start()
        await session.attach()
        try:
            yield session, gdb
        finally:
            gdb.close()


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 20))


def transcript(name: str) -> str:
    return (TRANSCRIPTS / name).read_text(encoding="utf-8")


def test_a_recorded_run(tmp_path: Path) -> None:
    texts: list[str] = []

    async def story() -> None:
        async with conversation(tmp_path, texts) as (session, gdb):
            playing = asyncio.create_task(gdb.play(transcript("reproduced.mi")))
            for name in ("mi-async on", "confirm off", "pagination off", "auto-load off"):
                await session.command(f"-gdb-set {name}")
            await session.command("-gdb-set breakpoint always-inserted on")
            await session.cli("set architecture powerpc:common64")
            await session.cli("set endian little")
            await session.cli("python import sys; sys.path.insert(0, '/usr/lib/python3')")
            await session.cli("python from osvtriage.gdb.inside import probes")
            await session.command("-target-select remote /run/osvtriage/1/gdb.sock")
            assert await session.read_memory(0xC000000000EC6958, 1) is None
            answer = await session.command("-break-insert -t -h *0xc000000000dc0038")
            assert answer["bkpt"]["type"] == "hw breakpoint"
            await session.command("-exec-continue")
            stop = await session.stops.get()
            assert (stop["reason"], stop["bkptno"]) == ("breakpoint-hit", "1")
            banner = await session.read_memory(0xC000000000EC6958, 187)
            assert banner is not None
            assert banner.startswith(b"Linux version 6.1.0-50-powerpc64le")
            assert await session.read_memory(0xC000000000019464, 4) == b"\xf8\xff\xe1\xfb"
            await session.cli("python probes.arm('/records/1/probes.json')")
            await session.command("-exec-continue")
            await session.command("-gdb-set confirm off")
            await playing
            assert session.stops.empty()
            assert "Target disconnected.: Broken pipe." in session.last_words

    run(story())
    events = [json.loads(text.split(" ", 1)[1]) for text in texts if text.startswith("osvtriage-")]
    assert [(event["number"], event["side"]) for event in events] == [(1, "entry"), (2, "exit")]
    # The log holds the conversation whole: every command, and every word of gdb.
    log = (tmp_path / "gdb.log").read_text().splitlines()
    assert sorted(log) == sorted(transcript("reproduced.mi").splitlines())


def test_an_answer_goes_to_the_command_with_its_token(tmp_path: Path) -> None:
    async def story() -> None:
        async with conversation(tmp_path, []) as (session, gdb):
            first = asyncio.create_task(session.command("-first"))
            second = asyncio.create_task(session.command("-second"))
            assert [await gdb.next(), await gdb.next()] == ["1-first", "2-second"]
            gdb.say('7^done,value="nobody asked"', '^done,value="no token"')
            gdb.say('2^done,value="two"', "(gdb) ", '1^done,value="one"', '1^done,value="again"')
            assert (await first)["value"] == "one"
            assert (await second)["value"] == "two"

    run(story())


def test_running_is_not_stopped(tmp_path: Path) -> None:
    async def story() -> None:
        async with conversation(tmp_path, []) as (session, gdb):
            # Attaching stops the guest: that stop is over once the guest runs.
            go = asyncio.create_task(session.command("-exec-continue"))
            await gdb.next()
            gdb.say('*stopped,reason="signal-received"', "1^running", '*running,thread-id="all"')
            await go
            assert session.stops.empty()
            # The answer to another command can come behind the stop.
            read = asyncio.create_task(session.command("-data-read-memory-bytes 0x0 4"))
            await gdb.next()
            gdb.say('*stopped,reason="breakpoint-hit",bkptno="2"', '2^error,msg="no"')
            assert (await session.stops.get())["bkptno"] == "2"
            with pytest.raises(GdbError):
                await read

    run(story())


def test_a_stop_before_the_answer_of_its_own_command_is_kept(tmp_path: Path) -> None:
    async def story() -> None:
        async with conversation(tmp_path, []) as (session, gdb):
            go = asyncio.create_task(session.command("-exec-continue"))
            await gdb.next()
            gdb.say("1^running", '*running,thread-id="all"', '*stopped,reason="end-stepping-range"')
            await go
            assert (await session.stops.get())["reason"] == "end-stepping-range"

    run(story())


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (r'1^error,msg="No symbol \"x\" in current context."', 'No symbol "x" in current context.'),
        ('1^error,msg="Remote connection closed",code="undefined-command"', "connection closed"),
        ("1^error", "no reason given"),
    ],
)
def test_an_error_has_gdbs_own_words(tmp_path: Path, answer: str, words: str) -> None:
    async def story() -> None:
        async with conversation(tmp_path, []) as (session, gdb):
            asked = asyncio.create_task(session.command("-break-insert x"))
            await gdb.next()
            gdb.say(answer)
            with pytest.raises(GdbError) as caught:
                await asked
            assert "gdb refused `-break-insert x`" in str(caught.value)
            assert words in str(caught.value)
            # The session goes on.
            asked = asyncio.create_task(session.command("-gdb-version"))
            await gdb.next()
            gdb.say("2^done")
            assert await asked == {}

    run(story())


def test_a_gdb_that_dies_in_the_middle_of_an_answer(tmp_path: Path) -> None:
    async def story() -> None:
        async with conversation(tmp_path, []) as (session, gdb):
            await_end = asyncio.create_task(gdb.play(transcript("dies_in_an_answer.mi")))
            await session.command("-gdb-set mi-async on")
            asked = asyncio.create_task(session.command("-target-select remote /run/osvtriage/1/"
                                                        "gdb.sock"))  # fmt: skip
            await await_end
            gdb.die()
            with pytest.raises(GdbError, match="gdb ended"):
                await asked
            assert "internal-error: Unknown CFA rule." in session.last_words
            assert "may prove unreliable" in session.last_words
            with pytest.raises(GdbError):
                await session.command("-exec-continue")
            assert session.ended.done()

    run(story())


@pytest.mark.parametrize("half", range(0, 110, 9))
def test_half_a_line_at_the_end_never_holds_the_session(tmp_path: Path, half: int) -> None:
    line = b'1^done,memory=[{begin="0xc000000000ec6958",offset="0x0",end="0xc",contents="f8ff"}]\n'

    async def story() -> None:
        async with conversation(tmp_path, []) as (session, gdb):
            asked = asyncio.create_task(session.command("-data-read-memory-bytes 0x0 2"))
            await gdb.next()
            gdb.say_bytes(line[:half])
            gdb.die()
            if half < len(line):
                with pytest.raises(GdbError):
                    await asked
            else:
                assert (await asked)["memory"]

    run(story())


def test_a_gdb_that_does_not_answer(tmp_path: Path) -> None:
    async def story() -> None:
        async with conversation(tmp_path, []) as (session, gdb):
            begun = time.monotonic()
            gdb.say('~"Reading symbols\\n"')
            with pytest.raises(LimitExceeded) as caught:
                await session.command("-target-select remote /x", limit=0.2)
            assert 0.1 < time.monotonic() - begun < 5
            message = str(caught.value)
            assert "did not answer `-target-select remote /x` within 0.2 s" in message
            assert "Reading symbols" in message
            # Its answer may still come, and belongs to nobody.
            gdb.say("1^done")
            asked = asyncio.create_task(session.command("-gdb-version"))
            await gdb.next()
            gdb.say('2^done,v="13"')
            assert (await asked)["v"] == "13"

    run(story())


def test_a_closed_pipe_is_a_gdb_that_ended(tmp_path: Path) -> None:
    async def story() -> None:
        async with conversation(tmp_path, []) as (session, gdb):
            gdb.die()
            with suppress(GdbError):
                await session.ended
            with pytest.raises(GdbError, match="gdb ended"):
                await session.command("-gdb-version")
            assert session.last_words == "it said nothing"

    run(story())


def test_bytes_that_are_no_text_are_no_end(tmp_path: Path) -> None:
    async def story() -> None:
        async with conversation(tmp_path, []) as (session, gdb):
            asked = asyncio.create_task(session.command("-gdb-version"))
            await gdb.next()
            gdb.say_bytes(b"\xff\xfe\x00 the guest's own output\r\n1^done\r\n")
            assert await asked == {}

    run(story())


def test_a_command_line_is_quoted_for_mi(tmp_path: Path) -> None:
    async def story() -> None:
        async with conversation(tmp_path, []) as (session, gdb):
            asked = asyncio.create_task(session.cli('python print("a\\b")'))
            line = await gdb.next()
            assert line == r'1-interpreter-exec console "python print(\"a\\b\")"'
            gdb.say("1^done")
            await asked

    run(story())


def test_memory_in_pieces_counts_as_unreadable(tmp_path: Path) -> None:
    async def story() -> None:
        async with conversation(tmp_path, []) as (session, gdb):
            asked = asyncio.create_task(session.read_memory(0x1000, 8))
            assert await gdb.next() == "1-data-read-memory-bytes 0x1000 8"
            gdb.say('1^done,memory=[{contents="00"},{contents="01"}]')
            assert await asked is None

    run(story())
