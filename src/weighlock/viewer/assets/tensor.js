// @ts-check
/** One tensor: facts, figures, histogram, heat map, values, ways out. */

import { download, get, getHeat, isAbort } from "./api.js";
import { histogram } from "./charts.js";
import { button, choice, copy, el, facts, fill, index, say as announce, table } from "./dom.js";
import * as say from "./format.js";
import { HeatMap } from "./heat.js";
import { address, aliasLink, later, leadingBoxes, plane, problem, section, tensorLink } from "./parts.js";

/** Figures of more bytes than this are computed when asked for. */
const READ_AT_ONCE = 256 * 1024 * 1024;
const GRID_ROWS = 20,
    MOST_CSV = 1_000_000;

/** @param {number[]} shape */
const numel = (shape) => shape.reduce((a, b) => a * b, 1);

/** @typedef {import("./parts.js").View} View */

/** @param {View} view @param {number} number of the tensor @returns {HTMLElement} */
export function tensorView(view, number) {
    const place = el("div", { class: "tensor" });
    later(
        place,
        (stop) => get(`file/${view.file}/tensor/${number}`, {}, stop),
        (data) => whole(view, data),
        view.signal,
    );
    return place;
}

/** @param {View} view @param {any} data */
function whole(view, data) {
    const { file, signal } = view;
    document.title = `${say.name(data.key, 80)} – Weighlock`;
    const head = [
        el("h1", { class: "key", tabindex: "-1" }, say.name(data.key, 600)),
        el(
            "p",
            { class: "lead" },
            el("span", { class: "dtype" }, data.dtype),
            " ",
            el("span", { class: "shape" }, say.shape(data.shape)),
            " ",
            el("span", {}, say.bytes(data.nbytes)),
            data.alias_of !== null && data.alias_of !== undefined && [" ", aliasLink(file, data.alias_of)],
        ),
    ];
    const shown =
        data.readable === false
            ? [
                  el(
                      "div",
                      { class: "note warn" },
                      el("p", {}, data.why_not || "The values of this tensor cannot be shown."),
                  ),
                  parts(view, data),
              ]
            : numel(data.shape || []) === 0
              ? [el("div", { class: "note" }, el("p", {}, "This tensor has no elements."))]
              : [figures(file, data, signal), values(view, data)];
    return el("article", {}, head, factList(file, data), shown, ways(file, data));
}

/** Of a sparse or a quantized tensor, each part is a tensor of its own. @param {View} view @param {any} data */
function parts(view, data) {
    const { file, signal } = view;
    const named = (data.parts || []).filter((part) => part.name && part.shape);
    if (!named.length) return null;
    const place = el("div", {});
    /** @type {AbortController} */ let shown = new AbortController();
    signal.addEventListener("abort", () => shown.abort());
    const open = (name) => {
        shown.abort();
        shown = new AbortController();
        const one = { ...data, ...named.find((part) => part.name === name), part: name };
        fill(
            place,
            el("p", { class: "lead" }, `${name}  ${one.dtype} ${say.shape(one.shape)}  ${say.bytes(one.nbytes)}`),
            numel(one.shape)
                ? [figures(file, one, shown.signal), values({ ...view, signal: shown.signal }, one)]
                : el("p", { class: "note" }, "This part has no elements."),
        );
    };
    const { name } = named.find((part) => part.name === "values" || part.name === "buffer") || named[0];
    open(name);
    return [
        choice(
            "Part",
            named.map((part) => [part.name, part.name]),
            name,
            open,
        ),
        place,
    ];
}

/** @param {number} file @param {any} data */
function factList(file, data) {
    const shared = data.shared_with || [];
    const yes = (value) => (value === null || value === undefined ? null : value ? "yes" : "no");
    const parts = (data.parts || []).map((part) =>
        typeof part === "string"
            ? part
            : [part.name, part.dtype, part.shape && say.shape(part.shape), part.text].filter(Boolean).join(" "),
    );
    return el(
        "div",
        {},
        facts([
            ["Elements", say.count(data.numel ?? (data.shape ? numel(data.shape) : null))],
            ["Bytes", say.count(data.nbytes)],
            ["Layout", [data.layout, data.layout === "strided" && data.contiguous === false ? ", not contiguous" : ""]],
            ["Stride", data.stride ? say.shape(data.stride) : null],
            [
                "Storage",
                data.storage === null || data.storage === undefined
                    ? null
                    : [
                          el(
                              "a",
                              { href: address(`file/${file}/storages`, { at: data.storage }) },
                              say.clip(data.storage, 80),
                          ),
                          data.storage_offset ? ` from element ${say.count(data.storage_offset)}` : "",
                      ],
            ],
            ["Requires grad", yes(data.requires_grad)],
            [
                "Marks",
                (data.flags || []).filter((flag) => flag !== "requires grad" && flag !== "shared").join(", ") || null,
            ],
        ]),
        parts.length > 0 && el("div", { class: "note" }, el("p", {}, "Made of: ", parts.join(" · "))),
        shared.length > 0 &&
            el(
                "p",
                { class: "shares" },
                el("strong", {}, "Shares memory with "),
                shared.slice(0, 12).map((other, i) => [i ? ", " : "", tensorLink(file, other)]),
                shared.length > 12 && ` and ${say.count(shared.length - 12)} more`,
            ),
    );
}

// -------------------------------------------------------------------------------------------------------- figures

/** @param {number} file @param {any} data @param {AbortSignal} signal */
function figures(file, data, signal) {
    const place = el("div", { class: "later" });
    const start = () =>
        later(
            place,
            (stop) => get(`file/${file}/tensor/${data.index}/stats`, { bins: 60, part: data.part }, stop),
            stats,
            signal,
            `Reading ${say.bytes(data.nbytes)}…`,
        );
    if (Number(data.nbytes) <= READ_AT_ONCE) start();
    else fill(place, button(`Compute the figures (reads ${say.bytes(data.nbytes)})`, start));
    return section("Figures", place);
}

/** @param {any} s */
function stats(s) {
    const odd = Number(s.nan) + Number(s.posinf) + Number(s.neginf);
    let log = false;
    return [
        facts(
            [
                ["Minimum", say.value(s.min)],
                ["Maximum", say.value(s.max)],
                ["Mean", say.value(s.mean)],
                ["Std. deviation", say.value(s.std)],
                ["Largest |x|", say.value(s.absmax)],
                [
                    "Zeros",
                    s.zeros === null || s.zeros === undefined
                        ? null
                        : `${say.count(s.zeros)} (${say.percent(Number(s.zeros) / (Number(s.count) || 1))})`,
                ],
                ["NaN", el("span", { class: s.nan ? "bad" : null }, say.count(s.nan))],
                [
                    "+∞ / −∞",
                    el(
                        "span",
                        { class: s.posinf || s.neginf ? "bad" : null },
                        `${say.count(s.posinf)} / ${say.count(s.neginf)}`,
                    ),
                ],
            ],
            "facts numbers",
        ),
        odd > 0 &&
            el(
                "p",
                { class: "note warn" },
                `${say.plural(odd, "value is", "values are")} not finite; the figures and the histogram are of the others.`,
            ),
        s.histogram && s.histogram.counts.length
            ? histogram(s.histogram, log, (next) => {
                  log = next;
              })
            : null,
    ];
}

// --------------------------------------------------------------------------------------------------------- values

/** @param {View} view @param {any} data */
function values(view, data) {
    const { file, params, signal, remember } = view;
    const [rows, cols] = plane(data.shape),
        leading = data.shape.slice(0, -2);
    const at = leadingIndices(params.at, leading);
    const trouble = el("div", {}),
        heatPlace = el("div", {}),
        gridPlace = el("div", {});
    const grid = new Grid(view, data, rows, cols, at);
    /** @type {HeatMap|null} */ let heat = null;
    const path = `file/${file}/tensor/${data.index}/heat`;
    const where = () => (leading.length ? JSON.stringify(at) : null);
    if (rows * cols > 1) {
        heat = new HeatMap({
            name: say.clip(data.key, 80),
            rows,
            cols,
            failed: (error) =>
                fill(
                    trouble,
                    problem(error, () => {
                        fill(trouble);
                        heat?.fetch();
                    }),
                ),
            pick: (r, c) => grid.show(r, c, true),
            load: async (part, stop) => {
                const got = await getHeat(path, { part: data.part, at: where(), ...part }, stop);
                fill(trouble);
                return got;
            },
        });
        fill(heatPlace, heat.element);
        signal.addEventListener("abort", () => heat?.stop());
    }
    fill(gridPlace, grid.element);
    grid.show(Number(params.row) || 0, Number(params.col) || 0, false);
    const change = () => {
        remember({ at: at.some((i) => i) ? at.join(",") : null });
        heat?.fetch();
        grid.show(grid.row, grid.col, false);
    };
    return [
        heat && section("Heat map", leadingBoxes(leading, at, change), trouble, heatPlace),
        section("Values", !heat && leadingBoxes(leading, at, change), gridPlace),
    ];
}

/** @param {string|undefined} text @param {number[]} leading */
function leadingIndices(text, leading) {
    const given = (text || "").split(",").map(Number);
    return leading.map((n, i) => (Number.isInteger(given[i]) && given[i] >= 0 && given[i] < n ? given[i] : 0));
}

/** Exact values, a window at a time. */
class Grid {
    /** @param {View} view @param {any} data @param {number} rows @param {number} cols @param {number[]} at */
    constructor({ file, signal, remember }, data, rows, cols, at) {
        this.file = file;
        this.data = data;
        this.rows = rows;
        this.cols = cols;
        this.at = at;
        this.remember = remember;
        this.row = 0;
        this.col = 0;
        /** @type {[number, number]|null} */ this.picked = null;
        this.controller = new AbortController();
        signal.addEventListener("abort", () => this.controller.abort());
        this.body = el("div", {
            class: "scroll-x grid-body",
            tabindex: "0",
            role: "group",
            "aria-label": "Values. Page Up and Page Down show other rows, with Shift other columns.",
        });
        this.body.addEventListener("keydown", (e) => this.#key(e));
        const step = (text, label, dr, dc) => button(text, () => this.#step(dr, dc), label);
        this.rowBox = index("First row", rows, 0, (to) => this.show(to, this.col, false));
        this.colBox = index("First column", cols, 0, (to) => this.show(this.row, to, false));
        this.element = el(
            "div",
            { class: "figure" },
            el(
                "div",
                { class: "figure-head" },
                rows > GRID_ROWS &&
                    el(
                        "div",
                        { class: "mover" },
                        el("label", {}, "row ", this.rowBox),
                        el("span", { class: "of" }, `of ${say.count(rows)}`),
                        step("▲", "Rows above", -1, 0),
                        step("▼", "Rows below", 1, 0),
                    ),
                cols > this.width &&
                    el(
                        "div",
                        { class: "mover" },
                        el("label", {}, "column ", this.colBox),
                        el("span", { class: "of" }, `of ${say.count(cols)}`),
                        step("◀", "Columns to the left", 0, -1),
                        step("▶", "Columns to the right", 0, 1),
                    ),
            ),
            this.body,
        );
    }

    /** Columns that fit. */
    get width() {
        return window.innerWidth < 700 ? 4 : window.innerWidth < 1400 ? 8 : 10;
    }
    get height() {
        return this.rows === 1 ? 1 : GRID_ROWS;
    }

    /** @param {KeyboardEvent} event */
    #key(event) {
        const by = { PageDown: 1, PageUp: -1 }[event.key];
        if (!by) return;
        event.preventDefault();
        if (event.shiftKey || this.rows === 1) this.#step(0, by);
        else this.#step(by, 0);
    }

    /** @param {number} dr @param {number} dc */
    #step(dr, dc) {
        const within = (at, n, size) => Math.max(0, Math.min(Math.max(n - size, 0), at));
        this.show(
            within(this.row + dr * this.height, this.rows, this.height),
            within(this.col + dc * this.width, this.cols, this.width),
            false,
        );
    }

    /** @param {number} row @param {number} col @param {boolean} picked mark this cell, and put it into the middle */
    async show(row, col, picked) {
        this.picked = picked ? [row, col] : null;
        if (picked) {
            row = Math.max(0, Math.min(Math.max(this.rows - this.height, 0), row - (this.height >> 1)));
            col = Math.max(0, Math.min(Math.max(this.cols - this.width, 0), col - (this.width >> 1)));
        }
        this.row = Math.max(0, Math.min(this.rows - 1, row));
        this.col = Math.max(0, Math.min(this.cols - 1, col));
        this.remember({ row: this.row || null, col: this.col || null });
        this.controller.abort();
        this.controller = new AbortController();
        const r1 = Math.min(this.rows, this.row + this.height),
            c1 = Math.min(this.cols, this.col + this.width);
        try {
            const got = await get(
                `file/${this.file}/tensor/${this.data.index}/grid`,
                {
                    rows: `${this.row}:${r1}`,
                    cols: `${this.col}:${c1}`,
                    at: this.at.length ? JSON.stringify(this.at) : null,
                    part: this.data.part,
                },
                this.controller.signal,
            );
            this.#draw(got);
        } catch (error) {
            if (!isAbort(error))
                fill(
                    this.body,
                    problem(error, () => this.show(row, col, false)),
                );
        }
    }

    /** @param {any} got */
    #draw({ rows, cols, values, texts = values, dequantized = null }) {
        for (const [box, at] of [
            [this.rowBox, rows[0]],
            [this.colBox, cols[0]],
        ])
            if (box !== document.activeElement) box.value = String(at);
        const mark = (i, j, x) => {
            const shown = dequantized ? `${x} = ${say.value(dequantized[i][j])}` : x;
            return this.picked && this.picked[0] === rows[0] + i && this.picked[1] === cols[0] + j
                ? el("mark", {}, shown)
                : shown;
        };
        const head = ["", ...values[0].map((_, j) => String(cols[0] + j))];
        fill(
            this.body,
            table(
                head,
                aligned(texts).map((row, i) => [String(rows[0] + i), ...row.map((x, j) => mark(i, j, x))]),
                { kind: "data values", numeric: head.map((_, i) => i) },
            ),
        );
        this.body.querySelector("mark")?.scrollIntoView({ block: "nearest", inline: "nearest" });
    }
}

/**
 * Values as the server spelled them, nothing rounded; in each column the points stand below each other.
 * @param {any[][]} texts @returns {string[][]}
 */
function aligned(texts) {
    const behind = (text) => text.length - (text.includes(".") ? text.indexOf(".") : text.length),
        plain = texts.map((row) => row.map((x) => (x === null ? "–" : String(x))));
    const widest = plain[0].map((_, j) => Math.max(...plain.map((row) => behind(row[j]))));
    return plain.map((row) =>
        row.map((text, j) => text + "\u00a0".repeat(/^-?[\d.]+(e|$)/.test(text) ? widest[j] - behind(text) : 0)),
    );
}

// ------------------------------------------------------------------------------------------------------- ways out

/** @param {number} file @param {any} data */
function ways(file, data) {
    const line = (what, text) => {
        const copier = button("Copy", () => copy(text, copier), `Copy: ${what}`);
        return el(
            "div",
            { class: "snippet" },
            el("span", { class: "what" }, what),
            el("code", { tabindex: "0" }, text),
            copier,
        );
    };
    const trouble = el("div", {}),
        base =
            String(data.key)
                .replace(/[^A-Za-z0-9._-]+/g, "_")
                .slice(-80)
                .replace(/^[._-]+/, "") || "tensor";
    const save = (kind) => {
        const saver = button(`Download .${kind}`, async () => {
            saver.disabled = true;
            try {
                await download(`file/${file}/tensor/${data.index}/export.${kind}`, `${base}.${kind}`);
                fill(trouble);
                announce(`Saved ${base}.${kind}.`);
            } catch (error) {
                fill(trouble, problem(error));
            }
            saver.disabled = false;
        });
        return saver;
    };
    const few = numel(data.shape || []) <= MOST_CSV;
    return section(
        "Take it along",
        data.python && line("Python", data.python),
        data.cli && line("Command", data.cli),
        data.readable !== false &&
            el(
                "div",
                { class: "buttons" },
                save("npy"),
                few ? save("csv") : el("span", { class: "of" }, `.csv: only up to ${say.count(MOST_CSV)} values`),
            ),
        trouble,
    );
}
