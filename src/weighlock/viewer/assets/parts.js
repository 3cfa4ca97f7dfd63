// @ts-check
/** Pieces that several views share. */

import { button, el, fill, index } from "./dom.js";
import { isAbort, reopen } from "./api.js";
import * as say from "./format.js";

/** Address of a view. @param {string} path @param {Record<string, any>} [params] */
export function address(path, params = {}) {
    const pairs = Object.entries(params).filter(
        ([, value]) => value !== null && value !== undefined && value !== "" && value !== false,
    );
    return `#/${path}${pairs.length ? `?${new URLSearchParams(pairs.map(([name, value]) => [name, String(value)]))}` : ""}`;
}

/** Shown only when waiting takes a while. @param {string} [text] */
export const loading = (text = "Reading…") => el("p", { class: "loading", role: "status" }, text);

/**
 * An error in its place, with what to do next; there is always a way on.
 * @param {any} error @param {(() => void)|null} [again] @param {[string, () => void]|null} [out] another way
 */
export function problem(error, again, out) {
    const { status = 0, file = -1 } = error || {};
    // What is wrong with the question stays so, and a file that was changed has a control of its own.
    const retry = again && ![400, 404, 409, 414].includes(status);
    return el(
        "div",
        { class: "problem", role: "alert" },
        el("p", { class: "what" }, error?.message || String(error)),
        error?.next && el("p", { class: "next" }, error.next),
        retry &&
            button("Try again", async () => {
                // A file that could not be opened is not tried by every request, but at once where somebody wants it.
                if (status === 503 && file >= 0) await reopen(file, true).catch(() => null);
                again();
            }),
        out && button(...out),
        [400, 404, 414].includes(status) &&
            el("a", { class: "way", href: address(`file/${Math.max(0, file)}/overview`) }, "Go to the overview"),
    );
}

/**
 * A place that is filled when its data comes; errors are shown there.
 * @template T @param {HTMLElement} place @param {(signal: AbortSignal) => Promise<T>} ask @param {(data: T) => any} show
 * @param {AbortSignal} signal @param {string} [text] shown meanwhile
 */
export async function later(place, ask, show, signal, text) {
    fill(place, loading(text));
    place.setAttribute("aria-busy", "true");
    try {
        const data = await ask(signal);
        if (!signal.aborted) fill(place, show(data));
    } catch (error) {
        if (!isAbort(error) && !signal.aborted) {
            console.info(String(error));
            fill(
                place,
                problem(error, () => later(place, ask, show, signal, text)),
            );
        }
    } finally {
        place.removeAttribute("aria-busy");
    }
}

/** A link to a tensor by its name. @param {number} file @param {{index: number, key: string}} tensor @param {number} [limit] */
export const tensorLink = (file, { index, key }, limit = 200) =>
    el(
        "a",
        {
            class: "key",
            href: address(`file/${file}/tensor/${index}`),
            title: key && key.length > limit ? say.clip(key, 1000) : null,
        },
        say.name(key, limit),
    );

/** A heading with what follows it. @param {string} title @param {...any} children */
export const section = (title, ...children) => el("section", {}, el("h2", {}, title), ...children);

/** @param {any} gap */
export const gapText = (gap) =>
    typeof gap === "string"
        ? gap
        : [gap.rule, gap.where, gap.message || gap.title || JSON.stringify(gap), gap.remedy]
              .filter(Boolean)
              .join(" · ");

/** What was not looked at. @param {any[]} gaps */
export const gapList = (gaps) =>
    gaps?.length > 0 &&
    el(
        "div",
        { class: "note warn" },
        el("p", {}, el("strong", {}, "Not fully examined. ")),
        el(
            "ul",
            {},
            gaps.map((gap) => el("li", {}, gapText(gap))),
        ),
    );

/** Which tensor this is the same as. @param {any} alias */
export function aliasOf(alias) {
    if (alias === null || alias === undefined) return null;
    return typeof alias === "object"
        ? { index: alias.index, key: alias.key }
        : typeof alias === "number"
          ? { index: alias, key: `tensor ${alias}` }
          : { index: null, key: String(alias) };
}

/** @param {number} file @param {any} alias */
export function aliasLink(file, alias) {
    const other = aliasOf(alias);
    if (!other) return null;
    return el(
        "span",
        { class: "alias" },
        "= ",
        other.index === null ? say.name(other.key, 200) : tensorLink(file, /** @type {any} */ (other)),
    );
}

/** Last two dimensions as rows and columns. @param {number[]} shape @returns {[number, number]} */
export const plane = (shape) => /** @type {any} */ ([1, 1, ...shape].slice(-2));

/** Which matrix of a tensor with more than two dimensions; `at` is changed in place. @param {number[]} leading @param {number[]} at @param {() => void} change */
export const leadingBoxes = (leading, at, change) =>
    leading.length > 0 &&
    el(
        "div",
        { class: "leading", role: "group", "aria-label": "Leading indices" },
        leading.map((n, i) =>
            el(
                "label",
                {},
                `dim ${i} `,
                index(`Index in dimension ${i}`, n, at[i], (to) => {
                    if (to !== at[i]) {
                        at[i] = to;
                        change();
                    }
                }),
                el("span", { class: "of" }, ` of ${say.count(n)}`),
            ),
        ),
        el("span", { class: "of" }, "the last two are rows and columns"),
    );

/** Buttons for zooming. @param {{zoom: (factor: number) => void, all: () => void}} view */
export const zoomButtons = (view) =>
    el(
        "div",
        { class: "choice", role: "group", "aria-label": "Zoom" },
        button("+", () => view.zoom(0.5), "Zoom in"),
        button("−", () => view.zoom(2), "Zoom out"),
        button("All", () => view.all(), "Show all"),
    );

/**
 * Drag, hover and click on a canvas. @param {HTMLCanvasElement} canvas
 * @param {{begin: () => any, drag: (begun: any, x: number, y: number) => void, hover: (event: PointerEvent|null) => void, click: (event: PointerEvent) => void}} on
 *   `drag` gets how far, in parts of the canvas
 */
export function pointing(canvas, on) {
    /** @type {any} */ let from = null;
    canvas.addEventListener("pointerdown", (e) => {
        if (e.button === 0) {
            from = { x: e.clientX, y: e.clientY, begun: on.begin(), moved: false };
            canvas.setPointerCapture(e.pointerId);
        }
    });
    canvas.addEventListener("pointermove", (e) => {
        if (from && Math.hypot(e.clientX - from.x, e.clientY - from.y) > 3) from.moved = true;
        if (from?.moved)
            on.drag(from.begun, (e.clientX - from.x) / canvas.clientWidth, (e.clientY - from.y) / canvas.clientHeight);
        on.hover(e);
    });
    canvas.addEventListener("pointerup", (e) => {
        if (from && !from.moved) on.click(e);
        from = null;
    });
    canvas.addEventListener("pointercancel", () => {
        from = null;
    });
    canvas.addEventListener("pointerleave", () => on.hover(null));
}

/** What every view is given. @typedef {{file: number, files: any[], params: Record<string, string>, signal: AbortSignal, remember: (params: Record<string, any>) => void, reload: (file: number) => void}} View */
