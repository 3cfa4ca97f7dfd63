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
from weighlock.viewer.failures import AbandonedError, NoSuchThingError, error_document, status_of
from weighlock.viewer.guarding import API
from weighlock.viewer.jobs import Desk, Job
from weighlock.viewer.looking.cells import read_cells
from weighlock.viewer.looking.describing import describe_tensor
from weighlock.viewer.looking.facts import portable
from weighlock.viewer.looking.holding import Files, ViewedFile
from weighlock.viewer.looking.listing import choice_of, list_tensors
from weighlock.viewer.looking.outline import children_of, value_at
from weighlock.viewer.looking.overview import describe_file, name_files
from weighlock.viewer.looking.tables import SORTS, list_layout, list_storages, scan_one
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
    light = {
        "/files": lambda query, job: name_files(files.all, version) | {"idle": idle},
        "/ping": lambda query, job: {"working": desk.working},
        "/file/{file}": lambda query, job: describe_file(_file(files, query)),
        "/file/{file}/tree": lambda query, job: _tree(files, query),
        "/file/{file}/tensors": lambda query, job: _tensors(files, query, job),
        "/file/{file}/value": lambda query, job: value_at(_file(files, query), query.path()),
        "/file/{file}/storages": lambda query, job: _storages(files, query),
        "/file/{file}/layout": lambda query, job: list_layout(_file(files, query), query.page(MOST_STRETCHES)),
        tensor: lambda query, job: describe_tensor(*_tensor(files, query)),
        f"{tensor}/grid": lambda query, job: read_cells(*_tensor(files, query), query),
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

    def diff(query: Query, job: Job) -> Any:
        from weighlock.viewer.reading.comparison import Comparisons

        if not comparisons:
            comparisons.append(Comparisons(files))
        return comparisons[0].page(query, job)

    def stats(query: Query, job: Job) -> Any:
        from weighlock.viewer.reading.figures import measure_one

        return measure_one(*_tensor(files, query), query, job)

    def heat(query: Query, job: Job) -> Any:
        from weighlock.viewer.reading.heat import draw

        return _map(draw(*_tensor(files, query), query, job))

    def diff_heat(query: Query, job: Job) -> Any:
        from weighlock.viewer.reading.heat import draw_difference

        sides = tuple(
            (files[query.number(file, default)], query.number(index))
            for file, index, default in (("a", "i", 0), ("b", "j", 1))
        )
        return _map(draw_difference((sides[0], sides[1]), query, job))

    return {
        "/diff": diff,
        "/diff/heat": diff_heat,
        f"{tensor}/stats": stats,
        f"{tensor}/heat": heat,
        f"{tensor}/export.npy": lambda query, job: _npy(desk, *_tensor(files, query)),
        f"{tensor}/export.csv": lambda query, job: _csv(*_tensor(files, query)),
        "/file/{file}/scan": lambda query, job: _scan(_file(files, query), job),
    }


def _file(files: Files, query: Query) -> ViewedFile:
    return files[query.number_in_path("file")]


def _tensor(files: Files, query: Query) -> tuple[ViewedFile, int]:
    return _file(files, query), query.number_in_path("tensor")


def _tree(files: Files, query: Query) -> Any:
    return children_of(_file(files, query), query.path(), query.page(), folded=query.flag("fold", default=True))


def _tensors(files: Files, query: Query, job: Job) -> Any:
    return list_tensors(_file(files, query), choice_of(query), query.page(), job)


def _storages(files: Files, query: Query) -> Any:
    sort = query.choice("sort", "file", *SORTS)
    return list_storages(_file(files, query), sort, query.page(), descending=query.flag("desc"))


def _scan(file: ViewedFile, job: Job) -> Any:
    # Not `once`, whose lock is the file's: a scan may take long, and the tree does not wait for it.
    return file.orders.get(("scan",), lambda: scan_one(file), job)


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
    return StreamingResponse(_in_threads(desk, found.pieces), media_type="application/octet-stream", headers=headers)


def _csv(file: ViewedFile, index: int) -> Response:
    from weighlock.viewer.reading.exporting import as_csv, file_name

    headers = _attachment(file_name(file, index, "csv"))
    return Response(as_csv(file, index), media_type="text/csv; charset=utf-8", headers=headers)


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
