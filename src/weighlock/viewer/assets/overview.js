// @ts-check
/** What a file is, and whether it is safe to load. */

import { get } from "./api.js";
import { stack } from "./charts.js";
import { el, facts, table, twin } from "./dom.js";
import * as say from "./format.js";
import { address, gapList, later, problem, section, tensorLink } from "./parts.js";

/** @param {import("./parts.js").View} view */
export function overviewView({ file, signal, reload }) {
    const place = el("div", { class: "page" });
    later(
        place,
        (stop) => get(`file/${file}`, {}, stop),
        (data) => show(file, data, reload),
        signal,
    );
    return place;
}

/** What can still be asked of a file that could not be opened. @param {number} file */
const insteadOf = (file) =>
    el(
        "p",
        { class: "note" },
        "The file could not be opened. What can still be said of it: ",
        el("a", { href: address(`file/${file}/security`) }, "what a scan finds"),
        ", ",
        el("a", { href: address(`file/${file}/layout`) }, "what its bytes are"),
        ".",
    );

/** @param {number} file @param {any} data @param {(file: number) => void} reload */
function show(file, data, reload) {
    if (data.error)
        return [el("h1", {}, say.clip(data.name, 300)), problem(data.error, () => reload(file)), insteadOf(file)];
    const { totals = {}, verdict = {} } = data;
    return [
        el("h1", {}, say.clip(data.name, 300)),
        el("p", { class: "lead" }, [data.format, say.exactBytes(data.size)].filter(Boolean).join(" · ")),
        el(
            "div",
            { class: `verdict ${verdict.ok ? "good" : "bad"}` },
            el("strong", {}, verdict.ok ? "Can be loaded" : "Look closer"),
            el("p", {}, verdict.text),
            verdict.torch && !verdict.text?.includes(verdict.torch) && el("p", { class: "of" }, verdict.torch),
            el("p", {}, el("a", { href: address(`file/${file}/security`) }, "Security report")),
        ),
        gapList(data.gaps),
        facts(
            [
                ["Tensors", el("a", { href: address(`file/${file}/tensors`) }, say.count(totals.tensors))],
                [
                    "Parameters",
                    [
                        say.short(totals.parameters),
                        Number(totals.parameters) >= 10_000 &&
                            el("span", { class: "of" }, ` ${say.count(totals.parameters)}`),
                    ],
                ],
                ["Bytes of tensors", say.bytes(totals.tensor_bytes)],
                [
                    "Storages",
                    totals.storages === undefined
                        ? null
                        : el("a", { href: address(`file/${file}/storages`) }, say.count(totals.storages)),
                ],
                ["Bytes of storages", say.bytes(totals.storage_bytes)],
                [
                    "Kept but unused",
                    el(
                        "span",
                        { class: Number(totals.unreferenced_bytes) ? "warned" : null },
                        say.bytes(totals.unreferenced_bytes),
                    ),
                ],
            ],
            "facts numbers tiles",
        ),
        (data.holds || []).length > 0 &&
            section(
                "Holds",
                el(
                    "ul",
                    { class: "plain" },
                    data.holds.map((line) => el("li", {}, holds(line))),
                    data.holds_more > 0 && el("li", { class: "of" }, `and ${say.count(data.holds_more)} more`),
                ),
            ),
        dtypes(data.dtypes || []),
        sharing(file, data.sharing || []),
        imports(data.globals || []),
    ];
}

/** @param {any} line */
const holds = (line) =>
    typeof line === "string"
        ? line
        : [
              el("span", { class: "key" }, say.name(line.key, 200)),
              ` ${line.kind || ""}`,
              line.tensors ? ` · ${say.plural(line.tensors, "tensor")}` : "",
              line.text ? ` ${say.clip(line.text, 200)}` : "",
          ];

/** @param {any[]} list */
function dtypes(list) {
    if (!list.length) return null;
    const parts = list.map((d, i) => ({
        name: `${d.dtype}: ${say.bytes(d.nbytes)}`,
        size: Number(d.nbytes),
        kind: `k${i % 6}`,
    }));
    const whole = parts.reduce((sum, part) => sum + part.size, 0) || 1;
    const text = list.map((d) => `${d.dtype} ${say.percent(d.share ?? Number(d.nbytes) / whole)}`).join(", ");
    return section(
        "Types",
        stack(parts, `Bytes by type: ${text}`),
        table(
            ["Type", "Share", "Bytes", "Parameters"],
            list.map((d, i) => [
                [el("span", { class: `swatch k${i % 6}`, "aria-hidden": "true" }), d.dtype],
                say.percent(d.share ?? Number(d.nbytes) / whole),
                say.bytes(d.nbytes),
                say.count(d.parameters),
            ]),
            { kind: "data", numeric: [1, 2, 3] },
        ),
    );
}

/** @param {number} file @param {any[]} groups */
function sharing(file, groups) {
    if (!groups.length) return null;
    return section(
        "Sharing",
        el(
            "ul",
            { class: "plain" },
            groups
                .slice(0, 50)
                .map((group) =>
                    el(
                        "li",
                        {},
                        typeof group === "string"
                            ? say.clip(group, 400)
                            : [
                                  say.clip(group.text || "", 400),
                                  group.tensors?.length > 0 && [
                                      " ",
                                      group.tensors.slice(0, 6).map((t, i) => [i ? " = " : "", tensorLink(file, t)]),
                                      group.tensors.length > 6 && ` and ${group.tensors.length - 6} more`,
                                  ],
                              ],
                    ),
                ),
        ),
        groups.length > 50 &&
            el(
                "p",
                { class: "of" },
                `and ${say.count(groups.length - 50)} more: see `,
                el("a", { href: address(`file/${file}/storages`) }, "the storages"),
            ),
    );
}

/** Imports a file names, the unknown ones first. @param {any[]} globals */
export function imports(globals) {
    const sorted = [...globals].sort((a, b) => Number(a.known) - Number(b.known)),
        strange = sorted.filter((g) => !g.known);
    const row = (g) => [
        el("span", { class: "key" }, say.clip(g.name, 200)),
        g.known ? "known" : el("strong", { class: "warned" }, "unknown"),
        (g.places || [])
            .slice(0, 3)
            .map((p) => say.clip(p, 100))
            .join(" · "),
    ];
    if (!globals.length) return section("Imports", el("p", {}, "The file names no Python classes or functions."));
    return section(
        "Imports",
        el(
            "p",
            {},
            strange.length
                ? [
                      el("strong", { class: "warned" }, say.plural(strange.length, "unknown name")),
                      " – nothing of it is imported or called here.",
                  ]
                : `${say.plural(globals.length, "name")}, all of them known parts of a checkpoint.`,
        ),
        strange.length > 0 &&
            el(
                "div",
                { class: "scroll-x", tabindex: "0", role: "group", "aria-label": "Unknown imports" },
                table(["Name", "", "Where"], strange.slice(0, 200).map(row), { kind: "data" }),
            ),
        sorted.length > strange.length &&
            twin(`${say.plural(sorted.length - strange.length, "known name")}`, () =>
                table(["Name", "", "Where"], sorted.slice(strange.length, strange.length + 500).map(row), {
                    kind: "data",
                }),
            ),
    );
}
