// @ts-check
/** Bars and histograms. Each is an image with a text of its own, and has a table twin. */

import { choice, el, svg, table, twin } from "./dom.js";
import * as say from "./format.js";

/** A horizontal bar of parts. @param {{name: string, size: number, kind: string}[]} parts @param {string} label */
export function stack(parts, label) {
    const whole = parts.reduce((sum, part) => sum + part.size, 0) || 1;
    let x = 0;
    return svg(
        "svg",
        { class: "stack", viewBox: "0 0 1000 10", preserveAspectRatio: "none", role: "img", "aria-label": label },
        parts.map((part) => {
            const width = (part.size / whole) * 1000,
                rect = svg("rect", { x, y: 0, width, height: 10, class: part.kind }, svg("title", {}, part.name));
            x += width;
            return rect;
        }),
    );
}

/** One part of a whole. @param {number} part between 0 and 1 @param {string} kind */
export const meter = (part, kind = "k0") =>
    svg(
        "svg",
        { class: "meter", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
        svg("rect", { class: "rest", width: 100, height: 10 }),
        svg("rect", { class: kind, width: Math.max(0, Math.min(1, part || 0)) * 100, height: 10 }),
    );

/** @param {number[]} counts @param {boolean} log */
const heights = (counts, log) => counts.map((n) => (log ? Math.log10(n + 1) : n));

/**
 * @param {{edges: number[], counts: number[]}} data @param {boolean} log @param {(log: boolean) => void} choose
 * @returns {HTMLElement}
 */
export function histogram({ edges, counts }, log, choose) {
    const reach = edges[edges.length - 1] - edges[0];
    edges = edges.map((edge) => (Math.abs(edge) < 1e-9 * reach ? 0 : edge)); // an edge at zero, but for rounding
    const chart = el("div", { class: "histogram" }),
        readout = el("p", { class: "readout" });
    const total = counts.reduce((a, b) => a + b, 0),
        peak = counts.indexOf(Math.max(...counts));
    const between = (i) => `${say.value(edges[i])} to ${say.value(edges[i + 1])}`;
    const summary = `${say.plural(total, "value")} in ${say.plural(counts.length, "bin")} from ${say.value(edges[0])} to ${say.value(edges[edges.length - 1])}; most (${say.count(counts[peak])}) from ${between(peak)}.`;
    const rest = () => {
        readout.textContent = summary;
    };
    const draw = () => {
        const tall = heights(counts, log),
            top = Math.max(...tall) || 1,
            step = 1000 / counts.length;
        const zero =
            edges[0] < 0 && edges[edges.length - 1] > 0
                ? (-edges[0] / (edges[edges.length - 1] - edges[0])) * 1000
                : null;
        const picture = svg(
            "svg",
            {
                viewBox: "0 0 1000 200",
                preserveAspectRatio: "none",
                role: "img",
                "aria-label": `Histogram: ${summary}`,
            },
            tall.map((height, i) =>
                svg(
                    "g",
                    {
                        class: "bin",
                        onpointerenter: () => {
                            readout.textContent = `${between(i)}: ${say.plural(counts[i], "value")} (${say.percent(counts[i] / (total || 1))})`;
                        },
                    },
                    svg("rect", { class: "reach", x: i * step, y: 0, width: step, height: 200 }),
                    svg("rect", {
                        class: "bar",
                        x: i * step + step * 0.06,
                        width: step * 0.88,
                        y: 200 - (height / top) * 196,
                        height: (height / top) * 196,
                    }),
                ),
            ),
            zero !== null && svg("line", { class: "zero", x1: zero, x2: zero, y1: 0, y2: 200 }),
        );
        picture.addEventListener("pointerleave", rest);
        chart.replaceChildren(
            picture,
            el(
                "div",
                { class: "axis", "aria-hidden": "true" },
                el("span", {}, say.value(edges[0])),
                zero !== null &&
                    zero > 120 &&
                    zero < 880 &&
                    el("span", { class: "zero-label", "--x": `${zero / 10}%` }, "0"),
                el("span", {}, say.value(edges[edges.length - 1])),
            ),
        );
    };
    draw();
    rest();
    return el(
        "div",
        { class: "figure" },
        el(
            "div",
            { class: "figure-head" },
            choice(
                "Scale of the counts",
                [
                    ["linear", "Linear"],
                    ["log", "Log"],
                ],
                log ? "log" : "linear",
                (kind) => {
                    log = kind === "log";
                    choose(log);
                    draw();
                },
            ),
        ),
        chart,
        readout,
        twin("Histogram as a table", () =>
            table(
                ["From", "To", "Values"],
                counts.map((n, i) => [say.value(edges[i]), say.value(edges[i + 1]), say.count(n)]),
                { numeric: [0, 1, 2], kind: "data" },
            ),
        ),
    );
}
