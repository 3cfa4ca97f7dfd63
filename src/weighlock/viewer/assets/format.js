// @ts-check
/** Numbers and names as people read them. */

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** Integers may come as text where they pass 2^53. @typedef {number|string|null|undefined} Num */

/** 12,345,678 @param {Num} n */
export function count(n) {
    if (n === null || n === undefined) return "–";
    return String(n).replace(/\B(?=(\d{3})+(?!\d))/g, ",");
}

/** 1.3 GiB @param {Num} n */
export function bytes(n) {
    if (n === null || n === undefined) return "–";
    let value = Number(n),
        unit = 0;
    while (value >= 1024 && unit < UNITS.length - 1) {
        value /= 1024;
        unit += 1;
    }
    return `${unit ? value.toFixed(value < 10 ? 2 : 1) : value} ${UNITS[unit]}`;
}

/** 1.3 GiB (1,234,567,890 bytes) @param {Num} n */
export const exactBytes = (n) => (Number(n) < 1024 ? `${count(n)} bytes` : `${bytes(n)} (${count(n)} bytes)`);

/** 361.8 M @param {Num} n */
export function short(n) {
    let value = Number(n),
        unit = 0;
    if (value < 10_000) return count(n);
    const names = ["", "K", "M", "G", "T"];
    while (value >= 1000 && unit < names.length - 1) {
        value /= 1000;
        unit += 1;
    }
    return `${value.toFixed(value < 10 ? 2 : 1)} ${names[unit]}`;
}

/** A value of a tensor, six figures. @param {any} x */
export function value(x) {
    if (x === null || x === undefined) return "–";
    if (typeof x !== "number") return String(x);
    if (!Number.isFinite(x)) return Number.isNaN(x) ? "nan" : x > 0 ? "inf" : "-inf";
    if (Number.isInteger(x) && Math.abs(x) < 1e9) return String(x);
    const size = Math.abs(x);
    return size >= 1e-4 && size < 1e7 ? String(Number(x.toPrecision(6))) : x.toExponential(4);
}

/** [64, 32] @param {any[]|null|undefined} shape */
export const shape = (shape) => (Array.isArray(shape) ? `[${shape.join(", ")}]` : "–");

/** @param {number} part */
export function percent(part) {
    const value = part * 100;
    if (value > 0 && value < 0.1) return "< 0.1 %";
    return `${value === 100 || value === 0 ? value : value.toFixed(1)} %`;
}

/** @param {number} n @param {string} one @param {string} [many] */
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${Number(n) === 1 ? one : many}`;

/** The middle of a long name left out. @param {any} text @param {number} limit */
export function clip(text, limit = 300) {
    const name = String(text);
    return name.length <= limit ? name : `${name.slice(0, limit / 2)}…${name.slice(-limit / 2)}`;
}
/** A name that may be empty. @param {any} text @param {number} [limit] */
export const name = (text, limit) =>
    text === "" || text === null || text === undefined ? "(no name)" : clip(text, limit);
