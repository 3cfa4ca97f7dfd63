// @ts-check
/** What two files differ in: counts, a list, and a heat map of the difference. */

import { get, getHeat } from "./api.js";
import { button, cell, choice, el, facts, fill, table, twin } from "./dom.js";
import * as say from "./format.js";
import { HeatMap } from "./heat.js";
import { address, leadingBoxes, loading, plane, problem, section } from "./parts.js";
import { heads, pagedList } from "./virtual.js";

/** @type {Record<string, [string, string]>} sign and word of a state */
const STATES = {
    changed: ["~", "changed"],
    added: ["+", "only in B"],
    removed: ["−", "only in A"],
    same: ["=", "the same"],
    renamed: ["→", "renamed"],
    error: ["!", "not compared"],
};
/** @type {[string, string][]} */
const CHOICES = [
    ["different", "Differences"],
    ["changed", "Changed"],
    ["removed", "Only in A"],
    ["added", "Only in B"],
    ["same", "The same"],
    ["all", "All"],
];

/** @param {import("./parts.js").View} view */
export function diffView({ files, params, signal, remember }) {
    if (files.length < 2)
        return el(
            "div",
            { class: "page" },
            el("h1", {}, "Diff"),
            el(
                "p",
                { class: "note" },
                "Two files are needed: start ",
                el("code", {}, "weighlock view BEFORE AFTER"),
                ".",
            ),
        );
    const state = { a: Number(params.a) || 0, b: Number(params.b ?? 1), only: params.only || "different" };
    const body = el("div", { class: "fill" }),
        detail = el("aside", { class: "detail", "aria-label": "The difference of one tensor" });
    let turn = new AbortController();
    signal.addEventListener("abort", () => turn.abort());
    const start = () => {
        turn.abort();
        turn = new AbortController();
        fill(detail);
        remember({ ...state, only: state.only === "different" ? null : state.only });
        load(files, state, body, detail, turn.signal, start);
    };
    const boxes = ["a", "b"].map((side) => {
        const box = el(
            "select",
            {
                "aria-label": `File ${side.toUpperCase()}`,
                onchange: () => {
                    state[side] = Number(box.value);
                    start();
                },
            },
            files.map((f) => el("option", { value: f.file }, say.clip(f.name, 60))),
        );
        box.value = String(state[side]);
        return box;
    });
    const swap = button(
        "⇄",
        () => {
            [state.a, state.b] = [state.b, state.a];
            boxes[0].value = String(state.a);
            boxes[1].value = String(state.b);
            start();
        },
        "Swap A and B",
    );
    start();
    return el(
        "div",
        { class: "split diff" },
        el(
            "div",
            { class: "fill" },
            el(
                "div",
                { class: "toolbar" },
                el("h1", {}, "Diff"),
                el("label", {}, "A ", boxes[0]),
                swap,
                el("label", {}, "B ", boxes[1]),
            ),
            body,
        ),
        detail,
    );
}

/** @param {any[]} files @param {any} state @param {HTMLElement} body @param {HTMLElement} detail @param {AbortSignal} signal @param {() => void} again */
async function load(files, state, body, detail, signal, again) {
    /** @type {any} */ let first = null;
    if (body.querySelector(".list-holder")) body.classList.add("stale");
    else fill(body, loading("Comparing…"));
    const list = await pagedList({
        label: "Differences",
        kind: "diff-rows",
        signal,
        row: line,
        open: (row) => show(files, state, row, detail, signal),
        failed: (error) => fill(body, problem(error, again)),
        head: heads([
            ["sign", ""],
            ["name", "Name"],
            ["shape", "Type and shape"],
            ["differ", "Differ"],
            ["far", "Max |Δ|"],
            ["rel", "Rel. L2"],
        ]),
        fetch: async (offset, limit, stop) => {
            const answer = await get("diff", { ...state, values: 1, offset, limit }, stop);
            first ||= answer;
            return answer;
        },
    });
    if (!signal.aborted) body.classList.remove("stale");
    if (!list) return;
    const { objects = [] } = first,
        many = {
            ...first.counts,
            changed: of(first.counts, "changed", "renamed", "error"),
            all: of(first.counts, ...Object.keys(STATES)),
        };
    many.different = many.all - of(many, "same");
    fill(
        body,
        el(
            "div",
            { class: "pad" },
            el(
                "div",
                { class: `verdict ${first.identical ? "good" : "neutral"}` },
                el("strong", {}, first.identical ? "The same" : "They differ"),
                el("p", {}, counts(first.counts)),
                first.complete === false && el("p", { class: "warned" }, "Not everything could be compared."),
            ),
            choice(
                "Show",
                CHOICES.map(([name, text]) => [name, `${text} ${say.count(many[name] || 0)}`]),
                state.only,
                (only) => {
                    state.only = only;
                    again();
                },
            ),
            objects.length > 0 &&
                twin(
                    say.plural(first.counts.objects ?? objects.length, "other value differs", "other values differ"),
                    () =>
                        table(
                            ["Place", "A", "B"],
                            objects.map((o) => [o.key, o.a ?? "–", o.b ?? "–"].map((text) => say.clip(text, 200))),
                            { kind: "data" },
                        ),
                ),
        ),
        el(
            "div",
            { class: "list-holder" },
            list.pages.total
                ? [list.head, list.rows.element]
                : el("p", { class: "note" }, "No tensor is to be shown here."),
        ),
    );
    list.rows.update();
}

/** @param {Record<string, number>} counts @param {...string} names */
const of = (counts, ...names) => names.reduce((sum, name) => sum + (Number(counts[name]) || 0), 0);

/** @param {Record<string, number>} all */
const counts = (all) =>
    Object.entries(all || {})
        .filter(([, n]) => Number(n) > 0)
        .map(([name, n]) =>
            name === "objects"
                ? say.plural(n, "other value", "other values")
                : `${say.count(n)} ${STATES[name]?.[1] || name}`,
        )
        .join(" · ") || "nothing to compare";

/** @param {any} side */
const kind = (side) => (side ? `${side.dtype} ${say.shape(side.shape)}` : "");

/** @param {any} x */
const orNothing = (x, write = say.value) => (x === null || x === undefined ? "" : write(x));

/** @param {any} row @param {number} index */
function line(row, index) {
    const [sign, word] = STATES[row.state] || ["?", row.state],
        a = kind(row.a),
        b = kind(row.b);
    return el(
        "div",
        { class: `row state-${row.state}`, role: "row", "aria-rowindex": index + 1 },
        el("span", { class: "cell sign", role: "gridcell", "aria-label": word, title: word }, sign),
        cell(
            "name",
            el("span", { class: "part" }, say.name(row.key_a ?? row.key_b, 300)),
            row.key_a &&
                row.key_b &&
                row.key_a !== row.key_b &&
                el("span", { class: "times" }, ` → ${say.clip(row.key_b, 200)}`),
        ),
        cell("shape", !a || !b || a === b ? a || b : `${a} → ${b}`),
        cell("differ", orNothing(row.different, say.count)),
        cell("far", orNothing(row.max_abs)),
        cell("rel", orNothing(row.rel_l2)),
    );
}

/** @param {any[]} files @param {any} state @param {any} row @param {HTMLElement} detail @param {AbortSignal} signal */
function show(files, state, row, detail, signal) {
    const { a, b } = row,
        trouble = el("div", {}),
        place = el("div", {});
    const to = (file, side) =>
        side
            ? el(
                  "a",
                  { href: address(`file/${file}/tensor/${side.index}`) },
                  `${say.clip(files[file]?.name ?? file, 60)}: ${kind(side)}`,
              )
            : "not there";
    fill(
        detail,
        el("h2", { class: "key" }, say.name(row.key_a ?? row.key_b, 400)),
        el("p", { class: "lead" }, row.error?.message || row.text || STATES[row.state]?.[1] || row.state),
        facts(
            [
                ["A", to(state.a, a)],
                ["B", to(state.b, b)],
                ["Values that differ", orNothing(row.different, say.count)],
                ["Largest |Δ|", orNothing(row.max_abs)],
                ["Relative L2", orNothing(row.rel_l2)],
                ["Cosine", orNothing(row.cos)],
            ],
            "facts numbers",
        ),
        trouble,
        place,
    );
    if (
        !Number.isInteger(a?.index) ||
        !Number.isInteger(b?.index) ||
        String(a.shape) !== String(b.shape) ||
        row.state === "same"
    )
        return;
    const leading = a.shape.slice(0, -2),
        at = leading.map(() => 0),
        [rows, cols] = plane(a.shape);
    if (!(rows * cols)) return;
    const heat = new HeatMap({
        name: `the difference of ${say.clip(row.key_a, 80)}`,
        rows,
        cols,
        difference: true,
        failed: (error) =>
            fill(
                trouble,
                problem(error, () => {
                    fill(trouble);
                    heat.fetch();
                }),
            ),
        load: (part, stop) =>
            getHeat(
                "diff/heat",
                {
                    a: state.a,
                    i: a.index,
                    b: state.b,
                    j: b.index,
                    at: leading.length ? JSON.stringify(at) : null,
                    ...part,
                },
                stop,
            ),
    });
    signal.addEventListener("abort", () => heat.stop());
    fill(
        place,
        section(
            "B − A",
            leadingBoxes(leading, at, () => heat.fetch()),
            heat.element,
        ),
    );
}
