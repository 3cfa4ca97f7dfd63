// @ts-check
/** The storages of a file: who shares them, and what they keep that nobody uses. */

import { get } from "./api.js";
import { meter } from "./charts.js";
import { cell, choice, el, fill } from "./dom.js";
import * as say from "./format.js";
import { loading, problem, tensorLink } from "./parts.js";
import { heads, pagedList } from "./virtual.js";

const FOUND_WITHIN = 4000;

/** @param {import("./parts.js").View} view */
export function storagesView({ file, params, signal, remember }) {
    const holder = el("div", { class: "list-holder" }, loading()),
        status = el("p", { class: "status", role: "status" }),
        trouble = el("div", {});
    let sort = params.sort || "file",
        turn = new AbortController();
    signal.addEventListener("abort", () => turn.abort());
    const start = async () => {
        turn.abort();
        turn = new AbortController();
        const list = await pagedList({
            label: "Storages",
            kind: "storage-rows",
            head: heads([
                ["name", "Storage"],
                ["size", "Bytes"],
                ["used", "Used"],
                ["who", "Tensors"],
            ]),
            signal: turn.signal,
            row: (row, i) => line(file, row, i),
            fetch: (offset, limit, stop) =>
                get(`file/${file}/storages`, { offset, limit, sort, desc: sort === "file" ? null : 1 }, stop),
            failed: (error) => {
                fill(trouble, problem(error, start));
                fill(holder);
            },
        });
        if (!list) return;
        fill(trouble);
        status.textContent = list.pages.total ? say.plural(list.pages.total, "storage") : "This file has no storages.";
        fill(holder, list.pages.total > 0 && [list.head, list.rows.element]);
        list.rows.update();
        if (params.at) find(list, params.at);
    };
    start();
    return el(
        "div",
        { class: "fill" },
        el(
            "div",
            { class: "toolbar" },
            el("h1", {}, "Storages"),
            choice(
                "Sort by",
                [
                    ["file", "In file order"],
                    ["nbytes", "Largest"],
                    ["unused", "Most unused"],
                ],
                sort,
                (kind) => {
                    sort = kind;
                    params.at = "";
                    remember({ sort: kind === "file" ? null : kind, at: null });
                    start();
                },
            ),
            status,
        ),
        trouble,
        holder,
    );
}

/** Go to a storage by its name, as far as the first pages reach. @param {any} list @param {string} at */
async function find({ pages, rows }, at) {
    for (let from = 0; from < Math.min(pages.total, FOUND_WITHIN); from += pages.size) {
        await pages.need(from, from + 1, false);
        for (let i = from; i < Math.min(pages.total, from + pages.size); i++)
            if (String(pages.get(i)?.storage) === at) {
                rows.go(i);
                return;
            }
    }
}

/** @param {number} file @param {any} row @param {number} index */
function line(file, row, index) {
    const unused = Number(row.unused) || 0,
        tensors = row.tensors || [],
        count = row.tensor_count ?? tensors.length;
    return el(
        "div",
        { class: "row", role: "row", "aria-rowindex": index + 1 },
        cell(
            "name",
            el("span", { class: "part" }, say.clip(row.record || row.storage, 120)),
            row.location && row.location !== "cpu" && el("span", { class: "times" }, ` ${say.clip(row.location, 40)}`),
        ),
        cell("size", say.bytes(row.nbytes)),
        cell(
            "used",
            meter(Number(row.nbytes) ? Number(row.used) / Number(row.nbytes) : 1, unused ? "k1" : "k0"),
            el("span", { class: unused ? "warned" : "of" }, unused ? `${say.bytes(unused)} unused` : "all used"),
        ),
        cell(
            "who",
            count > 1 && el("strong", {}, `${say.count(count)} share it: `),
            !count && el("em", {}, "no tensor"),
            tensors.slice(0, 3).map((t, i) => [i ? ", " : "", tensorLink(file, t, 80)]),
            count > 3 && ` +${say.count(count - 3)}`,
        ),
    );
}
