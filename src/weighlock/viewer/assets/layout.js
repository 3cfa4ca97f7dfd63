// @ts-check
/** What each byte of a file is there for: a bar that zooms, and a list. */

import { get } from "./api.js";
import { cell, el, fill } from "./dom.js";
import * as say from "./format.js";
import { loading, pointing, problem, tensorLink, zoomButtons } from "./parts.js";
import { heads, pagedList } from "./virtual.js";

const PAGE = 2000,
    MOST_DRAWN = 20_000,
    COLOURS = 6,
    NARROWEST = 16;

/** @param {import("./parts.js").View} view */
export function layoutView({ file, signal }) {
    const body = el("div", { class: "fill" }, loading());
    start(file, body, signal);
    return el("div", { class: "fill" }, el("div", { class: "toolbar" }, el("h1", {}, "Layout")), body);
}

/** @param {number} file @param {HTMLElement} body @param {AbortSignal} signal */
async function start(file, body, signal) {
    /** @type {any} */ let first = null;
    /** @type {any} */ let bar = null;
    let colour = (_kind) => "k5";
    const swatch = (kind) => el("span", { class: `swatch ${colour(kind)}`, "aria-hidden": "true" });
    const list = await pagedList({
        label: "Parts of the file",
        kind: "layout-rows",
        head: heads([
            ["offset", "Offset"],
            ["size", "Bytes"],
            ["what", "Kind"],
            ["name", "Name"],
        ]),
        signal,
        size: PAGE,
        fetch: async (offset, limit, stop) => {
            const answer = await get(`file/${file}/layout`, { offset, limit }, stop);
            first ||= answer;
            return answer;
        },
        row: (row, i) =>
            el(
                "div",
                { class: "row", role: "row", "aria-rowindex": i + 1 },
                cell("offset", say.count(row.offset)),
                cell("size", say.count(row.nbytes)),
                cell("what", swatch(row.kind), row.kind),
                cell("name", say.clip(row.name ?? "", 300), row.tensor && [" ", tensorLink(file, row.tensor, 120)]),
            ),
        open: (row) => bar?.show(Number(row.offset), Number(row.offset) + Math.max(1, Number(row.nbytes))),
        came: () => bar?.draw(),
        failed: (error) => {
            if (!bar)
                fill(
                    body,
                    problem(error, () => start(file, body, signal)),
                );
        },
    });
    if (!list) return;
    const kinds = Object.keys(first.kinds || {}).sort((a, b) => Number(first.kinds[b]) - Number(first.kinds[a])),
        size = Number(first.size) || 1;
    colour = (kind) => `k${Math.min((kinds.indexOf(kind) + COLOURS * 2) % (COLOURS * 2), COLOURS - 1)}`;
    bar = new ByteBar(size, list.pages, colour, (i) => list.rows.go(i));
    signal.addEventListener("abort", () => bar.observer.disconnect());
    fill(
        body,
        el(
            "div",
            { class: "pad" },
            bar.element,
            el(
                "ul",
                { class: "keyed" },
                kinds.map((kind) =>
                    el(
                        "li",
                        {},
                        swatch(kind),
                        `${kind} `,
                        el(
                            "span",
                            { class: "of" },
                            `${say.bytes(first.kinds[kind])}, ${say.percent(Number(first.kinds[kind]) / size)}`,
                        ),
                    ),
                ),
            ),
            list.pages.total > MOST_DRAWN &&
                el(
                    "p",
                    { class: "of" },
                    `The bar draws the first ${say.count(MOST_DRAWN)} of ${say.count(list.pages.total)} parts; the list has all.`,
                ),
        ),
        el("div", { class: "list-holder" }, list.head, list.rows.element),
    );
    bar.draw();
    list.rows.update();
    for (let from = PAGE; from < Math.min(list.pages.total, MOST_DRAWN) && !signal.aborted; from += PAGE)
        await list.pages.need(from, from + 1, false);
}

class ByteBar {
    /** @param {number} size @param {import("./virtual.js").Pages} pages @param {(kind: string) => string} colour @param {(index: number) => void} pick */
    constructor(size, pages, colour, pick) {
        this.size = size;
        this.pages = pages;
        this.colour = colour;
        this.from = 0;
        this.to = size;
        const canvas = (this.canvas = el("canvas", {
            class: "bytebar",
            tabindex: "0",
            role: "img",
            "aria-label": `The ${say.count(size)} bytes of the file; the list below has the same parts. Plus and minus zoom, arrow keys move, 0 shows all.`,
        }));
        this.readout = el("p", { class: "readout" });
        this.element = el(
            "div",
            { class: "figure wide" },
            el("div", { class: "figure-head" }, zoomButtons(this), this.readout),
            canvas,
        );
        const at = (e) => {
            const box = canvas.getBoundingClientRect();
            return this.from + ((e.clientX - box.left) / box.width) * (this.to - this.from);
        };
        canvas.addEventListener(
            "wheel",
            (e) => {
                e.preventDefault();
                this.zoom(e.deltaY < 0 ? 0.8 : 1.25, at(e));
            },
            { passive: false },
        );
        pointing(canvas, {
            begin: () => ({ from: this.from, to: this.to }),
            drag: ({ from, to }, x) => this.show(from - x * (to - from), to - x * (to - from)),
            hover: (e) => this.tell(e && at(e)),
            click: (e) => {
                const i = this.find(at(e));
                if (i >= 0) pick(i);
            },
        });
        canvas.addEventListener("keydown", (e) => {
            const step = (this.to - this.from) / 8;
            const action = {
                "+": () => this.zoom(0.5),
                "=": () => this.zoom(0.5),
                "-": () => this.zoom(2),
                0: () => this.all(),
                ArrowLeft: () => this.show(this.from - step, this.to - step),
                ArrowRight: () => this.show(this.from + step, this.to + step),
            }[e.key];
            if (action) {
                e.preventDefault();
                action();
            }
        });
        this.observer = new ResizeObserver(() => requestAnimationFrame(() => this.draw()));
        this.observer.observe(canvas);
    }

    /** The part that holds a byte. @param {number} byte */
    find(byte) {
        let lo = 0,
            hi = Math.min(this.pages.total, MOST_DRAWN) - 1;
        while (lo <= hi) {
            const middle = (lo + hi) >> 1,
                row = this.pages.get(middle);
            if (!row || byte < Number(row.offset)) hi = middle - 1;
            else if (byte >= Number(row.offset) + Number(row.nbytes)) lo = middle + 1;
            else return middle;
        }
        return -1;
    }

    /** @param {number|null} byte */
    tell(byte) {
        const row = byte === null ? null : this.pages.get(this.find(byte));
        this.readout.textContent = row
            ? `${say.count(row.offset)} + ${say.count(row.nbytes)}  ${row.kind}  ${say.clip(row.name ?? "", 120)}`
            : `bytes ${say.count(Math.floor(this.from))} to ${say.count(Math.ceil(this.to))}`;
    }

    /** @param {number} factor @param {number} [at] */
    zoom(factor, at = (this.from + this.to) / 2) {
        const from = at - (at - this.from) * factor;
        this.show(from, from + (this.to - this.from) * factor);
    }

    all() {
        this.show(0, this.size);
    }

    /** @param {number} from @param {number} to */
    show(from, to) {
        const span = Math.min(this.size, Math.max(NARROWEST, to - from));
        this.from = Math.max(0, Math.min(this.size - span, from));
        this.to = this.from + span;
        this.draw();
    }

    draw() {
        const { canvas } = this,
            dense = window.devicePixelRatio || 1,
            width = Math.round(canvas.clientWidth * dense),
            height = Math.round(canvas.clientHeight * dense);
        if (!width || !height) return;
        canvas.width = width;
        canvas.height = height;
        const pen = canvas.getContext("2d"),
            scale = width / (this.to - this.from),
            colours = Array.from({ length: COLOURS }, (_, i) => {
                canvas.style.setProperty("--probe", `var(--k${i})`); // a colour of the theme, as the canvas understands it
                return getComputedStyle(canvas).color;
            });
        for (let i = 0; i < Math.min(this.pages.total, MOST_DRAWN); i++) {
            const row = this.pages.get(i);
            if (!row) continue;
            const x = (Number(row.offset) - this.from) * scale,
                wide = Number(row.nbytes) * scale;
            if (x + wide < 0 || x > width) continue;
            pen.fillStyle = colours[Number(this.colour(row.kind)[1])];
            pen.fillRect(x, 0, Math.max(wide > 6 ? wide - 1 : wide, 0.5), height);
        }
        this.tell(null);
    }
}
