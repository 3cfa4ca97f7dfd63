// @ts-check
/** Lists of any length of which only the rows in sight are in the document. */

import { el } from "./dom.js";
import { isAbort } from "./api.js";

/** Browsers place nothing beyond some 17 million pixels; above this the scroll bar is scaled. */
const TALLEST = 8_000_000;
const OVERSCAN = 3;

/** Rows that come in pages. Pages that have scrolled out of sight before they came are dropped. */
export class Pages {
    /**
     * @param {(offset: number, limit: number, signal: AbortSignal) => Promise<{total: number, rows: any[]}>} fetchPage
     * @param {() => void} changed called when rows have come @param {(error: any) => void} failed @param {number} [size]
     */
    constructor(fetchPage, changed, failed, size = 200) {
        this.fetchPage = fetchPage;
        this.changed = changed;
        this.failed = failed;
        this.size = size;
        this.total = 0;
        /** @type {Map<number, any[]>} */ this.pages = new Map();
        /** @type {Map<number, AbortController>} */ this.asked = new Map();
    }

    /** @param {number} index */
    get(index) {
        return this.pages.get(Math.floor(index / this.size))?.[index % this.size];
    }

    /** Ask for rows; `only` drops what is on its way and not among them. @param {number} from @param {number} to */
    need(from, to, only = true) {
        const first = Math.floor(Math.max(from, 0) / this.size),
            last = Math.floor(Math.max(to - 1, 0) / this.size);
        if (only)
            for (const [page, controller] of this.asked)
                if (page < first - 1 || page > last + 1) {
                    controller.abort();
                    this.asked.delete(page);
                }
        const waiting = [];
        for (let page = first; page <= last; page++)
            if (!this.pages.has(page) && !this.asked.has(page)) waiting.push(this.#load(page));
        return Promise.all(waiting);
    }

    /** @param {number} page */
    async #load(page) {
        const controller = new AbortController();
        this.asked.set(page, controller);
        try {
            const { total, rows } = await this.fetchPage(page * this.size, this.size, controller.signal);
            if (controller.signal.aborted) return;
            this.total = total;
            this.pages.set(page, rows);
            this.asked.delete(page);
            this.changed();
        } catch (error) {
            if (this.asked.get(page) === controller) this.asked.delete(page);
            if (!isAbort(error)) this.failed(error);
        }
    }

    stop() {
        for (const controller of this.asked.values()) controller.abort();
        this.asked.clear();
    }
}

/**
 * @typedef {object} RowOptions
 * @property {string} label accessible name
 * @property {string} [role] of the list: tree, grid
 * @property {string} [kind] a class
 * @property {() => number} total
 * @property {(index: number) => any} get the row's item, undefined while it has not come
 * @property {(from: number, to: number) => void} need rows are in sight and have not come
 * @property {(item: any, index: number) => HTMLElement} render
 * @property {(item: any, index: number) => void} [open] Enter or click
 * @property {(event: KeyboardEvent, item: any, index: number) => boolean} [key] true when it was dealt with
 */

/**
 * A list whose rows come in pages; null if the first could not be had.
 * @param {{label: string, kind: string, head: Node|null, fetch: (offset: number, limit: number, signal: AbortSignal) => Promise<any>, row: (item: any, index: number) => HTMLElement,
 *   open?: (item: any, index: number) => void, failed: (error: any) => void, signal: AbortSignal, size?: number, came?: () => void, keep?: boolean}} options
 */
export async function pagedList({ label, kind, head, fetch, row, open, failed, signal, size, came, keep }) {
    /** @type {any} */ let rows = null,
        trouble = null;
    const pages = new Pages(
        fetch,
        () => {
            rows?.update();
            came?.();
        },
        (error) => {
            trouble = error;
            failed(error);
        },
        size,
    );
    const stop = () => {
        pages.stop();
        rows?.stop();
    };
    signal.addEventListener("abort", () => {
        if (!rows || !keep) stop();
    });
    await pages.need(0, 1);
    if (trouble || signal.aborted) return null;
    rows = new VirtualRows({
        label,
        role: "grid",
        kind,
        total: () => pages.total,
        get: (i) => pages.get(i),
        need: (a, b) => {
            pages.need(a, b, size === undefined);
        },
        render: row,
        open,
    });
    rows.element.setAttribute("aria-rowcount", String(pages.total));
    return { rows, pages, head, stop };
}

/** The heads of columns that do not sort. @param {[string, string][]} columns class and text */
export const heads = (columns) =>
    el(
        "div",
        { class: "list-head", "aria-hidden": "true" },
        columns.map(([kind, text]) => el("span", { class: `cell ${kind}` }, text)),
    );

export class VirtualRows {
    /** @param {RowOptions} options */
    constructor(options) {
        this.options = options;
        this.active = 0;
        /** @type {Map<number, {item: any, node: HTMLElement}>} */
        this.shown = new Map();
        this.probe = el("div", { class: "row probe", "aria-hidden": "true" });
        const inner = options.role === "grid" ? "rowgroup" : "presentation";
        this.space = el("div", { class: "rows-space", role: inner });
        this.element = el(
            "div",
            {
                class: `rows ${options.kind || ""}`,
                role: options.role || "list",
                "aria-label": options.label,
                onscroll: () => this.#soon(),
                onkeydown: (e) => this.#key(e),
                onclick: (e) => this.#click(e),
            },
            this.probe,
            this.space,
        );
        this.element.addEventListener("wheel", (e) => this.#wheel(e), { passive: false });
        this.observer = new ResizeObserver(() => this.#soon());
        this.observer.observe(this.element);
        this.waits = false;
    }

    #soon() {
        if (this.waits) return;
        this.waits = true;
        requestAnimationFrame(() => {
            this.waits = false;
            this.update();
        });
    }

    /** Sizes of the moment: the height of a row follows the text size and the width. */
    #measure() {
        const height = this.probe.offsetHeight || 26,
            total = this.options.total(),
            view = this.element.clientHeight;
        const full = total * height,
            drawn = Math.min(full, TALLEST);
        const ratio = full > drawn ? (full - view) / (drawn - view) : 1;
        return { height, total, view, drawn, ratio, top: this.element.scrollTop * ratio };
    }

    /** Draw all rows anew: their look has changed. */
    refresh() {
        const focused = this.space.contains(document.activeElement);
        this.shown.clear();
        this.space.replaceChildren();
        this.update();
        if (focused) this.focus();
    }

    update() {
        if (!this.element.isConnected) return;
        const { height, total, view, drawn, ratio, top } = this.#measure();
        this.space.style.setProperty("--height", `${drawn}px`);
        this.active = Math.min(this.active, Math.max(total - 1, 0));
        const from = Math.max(0, Math.floor(top / height) - OVERSCAN),
            to = Math.min(total, Math.ceil((top + view) / height) + OVERSCAN);
        this.#keepOnly(from, to);
        let missing = false;
        const wanted = [];
        for (let index = from; index < to; index++) wanted.push(index);
        // The row that holds the focus stays, wherever it has scrolled to: without it the keyboard would be lost.
        if (total && (this.active < from || this.active >= to) && this.shown.has(this.active)) wanted.push(this.active);
        for (const index of wanted) {
            const item = this.options.get(index);
            if (item === undefined) missing = true;
            const node = this.#row(index, item);
            node.style.setProperty("--y", `${index * height - top + (ratio === 1 ? top : this.element.scrollTop)}px`);
            node.tabIndex = index === this.active ? 0 : -1;
            node.classList.toggle("active", index === this.active);
        }
        if (missing) this.options.need(from, to);
    }

    /** @param {number} from @param {number} to */
    #keepOnly(from, to) {
        for (const [index, { node }] of this.shown) {
            if (index >= from && index < to) continue;
            if (index === this.active && node.contains(document.activeElement)) continue;
            node.remove();
            this.shown.delete(index);
        }
    }

    /** @param {number} index @param {any} item @returns {HTMLElement} */
    #row(index, item) {
        const old = this.shown.get(index);
        if (old && old.item === item) return old.node;
        const node =
            item === undefined
                ? el(
                      "div",
                      { class: "row waiting", role: this.options.role === "tree" ? "treeitem" : "row" },
                      el("span", { class: "cell", role: this.options.role === "grid" ? "gridcell" : null }, "…"),
                  )
                : this.options.render(item, index);
        node.dataset.index = String(index);
        const focused = old?.node === document.activeElement;
        if (old) old.node.replaceWith(node);
        else this.#insert(index, node);
        this.shown.set(index, { item, node });
        if (focused) {
            node.tabIndex = 0;
            node.focus({ preventScroll: true });
        }
        return node;
    }

    /** In the order of the list, which is the order a screen reader follows. @param {number} index @param {HTMLElement} node */
    #insert(index, node) {
        let after = this.space.lastElementChild;
        while (after && Number(after.dataset.index) > index) after = after.previousElementSibling;
        if (after) after.after(node);
        else this.space.prepend(node);
    }

    /** @param {WheelEvent} event */
    #wheel(event) {
        const { ratio } = this.#measure();
        if (ratio === 1 || event.ctrlKey) return;
        event.preventDefault();
        this.element.scrollTop += event.deltaY / ratio;
    }

    /** @param {number} index @param {boolean} [middle] not at an edge, where nothing around it is seen */
    reveal(index, middle = false) {
        const { height, view, ratio, top } = this.#measure();
        const y = index * height;
        if (middle && (y < top || y + height > top + view))
            this.element.scrollTop = Math.max(0, y - (view - height) / 2) / ratio;
        else if (y < top) this.element.scrollTop = y / ratio;
        else if (y + height > top + view) this.element.scrollTop = (y + height - view) / ratio;
    }

    /** Make a row the one the keyboard is at. @param {number} index */
    go(index, focus = true, middle = false) {
        const total = this.options.total();
        if (!total) return;
        this.active = Math.max(0, Math.min(total - 1, index));
        this.reveal(this.active, middle);
        this.update();
        if (focus) this.focus();
    }

    focus() {
        this.shown.get(this.active)?.node.focus({ preventScroll: true });
    }

    /** @param {KeyboardEvent} event */
    #key(event) {
        if (event.altKey || event.metaKey) return;
        const row = /** @type {HTMLElement} */ (event.target).closest(".row");
        if (row !== event.target) return;
        const page = Math.max(1, Math.floor(this.element.clientHeight / (this.probe.offsetHeight || 26)) - 1);
        const step = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page }[event.key];
        const item = this.options.get(this.active);
        if (item !== undefined && this.options.key?.(event, item, this.active)) event.preventDefault();
        else if (event.ctrlKey) return;
        else if (step) {
            event.preventDefault();
            this.go(this.active + step);
        } else if (event.key === "Home") {
            event.preventDefault();
            this.go(0);
        } else if (event.key === "End") {
            event.preventDefault();
            this.go(Infinity);
        } else if (event.key === "Enter" && item !== undefined && this.options.open) {
            event.preventDefault();
            this.options.open(item, this.active);
        }
    }

    /** @param {MouseEvent} event */
    #click(event) {
        const target = /** @type {HTMLElement} */ (event.target),
            row = /** @type {HTMLElement|null} */ (target.closest(".row[data-index]"));
        if (!row || target.closest("a, button")) return;
        const index = Number(row.dataset.index),
            item = this.options.get(index);
        this.go(index);
        if (item !== undefined) this.options.open?.(item, index);
    }

    stop() {
        this.observer.disconnect();
    }
}
