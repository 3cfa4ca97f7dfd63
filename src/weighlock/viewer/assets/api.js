// @ts-check
/** Asking the server. One token, one error class, requests that can be dropped. */

const TOKEN = "weighlock-token";

/** The server's answer to what could not be done. */
export class ApiError extends Error {
    /** @param {number} status @param {{type?: string, message?: string, next?: string|null}} body @param {number} [file] */
    constructor(status, body, file = -1) {
        super(body.message || `The server answered ${status}.`);
        this.status = status;
        /** The file that was asked of; -1 where it was none. */
        this.file = file;
        this.type = body.type || "";
        this.next = body.next ?? null;
    }
}

/** The server is gone. */
export class Lost extends ApiError {
    constructor() {
        super(0, {
            message: "The server does not answer: it was stopped, or it ended after a time without use.",
            next: "Start it again with `weighlock view FILE` and open the address it prints.",
        });
    }
}

/** @param {unknown} error */
export const isAbort = (error) => error instanceof DOMException && error.name === "AbortError";

/** Move the token from the address to this tab's storage, so that it is in no bookmark and no screenshot. */
export function takeToken() {
    const match = /^#(?:.*&)?token=([^&]+)/.exec(location.hash);
    if (!match) return;
    sessionStorage.setItem(TOKEN, match[1]); // as it is: its letters need no escapes, and what is no token may be no escape either
    history.replaceState(null, "", location.pathname + location.search);
}

/** @type {Set<(lost: boolean) => void>} */
const watchers = new Set();
/** Be told when the server goes and comes back. @param {(lost: boolean) => void} watcher */
export function watchServer(watcher) {
    watchers.add(watcher);
}

/** Say that the server is gone. @returns {Lost} */
export function serverLost() {
    watchers.forEach((watcher) => watcher(true));
    return new Lost();
}

/** Each file was opened so many times: only answers of one opening are shown together. @type {Map<number, number>} */
const generations = new Map();
/** @type {Set<(states: {file: number, generation: number, state: string}[]) => void>} */
const listeners = new Set();
/** Be told when a file is not on disk any more as it is shown. @param {(states: any[]) => void} listener */
export function watchFiles(listener) {
    listeners.add(listener);
}

/** Take files as the page now shows them. @param {{file: number, generation: number}[]} files */
export function show(files) {
    for (const { file, generation } of files) generations.set(file, generation);
}

/** Tell of files; those that another page had opened anew are "stale" here. @param {any[]} states */
export function tell(states) {
    const seen = states.map((one) =>
        one.generation === (generations.get(one.file) ?? one.generation) ? one : { ...one, state: "stale" },
    );
    listeners.forEach((listener) => listener(seen));
}

/** Have a file opened anew; `failed` only if it could not be opened. @param {number} file */
export async function reopen(file, failed = false) {
    show([await get(`file/${file}/reload`, { g: generations.get(file), failed: failed ? 1 : null })]);
}

/** What a question of files must say of them. @param {string} path @param {Record<string, any>} params */
function meant(path, params) {
    const file = /^file\/(\d+)/.exec(path);
    if (file) return { g: generations.get(Number(file[1])), ...params };
    if (!/^diff/.test(path)) return params;
    return { ga: generations.get(Number(params.a)), gb: generations.get(Number(params.b)), ...params };
}

/** @param {Record<string, any>} params */
function query(params) {
    const pairs = Object.entries(params).filter(([, value]) => value !== null && value !== undefined && value !== "");
    return pairs.length ? `?${new URLSearchParams(pairs.map(([name, value]) => [name, String(value)]))}` : "";
}

/**
 * @param {string} path below /api/v1/ @param {Record<string, any>} params @param {AbortSignal|null} [signal]
 * @returns {Promise<Response>}
 */
async function ask(path, params, signal) {
    /** @type {Response} */
    let response;
    try {
        response = await fetch(`api/v1/${path}${query(meant(path, params))}`, {
            headers: { Authorization: `Bearer ${sessionStorage.getItem(TOKEN) || ""}` },
            signal,
            cache: "no-store",
        });
    } catch (error) {
        if (isAbort(error)) throw error;
        throw serverLost();
    }
    watchers.forEach((watcher) => watcher(false));
    if (response.ok) return response;
    /** @type {any} */
    let body = {};
    try {
        body = (await response.json()).error || {};
    } catch {
        /* not JSON: the status says enough */
    }
    if (response.status === 401) {
        body = {
            type: "Unauthorized",
            message: "This page's key is missing or no longer valid.",
            next: "Open the address that `weighlock view` printed when it was started.",
        };
    }
    const file = Number(/^file\/(\d+)/.exec(path)?.[1] ?? -1);
    if (response.status === 409) ping().catch(() => null); // which of the files it was, and what has become of it
    throw new ApiError(response.status, body, file);
}

/** Ask whether the server is there, and whether the files are as they were. */
export async function ping() {
    tell((await get("ping")).files);
}

/** @param {string} path @param {Record<string, any>} [params] @param {AbortSignal|null} [signal] @returns {Promise<any>} */
export async function get(path, params = {}, signal) {
    return (await ask(path, params, signal)).json();
}

/**
 * Three planes of Float32: min, mean, max of the blocks of an array's last two dimensions. They come little-endian, as every
 * machine with a browser is.
 * @typedef {{h: number, w: number, ofRows: number, ofCols: number, planes: {min: Float32Array, mean: Float32Array, max: Float32Array}}} Heat
 * @param {string} path @param {Record<string, any>} params @param {AbortSignal} [signal] @returns {Promise<Heat>}
 */
export async function getHeat(path, params, signal) {
    const response = await ask(path, params, signal);
    const number = (name) => Number(response.headers.get(`X-Weighlock-${name}`));
    const h = number("Rows"),
        w = number("Cols"),
        raw = await response.arrayBuffer();
    if (raw.byteLength !== h * w * 12)
        throw new ApiError(500, { message: `The heat map has ${raw.byteLength} bytes, expected ${h * w * 12}.` });
    const plane = (k) => new Float32Array(raw, k * h * w * 4, h * w);
    return {
        h,
        w,
        ofRows: number("Of-Rows"),
        ofCols: number("Of-Cols"),
        planes: { min: plane(0), mean: plane(1), max: plane(2) },
    };
}

/** Save what the server streams under a name. @param {string} path @param {string} name @param {Record<string, any>} [params] */
export async function download(path, name, params = {}) {
    const blob = await (await ask(path, params, null)).blob();
    const address = URL.createObjectURL(blob);
    const anchor = document.createElement("a");
    anchor.href = address;
    anchor.download = name;
    anchor.click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** Requests of one place of which only the last matters: a new one drops the one before. */
export class Latest {
    constructor() {
        this.controller = new AbortController();
    }
    next() {
        this.stop();
        this.controller = new AbortController();
        return this.controller.signal;
    }
    stop() {
        this.controller.abort();
    }
}
