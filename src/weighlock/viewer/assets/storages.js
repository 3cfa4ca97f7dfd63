// @ts-check
/** The storages of a file: who shares them, and what they keep that nobody uses. */

import { get } from "./api.js";
import { meter } from "./charts.js";
import { choice, el, fill } from "./dom.js";
import * as say from "./format.js";
import { loading, problem, tensorLink } from "./parts.js";
import { Pages, VirtualRows } from "./virtual.js";

/** @param {number} file @param {Record<string, string>} params @param {AbortSignal} signal @param {(p: Record<string, any>) => void} remember */
export function storagesView(file, params, signal, remember) {
  const holder = el("div", { class: "list-holder" }, loading()), status = el("p", { class: "status", role: "status" }), trouble = el("div", {});
  /** @type {VirtualRows|null} */ let rows = null;
  let sort = params.sort || "file";
  const start = async () => {
    const pages = new Pages((offset, limit, stop) => get(`file/${file}/storages`, { offset, limit, sort, desc: sort === "file" ? null : 1 }, stop), () => rows?.update(), (error) => fill(trouble, problem(error, () => { fill(trouble); start(); })));
    signal.addEventListener("abort", () => { pages.stop(); rows?.stop(); });
    await pages.need(0, 1);
    if (signal.aborted) return;
    const next = new VirtualRows({ label: "Storages", role: "grid", kind: "storage-rows", total: () => pages.total, get: (i) => pages.get(i), need: (a, b) => { pages.need(a, b); }, render: (row, i) => line(file, row, i) });
    next.element.setAttribute("aria-rowcount", String(pages.total));
    rows?.stop();
    rows = next;
    status.textContent = pages.total ? say.plural(pages.total, "storage") : trouble.firstChild ? "" : "This file has no storages.";
    fill(holder, pages.total > 0 && [el("div", { class: "list-head", "aria-hidden": "true" }, ["Storage", "Bytes", "Used", "Tensors"].map((text, i) => el("span", { class: `cell ${["name", "size", "used", "who"][i]}` }, text))), next.element]);
    next.update();
    if (params.at) find(pages, next, params.at);
  };
  start();
  return el("div", { class: "fill" },
    el("div", { class: "toolbar" }, el("h1", {}, "Storages"), choice("Sort by", [["file", "In file order"], ["nbytes", "Largest"], ["unused", "Most unused"]], sort, (kind) => { sort = kind; remember({ sort: kind === "file" ? null : kind, at: null }); params.at = ""; start(); }), status),
    trouble, holder);
}

/** Go to a storage by its name, as far as the first pages reach. @param {Pages} pages @param {VirtualRows} rows @param {string} at */
async function find(pages, rows, at) {
  for (let from = 0; from < Math.min(pages.total, 4000); from += pages.size) {
    await pages.need(from, from + 1, false);
    for (let i = from; i < Math.min(pages.total, from + pages.size); i++) if (String(pages.get(i)?.storage) === at) { rows.go(i); return; }
  }
}

/** @param {number} file @param {any} row @param {number} index */
function line(file, row, index) {
  const unused = Number(row.unused) || 0, tensors = row.tensors || [], count = row.tensor_count ?? tensors.length;
  return el("div", { class: "row", role: "row", "aria-rowindex": index + 1 },
    el("span", { class: "cell name", role: "gridcell", title: row.record ? say.clip(row.record, 400) : null }, el("span", { class: "part key" }, say.clip(row.record || row.storage, 120)), row.location && row.location !== "cpu" && el("span", { class: "times" }, ` ${say.clip(row.location, 40)}`)),
    el("span", { class: "cell size", role: "gridcell" }, say.bytes(row.nbytes)),
    el("span", { class: "cell used", role: "gridcell" }, meter(Number(row.nbytes) ? Number(row.used) / Number(row.nbytes) : 1, unused ? "k1" : "k0"), el("span", { class: unused ? "warned" : "of" }, unused ? `${say.bytes(unused)} unused` : "all used")),
    el("span", { class: "cell who", role: "gridcell" }, count > 1 && el("strong", {}, `${say.count(count)} share it: `), !count && el("em", {}, "no tensor"), tensors.slice(0, 3).map((t, i) => [i ? ", " : "", tensorLink(file, t, 80)]), count > 3 && ` +${say.count(count - 3)}`));
}

