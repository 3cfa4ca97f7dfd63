// @ts-check
/** The tree of names as the flat run of rows a virtual list needs. */

import { Pages } from "./virtual.js";
import { get } from "./api.js";

/** One node: what the server said of it, and its children once they were asked for. */
export class Branch {
    /** @param {any} data @param {Branch|null} parent @param {number} place among its siblings @param {Tree} tree */
    constructor(data, parent, place, tree) {
        this.data = data;
        this.parent = parent;
        this.place = place;
        this.tree = tree;
        /** @type {number} */ this.level = parent ? parent.level + 1 : 0;
        this.open = false;
        this.fold = tree.fold;
        /** @type {Pages|null} */ this.pages = null;
        /** @type {Map<number, Branch>} */ this.made = new Map();
    }

    get isBranch() {
        return this.data.kind === "branch";
    }
    get siblings() {
        return this.parent?.pages?.total || 1;
    }

    /** @param {number} place @returns {Branch|undefined} */
    child(place) {
        const known = this.made.get(place);
        if (known) return known;
        const data = this.pages?.get(place);
        if (data === undefined) return undefined;
        const node = new Branch(data, this, place, this.tree);
        this.made.set(place, node);
        return node;
    }

    /** The open children, first first. @returns {Branch[]} */
    opened() {
        return [...this.made.values()].filter((node) => node.open && node.pages).sort((a, b) => a.place - b.place);
    }

    /** Rows below this node. @returns {number} */
    rows() {
        return this.open && this.pages ? this.opened().reduce((sum, node) => sum + node.rows(), this.pages.total) : 0;
    }
}

export class Tree {
    /** @param {number} file @param {boolean} fold @param {() => void} changed @param {(error: any) => void} failed */
    constructor(file, fold, changed, failed) {
        this.file = file;
        this.fold = fold;
        this.changed = changed;
        this.failed = failed;
        /** @type {number|null} */ this.tensors = null;
        this.root = new Branch({ kind: "branch", path: [] }, null, 0, this);
    }

    /** @returns {Promise<void>} */
    start() {
        return this.expand(this.root);
    }

    /** @param {Branch} node */
    async expand(node) {
        if (!node.isBranch || node.open) return;
        if (!node.data.path) {
            this.failed(new Error("The name is too long to be asked for."));
            return;
        }
        if (!node.pages) {
            node.pages = new Pages(
                async (offset, limit, signal) => {
                    const answer = await get(
                        `file/${this.file}/tree`,
                        { path: JSON.stringify(node.data.path), offset, limit, fold: node.fold ? null : 0 },
                        signal,
                    );
                    if (node === this.root) this.tensors = answer.tensors ?? null;
                    return { total: answer.total, rows: answer.nodes };
                },
                this.changed,
                this.failed,
            );
            const { pages } = node;
            await pages.need(0, 1);
            if (!pages.pages.size) {
                node.pages = null;
                return;
            } // it failed: the next try asks again
        }
        node.open = true;
        this.changed();
    }

    /** @param {Branch} node */
    collapse(node) {
        if (node.open) {
            node.open = false;
            this.changed();
        }
    }

    /**
     * Open what leads to a tensor, and return its node. A fold that hides it is unfolded, it alone.
     * @param {{place: number, fold: number, first: boolean}[]} steps @param {AbortSignal} signal
     */
    async reveal(steps, signal) {
        let node = this.root;
        for (const step of steps) {
            if (node.fold && !step.first) {
                node.pages?.stop();
                node.pages = null;
                node.made.clear();
                node.open = node.fold = false;
            }
            await this.expand(node);
            const place = node.fold ? step.fold : step.place;
            await node.pages?.need(place, place + 1, false);
            const next = node.child(place);
            if (!next || signal.aborted) return null;
            node = next;
        }
        return node;
    }

    get total() {
        return this.root.rows();
    }

    /** The parent and the place of the row at `index`. @param {number} index @returns {{parent: Branch, place: number}|undefined} */
    at(index) {
        let parent = this.root,
            left = index;
        walk: for (;;) {
            let before = 0;
            for (const node of parent.opened()) {
                const upTo = node.place - before;
                if (left <= upTo) return { parent, place: before + left };
                left -= upTo + 1;
                const inside = node.rows();
                if (left < inside) {
                    parent = node;
                    continue walk;
                }
                left -= inside;
                before = node.place + 1;
            }
            const place = before + left;
            return place < (parent.pages?.total || 0) ? { parent, place } : undefined;
        }
    }

    /** @param {number} index @returns {Branch|undefined} */
    get(index) {
        const found = this.at(index);
        return found?.parent.child(found.place);
    }

    /** The row of a node. @param {Branch} node @returns {number} */
    indexOf(node) {
        if (!node.parent) return -1;
        const before = node.parent
            .opened()
            .filter((other) => other.place < node.place)
            .reduce((sum, other) => sum + other.rows(), 0);
        return this.indexOf(node.parent) + 1 + node.place + before;
    }

    /** @param {number} from @param {number} to */
    need(from, to) {
        for (let index = from; index < to; index++) {
            const found = this.at(index);
            if (found && found.parent.pages && found.parent.pages.get(found.place) === undefined)
                found.parent.pages.need(found.place, found.place + 1);
        }
    }

    stop() {
        const all = (node) => {
            node.pages?.stop();
            node.made.forEach(all);
        };
        all(this.root);
    }
}
