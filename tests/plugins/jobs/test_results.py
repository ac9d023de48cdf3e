"""Where answers are kept: in a row, in the file store, or nowhere, and then the job says why."""

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from gatehook import FILES, FileStore, NotFound, Section, ServiceKey, StoredFile, Unavailable, decode, hookimpl
from gatehook_plugins.jobs.results import Results

BIG = "x" * 5000
LIMITS = "max_inline = 1000\nmax_result = 4000"


class Shelf:
    """A file store in memory."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.owners: dict[str, str] = {}
        self.away = False

    async def put(self, data: bytes, *, media_type: str, owner: str, keep: float | None = None) -> StoredFile:
        if self.away:
            raise Unavailable("the store is full")
        name = f"file-{len(self.owners)}"
        self.files[name], self.owners[name] = data, owner
        return StoredFile(name, owner, media_type, len(data))

    async def about(self, file_id: str) -> StoredFile | None:
        return None

    async def read(self, file_id: str) -> AsyncIterator[bytes]:
        if file_id not in self.files:
            raise NotFound("no such file")
        yield self.files[file_id]

    async def delete(self, file_id: str) -> None:
        self.files.pop(file_id, None)

    def url(self, file_id: str, *, lifetime: float | None = None) -> str:
        return f"https://files.example/{file_id}?signature=1"


def plugin_of(shelf: Shelf) -> dict[str, type]:
    class ShelfPlugin:
        class Settings(Section): ...

        def __init__(self, settings: Settings) -> None: ...

        @hookimpl
        def register_services(self) -> Iterable[tuple[ServiceKey[FileStore], FileStore]]:
            return [(FILES, shelf)]

    return {"shelf": ShelfPlugin}


async def test_a_large_answer_goes_to_the_file_store_and_leaves_with_its_job(lite: Callable[..., Any]) -> None:
    shelf = Shelf()
    async with lite(jobs=LIMITS, more="[plugins.shelf]", plugins=plugin_of(shelf)) as at:
        at.stage.script = [BIG, "small"]
        large = await at.ended(await at.submit())
        small = await at.ended(await at.submit())
        assert (large["status"], large["result"]) == ("succeeded", None)
        assert large["result_url"] == "https://files.example/file-0?signature=1"
        assert decode(shelf.files["file-0"])["choices"][0]["message"]["content"] == BIG
        assert shelf.owners == {"file-0": "anonymous"}
        assert small["result"] is not None
        assert "result_url" not in small
        await at.ask("DELETE", f"/v1/jobs/{large['job_id']}?purge=true")
        assert shelf.files == {}


async def test_without_a_file_store_rows_take_what_they_can_and_the_rest_fails_with_its_size(
    lite: Callable[..., Any],
) -> None:
    async with lite(jobs=LIMITS) as at:
        at.stage.script = ["x" * 2000, BIG]
        fits, too_large = await at.ended(await at.submit()), await at.ended(await at.submit())
        assert fits["result"]["choices"][0]["message"]["content"] == "x" * 2000
        assert (too_large["status"], too_large["error"]["code"]) == ("failed", "result_too_large")
        assert "max_result" in too_large["error"]["message"]
        assert len(at.stage.calls) == 2, "what was paid for is not made again"


async def test_while_the_file_store_is_away_a_row_takes_the_answer() -> None:
    shelf = Shelf()
    shelf.away = True
    results = Results(shelf, max_inline=10, max_result=100, retention=1)
    kept = await results.keep(b"x" * 50, "alice")
    assert (kept.body, kept.file) == (b"x" * 50, None)


async def test_an_answer_goes_out_byte_for_byte(lite: Callable[..., Any]) -> None:
    async with lite() as at:
        at.stage.script = ["half a pair: \ud83d"]
        job_id = await at.submit()
        await at.ended(job_id)
        async with at.session.get(f"{at.url}/v1/jobs/{job_id}") as answer:
            raw = await answer.read()
        assert rb"half a pair: \ud83d" in raw
