/** Frames with one bright rectangle: how they are drawn, and how it is found. */
export interface Rectangle {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

export const PIXEL_BYTES = 3;
/** No rectangle is smaller, so none fits between the sampled pixels. */
export const SIDE_MIN = 16;
const STEP = 8;
const BRIGHT_MIN = 200;

/** Draws over all of `rgb`, whatever its content. */
export function draw(rgb: Uint8Array, frameWidth: number, box: Rectangle): void {
  rgb.fill(40);
  for (let y = box.y; y < box.y + box.height; y++) {
    const start = (y * frameWidth + box.x) * PIXEL_BYTES;
    rgb.fill(230, start, start + box.width * PIXEL_BYTES);
  }
}

/** Samples every eighth pixel of every eighth row until one is bright, then finds the edges from there. */
export function findBright(rgb: Uint8Array, width: number, height: number): Rectangle | undefined {
  if (rgb.length !== width * height * PIXEL_BYTES)
    throw new RangeError(`a frame of ${width} × ${height} has not ${rgb.length} bytes`);
  const isBright = (x: number, y: number) =>
    x >= 0 && y >= 0 && x < width && y < height && rgb[(y * width + x) * PIXEL_BYTES] >= BRIGHT_MIN;
  for (let y = 0; y < height; y += STEP) {
    for (let x = 0; x < width; x += STEP) {
      if (!isBright(x, y)) continue;
      let [left, right, top, bottom] = [x, x, y, y];
      while (isBright(left - 1, y)) left--;
      while (isBright(right + 1, y)) right++;
      while (isBright(x, top - 1)) top--;
      while (isBright(x, bottom + 1)) bottom++;
      return { x: left, y: top, width: right - left + 1, height: bottom - top + 1 };
    }
  }
  return undefined;
}
