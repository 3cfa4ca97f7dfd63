// @ts-check
/** What two files differ in: counts, a list, and a heat map of the difference. */

import { get, getHeat, isAbort } from "./api.js";
import { choice, el, facts, fill, table, twin } from "./dom.js";
import * as say from "./format.js";
import { HeatMap } from "./heat.js";
import { address, loading, problem, section } from "./parts.js";
import { Pages, VirtualRows } from "./virtual.js";

/** @type {Record<string, [string, string]>} sign and word of a state */
const STATES = { changed: ["~", "changed"], added: ["+", "only in B"], removed: ["−", "only in A"], same: ["=", "the same"], renamed: ["→", "renamed"], error: ["!", "not compared"] };

/** @param {any[]} files @param {Record<string, string>} params @param {AbortSignal} signal @param {(p: Record<string, any>) => void} remember */
export function diffView(files, params, signal, remember) {
  if (files.length < 2) return el("div", { class: "page" }, el("h1", {}, "Diff"), el("p", { class: "note" }, "Two files are needed: start ", el("code", {}, "weighlock view BEFORE AFTER"), "."));
  const state = { a: Number(params.a) || 0, b: params.b === undefined ? 1 : Number(params.b), only: params.only || "changes" };
  const body = el("div", { class: "fill" }), detail = el("aside", { class: "detail", "aria-label": "The difference of one tensor" });
  /** @type {AbortController} */ let controller = new AbortController();
  signal.addEventListener("abort", () => controller.abort());
  const start = () => {
    controller.abort(); controller = new AbortController();
    fill(detail);
    remember({ a: state.a, b: state.b, only: state.only === "changes" ? null : state.only });
    load(files, state, body, detail, controller.signal, start);
  };
  const select = (side) => {
    const box = el("select", { "aria-label": `File ${side.toUpperCase()}`, onchange: () => { state[side] = Number(box.value); start(); } }, files.map((f) => el("option", { value: f.file }, say.clip(f.name, 60))));
    box.value = String(state[side]);
    return box;
  };
  const swap = el("button", { type: "button", title: "Swap A and B", "aria-label": "Swap A and B", onclick: () => { [state.a, state.b] = [state.b, state.a]; one.value = String(state.a); two.value = String(state.b); start(); } }, "⇄");
  const one = select("a"), two = select("b");
  start();
  return el("div", { class: "split diff" }, el("div", { class: "fill" }, el("div", { class: "toolbar" }, el("h1", {}, "Diff"), el("label", {}, "A ", one), swap, el("label", {}, "B ", two)), body), detail);
}

/** @param {any[]} files @param {{a: number, b: number, only: string}} state @param {HTMLElement} body @param {HTMLElement} detail @param {AbortSignal} signal @param {() => void} again */
async function load(files, state, body, detail, signal, again) {
  /** @type {VirtualRows|null} */ let rows = null;
  /** @type {any} */ let first = null, trouble = null;
  const pages = new Pages(async (offset, limit, stop) => { const answer = await get("diff", { a: state.a, b: state.b, values: 1, offset, limit, only: state.only === "changes" ? "different" : state.only }, stop); first ||= answer; return answer; },
    () => rows?.update(), (error) => { trouble = error; fill(body, problem(error, again)); });
  signal.addEventListener("abort", () => { pages.stop(); rows?.stop(); });
  const wait = loading("Comparing…");
  if (body.querySelector(".list-holder")) body.classList.add("stale"); else fill(body, wait);
  await pages.need(0, 1);
  body.classList.remove("stale");
  if (signal.aborted || trouble || !first) return;
  const open = (row) => show(files, state, row, detail, signal);
  rows = new VirtualRows({ label: "Differences", role: "grid", kind: "diff-rows", total: () => pages.total, get: (i) => pages.get(i), need: (a, b) => { pages.need(a, b); }, render: line, open });
  rows.element.setAttribute("aria-rowcount", String(pages.total));
  fill(body, el("div", { class: "pad" }, el("div", { class: `verdict ${first.identical ? "good" : "plain"}` }, el("strong", {}, first.identical ? "The same" : "They differ"), el("p", {}, counts(first.counts))),
    choice("Show", [["changes", "Differences"], ["changed", "Changed"], ["removed", "Only in A"], ["added", "Only in B"], ["same", "The same"], ["all", "All"]], state.only, (only) => { state.only = only; again(); })),
  el("div", { class: "list-holder" }, pages.total ? [el("div", { class: "list-head", "aria-hidden": "true" }, ["", "Name", "Type and shape", "Differ", "Max |Δ|", "Rel. L2"].map((text, i) => el("span", { class: `cell ${["sign", "name", "shape", "differ", "far", "rel"][i]}` }, text))), rows.element] : el("p", { class: "note" }, "Nothing to show here."),
    first.objects?.length > 0 && el("div", { class: "pad" }, twin(`${say.plural(first.counts.objects ?? first.objects.length, "other value differs", "other values differ")}`, () => table(["Place", "A", "B"], first.objects.map((o) => [say.clip(o.key, 200), say.clip(o.a ?? "–", 200), say.clip(o.b ?? "–", 200)]), { kind: "data" })))));
  rows.update();
}

/** @param {Record<string, number>} all */
const counts = (all) => Object.entries(all || {}).filter(([, n]) => Number(n) > 0).map(([name, n]) => `${say.count(n)} ${{ only_a: "only in A", only_b: "only in B", ...Object.fromEntries(Object.entries(STATES).map(([k, v]) => [k, v[1]])) }[name] || name.replaceAll("_", " ")}`).join(" · ") || "nothing to compare";

/** @param {any} side */
const kind = (side) => (side ? `${side.dtype} ${say.shape(side.shape)}` : "");

/** @param {any} row */
const both = (row) => { const a = kind(row.a), b = kind(row.b); return !a || !b || a === b ? a || b : `${a} → ${b}`; };

/** @param {any} row @param {number} index */
function line(row, index) {
  const [sign, word] = STATES[row.state] || ["?", row.state], renamed = row.key_a && row.key_b && row.key_a !== row.key_b;
  return el("div", { class: `row state-${row.state}`, role: "row", "aria-rowindex": index + 1 },
    el("span", { class: "cell sign", role: "gridcell", "aria-label": word, title: word }, sign),
    el("span", { class: "cell name", role: "gridcell" }, el("span", { class: "part" }, say.name(row.key_a ?? row.key_b, 300)), renamed && el("span", { class: "times" }, ` → ${say.clip(row.key_b, 200)}`)),
    el("span", { class: "cell shape", role: "gridcell" }, both(row)),
    el("span", { class: "cell differ", role: "gridcell" }, row.different === null || row.different === undefined ? "" : say.count(row.different)),
    el("span", { class: "cell far", role: "gridcell" }, row.max_abs === null || row.max_abs === undefined ? "" : say.value(row.max_abs)),
    el("span", { class: "cell rel", role: "gridcell" }, row.rel_l2 === null || row.rel_l2 === undefined ? "" : say.value(row.rel_l2)));
}

/** @param {any[]} files @param {{a: number, b: number}} state @param {any} row @param {HTMLElement} detail @param {AbortSignal} signal */
function show(files, state, row, detail, signal) {
  const { a, b } = row, trouble = el("div", {}), place = el("div", {});
  const to = (file, side) => (side ? el("a", { href: address(`file/${file}/tensor/${side.index}`) }, `${say.clip(files[file]?.name ?? file, 60)}: ${kind(side)}`) : "not there");
  fill(detail, el("h2", { class: "key" }, say.name(row.key_a ?? row.key_b, 400)), el("p", { class: "lead" }, row.error?.message || row.text || STATES[row.state]?.[1] || row.state),
    facts([["A", to(state.a, a)], ["B", to(state.b, b)], ["Values that differ", row.different === undefined ? null : say.count(row.different)], ["Largest |Δ|", row.max_abs === undefined ? null : say.value(row.max_abs)], ["Relative L2", row.rel_l2 === undefined ? null : say.value(row.rel_l2)], ["Cosine", row.cos === undefined ? null : say.value(row.cos)]], "facts numbers"), trouble, place);
  if (!a || !b || a.index === undefined || b.index === undefined || String(a.shape) !== String(b.shape) || row.state === "same") return;
  const shape = a.shape, leading = shape.slice(0, -2), at = leading.map(() => 0), [rows, cols] = [shape.length > 1 ? shape[shape.length - 2] : 1, shape.length ? shape[shape.length - 1] : 1];
  if (!(rows * cols)) return;
  const heat = new HeatMap({
    name: `the difference of ${say.clip(row.key_a, 80)}`, rows, cols, difference: true, failed: (error) => { if (!isAbort(error)) fill(trouble, problem(error, () => { fill(trouble); heat.fetch(); })); },
    load: (region, width, height, stop) => getHeat("diff/heat", { a: state.a, i: a.index, b: state.b, j: b.index, at: leading.length ? JSON.stringify(at) : null, rows: `${region.r0}:${region.r1}`, cols: `${region.c0}:${region.c1}`, width, height }, stop),
  });
  signal.addEventListener("abort", () => heat.stop());
  const boxes = leading.map((n, i) => { const box = el("input", { type: "number", min: 0, max: n - 1, value: "0", "aria-label": `Index in dimension ${i}, 0 to ${n - 1}`, oninput: () => { at[i] = Math.max(0, Math.min(n - 1, Math.floor(Number(box.value) || 0))); heat.fetch(); } }); return el("label", {}, `dim ${i} `, box); });
  fill(place, section("B − A", boxes.length > 0 && el("div", { class: "leading" }, boxes), heat.element));
}
