// @ts-check
/** A picture of a matrix: zoom, pan, the value under the pointer. The server gives minimum, mean and maximum of blocks. */

import { isAbort, Latest } from "./api.js";
import { choice, debounce, el, table, twin } from "./dom.js";
import * as say from "./format.js";
import { ends, paint, range } from "./palette.js";
import { pointing, zoomButtons } from "./parts.js";

/** @typedef {{r0: number, r1: number, c0: number, c1: number}} Region */
/** @typedef {import("./api.js").Heat} Heat */

const MAX_HEIGHT = 420,
    MIN_HEIGHT = 40,
    MIN_WIDTH = 200,
    WIDEST_CELL = 36;

/** How the server cuts a stretch into `n` blocks: block i begins at floor(i * size / n). @param {number} from @param {number} to @param {number} n */
function spans(from, to, n) {
    const size = to - from,
        begin = (i) => from + Math.floor((i * size) / n);
    return {
        of: (at) => (at < from || at >= to ? -1 : Math.ceil(((at - from + 1) * n) / size) - 1),
        text: (i) => (n > size || begin(i) + 1 >= begin(i + 1) ? String(begin(i)) : `${begin(i)}:${begin(i + 1)}`),
    };
}

export class HeatMap {
    /**
     * @param {{name: string, rows: number, cols: number, difference?: boolean,
     *   load: (part: {rows: string, cols: string, width: number, height: number}, signal?: AbortSignal) => Promise<Heat>,
     *   pick?: (row: number, col: number) => void, failed: (error: any) => void}} options
     */
    constructor(options) {
        this.options = options;
        this.latest = new Latest();
        /** @type {"min"|"mean"|"max"} */ this.plane = "mean";
        /** @type {"auto"|"sequential"|"diverging"} */ this.palette = "auto";
        this.region = this.whole();
        /** @type {{heat: Heat, region: Region, image: OffscreenCanvas|HTMLCanvasElement}|null} */ this.have = null;
        /** @type {{r: number, c: number}|null} */ this.at = null;
        this.canvas = el("canvas", {
            class: "heat",
            tabindex: "0",
            role: "img",
            "aria-label": `Heat map of ${options.name}`,
            "aria-describedby": "heat-summary heat-keys",
        });
        this.readout = el("p", { class: "readout", "aria-live": "off" });
        this.summary = el("p", { class: "summary", id: "heat-summary" });
        this.scale = el("canvas", { class: "heat-scale", width: 256, height: 1, "aria-hidden": "true" });
        this.low = el("span", {});
        this.high = el("span", {});
        this.fetchSoon = debounce(() => this.fetch(), 90);
        this.element = this.#build();
        // In the next frame: a size that is set while sizes are told is an error to Firefox and Chromium.
        this.observer = new ResizeObserver(() =>
            requestAnimationFrame(() => {
                if (this.#size()) this.fetchSoon();
            }),
        );
        this.observer.observe(this.element);
    }

    /** @returns {Region} */
    whole() {
        return { r0: 0, r1: this.options.rows, c0: 0, c1: this.options.cols };
    }

    #build() {
        const canvas = this.canvas;
        canvas.addEventListener(
            "wheel",
            (e) => {
                if (!e.ctrlKey && document.activeElement !== canvas) return;
                e.preventDefault();
                const at = this.#where(e);
                this.zoom(e.deltaY < 0 ? 0.8 : 1.25, at.r, at.c);
            },
            { passive: false },
        );
        canvas.addEventListener("dblclick", (e) => {
            const at = this.#where(e);
            this.zoom(e.shiftKey ? 2 : 0.5, at.r, at.c);
        });
        canvas.addEventListener("keydown", (e) => {
            if (this.#key(e.key, e.shiftKey)) {
                e.preventDefault();
                e.stopPropagation();
            }
        });
        pointing(canvas, {
            begin: () => ({ ...this.region }),
            drag: (region, x, y) =>
                this.#move(region, -Math.round(y * (region.r1 - region.r0)), -Math.round(x * (region.c1 - region.c0))),
            hover: (e) => {
                const at = e && this.#where(e);
                this.at = at && { r: Math.floor(at.r), c: Math.floor(at.c) };
                this.#tell();
            },
            click: () => {
                if (this.at) this.options.pick?.(this.at.r, this.at.c);
            },
        });
        return el(
            "div",
            { class: "figure heat-figure" },
            el(
                "div",
                { class: "figure-head" },
                choice(
                    "What a block shows",
                    [
                        ["min", "Min"],
                        ["mean", "Mean"],
                        ["max", "Max"],
                    ],
                    this.plane,
                    (kind) => {
                        this.plane = /** @type {any} */ (kind);
                        this.#repaint();
                    },
                ),
                choice(
                    "Colours",
                    [
                        ["auto", "Auto"],
                        ["sequential", "One way"],
                        ["diverging", "Around 0"],
                    ],
                    this.palette,
                    (kind) => {
                        this.palette = /** @type {any} */ (kind);
                        this.#repaint();
                    },
                ),
                zoomButtons(this),
            ),
            canvas,
            el("div", { class: "legend" }, this.low, this.scale, this.high),
            this.readout,
            this.summary,
            el(
                "p",
                { class: "hint", id: "heat-keys" },
                "Arrow keys move, Home goes to the first corner, + and − zoom, 0 shows all; drag, double-click or Ctrl+wheel do the same. Shift+arrow keys move the marked cell",
                this.options.pick ? ", Enter shows its values." : ".",
            ),
            twin("Heat map as a table (16 × 16 blocks at most)", () => this.#twin()),
        );
    }

    /** The canvas takes the shape of the matrix, within bounds. */
    #size() {
        const space = Math.floor(this.element.clientWidth),
            { rows, cols } = this.options;
        if (!space) return false;
        const most = Math.min(space, 860, cols * WIDEST_CELL);
        let width = Math.min(space, Math.max(most, MIN_WIDTH)),
            height = (width * rows) / Math.max(cols, 1);
        if (height > MAX_HEIGHT) {
            height = MAX_HEIGHT;
            width = Math.min(most, Math.max(MIN_WIDTH, (MAX_HEIGHT * cols) / Math.max(rows, 1)));
        }
        height = Math.max(MIN_HEIGHT, Math.round(height));
        width = Math.round(width);
        const dense = Math.min(window.devicePixelRatio || 1, 2);
        if (this.canvas.width === Math.round(width * dense) && this.canvas.height === Math.round(height * dense))
            return false;
        this.canvas.width = Math.round(width * dense);
        this.canvas.height = Math.round(height * dense);
        this.canvas.style.setProperty("--w", `${width}px`);
        this.canvas.style.setProperty("--h", `${height}px`);
        this.#draw();
        return true;
    }

    /** @param {Region} region @param {number} width @param {number} height @param {AbortSignal} [signal] */
    #load({ r0, r1, c0, c1 }, width, height, signal) {
        return this.options.load({ rows: `${r0}:${r1}`, cols: `${c0}:${c1}`, width, height }, signal);
    }

    all() {
        this.set(this.whole());
    }

    async fetch() {
        const signal = this.latest.next(),
            region = { ...this.region };
        const width = Math.max(1, Math.min(this.canvas.width, 860)),
            height = Math.max(1, Math.min(this.canvas.height, 640));
        try {
            const heat = await this.#load(region, width, height, signal);
            if (signal.aborted) return;
            this.have = { heat, region, image: document.createElement("canvas") };
            this.#repaint();
        } catch (error) {
            if (!isAbort(error)) this.options.failed(error);
        }
    }

    /** @returns {"sequential"|"diverging"} */
    #colours(found) {
        if (this.palette !== "auto") return this.palette;
        return this.options.difference || (found.lo < 0 && found.hi > 0) ? "diverging" : "sequential";
    }

    #repaint() {
        if (!this.have) return;
        const { heat, region, image } = this.have,
            plane = heat.planes[this.plane],
            found = range(plane);
        const colours = this.#colours(found),
            span = ends(found, colours);
        image.width = Math.max(heat.w, 1);
        image.height = Math.max(heat.h, 1);
        if (heat.w && heat.h)
            /** @type {any} */ (image.getContext("2d")).putImageData(paint(plane, heat.w, heat.h, span, colours), 0, 0);
        const steps = Float32Array.from({ length: 256 }, (_, i) => i);
        this.scale.getContext("2d").putImageData(paint(steps, 256, 1, { lo: 0, hi: 255 }, colours), 0, 0);
        this.low.textContent = say.value(span.lo);
        this.high.textContent = say.value(span.hi);
        const rows = region.r1 - region.r0,
            cols = region.c1 - region.c0,
            single = heat.h === rows && heat.w === cols;
        this.summary.textContent =
            `${this.options.rows === 1 ? "C" : `Rows ${say.count(region.r0)}–${say.count(region.r1 - 1)} of ${say.count(this.options.rows)}, c`}olumns ${say.count(region.c0)}–${say.count(region.c1 - 1)} of ${say.count(this.options.cols)}; ` +
            (single
                ? "one cell for each value"
                : `${say.count(heat.h)} × ${say.count(heat.w)} blocks, their ${{ min: "minimum", mean: "mean", max: "maximum" }[this.plane]} shown`) +
            (found.empty ? "; nothing finite to show" : `, from ${say.value(found.lo)} to ${say.value(found.hi)}`) +
            (found.nan
                ? `; ${say.plural(found.nan, single ? "value is" : "block is", single ? "values are" : "blocks are")} NaN (checked grey)`
                : "") +
            (found.inf ? `; ${say.plural(found.inf, "infinite one", "infinite ones")} drawn at the ends` : "") +
            ".";
        this.#draw();
        this.#tell();
    }

    /** What has come is drawn where it belongs in the region of the moment, so that zooming answers at once. */
    #draw() {
        const { canvas, have, region } = this,
            pen = canvas.getContext("2d");
        pen.clearRect(0, 0, canvas.width, canvas.height);
        if (!have || !have.image.width) return;
        const sx = canvas.width / (region.c1 - region.c0),
            sy = canvas.height / (region.r1 - region.r0),
            old = have.region;
        pen.imageSmoothingEnabled = false;
        pen.drawImage(
            have.image,
            (old.c0 - region.c0) * sx,
            (old.r0 - region.r0) * sy,
            (old.c1 - old.c0) * sx,
            (old.r1 - old.r0) * sy,
        );
        if (this.at) {
            pen.lineWidth = Math.max(2, Math.round(window.devicePixelRatio || 1));
            const [x, y, w, h] = [
                (this.at.c - region.c0) * sx,
                (this.at.r - region.r0) * sy,
                Math.max(sx, 5),
                Math.max(sy, 5),
            ];
            pen.strokeStyle = "#000";
            pen.strokeRect(x - 1, y - 1, w + 2, h + 2);
            pen.strokeStyle = "#fff";
            pen.strokeRect(x + 1, y + 1, Math.max(w - 2, 1), Math.max(h - 2, 1));
        }
    }

    /** @param {MouseEvent} event */
    #where(event) {
        const box = this.canvas.getBoundingClientRect(),
            { region } = this;
        return {
            r:
                region.r0 +
                Math.max(0, Math.min(0.999999, (event.clientY - box.top) / box.height)) * (region.r1 - region.r0),
            c:
                region.c0 +
                Math.max(0, Math.min(0.999999, (event.clientX - box.left) / box.width)) * (region.c1 - region.c0),
        };
    }

    #tell() {
        const { at, have } = this;
        this.#draw();
        if (!at || !have) {
            this.readout.textContent = "Point at a cell to see its value.";
            return;
        }
        const { heat, region } = have,
            rows = spans(region.r0, region.r1, heat.h),
            cols = spans(region.c0, region.c1, heat.w);
        const i = rows.of(at.r),
            j = cols.of(at.c);
        if (i < 0 || j < 0 || i >= heat.h || j >= heat.w) {
            this.readout.textContent = "…";
            return;
        }
        const k = i * heat.w + j,
            { min, mean, max } = heat.planes;
        const where = `[${this.options.rows === 1 ? "" : `${rows.text(i)}, `}${cols.text(j)}]`;
        this.readout.textContent = `${where}  ${min[k] === max[k] && mean[k] === min[k] ? say.value(mean[k]) : `min ${say.value(min[k])} · mean ${say.value(mean[k])} · max ${say.value(max[k])}`}`;
    }

    /** @param {Region} region @param {number} dr @param {number} dc */
    #move(region, dr, dc) {
        const { rows, cols } = this.options,
            h = region.r1 - region.r0,
            w = region.c1 - region.c0;
        const r0 = Math.max(0, Math.min(rows - h, region.r0 + dr)),
            c0 = Math.max(0, Math.min(cols - w, region.c0 + dc));
        this.set({ r0, r1: r0 + h, c0, c1: c0 + w });
    }

    /** @param {Region} region */
    set(region) {
        const same = Object.entries(region).every(([side, at]) => /** @type {any} */ (this.region)[side] === at);
        this.region = region;
        this.#draw();
        if (!same) this.fetchSoon();
    }

    /** @param {number} factor below 1 is nearer @param {number} [r] @param {number} [c] what stays where it is */
    zoom(factor, r, c) {
        const { region: old } = this,
            { rows, cols } = this.options;
        const side = (a, b, most, at) => {
            const size = b - a,
                next = Math.max(
                    Math.min(4, most),
                    Math.min(most, factor < 1 ? Math.floor(size * factor) : Math.ceil(size * factor)),
                );
            const part = at === undefined ? 0.5 : (at - a) / size,
                start = Math.round((at ?? (a + b) / 2) - part * next);
            const from = Math.max(0, Math.min(most - next, start));
            return [from, from + next];
        };
        const [r0, r1] = side(old.r0, old.r1, rows, r),
            [c0, c1] = side(old.c0, old.c1, cols, c);
        this.set({ r0, r1, c0, c1 });
    }

    /** @param {string} key @param {boolean} shift */
    #key(key, shift) {
        const { region } = this,
            h = region.r1 - region.r0,
            w = region.c1 - region.c0,
            dr = Math.max(1, h >> 2),
            dc = Math.max(1, w >> 2);
        const moves = /** @type {Record<string, [number, number]>} */ ({
            ArrowUp: [-1, 0],
            ArrowDown: [1, 0],
            ArrowLeft: [0, -1],
            ArrowRight: [0, 1],
        });
        if (moves[key] && shift) this.#mark(...moves[key]);
        else if (moves[key]) this.#move(region, moves[key][0] * dr, moves[key][1] * dc);
        else if (key === "+" || key === "=") this.zoom(0.5);
        else if (key === "-" || key === "−") this.zoom(2);
        else if (key === "0") this.all();
        else if (key === "Home") this.#move(region, -this.options.rows, -this.options.cols);
        else if (key === "Enter" && this.at) this.options.pick?.(this.at.r, this.at.c);
        else return false;
        return true;
    }

    /** Move the marked cell by a block. @param {number} dr @param {number} dc */
    #mark(dr, dc) {
        const { region, have } = this,
            at = this.at || { r: (region.r0 + region.r1) >> 1, c: (region.c0 + region.c1) >> 1 };
        const step = (from, to, n) => Math.max(1, Math.floor((to - from) / (n || 1)));
        this.at = {
            r: Math.max(region.r0, Math.min(region.r1 - 1, at.r + dr * step(region.r0, region.r1, have?.heat.h))),
            c: Math.max(region.c0, Math.min(region.c1 - 1, at.c + dc * step(region.c0, region.c1, have?.heat.w))),
        };
        this.#tell();
        this.readout.setAttribute("aria-live", "polite");
    }

    #twin() {
        const place = el("div", {}, el("p", { class: "loading" }, "Reading…")),
            region = { ...this.region };
        this.#load(region, 16, 16).then(
            (heat) => {
                const rows = spans(region.r0, region.r1, heat.h),
                    cols = spans(region.c0, region.c1, heat.w);
                place.replaceChildren(
                    table(
                        ["Rows \\ columns", ...Array.from({ length: heat.w }, (_, j) => cols.text(j))],
                        Array.from({ length: heat.h }, (_, i) => [
                            rows.text(i),
                            ...Array.from(heat.planes[this.plane].subarray(i * heat.w, (i + 1) * heat.w), say.value),
                        ]),
                        {
                            kind: "data",
                            numeric: Array.from({ length: heat.w + 1 }, (_, j) => j),
                            caption: `The ${this.plane} of each block`,
                        },
                    ),
                );
            },
            (error) => place.replaceChildren(error.message),
        );
        return place;
    }

    stop() {
        this.latest.stop();
        this.observer.disconnect();
    }
}
