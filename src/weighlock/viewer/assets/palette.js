// @ts-check
/** Colours of values: viridis for what has one direction, blue to orange where zero is the middle. */

/** Nine stops of viridis (matplotlib, CC0). */
const VIRIDIS = [
    [68, 1, 84],
    [71, 44, 122],
    [59, 81, 139],
    [44, 113, 142],
    [33, 144, 141],
    [39, 173, 129],
    [92, 200, 99],
    [170, 220, 50],
    [253, 231, 37],
];
/** Light in the middle. Also told apart with the common kinds of colour blindness. */
const DIVERGING = [
    [8, 48, 107],
    [33, 102, 172],
    [67, 147, 195],
    [146, 197, 222],
    [242, 242, 240],
    [253, 190, 122],
    [241, 134, 44],
    [204, 85, 3],
    [127, 50, 4],
];

/** @param {number[][]} stops @returns {Uint8ClampedArray} 256 colours of red, green, blue */
function ramp(stops) {
    const colours = new Uint8ClampedArray(256 * 3);
    for (let i = 0; i < 256; i++) {
        const at = (i / 255) * (stops.length - 1),
            k = Math.min(Math.floor(at), stops.length - 2);
        for (let c = 0; c < 3; c++) colours[i * 3 + c] = stops[k][c] + (at - k) * (stops[k + 1][c] - stops[k][c]);
    }
    return colours;
}

/** @type {Record<string, Uint8ClampedArray>} */
const RAMPS = { sequential: ramp(VIRIDIS), diverging: ramp(DIVERGING) };

/** The finite range of a plane; counts what is not finite. @param {Float32Array} plane */
export function range(plane) {
    let lo = Infinity,
        hi = -Infinity,
        nan = 0,
        inf = 0;
    for (const x of plane) {
        if (Number.isNaN(x)) nan += 1;
        else if (!Number.isFinite(x)) inf += 1;
        else {
            if (x < lo) lo = x;
            if (x > hi) hi = x;
        }
    }
    return { lo: lo > hi ? 0 : lo, hi: lo > hi ? 0 : hi, nan, inf, empty: lo > hi };
}

/** Where the ends of the colours are. @param {{lo: number, hi: number}} found @param {"sequential"|"diverging"} palette */
export function ends({ lo, hi }, palette) {
    if (palette !== "diverging") return { lo, hi };
    const far = Math.max(Math.abs(lo), Math.abs(hi));
    return { lo: -far, hi: far };
}

/**
 * Paint a plane. NaN becomes a check of greys, which is in no palette.
 * @param {Float32Array} plane @param {number} w @param {number} h @param {{lo: number, hi: number}} span
 * @param {"sequential"|"diverging"} palette @returns {ImageData}
 */
export function paint(plane, w, h, { lo, hi }, palette) {
    const image = new ImageData(w, h),
        out = image.data,
        colours = RAMPS[palette],
        scale = hi > lo ? 255 / (hi - lo) : 0;
    for (let i = 0; i < plane.length; i++) {
        const x = plane[i],
            o = i * 4;
        out[o + 3] = 255;
        if (Number.isNaN(x)) {
            out[o] = out[o + 1] = out[o + 2] = (i + Math.floor(i / w)) % 2 ? 96 : 160;
            continue;
        }
        const k = 3 * (scale ? Math.max(0, Math.min(255, Math.round((x - lo) * scale))) : 128);
        out[o] = colours[k];
        out[o + 1] = colours[k + 1];
        out[o + 2] = colours[k + 2];
    }
    return image;
}
