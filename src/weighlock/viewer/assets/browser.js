// @ts-check
/** The list of tensors: a tree of names, or a table that is searched, filtered and sorted. */

import { get, Latest, isAbort } from "./api.js";
import { button, cell, choice, debounce, el, fill } from "./dom.js";
import * as say from "./format.js";
import { address, aliasOf, problem } from "./parts.js";
import { Tree } from "./tree.js";
import { pagedList, VirtualRows } from "./virtual.js";

/** q, dtype, layout, min_bytes, shape, sort, desc, view, fold @typedef {Record<string, string>} State */

/** @type {[string, string][]} Columns that sort, with their heading. */
const COLUMNS = [
    ["key", "Name"],
    ["dtype", "Type"],
    ["shape", "Shape"],
    ["nbytes", "Bytes"],
];
const FILTERS = ["dtype", "layout", "min_bytes", "shape"];
const SIZES = /** @type {[string, string][]} */ ([
    ["", "Any size"],
    ["1024", "≥ 1 KiB"],
    ["1048576", "≥ 1 MiB"],
    ["16777216", "≥ 16 MiB"],
    ["134217728", "≥ 128 MiB"],
    ["1073741824", "≥ 1 GiB"],
]);
const LAYOUTS = [
    "strided",
    "sparse_coo",
    "sparse_csr",
    "sparse_csc",
    "sparse_bsr",
    "sparse_bsc",
    "quantized",
    "nested",
    "meta",
];

export class Browser {
    /** @param {number} file @param {State} state @param {(params: Record<string, string>) => void} remember */
    constructor(file, state, remember) {
        this.file = file;
        this.state = state;
        this.remember = remember;
        /** @type {number|null} */ this.selected = null;
        this.latest = new Latest();
        this.revealing = new Latest();
        /** @type {Tree|null} */ this.tree = null;
        /** @type {number[]|null} */ this.counts = null;
        this.status = el("p", { class: "status", role: "status" });
        this.trouble = el("div", {});
        this.holder = el("div", { class: "list-holder" });
        this.searchBox = el("input", {
            type: "search",
            class: "search",
            placeholder: "Search names",
            "aria-label": "Search names; * and ? stand for anything",
            "aria-keyshortcuts": "/",
            autocomplete: "off",
            spellcheck: "false",
            maxlength: "400",
        });
        this.searchBox.value = state.q;
        this.searchBox.addEventListener(
            "input",
            debounce(() => this.#set({ q: this.searchBox.value.trim() }), 120),
        );
        this.searchBox.addEventListener("keydown", (e) => {
            if (e.key === "ArrowDown" || e.key === "Enter") {
                e.preventDefault();
                this.list?.go(this.list.active);
            }
            if (e.key === "Escape" && this.searchBox.value) {
                e.stopPropagation();
                this.searchBox.value = "";
                this.#set({ q: "" });
            }
        });
        this.filters = this.#filters();
        this.views = choice(
            "Show as",
            [
                ["tree", "Tree"],
                ["table", "Table"],
            ],
            state.view || "tree",
            (view) => this.#set({ view }),
        );
        this.element = el(
            "section",
            { class: "browser", "aria-label": "Tensors" },
            el(
                "div",
                { class: "toolbar" },
                this.searchBox,
                this.views,
                (this.filterButton = button("Filter", () => this.toggleFilters(), null, {
                    "aria-expanded": "false",
                    "aria-controls": "filters",
                    "aria-keyshortcuts": "f",
                })),
            ),
            this.filters,
            this.trouble,
            this.status,
            this.holder,
        );
        this.filterButton.setAttribute("aria-expanded", String(!this.filters.hidden));
    }

    get isTree() {
        const { state } = this;
        return state.view !== "table" && !state.q && !FILTERS.some((name) => state[name]);
    }

    #filters() {
        const select = (name, label, options) => {
            const box = el(
                "select",
                { "aria-label": label, onchange: () => this.#set({ [name]: box.value }) },
                options.map(([value, text]) => el("option", { value }, text)),
            );
            box.value = this.state[name] || "";
            return box;
        };
        const chosen = this.state.dtype;
        this.dtypes = select("dtype", "Type", [["", "Any type"], ...(chosen ? [[chosen, chosen]] : [])]);
        const shape = el("input", {
            type: "text",
            "aria-label": "Shape, for example 64,32 or *,1024",
            placeholder: "Shape, e.g. *,1024",
            size: "14",
            autocomplete: "off",
            onchange: () => this.#set({ shape: shape.value.replace(/[[\]\s]/g, "") }),
        });
        shape.value = this.state.shape || "";
        const clear = button("Clear", () => {
            this.fold.checked = true;
            this.#clear({ fold: "" });
        });
        this.fold = el("input", {
            type: "checkbox",
            checked: this.state.fold !== "0",
            onchange: () => this.#set({ fold: this.fold.checked ? "" : "0" }),
        });
        return el(
            "div",
            { class: "filters", id: "filters", hidden: !FILTERS.some((name) => this.state[name]) },
            this.dtypes,
            select("min_bytes", "Smallest size", SIZES),
            select("layout", "Layout", [
                ["", "Any layout"],
                .../** @type {[string, string][]} */ (LAYOUTS.map((name) => [name, name])),
            ]),
            shape,
            el("label", { class: "check" }, this.fold, "Fold numbered siblings"),
            clear,
        );
    }

    /** Offer the types that the file has. The list does not wait for them. @param {any} overview */
    offer(overview) {
        const known = new Set([...this.dtypes.options].map((option) => option.value));
        for (const { dtype } of overview?.dtypes || [])
            if (!known.has(dtype)) this.dtypes.append(el("option", { value: dtype }, dtype));
    }

    toggleFilters(open = this.filters.hidden) {
        this.filters.hidden = !open;
        this.filterButton.setAttribute("aria-expanded", String(open));
        if (open) this.filters.querySelector("select")?.focus();
    }

    /** Take the filters away. @param {Partial<State>} more */
    #clear(more) {
        for (const box of this.filters.querySelectorAll("select, input[type=text]")) box.value = "";
        return this.#set({ ...Object.fromEntries(FILTERS.map((name) => [name, ""])), ...more });
    }

    focusSearch() {
        this.searchBox.focus();
        this.searchBox.select();
    }

    /** @param {Partial<State>} change */
    #set(change) {
        Object.assign(this.state, change);
        this.remember(this.state);
        return this.start();
    }

    /** Ask for the list anew. What is shown stays until the answer is there, so that nothing flickers. */
    async start() {
        const signal = this.latest.next();
        try {
            const list = this.isTree ? await this.#tree(signal) : await this.#table(signal);
            if (signal.aborted || !list) return;
            fill(this.trouble);
            this.list?.stop();
            this.list = list.rows;
            this.stopData?.();
            this.stopData = list.stop;
            fill(this.holder, list.head, list.rows.element);
            list.rows.update();
            this.#say();
            this.mark(this.selected);
            if (this.selected !== null) await this.reveal(this.selected);
        } catch (error) {
            if (!isAbort(error) && !signal.aborted) {
                fill(
                    this.trouble,
                    problem(
                        error,
                        () => this.start(),
                        /** @type {any} */ (error).status === 400 ? ["Show all", () => this.#all()] : null,
                    ),
                );
                fill(this.holder);
            }
        }
    }

    /** @param {any} error */
    #failed(error) {
        fill(
            this.trouble,
            problem(error, () => {
                fill(this.trouble);
                this.list?.update();
            }),
        );
    }

    // ------------------------------------------------------------------------------------------------------ tree

    /** @param {AbortSignal} signal */
    async #tree(signal) {
        /** @type {VirtualRows|null} */ let rows = null;
        /** @type {any} */ let error = null;
        const tree = new Tree(
            this.file,
            this.state.fold !== "0",
            () => rows?.refresh(),
            (e) => {
                error = e;
                if (rows) this.#failed(e);
            },
        );
        signal.addEventListener("abort", () => rows || tree.stop());
        await tree.start();
        if (error) throw error;
        // One branch and nothing beside it: open it, for nobody wants to see it closed.
        while (tree.total === 1 && tree.get(0)?.isBranch) await tree.expand(/** @type {any} */ (tree.get(0)));
        const first = tree.get(0);
        if (tree.total <= 8 && first?.isBranch && !first.open && first.data.children <= 60) await tree.expand(first);
        rows = new VirtualRows({
            label: "Names of the tensors",
            role: "tree",
            kind: "tree-rows",
            total: () => tree.total,
            get: (i) => tree.get(i),
            need: (a, b) => tree.need(a, b),
            render: (node) => this.#treeRow(node, tree),
            open: (node) => {
                if (node.isBranch) node.open ? tree.collapse(node) : tree.expand(node);
                else this.#open(node.data);
            },
            key: (event, node) => this.#treeKey(event, node, tree, /** @type {VirtualRows} */ (rows)),
        });
        this.counts = tree.tensors === null ? null : [tree.tensors, tree.tensors];
        if (!signal.aborted) this.tree = tree;
        return { rows, head: null, stop: () => tree.stop() };
    }

    /** @param {import("./tree.js").Branch} node @param {Tree} tree */
    #treeRow(node, tree) {
        const { data } = node,
            alias = aliasOf(data.alias_of);
        const part = data.fold ? `${data.part}` : data.part;
        return el(
            "div",
            {
                class: `row kind-${data.kind}${this.#isSelected(data) ? " selected" : ""}`,
                role: "treeitem",
                "aria-level": node.level,
                "aria-setsize": node.siblings,
                "aria-posinset": node.place + 1,
                "aria-expanded": node.isBranch ? String(node.open) : null,
                "aria-selected": String(this.#isSelected(data)),
                "data-tensor": data.index ?? null,
                "--level": node.level - 1,
            },
            el(
                "span",
                {
                    class: "cell name",
                    title: String(data.key ?? part).length > 40 ? say.clip(data.key ?? part, 1000) : null,
                },
                el("span", { class: "twist", "aria-hidden": "true" }, node.isBranch ? (node.open ? "▾" : "▸") : ""),
                el("span", { class: "part" }, say.name(part)),
                data.fold && el("span", { class: "times" }, ` ×${say.count(data.fold.count)}`),
            ),
            data.kind === "tensor"
                ? [
                      el("span", { class: "cell dtype" }, data.dtype),
                      el("span", { class: "cell shape" }, say.shape(data.shape)),
                      el(
                          "span",
                          { class: "cell size" },
                          alias ? `= ${say.clip(alias.key, 60)}` : say.bytes(data.nbytes),
                      ),
                  ]
                : data.kind === "branch"
                  ? [
                        el("span", { class: "cell dtype" }),
                        el(
                            "span",
                            { class: "cell shape" },
                            data.tensors
                                ? `${say.plural(data.tensors, "tensor")}${data.fold ? " each" : ""}`
                                : say.plural(data.children, "item"),
                        ),
                        el("span", { class: "cell size" }, data.nbytes ? say.bytes(data.nbytes) : ""),
                    ]
                  : [el("span", { class: "cell value" }, say.clip(data.text ?? "", 200))],
        );
    }

    /** @param {KeyboardEvent} event @param {import("./tree.js").Branch} node @param {Tree} tree @param {VirtualRows} rows */
    #treeKey(event, node, tree, rows) {
        if (event.key === "ArrowRight") {
            if (node.isBranch && !node.open) tree.expand(node);
            else if (node.open) rows.go(rows.active + 1);
            return true;
        }
        if (event.key === "ArrowLeft") {
            if (node.open) tree.collapse(node);
            else if (node.parent && node.parent !== tree.root) rows.go(tree.indexOf(node.parent));
            return true;
        }
        if (event.key === "*" && node.parent) {
            for (let place = 0; place < Math.min(node.siblings, 200); place++) {
                const other = node.parent.child(place);
                if (other?.isBranch) tree.expand(other);
            }
            return true;
        }
        return false;
    }

    // ----------------------------------------------------------------------------------------------------- table

    /** @param {AbortSignal} signal */
    async #table(signal) {
        const { q, dtype, layout, min_bytes, shape, sort, desc } = this.state;
        let all = 0;
        this.tree = null;
        const list = await pagedList({
            label: "Tensors",
            kind: "table-rows",
            head: this.#head(),
            signal,
            keep: true,
            row: (row, i) => this.#tableRow(row, i),
            open: (row) => this.#open(row),
            failed: (error) => this.#failed(error),
            fetch: async (offset, limit, stop) => {
                const answer = await get(
                    `file/${this.file}/tensors`,
                    { offset, limit, q, dtype, layout, min_bytes, shape, sort: sort || "file", desc: desc ? 1 : null },
                    stop,
                );
                all = answer.total;
                return { total: answer.matched, rows: answer.rows };
            },
        });
        this.counts = [list?.pages.total || 0, all];
        return list;
    }

    #head() {
        const { sort, desc } = this.state;
        return el(
            "div",
            { class: "list-head", role: "group", "aria-label": "Sort by" },
            COLUMNS.map(([name, text]) => {
                const on = sort === name,
                    now = on ? (desc ? "descending" : "ascending") : "none";
                return el(
                    "button",
                    {
                        type: "button",
                        class: `cell sort ${{ key: "name", nbytes: "size" }[name] || name}`,
                        "aria-label": `Sort by ${text.toLowerCase()}${on ? `, now ${now}` : ""}`,
                        "aria-pressed": String(on),
                        "data-sort": name,
                        onclick: () => {
                            this.#set(on && desc ? { sort: "", desc: "" } : { sort: name, desc: on ? "1" : "" });
                        },
                    },
                    text,
                    el("span", { "aria-hidden": "true" }, on ? (desc ? " ↓" : " ↑") : ""),
                );
            }),
        );
    }

    /** @param {any} row @param {number} index */
    #tableRow(row, index) {
        const alias = aliasOf(row.alias_of),
            long = String(row.key).length > 60;
        return el(
            "div",
            {
                class: `row kind-tensor${this.#isSelected(row) ? " selected" : ""}`,
                role: "row",
                "aria-rowindex": index + 1,
                "aria-selected": String(this.#isSelected(row)),
                "data-tensor": row.index,
            },
            el(
                "span",
                { class: "cell name", role: "gridcell", title: long ? say.clip(row.key, 1000) : null },
                say.name(row.key),
                alias && el("span", { class: "times" }, ` = ${say.clip(alias.key, 60)}`),
            ),
            cell("dtype", row.dtype),
            cell("shape", say.shape(row.shape), row.layout && row.layout !== "strided" ? ` ${row.layout}` : ""),
            cell("size", say.bytes(row.nbytes)),
        );
    }

    // ------------------------------------------------------------------------------------------------- selection

    /** @param {any} data */
    #isSelected(data) {
        return data.index !== null && data.index !== undefined && data.index === this.selected;
    }

    /** @param {any} data */
    #open(data) {
        if (data.kind === "value") {
            location.hash = address(`file/${this.file}/value`, { path: JSON.stringify(data.path) });
            return;
        }
        if (data.index !== null && data.index !== undefined)
            location.hash = address(`file/${this.file}/tensor/${data.index}`);
    }

    /** Nothing searched, nothing filtered, in the order of the file. @param {Partial<State>} [more] */
    #all(more) {
        this.searchBox.value = "";
        return this.#clear({ q: "", sort: "", desc: "", ...more });
    }

    /**
     * Open what leads to a tensor in the tree, scroll to it and mark it; where it is in sight, nothing moves.
     * @param {number} index @param {boolean} [focus]
     */
    async reveal(index, focus = false) {
        const { tree, list } = this,
            signal = this.revealing.next();
        if (!tree || !list) return;
        const shown = this.holder.querySelector(`.row[data-tensor="${index}"]`);
        if (shown && !focus) return;
        try {
            const { steps } = await get(`file/${this.file}/tensor/${index}/place`, {}, signal);
            const node = await tree.reveal(steps, signal);
            if (!node || signal.aborted || tree !== this.tree) return;
            list.go(tree.indexOf(node), focus, true);
            this.mark(index);
        } catch (error) {
            // The tensor itself says what is wrong, beside the list.
            if (!isAbort(error)) console.info(String(error));
        }
    }

    /** Show a tensor in the tree, whatever is shown now. @param {number} index */
    async showInTree(index) {
        this.selected = index;
        if (!this.isTree) {
            for (const way of this.views.children)
                way.setAttribute("aria-pressed", String(way.dataset.value === "tree"));
            await this.#all({ view: "" });
        }
        await this.reveal(index, true);
    }

    /** Show which tensor is open beside the list. @param {number|null} index */
    mark(index) {
        this.selected = index;
        for (const row of this.holder.querySelectorAll(".row[data-tensor]")) {
            const on = Number(row.dataset.tensor) === index;
            row.classList.toggle("selected", on);
            row.setAttribute("aria-selected", String(on));
        }
    }

    #say() {
        const sought = this.state.q || FILTERS.some((name) => this.state[name]),
            [matched, all] = this.counts || [0, 0];
        if (!this.counts) this.status.textContent = "";
        else if (!matched && sought)
            fill(
                this.status,
                "No tensor matches. ",
                button("Show all", () => this.#all()),
            );
        else
            this.status.textContent =
                matched === all ? say.plural(all, "tensor") : `${say.count(matched)} of ${say.plural(all, "tensor")}`;
    }

    stop() {
        this.latest.stop();
        this.revealing.stop();
        this.list?.stop();
        this.stopData?.();
    }
}
