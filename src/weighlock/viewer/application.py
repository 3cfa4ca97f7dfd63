"""The addresses under ``/api/v1``: what each asks of which file, in which threads, and how the answer is written."""

import json
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, suppress
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from weighlock.errors import WeighlockError
from weighlock.text import safe_text
from weighlock.viewer.bounds import MOST_STRETCHES
from weighlock.viewer.failures import AbandonedError, NoSuchThingError, StaleError, error_document, status_of
from weighlock.viewer.guarding import API
from weighlock.viewer.jobs import Desk, Job
from weighlock.viewer.looking.cells import read_cells
from weighlock.viewer.looking.describing import describe_tensor
from weighlock.viewer.looking.facts import portable
from weighlock.viewer.looking.holding import Files, ViewedFile
from weighlock.viewer.looking.listing import choice_of, list_tensors
from weighlock.viewer.looking.outline import children_of, place_of, value_at
from weighlock.viewer.looking.overview import describe_file, name_files, state_of
from weighlock.viewer.looking.tables import SORTS, list_layout, list_storages
from weighlock.viewer.queries import Query

__all__ = ["make_application"]

_NO_STORE: Final = {"Cache-Control": "no-store"}

Answer = Callable[[Query, Job], Any]
"""Works out an answer in a thread: a document, or a finished response."""


def make_application(files: Files, desk: Desk, version: str, idle: float = 0.0) -> Starlette:
    """Return the ASGI application of the API. It checks nothing of who asks: `guarding.Guard` stands before it.

    The page is told after how many seconds without a question the viewer ends, so that it asks in time.
    """
    tensor = "/file/{file}/tensor/{tensor}"

    def of(query: Query, job: Job) -> ViewedFile:
        return _current(files[query.number_in_path("file")], query.number("g"), job)

    def one(query: Query, job: Job) -> tuple[ViewedFile, int]:
        return of(query, job), query.number_in_path("tensor")

    light: dict[str, Answer] = {
        "/files": lambda query, job: name_files(files.all, version) | {"idle": idle},
        "/ping": lambda query, job: {"working": desk.working, "files": list(map(state_of, files.all))},
        "/file/{file}": lambda query, job: describe_file(of(query, job)),
        "/file/{file}/reload": lambda query, job: _reload(files, query),
        "/file/{file}/tree": lambda query, job: _tree(of(query, job), query),
        "/file/{file}/tensors": lambda query, job: list_tensors(of(query, job), choice_of(query), query.page(), job),
        "/file/{file}/value": lambda query, job: value_at(of(query, job), query.path()),
        "/file/{file}/storages": lambda query, job: _storages(of(query, job), query),
        "/file/{file}/layout": lambda query, job: list_layout(of(query, job), query.page(MOST_STRETCHES)),
        tensor: lambda query, job: describe_tensor(*one(query, job)),
        f"{tensor}/grid": lambda query, job: read_cells(*one(query, job), query),
        f"{tensor}/place": lambda query, job: place_of(*one(query, job)),
    }
    heavy = _heavy(files, desk)
    routes = [
        Route(API.rstrip("/") + path, _endpoint(desk, answer, heavy=answers is heavy))
        for answers in (light, heavy)
        for path, answer in answers.items()
    ]
    return Starlette(routes=routes, exception_handlers={404: _not_found})


def _heavy(files: Files, desk: Desk) -> dict[str, Answer]:
    """Return what reads tensors, or whole files. NumPy comes with the first that is asked for."""
    tensor = "/file/{file}/tensor/{tensor}"
    comparisons: list[Any] = []

    def of(query: Query, job: Job) -> ViewedFile:
        return _current(files[query.number_in_path("file")], query.number("g"), job)

    def one(query: Query, job: Job) -> tuple[ViewedFile, int]:
        return of(query, job), query.number_in_path("tensor")

    def both(query: Query, job: Job) -> tuple[ViewedFile, ViewedFile]:
        a, b = (
            _current(files[query.number(side, default)], query.number(f"g{side}"), job)
            for side, default in (("a", 0), ("b", 1))
        )
        return a, b

    def diff(query: Query, job: Job) -> Any:
        from weighlock.viewer.reading.comparison import Comparisons

        if not comparisons:
            comparisons.append(Comparisons())
        return comparisons[0].page(*both(query, job), query, job)

    def stats(query: Query, job: Job) -> Any:
        from weighlock.viewer.reading.figures import measure_one

        return measure_one(*one(query, job), query, job)

    def heat(query: Query, job: Job) -> Any:
        from weighlock.viewer.reading.heat import draw

        return _map(draw(*one(query, job), query, job))

    def diff_heat(query: Query, job: Job) -> Any:
        from weighlock.viewer.reading.heat import draw_difference

        a, b = both(query, job)
        return _map(draw_difference(((a, query.number("i")), (b, query.number("j"))), query, job))

    return {
        "/diff": diff,
        "/diff/heat": diff_heat,
        f"{tensor}/stats": stats,
        f"{tensor}/heat": heat,
        f"{tensor}/export.npy": lambda query, job: _npy(desk, *one(query, job)),
        f"{tensor}/export.csv": lambda query, job: _csv(*one(query, job)),
        "/file/{file}/scan": lambda query, job: _scan(of(query, job), job),
    }


def _current(file: ViewedFile, generation: int, job: Job) -> ViewedFile:
    """Return a file, if it is of the generation that the page shows: no page is made of old and new answers.

    An answer is of one generation, for it has only this file; that it did not change meanwhile is seen at its end.
    """
    if generation not in (0, file.generation):
        raise StaleError("the file was opened anew since this page was made", path=file.shown, hint="Reload the page.")
    job.finally_check(file.check)
    return file


def _reload(files: Files, query: Query) -> Any:
    number = query.number_in_path("file")
    return state_of(files.reload(number, query.number("g"), failed=query.flag("failed")))


def _tree(file: ViewedFile, query: Query) -> Any:
    return children_of(file, query.path(), query.page(), folded=query.flag("fold", default=True))


def _storages(file: ViewedFile, query: Query) -> Any:
    sort = query.choice("sort", "file", *SORTS)
    return list_storages(file, sort, query.page(), descending=query.flag("desc"))


def _scan(file: ViewedFile, job: Job) -> Any:
    from weighlock.viewer.looking.judging import scan_one

    # Not `once`, whose lock is the file's: a scan may take long, and the tree does not wait for it.
    found = file.orders.get(("scan",), lambda: scan_one(file), job)
    if any(gap["rule"] == "WL901" for gap in found["gaps"]):
        file.orders.drop(("scan",))  # it could not be read: the next one who asks may have more luck
    return found


def _map(heat: Any) -> Response:
    names = {"Rows": heat.rows, "Cols": heat.columns, "Of-Rows": heat.of_rows, "Of-Cols": heat.of_columns}
    headers = {f"X-Weighlock-{name}": str(value) for name, value in names.items()}
    return Response(heat.body, media_type="application/octet-stream", headers=headers | _NO_STORE)


def _attachment(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"', **_NO_STORE}


def _npy(desk: Desk, file: ViewedFile, index: int) -> Response:
    from weighlock.viewer.reading.exporting import as_npy, file_name

    found = as_npy(file, index)
    headers = _attachment(file_name(file, index, "npy")) | {"Content-Length": str(found.nbytes)}
    pieces = _in_threads(desk, _unchanged(file, found.pieces))
    return StreamingResponse(pieces, media_type="application/octet-stream", headers=headers)


def _csv(file: ViewedFile, index: int) -> Response:
    from weighlock.viewer.reading.exporting import as_csv, file_name

    headers = _attachment(file_name(file, index, "csv"))
    return Response(as_csv(file, index), media_type="text/csv; charset=utf-8", headers=headers)


def _unchanged(file: ViewedFile, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield pieces of a file as long as it is the same; it stays open as long as there are more."""
    for piece in pieces:
        file.check()
        yield piece


async def _in_threads(desk: Desk, pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Yield pieces that are read in threads; Starlette stops asking when the client is gone.

    An error breaks the connection off, before as many bytes have come as were announced: the browser keeps no half.
    """
    try:
        async with aclosing(desk.stream(pieces)) as found:
            async for piece in found:
                yield piece
    except WeighlockError as error:
        with suppress(Exception):
            sys.stderr.write(f"weighlock: a download broke off: {safe_text(error, limit=500)}\n")
        raise


def _endpoint(desk: Desk, answer: Answer, *, heavy: bool) -> Callable[[Request], Any]:
    async def respond(request: Request) -> Response:
        query = Query(request.query_params, request.path_params)

        def work(job: Job) -> Response:
            found = answer(query, job)
            job.finish()
            return found if isinstance(found, Response) else _written(found, 200)

        try:
            return await desk.run(work, request.receive, heavy=heavy)
        except AbandonedError:
            return Response(status_code=499, headers=_NO_STORE)
        except Exception as error:  # noqa: BLE001 - whatever a file does to us, the page gets a document
            return _failed(error)

    return respond


def _failed(error: Exception) -> Response:
    status = status_of(error)
    if status == 500:
        with suppress(Exception):
            sys.stderr.write(safe_text("".join(traceback.format_exception(error)), keep_newlines=True))
    response = _written(error_document(error), status)
    if status == 503:
        response.headers["Retry-After"] = "1"
    return response


async def _not_found(request: Request, error: Exception) -> Response:
    return _written(error_document(NoSuchThingError("there is no such address")), 404)


def _written(document: Any, status: int) -> Response:
    body = json.dumps(portable(document), allow_nan=False, separators=(",", ":")).encode("ascii")
    return Response(body, status, _NO_STORE, "application/json")
